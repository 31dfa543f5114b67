//! Which segment is emptied next.
//!
//! * Ahead of need, by benefit and cost, as Rosenblum and Ousterhout do in "The Design and
//!   Implementation of a Log-Structured File System" (1992): with `u` of a segment alive, emptying it
//!   frees `1 - u` and costs `1 + u` (it is read, and `u` is written), and an old segment is worth more,
//!   since those of its records that live will go on to live. Theirs is `(1 - u) * age / (1 + u)`; here
//!   the root of the age counts. Age is the segments written since this one was, as the pool counts it
//!   in writes: a store that nobody writes to does not age.
//!
//!   Write amplification that `engine/tests/wear.rs` measured with 1,024 segments of which 70 per cent
//!   live, overwrites uniform and with four of five going to a fifth of the pages:
//!
//!   | | uniform | skewed |
//!   |---|---|---|
//!   | `1 - u`, the emptiest first | 1.97 | 2.06 |
//!   | age, and what was moved keeps the age that it had | 2.15 | 1.85 |
//!   | age since the segment was written | 2.02 | 1.82 |
//!   | its root | 1.99 | 1.79 |
//!
//! * In need, the one with the fewest living bytes: it gives a segment back soonest.
//!
//! A segment that waits for a checkpoint is not free when it is empty, so it is not named.
//!
//! A walk over all segments finds the best few dozen, which are then named one after the other, so
//! that the walk is paid once for all of them.
//!
//! Not here: how much is cleaned, and when (`writeback`). Locking: none; the counts are atomics, and
//! what changed since the walk is looked at again before a segment is named.

use std::sync::atomic::Ordering;

use super::super::geometry::SegmentIndex;
use super::{CREDIT, Segment, Segments};

/// Segments that one walk finds.
const CANDIDATES: usize = 32;

/// How a segment is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The most benefit for its cost.
    Benefit,
    /// The fewest living bytes.
    Emptiest,
}

/// What a walk found: the best last.
pub struct Candidates {
    list: Vec<Candidate>,
    choice: Choice,
}

struct Candidate {
    score: f64,
    number: u32,
    sequence: u64,
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates {
            list: Vec::with_capacity(CANDIDATES + 1),
            choice: Choice::Benefit,
        }
    }
}

impl Candidates {
    /// Keeps the best ones, in order.
    fn offer(&mut self, candidate: Candidate) {
        let is_full = self.list.len() == CANDIDATES;
        if is_full && candidate.score <= self.list[0].score {
            return;
        }
        let at = (self.list).partition_point(|other| other.score < candidate.score);
        self.list.insert(at, candidate);
        if is_full {
            self.list.remove(0);
        }
    }
}

impl Segments {
    /// Names a sealed segment in which at most `live_bytes_max` of `segment_bytes` live.
    pub fn victim(
        &self,
        candidates: &mut Candidates,
        choice: Choice,
        live_bytes_max: u32,
        segment_bytes: u32,
    ) -> Option<SegmentIndex> {
        if candidates.choice != choice {
            candidates.list.clear();
            candidates.choice = choice;
        }
        let is_candidate = |segment: &Segment| {
            is_candidate(segment, live_bytes_max, segment_bytes) && !self.waits(segment)
        };
        for is_walked in [false, true] {
            if is_walked {
                self.walk(candidates, segment_bytes, &is_candidate);
            }
            while let Some(best) = candidates.list.pop() {
                let segment = &self.all[best.number as usize];
                let is_same = segment.sequence.load(Ordering::Acquire) == best.sequence;
                if is_same && is_candidate(segment) {
                    segment.cleaning.store(true, Ordering::Relaxed);
                    return Some(SegmentIndex(best.number));
                }
            }
        }
        None
    }

    fn walk(
        &self,
        candidates: &mut Candidates,
        segment_bytes: u32,
        is_candidate: &dyn Fn(&Segment) -> bool,
    ) {
        let now = self.lists().sequence_next;
        for (number, segment) in (0..).zip(&self.all) {
            if !is_candidate(segment) {
                continue;
            }
            let live = f64::from(segment.live.load(Ordering::Relaxed) & !CREDIT);
            let free = f64::from(segment_bytes) - live;
            let score = match candidates.choice {
                Choice::Benefit => {
                    let age = now.saturating_sub(segment.sequence.load(Ordering::Relaxed));
                    free * (age as f64).sqrt() / (f64::from(segment_bytes) + live)
                }
                Choice::Emptiest => free,
            };
            let sequence = segment.sequence.load(Ordering::Acquire);
            candidates.offer(Candidate {
                score,
                number,
                sequence,
            });
        }
    }

    /// Lets `victim` name the segment again.
    pub fn spare(&self, index: SegmentIndex) {
        self.at(index).cleaning.store(false, Ordering::Relaxed);
    }

    /// Lets `victim` name all segments again that were set aside. False: there are none.
    pub fn retry_set_aside(&self) -> bool {
        let mut any = false;
        for segment in &self.all {
            if segment.set_aside.swap(false, Ordering::Relaxed) {
                segment.cleaning.store(false, Ordering::Relaxed);
                any = true;
            }
        }
        any
    }

    /// Keeps `victim` from naming this segment until it was freed and rewritten, or is retried.
    pub fn set_aside(&self, index: SegmentIndex) {
        self.at(index).set_aside.store(true, Ordering::Relaxed);
    }
}

/// Sealed, alive, not named yet, and worth it: not sealed is above every limit. A segment without a
/// dead record would only be copied, unless it was written short and two make one.
fn is_candidate(segment: &Segment, live_bytes_max: u32, segment_bytes: u32) -> bool {
    let live = segment.live.load(Ordering::Relaxed);
    let records_bytes = segment.shape.load(Ordering::Relaxed) as u32;
    (1..=live_bytes_max).contains(&live)
        && (live < records_bytes || live <= segment_bytes / 2)
        && !segment.cleaning.load(Ordering::Relaxed)
        && !segment.set_aside.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
