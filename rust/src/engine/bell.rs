//! How requests wake the thread that does background work.
//!
//! Rung at most once until somebody waits again, so a burst of writes costs one system call.
//! Locking: the bell's own mutex, held for a few instructions and never together with another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A bell with one listener.
#[derive(Debug, Default)]
pub struct Bell {
    /// Rung and not heard yet: lets a ringer skip the mutex.
    is_rung: AtomicBool,
    /// A write found no place.
    is_asked: AtomicBool,
    heard: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    /// Wakes the listener.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.condition.notify_one();
        }
    }

    /// A write found no place: the next step is to do something whatever the marks say.
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
    }

    /// Was a write refused since the last time this was asked?
    pub fn take_asked(&self) -> bool {
        self.is_asked.swap(false, Ordering::AcqRel)
    }

    /// Waits until the bell rings, or for `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = match timeout {
            Some(timeout) => {
                self.condition
                    .wait_timeout_while(heard, timeout, |heard| !*heard)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self
                .condition
                .wait_while(heard, |heard| !*heard)
                .unwrap_or_else(PoisonError::into_inner),
        };
        *heard = false;
        self.is_rung.store(false, Ordering::Release);
    }
}
