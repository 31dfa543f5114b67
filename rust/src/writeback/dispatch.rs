//! The way of a batch to the device: while one is written, the next is filled and the one before is
//! published. Without it device and processor would wait for each other, and write-back would reach
//! half of what the device can do.
//!
//! One batch is under way at most. Whoever comes first writes it: a thread that serves here
//! ([`Dispatch::serve`]), or the one that steps when it needs the batch back. Without a serving thread,
//! as in tests, a batch is written as soon as it is handed over, and nothing happens at once.
//!
//! Locking: the slot's mutex, held for a few instructions, never during a write and never together
//! with another lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::store::{Batch, Store};

/// Where the batch is.
#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Waiting(Batch),
    /// Somebody has taken it out and writes it.
    UnderWay,
    Written(Batch, Result<()>),
}

/// The place where batches change hands.
#[derive(Default)]
pub struct Dispatch {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// A thread serves here.
    is_served: AtomicBool,
}

impl Dispatch {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Every change of the slot is one assignment: a panic elsewhere leaves nothing half done.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a thread will call [`serve`](Self::serve); batches wait for it.
    pub fn open(&self) {
        self.is_served.store(true, Ordering::Release);
    }

    /// Writes batches until [`close`](Self::close).
    pub fn serve(&self, store: &Store) {
        let mut slot = self.slot();
        while self.is_served() {
            match std::mem::take(&mut *slot) {
                Slot::Waiting(batch) => {
                    *slot = Slot::UnderWay;
                    drop(slot);
                    let written = write(store, batch);
                    slot = self.slot();
                    *slot = written;
                    self.changed.notify_all();
                }
                other => {
                    *slot = other;
                    let waited = self.changed.wait(slot);
                    slot = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Lets [`serve`](Self::serve) return. A batch that waits is written by the thread that steps.
    pub fn close(&self) {
        self.is_served.store(false, Ordering::Release);
        drop(self.slot());
        self.changed.notify_all();
    }

    /// Does a thread serve here?
    pub(super) fn is_served(&self) -> bool {
        self.is_served.load(Ordering::Acquire)
    }

    /// Sends a batch on its way; the one before was taken back.
    pub(super) fn hand_over(&self, batch: Batch) {
        let before = std::mem::replace(&mut *self.slot(), Slot::Waiting(batch));
        assert!(matches!(before, Slot::Empty), "two batches are under way");
        self.changed.notify_all();
    }

    /// Can the batch be taken back without waiting?
    pub(super) fn is_written(&self) -> bool {
        matches!(*self.slot(), Slot::Written(..))
    }

    /// Takes the batch back when it is written, and writes it if nobody has begun to.
    pub(super) fn take_back(&self, store: &Store) -> (Batch, Result<()>) {
        let mut slot = self.slot();
        loop {
            match std::mem::take(&mut *slot) {
                Slot::Written(batch, result) => return (batch, result),
                Slot::Waiting(batch) => {
                    drop(slot);
                    let Slot::Written(batch, result) = write(store, batch) else {
                        unreachable!("it was written")
                    };
                    return (batch, result);
                }
                Slot::UnderWay => {
                    *slot = Slot::UnderWay;
                    let waited = self.changed.wait(slot);
                    slot = waited.unwrap_or_else(PoisonError::into_inner);
                }
                Slot::Empty => panic!("no batch is under way"),
            }
        }
    }
}

fn write(store: &Store, mut batch: Batch) -> Slot {
    let result = store.commit(&mut batch);
    Slot::Written(batch, result)
}
