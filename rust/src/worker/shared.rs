//! What workers tell whoever started them: which connections have ended, and how many are open.
//!
//! Locking: two mutexes, each held for a push or a count, never both.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::port::signal;
use crate::error::{Error, Result};

/// What workers share with whoever started them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ended: Mutex<Vec<(u64, String)>>,
    pub(super) ended_fd: OwnedFd,
    pub(super) open: Mutex<usize>,
    pub(super) all_closed: Condvar,
    pub(super) accepted: AtomicU64,
}

impl Shared {
    /// Nothing has happened yet; room for `connections` ends that nobody has asked for.
    pub(super) fn new(connections: usize) -> Result<Self> {
        let ended_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::io("make an eventfd", 0, errno.into()))?;
        Ok(Shared {
            ended: Mutex::new(Vec::with_capacity(connections)),
            ended_fd,
            open: Mutex::new(0),
            all_closed: Condvar::new(),
            accepted: AtomicU64::new(0),
        })
    }

    /// A connection is closed.
    pub(super) fn end(&self, number: u64, reason: String) {
        lock(&self.ended).push((number, reason));
        let mut open = lock(&self.open);
        *open -= 1;
        if *open == 0 {
            self.all_closed.notify_all();
        }
        drop(open);
        // Last: whoever is told of the end finds it in the list and not among the open ones.
        signal(&self.ended_fd);
    }
}

/// Locks a mutex whose holders only push, pop and count: a panic leaves nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
