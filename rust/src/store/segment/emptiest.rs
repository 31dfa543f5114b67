//! Which segments could be free soonest: those that wait, and those in which least lives.
//!
//! Not here: what keeps them (`writeback::relief`). Locking: the mutex of the lists; counts are atomics, and what is
//! found may be over when it is looked at.

use std::sync::atomic::Ordering;

use super::super::geometry::SegmentIndex;
use super::super::layout::Shape;
use super::{CREDIT, Segments};

/// A use of a segment that is in use, or freed and waiting.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// The segment.
    pub segment: SegmentIndex,
    /// Of this use.
    pub sequence: u64,
    /// It is not free before a checkpoint, whatever happens.
    pub is_waiting: bool,
    pub(in super::super) shape: Shape,
    live_bytes: u32,
}

impl Segments {
    fn use_of(&self, number: u32, sequence: u64, live_bytes: u32) -> Use {
        let segment = &self.all[number as usize];
        let word = segment.shape.load(Ordering::Relaxed);
        Use {
            segment: SegmentIndex(number),
            sequence,
            is_waiting: self.waits(segment),
            shape: Shape {
                records: (word >> 32) as u32,
                records_bytes: word as u32,
            },
            live_bytes,
        }
    }

    /// Fills `found` up to its capacity with the freed segments that wait for a checkpoint, the first one first,
    /// and then with those in which least lives, the emptiest first.
    pub fn emptiest(&self, found: &mut Vec<Use>) {
        found.clear();
        let most = found.capacity();
        let lists = self.lists();
        let held =
            (lists.held.iter().take(most)).map(|held| self.use_of(held.number, held.sequence, 0));
        found.extend(held);
        drop(lists);
        let waiting = found.len();
        for (number, segment) in (0..).zip(&*self.all) {
            let live_bytes = segment.live.load(Ordering::Acquire);
            let sequence = segment.sequence.load(Ordering::Acquire);
            if sequence == 0 || live_bytes == 0 || live_bytes & CREDIT != 0 {
                continue;
            }
            let at =
                found[waiting..].partition_point(|other| other.live_bytes <= live_bytes) + waiting;
            if at == most {
                continue;
            }
            found.truncate(most - 1);
            found.insert(at, self.use_of(number, sequence, live_bytes));
        }
    }
}
