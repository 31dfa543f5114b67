//! How other threads reach a worker: a bounded queue, a few flags, and an eventfd that is only
//! written while the worker sleeps.
//!
//! Locking: none. The order of `sleeping` and the queue is what makes a message never be slept
//! through: a sender pushes, then looks whether the worker sleeps; the worker says that it sleeps,
//! then looks into the queue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use super::connection::Connection;
use crate::engine::Fetch;
use crate::error::{Error, Result};

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Serve this connection.
    Attach(Box<Connection>),
    /// A fetch is done.
    Fetched(Box<Fetch>),
    /// Finish what is begun on all connections, by then at the latest.
    Detach(Instant),
    /// Give up all connections, by then at the latest, so that others go on with them.
    HandOver(Instant),
}

/// The way to one worker.
#[derive(Debug)]
pub(super) struct Port {
    queue: ArrayQueue<Message>,
    wake: OwnedFd,
    sleeping: AtomicBool,
    stopped: AtomicBool,
    space_epoch: AtomicU64,
    connections: AtomicUsize,
}

impl Port {
    /// A way for up to `messages` at a time: all fetches, and a few for each connection.
    pub(super) fn new(messages: usize) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::io("make an eventfd", 0, errno.into()))?;
        Ok(Port {
            queue: ArrayQueue::new(messages),
            wake,
            sleeping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            space_epoch: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        })
    }

    /// Tells the worker something.
    pub(super) fn send(&self, message: Message) {
        let mut message = message;
        // The queue has room for all fetches and connections; only somebody who asks for a detach
        // again and again could fill it, and then has to wait for the worker.
        while let Err(back) = self.queue.push(message) {
            message = back;
            self.wake();
            std::thread::yield_now();
        }
        self.wake();
    }

    /// There may be space in the pool.
    pub(super) fn announce_space(&self) {
        self.space_epoch.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// The worker is to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            signal(&self.wake);
        }
    }

    /// The next message.
    pub(super) fn receive(&self) -> Option<Message> {
        self.queue.pop()
    }

    /// How often space was announced.
    pub(super) fn space_epoch(&self) -> u64 {
        self.space_epoch.load(Ordering::Acquire)
    }

    /// True if the worker is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// True if there is anything new for a worker that has seen `space_epoch`.
    pub(super) fn has_news(&self, space_epoch: u64) -> bool {
        !self.queue.is_empty() || self.space_epoch() != space_epoch || self.is_stopped()
    }

    /// The worker is about to sleep; false if it must not, because there is news.
    pub(super) fn fall_asleep(&self, space_epoch: u64) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_news(space_epoch) {
            self.wake_up();
            return false;
        }
        true
    }

    /// The worker is awake again.
    pub(super) fn wake_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The worker, which looks for news next, has seen that its eventfd is readable.
    pub(super) fn clear_signal(&self) {
        clear(&self.wake);
    }

    /// What the worker waits on for news.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// How many connections the worker has, or is about to have.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// One more is on its way to it.
    pub(super) fn connection_added(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// One is closed.
    pub(super) fn connection_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes an eventfd readable.
pub(super) fn signal(fd: &OwnedFd) {
    // Fails only if its count is at the limit, and then it is readable.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable.
pub(super) fn clear(fd: &OwnedFd) {
    // Fails only if it is unreadable already.
    let _ = rustix::io::read(fd, &mut [0u8; 8]);
}
