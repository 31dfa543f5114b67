//! Threads that serve connections: each waits for many sockets and answers what comes in.
//!
//! A worker owns its connections, its lane of the engine and its fetches; nothing on the page path
//! is shared with other workers. Disk reads are done by reader threads, to which boxed fetches are
//! lent.
//!
//! Not here: the protocol (`session`), pages (`engine`), listening and negotiation (Python).
//! Locking: workers are reached through their ports, which are lock-free; the readers' queue and
//! the list of ended connections have a mutex each, held for a push or a pop, never two at a time.

mod backlog;
mod connection;
mod poller;
mod port;
mod readers;
mod shared;
mod thread;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use poller::Polling;

use crate::engine::ExportId;
use crate::error::{Error, Result};
use crate::session::boxes::Boxes;
use crate::session::metrics::Shard;
use crate::session::{
    Desk, INPUT_BYTES, Negotiated, OUTPUT_BYTES, Pages, RECEIVED_BYTES_MAX, Session, Unfinished,
};
use connection::Connection;
use port::{Message, Port};
use readers::Readers;
use shared::{Shared, lock};
use thread::Worker;

/// Stack of a thread. Nothing recurses and page buffers are on the heap; a server that locks its
/// memory holds every byte of it.
pub const STACK_BYTES: usize = 512 << 10;
/// Fetches that one worker may have in flight.
const BOXES: usize = 256;
/// How long threads that may wait for the device have to end, at most.
pub const END_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a thread has ended.
const END_LOOK: Duration = Duration::from_millis(1);
/// Replies that were promised before a stop have this long to leave after its deadline.
const DETACH_GRACE: Duration = Duration::from_secs(1);

/// How many threads, and how they behave.
#[derive(Clone, Copy, Debug)]
pub struct WorkersOptions {
    /// Threads that serve connections.
    pub workers: usize,
    /// Threads that read the store.
    pub readers: usize,
    /// Whether workers look for work before they sleep.
    pub polling: Polling,
    /// How long a request may wait for the store or for space.
    pub request_timeout: Duration,
    /// Most connections, of all workers.
    pub connections_max: usize,
}

/// What one worker did, in total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Times that it looked for work instead of sleeping.
    pub polls: u64,
    /// Of these, how many found some.
    pub poll_hits: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Requests answered.
    pub requests: u64,
}

/// A connection that was given up and goes on elsewhere.
#[derive(Debug)]
pub struct HandedOver {
    /// By which [`Workers::attach`] called it.
    pub number: u64,
    /// In transmission; nothing of it was lost.
    pub socket: OwnedFd,
    /// What it is attached to.
    pub export: ExportId,
    /// What its client and the server agreed on.
    pub negotiated: Negotiated,
    /// To be done and sent before anything that comes from the socket.
    pub unfinished: Unfinished,
}

struct Thread {
    port: Arc<Port>,
    shard: Arc<Shard>,
    handle: Option<JoinHandle<()>>,
    tid: i32,
}

/// All workers and readers. Dropping it stops them; connections are cut off.
pub struct Workers<P: Pages> {
    pages: Arc<P>,
    threads: Vec<Thread>,
    readers: Readers,
    shared: Arc<Shared>,
    options: WorkersOptions,
    next_number: AtomicU64,
}

