//! Reads that somebody waits for go before writes that nobody waits for.
//!
//! A device serves what it was given in its own order, so a read waits for the writes that are with it
//! already: for as few bytes as possible, then, while there are readers. A segment is written in pieces
//! ([`pieces_of`]), and whoever has several to write, writes one at a time.
//!
//! There is no clock: readers are there while a read is under way, and for the next
//! [`SEGMENTS_AFTER_READ`] segments that are written after one.
//!
//! Locking: none, counters. A write that misses a read that begins meanwhile holds it up once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::device::BLOCK_BYTES;

/// Segments that are written in pieces after a read: clients pause between two.
const SEGMENTS_AFTER_READ: u32 = 16;

/// Bytes of a piece: a device that writes 2 GB/s has it for a tenth of a millisecond.
const PIECE_BYTES: usize = 256 << 10;

/// But at most this share of a segment: pieces are pieces in small ones too.
const PIECES_MIN: usize = 4;

/// Who is there.
#[derive(Debug, Default)]
pub struct Precedence {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Reads that had begun when a segment was written last.
    seen: AtomicU64,
    /// Segments that are still to be written in pieces.
    left: AtomicU32,
}

impl Precedence {
    /// Somebody waits for a read, until the answer is dropped.
    pub fn reading(&self) -> ReadUnderWay<'_> {
        self.begun.fetch_add(1, Relaxed);
        ReadUnderWay(self)
    }

    /// Are there readers?
    pub fn has_readers(&self) -> bool {
        let (ended, begun) = (self.ended.load(Relaxed), self.begun.load(Relaxed));
        // Of reads since the last segment the next one takes note.
        self.left.load(Relaxed) > 0 || begun != ended || begun != self.seen.load(Relaxed)
    }

    /// A segment is about to be written: in pieces?
    pub fn begin_segment(&self) -> bool {
        let begun = self.begun.load(Relaxed);
        if self.seen.swap(begun, Relaxed) != begun {
            self.left.store(SEGMENTS_AFTER_READ, Relaxed);
        }
        let has_readers = self.has_readers();
        let one_less = |left: u32| left.checked_sub(1);
        let _ = self.left.fetch_update(Relaxed, Relaxed, one_less);
        has_readers
    }
}

/// A read that somebody waits for.
pub struct ReadUnderWay<'a>(&'a Precedence);

impl Drop for ReadUnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

/// What a segment of `segment_bytes` is written in while there are readers, bytes.
pub fn pieces_of(segment_bytes: usize) -> usize {
    let share = (segment_bytes / PIECES_MIN).next_multiple_of(BLOCK_BYTES);
    share.min(PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_there_while_they_read_and_for_some_segments_after() {
        let precedence = Precedence::default();
        assert!(!precedence.has_readers() && !precedence.begin_segment());
        let read = precedence.reading();
        for _ in 0..3 * SEGMENTS_AFTER_READ {
            assert!(precedence.has_readers() && precedence.begin_segment());
        }
        drop(read);
        // It began before those: nobody has read since.
        assert!(!precedence.has_readers() && !precedence.begin_segment());
        drop(precedence.reading());
        for _ in 0..SEGMENTS_AFTER_READ {
            assert!(precedence.has_readers() && precedence.begin_segment());
        }
        assert!(!precedence.has_readers() && !precedence.begin_segment());
    }

    #[test]
    fn pieces_are_blocks_and_few() {
        assert_eq!(pieces_of(1 << 20), 256 << 10);
        assert_eq!(pieces_of(16 << 20), 256 << 10);
        assert_eq!(pieces_of(16 << 10), 4 << 10);
        assert_eq!(pieces_of(20 << 10), 8 << 10);
    }
}
