//! The way of batches to the device: while one is written, others are filled, copied together, wait for
//! their turn and are published. Without it device and processor would wait for each other, and
//! write-back would reach half of what the device can do.
//!
//! [`DEPTH`] batches are under way at most: one for each thread that writes or copies, and one that is
//! next, so that neither the device nor the thread that steps waits. They come back in the order in which
//! they were sent. Whoever comes first writes one: the threads that serve here ([`Dispatch::serve`]), or
//! the one that steps when it needs the batch back. Without a serving thread, as in tests, a batch is
//! written as soon as it is handed over, and nothing happens at once.
//!
//! While there are readers (`Store::has_readers`), those that serve take turns: a read then waits for one
//! write at most, and for fewer busy threads.
//!
//! Locking: the queue's mutex, held for a few instructions, never during a write and never together
//! with another lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::shipment::Shipment;
use crate::error::Result;
use crate::tiers::Tiers;

/// Most batches that are under way.
pub(super) const DEPTH: usize = 4;

/// Where a batch is.
enum Slot {
    Waiting(Shipment),
    /// Somebody has taken it out and writes it.
    UnderWay,
    Written(Shipment, Result<bool>),
}

/// The batches under way, the oldest first.
struct Queue {
    slots: VecDeque<Slot>,
    /// Batches that were taken back: the number of the oldest slot.
    taken: u64,
}

impl Queue {
    /// Takes out the oldest batch that nobody has begun to write, with its number.
    fn begin(&mut self) -> Option<(u64, Shipment)> {
        let is_waiting = |slot: &Slot| matches!(slot, Slot::Waiting(_));
        let at = self.slots.iter().position(is_waiting)?;
        match std::mem::replace(&mut self.slots[at], Slot::UnderWay) {
            Slot::Waiting(shipment) => Some((self.taken + at as u64, shipment)),
            _ => unreachable!("it was waiting"),
        }
    }

    /// Puts a batch back in its place. The oldest are taken back first, so it is still there.
    fn end(&mut self, number: u64, shipment: Shipment, result: Result<bool>) {
        let at = (number - self.taken) as usize;
        self.slots[at] = Slot::Written(shipment, result);
    }

    fn is_being_written(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| matches!(slot, Slot::UnderWay))
    }

    fn is_first_written(&self) -> bool {
        matches!(self.slots.front(), Some(Slot::Written(..)))
    }
}

/// The place where batches change hands.
pub struct Dispatch {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Threads serve here.
    is_served: AtomicBool,
}

impl Default for Dispatch {
    fn default() -> Dispatch {
        let slots = VecDeque::with_capacity(DEPTH);
        Dispatch {
            queue: Mutex::new(Queue { slots, taken: 0 }),
            changed: Condvar::new(),
            is_served: AtomicBool::new(false),
        }
    }
}

impl Dispatch {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change of the queue is one assignment: a panic elsewhere leaves nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on threads will call [`serve`](Self::serve); batches wait for it.
    pub fn open(&self) {
        self.is_served.store(true, Ordering::Release);
    }

    /// Writes batches until [`close`](Self::close), one at a time with others that serve while there are
    /// readers.
    pub fn serve(&self, tiers: &Tiers) {
        let store = tiers.store_of_a_stored_page();
        let mut queue = self.queue();
        while self.is_served() {
            // Others write when that is done, each woken by the one before.
            let is_turn = !queue.is_being_written() || !store.has_readers();
            match is_turn.then(|| queue.begin()).flatten() {
                Some(begun) => queue = self.write(tiers, queue, begun),
                None => queue = self.wait(queue),
            }
        }
    }

    /// Lets [`serve`](Self::serve) return. A batch that waits is written by the thread that steps.
    pub fn close(&self) {
        self.is_served.store(false, Ordering::Release);
        drop(self.queue());
        self.changed.notify_all();
    }

    /// Do threads serve here?
    pub(super) fn is_served(&self) -> bool {
        self.is_served.load(Ordering::Acquire)
    }

    /// Sends a batch on its way. There is room: one before was taken back if there was not.
    pub(super) fn hand_over(&self, shipment: Shipment) {
        let mut queue = self.queue();
        assert!(queue.slots.len() < DEPTH, "too many batches are under way");
        queue.slots.push_back(Slot::Waiting(shipment));
        drop(queue);
        self.changed.notify_all();
    }

    /// Can the oldest batch be taken back without waiting?
    pub(super) fn is_written(&self) -> bool {
        self.queue().is_first_written()
    }

    /// Takes the oldest batch back when it is written, and writes it if nobody has begun to.
    pub(super) fn take_back(&self, tiers: &Tiers) -> (Shipment, Result<bool>) {
        let mut queue = self.queue();
        loop {
            assert!(!queue.slots.is_empty(), "no batch is under way");
            if queue.is_first_written() {
                queue.taken += 1;
                match queue.slots.pop_front() {
                    Some(Slot::Written(shipment, result)) => return (shipment, result),
                    _ => unreachable!("it was written"),
                }
            }
            let is_begun = matches!(queue.slots[0], Slot::UnderWay);
            queue = match is_begun {
                true => self.wait(queue),
                false => {
                    let begun = queue.begin().expect("the first one waits");
                    self.write(tiers, queue, begun)
                }
            };
        }
    }

    /// Writes the next batch, as a thread that serves would. False: none waits.
    #[cfg(test)]
    pub fn write_next(&self, tiers: &Tiers) -> bool {
        let mut queue = self.queue();
        let begun = queue.begin();
        begun
            .map(|begun| drop(self.write(tiers, queue, begun)))
            .is_some()
    }

    fn wait<'a>(&'a self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait(queue);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn write<'a>(
        &'a self,
        tiers: &Tiers,
        queue: MutexGuard<'a, Queue>,
        (number, mut shipment): (u64, Shipment),
    ) -> MutexGuard<'a, Queue> {
        drop(queue);
        let result = shipment.write(tiers);
        let mut queue = self.queue();
        queue.end(number, shipment, result);
        self.changed.notify_all();
        queue
    }
}

#[cfg(test)]
mod tests;