impl<P: Pages> Workers<P> {
    /// Starts the threads.
    pub fn start(pages: Arc<P>, options: WorkersOptions) -> Result<Self> {
        for (what, found) in [
            ("workers", options.workers),
            ("readers", options.readers),
            ("connections_max", options.connections_max),
        ] {
            if found == 0 || found > 1024 {
                return Err(Error::Config(format!(
                    "{what} is {found}, must be 1 to 1024"
                )));
            }
        }
        let shared = Arc::new(Shared::new(options.connections_max)?);
        let ports: Vec<Arc<Port>> = (0..options.workers)
            .map(|_| Port::new(BOXES + 2 * options.connections_max).map(Arc::new))
            .collect::<Result<_>>()?;
        let readers = Readers::start(&pages, options, BOXES * options.workers, &ports)?;
        let mut workers = Workers {
            pages,
            threads: Vec::with_capacity(options.workers),
            readers,
            shared,
            options,
            next_number: AtomicU64::new(1),
        };
        for (index, port) in ports.into_iter().enumerate() {
            let thread = workers.start_worker(index, port)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    fn start_worker(&self, index: usize, port: Arc<Port>) -> Result<Thread> {
        let shard = Arc::new(Shard::new(self.pages.exports()));
        let boxes = Boxes::new(index as u16, BOXES, self.pages.page_bytes());
        let desk = Desk::new(self.pages.clone(), boxes, shard.clone(), Instant::now());
        let worker = Worker::new(
            desk,
            port.clone(),
            self.readers.queue(),
            self.shared.clone(),
            self.options,
        )?;
        let (handle, tid) = spawn(format!("nbdswap-w{index}"), move || worker.run())?;
        Ok(Thread {
            port,
            shard,
            handle: Some(handle),
            tid,
        })
    }

    /// Hands a connected socket to a worker, with what was received behind the handshake or was
    /// left unfinished by another session.
    /// Returns the number by which the connection's end is reported.
    pub fn attach(
        &self,
        socket: OwnedFd,
        export: ExportId,
        negotiated: Negotiated,
        unfinished: &Unfinished,
    ) -> Result<u64> {
        let Unfinished { received, unsent } = unfinished;
        for (what, bytes, bytes_max) in [
            ("were received", received.len(), RECEIVED_BYTES_MAX),
            ("are to be sent", unsent.len(), OUTPUT_BYTES),
        ] {
            if bytes > bytes_max {
                return Err(Error::Config(format!(
                    "{bytes} bytes {what} before, at most {bytes_max} fit"
                )));
            }
        }
        {
            let mut counts = lock(&self.shared.counts);
            if counts.open == self.options.connections_max {
                return Err(Error::Config(format!(
                    "{} connections are open, no more may be",
                    counts.open
                )));
            }
            counts.open += 1;
        }
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let timeout = self.options.request_timeout;
        let mut session = Session::new(&*self.pages, export, negotiated, timeout, Instant::now());
        session.preload(received, unsent);
        let connection = Box::new(Connection::new(number, socket, session));
        let port = &self
            .threads
            .iter()
            .min_by_key(|thread| thread.port.connections())
            .expect("one")
            .port;
        port.connection_added();
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        port.send(Message::Attach(connection));
        Ok(number)
    }

    /// Readable (an eventfd) when connections have ended since [`take_ended`](Self::take_ended).
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended_fd.as_fd()
    }

    /// Connections that have ended, each with the reason; empty for one that needs no explanation.
    pub fn take_ended(&self) -> Vec<(u64, String)> {
        port::clear(&self.shared.ended_fd);
        lock(&self.shared.ended).drain(..).collect()
    }

    /// There may be space in the pool again: wakes connections that wait for it.
    pub fn space_available(&self) {
        for thread in &self.threads {
            thread.port.announce_space();
        }
    }

    /// Lets every connection finish the requests it has begun, then closes it; what is not done
    /// within `deadline` is cut off. Waits for all of that.
    pub fn detach_all(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        for thread in &self.threads {
            thread.port.send(Message::Detach(until));
        }
        let counts = lock(&self.shared.counts);
        drop(
            self.shared
                .settled
                .wait_timeout_while(counts, deadline + DETACH_GRACE, |counts| counts.open > 0)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Gives up every connection in transmission, so that other workers, or those of the next
    /// process, go on with it by [`attach`](Self::attach). Requests that are begun are finished or
    /// become part of what is unfinished; nothing more is received. Waits for that.
    ///
    /// What cannot be given up within `deadline`, because a request waits for the store, goes on
    /// here; how many these are is returned too. A connection whose client takes no replies is
    /// closed then, which [`take_ended`](Self::take_ended) tells.
    pub fn hand_over(&self, deadline: Duration) -> (Vec<HandedOver>, usize) {
        lock(&self.shared.counts).staying = 0;
        let until = Instant::now() + deadline;
        for thread in &self.threads {
            thread.port.send(Message::HandOver(until));
        }
        let counts = lock(&self.shared.counts);
        let (counts, _) = self
            .shared
            .settled
            .wait_timeout_while(counts, deadline + DETACH_GRACE, |counts| {
                counts.open > counts.staying
            })
            .unwrap_or_else(PoisonError::into_inner);
        let late = counts.open;
        drop(counts);
        (lock(&self.shared.handed_over).drain(..).collect(), late)
    }

    /// Bytes of the buffers of open connections and of fetches: bounded, and no part of the pool.
    pub fn buffer_bytes(&self) -> u64 {
        let connections = lock(&self.shared.counts).open * (INPUT_BYTES + OUTPUT_BYTES);
        let fetches = self.options.workers * BOXES * 2 * self.pages.page_bytes();
        (connections + fetches) as u64
    }

    /// The kernel's numbers of all threads.
    pub fn thread_ids(&self) -> Vec<i32> {
        let workers = self.threads.iter().map(|thread| thread.tid);
        workers.chain(self.readers.thread_ids()).collect()
    }

    /// What each worker did.
    pub fn stats(&self) -> Vec<WorkerStats> {
        let stats = |shard: &Shard| WorkerStats {
            polls: shard.polls.get(),
            poll_hits: shard.poll_hits.get(),
            sleeps: shard.sleeps.get(),
            requests: shard.requests.get(),
        };
        self.shards().map(stats).collect()
    }

    /// What the workers counted; [`metrics`](crate::session::metrics) adds it up.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> + Clone {
        self.threads.iter().map(|thread| &*thread.shard)
    }

    /// Connections that are open, and all that ever were.
    pub fn connections(&self) -> (u64, u64) {
        let open = lock(&self.shared.counts).open as u64;
        (open, self.shared.accepted.load(Ordering::Relaxed))
    }
}

impl<P: Pages> Drop for Workers<P> {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.port.stop();
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // A worker that panicked has said so; there is nobody to tell here.
                let _ = handle.join();
            }
        }
        self.readers.stop();
    }
}

/// Has the thread ended by then? One that has not waits for a device that does not answer, and there is
/// no way to get it back: the caller leaves it behind, and this says so.
pub fn ended_by(thread: &JoinHandle<()>, until: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= until {
            let name = thread.thread().name().unwrap_or("unnamed");
            eprintln!("nbdswap: the backing file does not answer: left thread {name} behind");
            return false;
        }
        std::thread::park_timeout(END_LOOK);
    }
    true
}

/// Starts a named thread and learns the kernel's number of it.
fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(JoinHandle<()>, i32)> {
    let (told, tid) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        told.send(rustix::thread::gettid().as_raw_nonzero().get())
            .expect("start waits for it");
        body();
    };
    let handle = std::thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|source| Error::io("start a thread", 0, source))?;
    let tid = tid.recv().expect("a thread begins by sending its number");
    Ok((handle, tid))
}
