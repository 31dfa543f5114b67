//! How requests wake the thread that does background work.
//!
//! A ring is for work that writers will soon wait for, a nudge for work that can wait until they are
//! gone. Each is passed on at most once until somebody waits again, so a burst of writes costs one
//! system call.
//! Locking: the bell's own mutex, held for a few instructions and never together with another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Work that writers will soon wait for.
    Ring,
    /// Work that can wait until they are gone.
    Nudge,
    /// The time was over.
    Nothing,
}

/// A bell with one listener.
#[derive(Debug, Default)]
pub struct Bell {
    /// Rung and not heard yet: lets a ringer skip the mutex.
    is_rung: AtomicBool,
    /// As `is_rung`, for nudges.
    is_nudged: AtomicBool,
    /// A write found no place.
    is_asked: AtomicBool,
    heard: Mutex<()>,
    condition: Condvar,
}

impl Bell {
    /// Wakes the listener, however it waits.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.notify();
        }
    }

    /// Wakes the listener if it waits for anything at all.
    pub fn nudge(&self) {
        if !self.is_nudged.swap(true, Ordering::AcqRel) {
            self.notify();
        }
    }

    /// A write found no place: the next step is to do something whatever the marks say.
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
    }

    /// Has a write asked for room since [`take_asked`](Self::take_asked)?
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Acquire)
    }

    /// Was a write refused since the last time this was asked?
    pub fn take_asked(&self) -> bool {
        self.is_asked.swap(false, Ordering::AcqRel)
    }

    /// Waits for a ring or a nudge, for `timeout` at most; None: for ever.
    pub fn wait(&self, timeout: Option<Duration>) -> Heard {
        let guard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = |(): &mut ()| {
            !self.is_rung.load(Ordering::Acquire) && !self.is_nudged.load(Ordering::Acquire)
        };
        match timeout {
            Some(timeout) => {
                drop(self.condition.wait_timeout_while(guard, timeout, is_silent));
            }
            None => drop(self.condition.wait_while(guard, is_silent)),
        }
        let is_nudged = self.take(&self.is_nudged);
        if self.take(&self.is_rung) {
            Heard::Ring
        } else if is_nudged {
            Heard::Nudge
        } else {
            Heard::Nothing
        }
    }

    /// Waits for a ring, for `timeout` at most. Nudges meanwhile are forgotten.
    pub fn pause(&self, timeout: Duration) {
        let guard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = |(): &mut ()| !self.is_rung.load(Ordering::Acquire);
        drop(self.condition.wait_timeout_while(guard, timeout, is_silent));
        self.take(&self.is_rung);
        self.take(&self.is_nudged);
    }

    fn take(&self, flag: &AtomicBool) -> bool {
        flag.swap(false, Ordering::AcqRel)
    }

    /// The mutex is taken between setting the flag and notifying: a listener that has just found the
    /// flag unset is waiting by then.
    fn notify(&self) {
        drop(self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        self.condition.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_ring_before_the_wait_is_heard() {
        let bell = Bell::default();
        bell.ring();
        assert_eq!(bell.wait(None), Heard::Ring);
        bell.nudge();
        assert_eq!(bell.wait(None), Heard::Nudge);
        assert_eq!(bell.wait(Some(Duration::ZERO)), Heard::Nothing);
    }

    #[test]
    fn a_pause_ends_by_a_ring_and_not_by_a_nudge() {
        let bell = Arc::new(Bell::default());
        bell.nudge();
        let listener = thread::spawn({
            let bell = Arc::clone(&bell);
            move || bell.pause(Duration::from_secs(3600))
        });
        bell.nudge();
        bell.ring();
        listener.join().unwrap();
    }

    #[test]
    fn no_ring_of_many_threads_is_lost() {
        let bell = Arc::new(Bell::default());
        let ringers: Vec<_> = (0..4)
            .map(|_| {
                let bell = Arc::clone(&bell);
                thread::spawn(move || (0..10_000).for_each(|_| bell.ring()))
            })
            .collect();
        ringers
            .into_iter()
            .for_each(|ringer| ringer.join().unwrap());
        // At least the last ring is still there, or was heard: a wait now does not hang.
        bell.ring();
        bell.wait(None);
    }
}
