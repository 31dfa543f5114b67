//! What adoption does to segments. One thread, before any other has the store.

use std::sync::atomic::Ordering;

use super::super::geometry::SegmentIndex;
use super::super::layout::Shape;
use super::Segments;

impl Segments {
    /// Whether a search for the head of this segment failed before.
    pub fn unreadable(&self, index: SegmentIndex) -> bool {
        self.at(index).unreadable.load(Ordering::Relaxed)
    }

    /// Remembers that the head of this segment cannot be read.
    pub fn set_unreadable(&self, index: SegmentIndex) {
        self.at(index).unreadable.store(true, Ordering::Relaxed);
    }

    /// A segment of the predecessor, as its head says.
    pub fn found(&self, index: SegmentIndex, sequence: u64, shape: Shape) {
        self.install(self.at(index), sequence, shape);
    }

    /// A record of the predecessor lives in the segment; false when more live than it can hold.
    pub fn claim(&self, index: SegmentIndex, bytes: u32, records_bytes: u32) -> bool {
        let segment = self.at(index);
        let live = segment.live.load(Ordering::Relaxed) + bytes;
        if live > records_bytes {
            return false;
        }
        segment.live.store(live, Ordering::Relaxed);
        true
    }
}
