//! How far the log is whole: which uses of segments are not known to be on the device as they should be.
//!
//! A recovery believes a segment's list, and what the list says of damaged records, if all segments of smaller
//! sequences than the log's position are whole. A write that failed half-way leaves one that is not, and so does
//! a sync that failed, even if all of its pages were written again since. So no position passes a doubted use
//! until that is gone for good: until the segment was written anew or its head was buried (`quarantine`), and
//! that was synced.
//!
//! Not here: what is written again (`durable`). Locking: none, atomics; the one thread that syncs asks for the
//! position.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::super::geometry::SegmentIndex;
use super::{Segment, Segments};

/// The doubted uses of a segment; zeros: none.
#[derive(Default)]
pub(super) struct Doubt {
    first: AtomicU64,
    last: AtomicU64,
}

impl Segment {
    fn doubt_use(&self, sequence: u64) {
        let _ = (self.doubt.first).compare_exchange(0, sequence, SeqCst, SeqCst);
        self.doubt.last.fetch_max(sequence, SeqCst);
    }

    pub(super) fn trust(&self) {
        self.doubt.last.store(0, SeqCst);
        self.doubt.first.store(0, SeqCst);
    }

    /// The newest use that is in doubt; 0: none.
    pub(super) fn doubted(&self) -> u64 {
        self.doubt.last.load(SeqCst)
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted() > 0
    }
}

impl Segments {
    /// What the segment holds under this sequence may not be whole.
    pub fn doubt(&self, index: SegmentIndex, sequence: u64) {
        if self.keeps_freed {
            self.doubted.store(true, SeqCst);
            self.at(index).doubt_use(sequence);
        }
    }

    /// Is what the segment holds, or held, in doubt?
    pub fn is_doubted(&self, index: SegmentIndex) -> bool {
        self.at(index).is_doubted()
    }

    #[cfg(test)]
    pub fn forget_doubts(&self) {
        self.all.iter().for_each(Segment::trust);
    }

    /// All segments of sequences below `covered` have landed, and a sync that began after that succeeded: how
    /// far the log is whole, and whether it is so because of a segment that is in use.
    pub fn whole_up_to(&self, covered: u64) -> (u64, bool) {
        if !self.doubted.load(SeqCst) {
            return (covered, false);
        }
        let (mut position, mut is_in_use, mut any) = (covered, false, false);
        for segment in self.all.iter().filter(|segment| segment.is_doubted()) {
            let sequence = segment.sequence.load(SeqCst);
            if sequence < covered && sequence > segment.doubted() {
                segment.trust();
                continue;
            }
            any = true;
            is_in_use |= sequence != 0;
            position = position.min(segment.doubt.first.load(SeqCst));
        }
        self.doubted.store(any, SeqCst);
        (position, is_in_use)
    }
}
