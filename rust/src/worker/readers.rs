//! Threads that read stored pages, so that workers never wait for a disk.
//!
//! Locking: one mutex round the queue, held for a push or a pop, never while reading.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::port::{Message, Port};
use super::shared::lock;
use super::{END_PATIENCE, WorkersOptions, ended_by, spawn};
use crate::error::Result;
use crate::session::Pages;
use crate::session::boxes::FetchBox;

/// Most fetches that a reader takes at a time; neighbours among them become one read of the disk.
const BATCH: usize = 32;

/// Fetches that wait for a reader.
#[derive(Debug)]
pub(super) struct FetchQueue {
    state: Mutex<State>,
    filled: Condvar,
    readers: usize,
}

#[derive(Debug)]
struct State {
    fetches: VecDeque<FetchBox>,
    stopped: bool,
}

impl FetchQueue {
    /// Hands fetches to the readers. There is room: the queue is as large as all workers' boxes.
    pub(super) fn push(&self, fetches: &mut Vec<FetchBox>) {
        if fetches.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        assert!(
            state.fetches.len() + fetches.len() <= state.fetches.capacity(),
            "too many boxes"
        );
        let several = fetches.len() > 1;
        state.fetches.extend(fetches.drain(..));
        drop(state);
        if several {
            self.filled.notify_all();
        } else {
            self.filled.notify_one();
        }
    }

    /// Takes a reader's share of what waits, in order, into `batch`; false when it is to end.
    fn pop(&self, batch: &mut Vec<FetchBox>) -> bool {
        let mut state = self
            .filled
            .wait_while(lock(&self.state), |state| {
                state.fetches.is_empty() && !state.stopped
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return false;
        }
        let share = state.fetches.len().div_ceil(self.readers).min(BATCH);
        batch.extend(state.fetches.drain(..share));
        true
    }
}

/// The reader threads and their queue.
#[derive(Debug)]
pub(super) struct Readers {
    queue: Arc<FetchQueue>,
    threads: Vec<(JoinHandle<()>, i32)>,
    /// How long the threads may take to end.
    patience: Duration,
}

impl Readers {
    /// Starts threads that give what they read back to `ports`; never more than `fetches` are with
    /// them.
    pub(super) fn start<P: Pages>(
        pages: &Arc<P>,
        options: WorkersOptions,
        fetches: usize,
        ports: &[Arc<Port>],
    ) -> Result<Self> {
        let state = State {
            fetches: VecDeque::with_capacity(fetches),
            stopped: false,
        };
        let queue = Arc::new(FetchQueue {
            state: Mutex::new(state),
            filled: Condvar::new(),
            readers: options.readers,
        });
        let mut readers = Readers {
            queue: queue.clone(),
            threads: Vec::with_capacity(options.readers),
            patience: options.request_timeout.min(END_PATIENCE),
        };
        for index in 0..options.readers {
            let (pages, queue, ports) = (pages.clone(), queue.clone(), ports.to_vec());
            let read = move || run(&*pages, &queue, &ports);
            readers
                .threads
                .push(spawn(format!("nbdswap-r{index}"), read)?);
        }
        Ok(readers)
    }

    /// Where workers put their fetches.
    pub(super) fn queue(&self) -> Arc<FetchQueue> {
        self.queue.clone()
    }

    /// The kernel's numbers of the threads.
    pub(super) fn thread_ids(&self) -> impl Iterator<Item = i32> {
        self.threads.iter().map(|(_, tid)| *tid)
    }

    /// Ends the threads, but for those that the device does not give back: they keep what they use.
    /// Fetches that still wait are dropped with the queue.
    pub(super) fn stop(&mut self) {
        lock(&self.queue.state).stopped = true;
        self.queue.filled.notify_all();
        let until = Instant::now() + self.patience;
        for (thread, _) in self.threads.drain(..) {
            if ended_by(&thread, until) {
                // A reader that panicked has said so; there is nobody to tell here.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<P: Pages>(pages: &P, queue: &FetchQueue, ports: &[Arc<Port>]) {
    let mut lane = pages.reader_lane();
    let mut batch = Vec::with_capacity(BATCH);
    while queue.pop(&mut batch) {
        pages.fetch(&mut lane, &mut batch, &mut |fetch| {
            ports[usize::from(fetch.ticket.worker)].send(Message::Fetched(fetch));
        });
        pages.read_ahead(&mut lane);
    }
}
