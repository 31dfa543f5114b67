//! The head of a shared frame: who has which chunks.
//!
//! Locking: written under the lock of the frame's shard. Extent and tag of a live object may also
//! be read by the holder of its handle, for whom they do not change.

use std::sync::atomic::Ordering::Relaxed;

use super::occupancy::{Extent, Occupancy, PLACES};
use crate::zpool::{Arena, Tag};

// header of a frame, in the machine's byte order; fits the first chunk of a frame of 4 KiB:
//   0  next      u32       frame after this one in its list of frames with room
//   4  previous  u32       frame before it
//   8  extents   u16 x 3   first chunk in the low byte, number of chunks in the high one; 0: none
//  14  stamps    u16 x 3
//  20  owners    u32 x 3
//  32
const NEXT_AT: usize = 0;
const PREVIOUS_AT: usize = 4;
const EXTENTS_AT: usize = 8;
const STAMPS_AT: usize = EXTENTS_AT + 2 * PLACES;
const OWNERS_AT: usize = STAMPS_AT + 2 * PLACES;
/// Bytes of the header.
pub const HEADER_BYTES: usize = OWNERS_AT + 4 * PLACES;

/// The header of one frame.
pub struct Header<'a> {
    arena: &'a Arena,
    at: usize,
}

impl<'a> Header<'a> {
    /// The header of `frame`.
    pub fn of(arena: &'a Arena, frame: u32) -> Self {
        let at = arena.frame_at(frame);
        Self { arena, at }
    }

    /// The frames after and before this one in its list.
    pub fn links(&self) -> (u32, u32) {
        let word = |at| self.arena.word_u32(self.at + at).load(Relaxed);
        (word(NEXT_AT), word(PREVIOUS_AT))
    }

    /// Writes both links.
    pub fn set_links(&self, next: u32, previous: u32) {
        self.set_next(next);
        self.set_previous(previous);
    }

    /// Changes the frame after this one.
    pub fn set_next(&self, next: u32) {
        self.arena.word_u32(self.at + NEXT_AT).store(next, Relaxed);
    }

    /// Changes the frame before this one.
    pub fn set_previous(&self, previous: u32) {
        let word = self.arena.word_u32(self.at + PREVIOUS_AT);
        word.store(previous, Relaxed);
    }

    /// The extent in a place.
    fn extent(&self, place: usize) -> Extent {
        let word = self.arena.word_u16(self.at + EXTENTS_AT + 2 * place);
        let [start, chunks] = word.load(Relaxed).to_le_bytes().map(u32::from);
        Extent { start, chunks }
    }

    /// All extents. Without the lock those of others may be changing.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy(std::array::from_fn(|place| self.extent(place)))
    }

    /// Writes all extents.
    pub fn set_occupancy(&self, occupancy: &Occupancy) {
        for (place, extent) in occupancy.0.iter().enumerate() {
            let word = self.arena.word_u16(self.at + EXTENTS_AT + 2 * place);
            let bytes = [extent.start as u8, extent.chunks as u8];
            word.store(u16::from_le_bytes(bytes), Relaxed);
        }
    }

    /// The tag of the object in a place.
    pub fn tag(&self, place: usize) -> Tag {
        let owner = self.arena.word_u32(self.at + OWNERS_AT + 4 * place);
        let stamp = self.arena.word_u16(self.at + STAMPS_AT + 2 * place);
        Tag {
            owner: owner.load(Relaxed),
            stamp: stamp.load(Relaxed),
        }
    }

    /// Tags the object in a place.
    pub fn set_tag(&self, place: usize, tag: Tag) {
        let owner = self.arena.word_u32(self.at + OWNERS_AT + 4 * place);
        let stamp = self.arena.word_u16(self.at + STAMPS_AT + 2 * place);
        owner.store(tag.owner, Relaxed);
        stamp.store(tag.stamp, Relaxed);
    }
}
