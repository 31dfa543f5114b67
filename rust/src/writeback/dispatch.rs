//! The way of batches to the device: while one is written, others are filled, wait for their turn and
//! are published. Without it device and processor would wait for each other, and write-back would
//! reach half of what the device can do.
//!
//! [`DEPTH`] batches are under way at most: one that is written, one that is being finished (checksums,
//! seals) and one that is next, so that neither the device nor the thread that steps waits. They come
//! back in the order in which they were sent. Whoever comes first writes one: the threads that serve here ([`Dispatch::serve`]), or the
//! one that steps when it needs the batch back. Without a serving thread, as in tests, a batch is
//! written as soon as it is handed over, and nothing happens at once.
//!
//! Locking: the queue's mutex, held for a few instructions, never during a write and never together
//! with another lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::store::{Batch, Store};

/// Most batches that are under way.
pub(super) const DEPTH: usize = 3;

/// Where a batch is.
enum Slot {
    Waiting(Batch),
    /// Somebody has taken it out and writes it.
    UnderWay,
    Written(Batch, Result<()>),
}

/// The batches under way, the oldest first.
struct Queue {
    slots: VecDeque<Slot>,
    /// Batches that were taken back: the number of the oldest slot.
    taken: u64,
}

impl Queue {
    /// Takes out the oldest batch that nobody has begun to write, with its number.
    fn begin(&mut self) -> Option<(u64, Batch)> {
        let is_waiting = |slot: &Slot| matches!(slot, Slot::Waiting(_));
        let at = self.slots.iter().position(is_waiting)?;
        match std::mem::replace(&mut self.slots[at], Slot::UnderWay) {
            Slot::Waiting(batch) => Some((self.taken + at as u64, batch)),
            _ => unreachable!("it was waiting"),
        }
    }

    /// Puts a batch back in its place. The oldest are taken back first, so it is still there.
    fn end(&mut self, number: u64, batch: Batch, result: Result<()>) {
        let at = (number - self.taken) as usize;
        self.slots[at] = Slot::Written(batch, result);
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

    /// Writes batches until [`close`](Self::close).
    pub fn serve(&self, store: &Store) {
        let mut queue = self.queue();
        while self.is_served() {
            match queue.begin() {
                Some(begun) => queue = self.write(store, queue, begun),
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
    pub(super) fn hand_over(&self, batch: Batch) {
        let mut queue = self.queue();
        assert!(queue.slots.len() < DEPTH, "too many batches are under way");
        queue.slots.push_back(Slot::Waiting(batch));
        drop(queue);
        self.changed.notify_all();
    }

    /// Can the oldest batch be taken back without waiting?
    pub(super) fn is_written(&self) -> bool {
        self.queue().is_first_written()
    }

    /// Takes the oldest batch back when it is written, and writes it if nobody has begun to.
    pub(super) fn take_back(&self, store: &Store) -> (Batch, Result<()>) {
        let mut queue = self.queue();
        loop {
            assert!(!queue.slots.is_empty(), "no batch is under way");
            if queue.is_first_written() {
                queue.taken += 1;
                match queue.slots.pop_front() {
                    Some(Slot::Written(batch, result)) => return (batch, result),
                    _ => unreachable!("it was written"),
                }
            }
            let is_begun = matches!(queue.slots[0], Slot::UnderWay);
            queue = match is_begun {
                true => self.wait(queue),
                false => {
                    let begun = queue.begin().expect("the first one waits");
                    self.write(store, queue, begun)
                }
            };
        }
    }

    fn wait<'a>(&'a self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait(queue);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn write<'a>(
        &'a self,
        store: &Store,
        queue: MutexGuard<'a, Queue>,
        (number, mut batch): (u64, Batch),
    ) -> MutexGuard<'a, Queue> {
        drop(queue);
        let result = store.commit(&mut batch);
        let mut queue = self.queue();
        queue.end(number, batch, result);
        self.changed.notify_all();
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Reason, StoreOptions};
    use crate::testing::sim_device::{Fault, Op, SimDevice};
    use std::sync::Arc;

    const SEGMENT: u32 = 16 << 10;

    fn store() -> (Arc<SimDevice>, Store) {
        let device = Arc::new(SimDevice::new(20 * SEGMENT as usize, 1));
        let options = StoreOptions {
            id: 1,
            generation: 1,
            segment_bytes: SEGMENT,
            ..StoreOptions::default()
        };
        let store = Store::open(Box::new(Arc::clone(&device)), options);
        (device, store.unwrap())
    }

    /// A batch with one record of this page.
    fn batch(store: &Store, page: u32) -> Batch {
        let mut batch = store.batch();
        store.begin(&mut batch, Reason::WriteBack).unwrap();
        batch.push(page, 1, &[7; 100]).unwrap();
        batch
    }

    fn page(batch: &Batch) -> u32 {
        batch.records().next().unwrap().0.page
    }

    /// Lets the threads of a test end when it fails.
    struct Closing<'a>(&'a Dispatch);

    impl Drop for Closing<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    #[test]
    fn batches_come_back_in_order_each_with_its_own_result() {
        let (device, store) = store();
        let dispatch = Dispatch::default();
        dispatch.open();
        std::thread::scope(|scope| {
            scope.spawn(|| dispatch.serve(&store));
            scope.spawn(|| dispatch.serve(&store));
            let _closing = Closing(&dispatch);
            // A place that failed is not used again.
            for round in 0..8 {
                let batches = [batch(&store, 2 * round), batch(&store, 2 * round + 1)];
                device.inject(Op::Write, 1, Fault::Fail);
                for batch in batches {
                    dispatch.hand_over(batch);
                }
                let mut failed = 0;
                for number in 0..2 {
                    let (mut batch, result) = dispatch.take_back(&store);
                    assert_eq!(page(&batch), 2 * round + number);
                    match result {
                        Ok(()) => store.seal(&mut batch),
                        Err(_) => failed += 1,
                    }
                }
                assert_eq!(failed, 1, "round {round}");
            }
        });
    }

    #[test]
    fn what_waits_when_nobody_serves_any_more_is_written_by_who_wants_it_back() {
        let (device, store) = store();
        let dispatch = Dispatch::default();
        for number in 0..DEPTH as u32 {
            dispatch.hand_over(batch(&store, number));
        }
        assert!(!dispatch.is_written());
        let writes = device.counts().writes;
        for number in 0..DEPTH as u32 {
            let (mut batch, result) = dispatch.take_back(&store);
            assert!(page(&batch) == number && result.is_ok());
            store.seal(&mut batch);
        }
        assert_eq!(device.counts().writes, writes + DEPTH as u64);
    }
}
