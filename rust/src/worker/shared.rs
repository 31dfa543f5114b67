//! What workers tell whoever started them: which connections have ended, which were given up to go
//! on elsewhere, and how many are open.
//!
//! Locking: three mutexes, each held for a push or a count, never two.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::HandedOver;
use super::port::signal;
use crate::error::{Error, Result};

/// Connections by what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open: usize,
    /// Those of them that were to be handed over and could not be in time.
    pub(super) staying: usize,
}

/// What workers share with whoever started them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ended: Mutex<Vec<(u64, String)>>,
    pub(super) ended_fd: OwnedFd,
    pub(super) handed_over: Mutex<Vec<HandedOver>>,
    pub(super) counts: Mutex<Counts>,
    /// Either count has changed so that somebody may wait for it.
    pub(super) settled: Condvar,
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
            handed_over: Mutex::default(),
            counts: Mutex::default(),
            settled: Condvar::new(),
            accepted: AtomicU64::new(0),
        })
    }

    /// A connection is closed.
    pub(super) fn end(&self, number: u64, reason: String) {
        lock(&self.ended).push((number, reason));
        self.count(|counts| counts.open -= 1);
        // Last: whoever is told of the end finds it in the list and not among the open ones.
        signal(&self.ended_fd);
    }

    /// A connection was given up; its socket is open.
    pub(super) fn hand_over(&self, connection: HandedOver) {
        lock(&self.handed_over).push(connection);
        self.count(|counts| counts.open -= 1);
    }

    /// A connection goes on here, although it was to be handed over.
    pub(super) fn stay(&self) {
        self.count(|counts| counts.staying += 1);
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = lock(&self.counts);
        change(&mut counts);
        if counts.open <= counts.staying {
            self.settled.notify_all();
        }
    }
}

/// Locks a mutex whose holders only push, pop and count: a panic leaves nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
