//! A region: a run of frames that is cut into slots and holes without a gap, each a multiple of a
//! granule and with a word in front.
//!
//! The side word of its first frame says how many frames and which shard, how many granules
//! are in slots, and whether a hole is at the end; those of the others say how far they are from it.
//!
//! Locking: what changes changes under the lock of the region's shard. A region may be parted while somebody without
//! that lock looks for the one that a frame is part of: the first side word of the latter part says so before the
//! others do, and the former part is shortened last.

use std::ops::Range;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::word::{self, Word};
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::side::{Side, head_free, head_next, with_head_free, with_head_next};
use crate::zpool::{Arena, Handle, ZpoolKind};

const FRAMES_BITS: u32 = 5;
const _: () = assert!(RUN_FRAMES_MAX < 1 << FRAMES_BITS);

/// The unit of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// A granule is two to this power bytes long.
    bytes_shift: u32,
    /// Granules of a frame.
    pub per_frame: u32,
}

impl Grain {
    /// Eight bytes, unless a handle has too few bits to number so many in a frame.
    pub fn of(frame_bytes: usize) -> Grain {
        let bytes = (frame_bytes >> crate::zpool::HANDLE_LOW_BITS).max(word::BYTES);
        Grain {
            bytes_shift: bytes.trailing_zeros(),
            per_frame: (frame_bytes / bytes) as u32,
        }
    }

    /// Whether frames are larger than a small page.
    #[inline]
    pub fn is_large(self) -> bool {
        self.bytes(self.per_frame) > 4096
    }

    /// Bytes of so many granules.
    #[inline]
    pub fn bytes(self, granules: u32) -> usize {
        (granules as usize) << self.bytes_shift
    }

    /// Granules that hold so many bytes.
    #[inline]
    pub fn granules(self, bytes: usize) -> u32 {
        ((bytes + (1 << self.bytes_shift) - 1) >> self.bytes_shift) as u32
    }
}

/// A region, as its side words describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first frame.
    pub head: u32,
    /// Its frames.
    pub frames: u32,
    /// The shard that it belongs to.
    pub shard: u8,
}

impl Region {
    /// The region that begins with frame `head`, if one does.
    #[inline]
    pub fn at(arena: &Arena, head: u32) -> Option<Region> {
        Region::of_head(head, side(arena, head))
    }

    /// The region that `frame` is part of, if it is part of one.
    #[inline]
    pub fn around(arena: &Arena, frame: u32) -> Option<Region> {
        let word = side(arena, frame);
        Region::of_frame(arena, frame, word).or_else(|| Region::parted_around(arena, frame, word))
    }

    /// The same when a frame's side word leads to none: it is in none, or in the latter part of a region that was parted just now.
    #[cold]
    fn parted_around(arena: &Arena, frame: u32, mut word: Side) -> Option<Region> {
        loop {
            let last = std::mem::replace(&mut word, side(arena, frame));
            if last == word {
                return None;
            }
            if let Some(region) = Region::of_frame(arena, frame, word) {
                return Some(region);
            }
        }
    }

    /// As a frame's side word and that of the first frame say.
    #[inline]
    fn of_frame(arena: &Arena, frame: u32, side: Side) -> Option<Region> {
        let Side::Tail { place } = side else {
            return Region::of_head(frame, side);
        };
        let place = u32::from(place);
        let region = Region::at(arena, frame.checked_sub(place)?)?;
        (place < region.frames).then_some(region)
    }

    #[inline]
    fn of_head(head: u32, side: Side) -> Option<Region> {
        match side {
            Side::Head { class, .. } => Some(Region {
                head,
                frames: u32::from(class & ((1 << FRAMES_BITS) - 1)),
                shard: class >> FRAMES_BITS,
            }),
            _ => None,
        }
    }

    /// Writes the side words of a region that is one hole.
    pub fn mark(&self, arena: &Arena) {
        self.set_head(arena, 0, true);
        self.set_tails(arena, 1);
    }

    fn set_head(&self, arena: &Arena, live: u32, ends_in_hole: bool) {
        let head = Side::Head {
            class: self.frames as u8 | self.shard << FRAMES_BITS,
            free: ends_in_hole.into(),
            next: live,
        };
        set_side(arena, self.head, head);
    }

    /// Writes the side words of its frames from a place on, but not of the first one.
    pub fn set_tails(&self, arena: &Arena, from: u32) {
        (from..self.frames).for_each(|place| set_side(arena, self.head + place, tail(place)));
    }

    /// The same region in another shard.
    pub fn move_to(&self, arena: &Arena, shard: u8) -> Region {
        let moved = Region { shard, ..*self };
        moved.set_head(arena, self.live(arena), self.ends_in_hole(arena));
        moved
    }

    /// The same region with the frames behind it, a hole.
    pub fn extend(&self, arena: &Arena, frames: u32) -> Region {
        let longer = Region {
            frames: self.frames + frames,
            ..*self
        };
        longer.set_tails(arena, self.frames);
        longer.set_head(arena, self.live(arena), true);
        longer
    }

    /// The frames from a place on as a region of its own, with so many granules in slots. Until the former part is
    /// shortened, the side words in between may say either.
    pub fn part(&self, arena: &Arena, place: u32, live: u32) -> Region {
        let part = Region {
            head: self.head + place,
            frames: self.frames - place,
            ..*self
        };
        part.set_head(arena, live, self.ends_in_hole(arena));
        part.set_tails(arena, 1);
        part
    }

    /// The first frames alone, with so many granules in slots and maybe a hole behind the last one.
    pub fn shorten(&self, arena: &Arena, frames: u32, live: u32, ends_in_hole: bool) -> Region {
        let shorter = Region { frames, ..*self };
        shorter.set_head(arena, live, ends_in_hole);
        shorter
    }

    /// Clears the side words of some of its frames, or of frames that were its own.
    pub fn unmark(&self, arena: &Arena, places: Range<u32>) {
        places.for_each(|place| set_side(arena, self.head + place, Side::Free));
    }

    /// Whether the side words of the later frames are those of this region.
    pub fn is_marked(&self, arena: &Arena) -> bool {
        (1..self.frames).all(|place| side(arena, self.head + place) == tail(place))
    }

    /// Granules in slots.
    #[inline]
    pub fn live(&self, arena: &Arena) -> u32 {
        head_next(arena.side(self.head).load(Relaxed))
    }

    /// Says how many granules are in slots.
    #[inline]
    pub fn set_live(&self, arena: &Arena, live: u32) {
        let side = arena.side(self.head);
        side.store(with_head_next(side.load(Relaxed), live), Relaxed);
    }

    /// Where the last slot ends, granules.
    #[inline]
    pub fn end(&self, grain: Grain) -> u32 {
        self.frames * grain.per_frame
    }

    /// How much of it is in slots, in 1/65536.
    pub fn fullness(&self, arena: &Arena, grain: Grain) -> u32 {
        let end = u64::from(self.end(grain));
        ((u64::from(self.live(arena)) << 16) / end) as u32
    }

    /// Place in the mapping of a granule.
    #[inline]
    pub fn place(&self, arena: &Arena, grain: Grain, granule: u32) -> usize {
        arena.frame_at(self.head) + grain.bytes(granule)
    }

    /// The word at a granule.
    #[inline]
    pub fn word<'a>(&self, arena: &'a Arena, grain: Grain, granule: u32) -> &'a AtomicU64 {
        arena.word_u64(self.place(arena, grain, granule))
    }

    /// The slot or hole that begins at a granule.
    #[inline]
    pub fn read(&self, arena: &Arena, grain: Grain, granule: u32) -> Word {
        Word(self.word(arena, grain, granule).load(Relaxed))
    }

    /// Every slot and hole from the one at `from` on, with its first granule. None may be joined, or cut in front of the next
    /// one, meanwhile.
    pub fn words(
        self,
        arena: &Arena,
        grain: Grain,
        from: u32,
    ) -> impl Iterator<Item = (u32, Word)> {
        let mut next = from;
        std::iter::from_fn(move || {
            let at = next;
            if at == self.end(grain) {
                return None;
            }
            let word = self.read(arena, grain, at);
            assert!(word.granules() > 0, "an empty slot at {at} of {self:?}");
            next += word.granules();
            Some((at, word))
        })
    }

    /// Writes the word of a slot.
    #[inline]
    pub fn write(&self, arena: &Arena, grain: Grain, granule: u32, word: Word) {
        self.word(arena, grain, granule).store(word.0, Relaxed);
    }

    /// Writes the words of a hole at both its ends.
    #[inline]
    pub fn write_hole(&self, arena: &Arena, grain: Grain, granule: u32, word: Word) {
        self.write(arena, grain, granule, word);
        let last = self.place(arena, grain, granule + word.granules()) - word::BYTES;
        arena.word_u64(last).store(word.0, Relaxed);
    }

    /// The hole that ends at a granule.
    #[inline]
    pub fn hole_before(&self, arena: &Arena, grain: Grain, granule: u32) -> Word {
        let last = self.place(arena, grain, granule) - word::BYTES;
        let word = Word(arena.word_u64(last).load(Relaxed));
        assert!(word.is_hole(), "no hole ends at {granule} of {self:?}");
        word
    }

    /// Whether a hole is at the end.
    pub fn ends_in_hole(&self, arena: &Arena) -> bool {
        head_free(arena.side(self.head).load(Relaxed)) != 0
    }

    /// Marks what begins at a granule, be it the end, as being behind a hole or not.
    #[inline]
    pub fn set_after_hole(&self, arena: &Arena, grain: Grain, granule: u32, after_hole: bool) {
        if granule == self.end(grain) {
            let side = arena.side(self.head);
            let word = with_head_free(side.load(Relaxed), after_hole.into());
            side.store(word, Relaxed);
        } else {
            let word = self.read(arena, grain, granule);
            debug_assert!(!word.is_hole(), "two holes meet at {granule} of {self:?}");
            self.write(arena, grain, granule, word.with_after_hole(after_hole));
        }
    }

    /// The handle of the slot at a granule.
    #[inline]
    pub fn handle(&self, grain: Grain, granule: u32) -> Handle {
        // A frame has a power of two of them.
        let frame = self.head + (granule >> grain.per_frame.trailing_zeros());
        Handle::of(frame, granule & (grain.per_frame - 1))
    }

    /// The granule that a handle in this region leads to.
    #[inline]
    pub fn granule(&self, grain: Grain, handle: Handle) -> u32 {
        (handle.frame() - self.head) * grain.per_frame + handle.low()
    }
}

fn tail(place: u32) -> Side {
    Side::Tail { place: place as u8 }
}

#[inline]
fn side(arena: &Arena, frame: u32) -> Side {
    Side::decode(arena.side(frame).load(Acquire), ZpoolKind::Zfit)
}

fn set_side(arena: &Arena, frame: u32, side: Side) {
    arena
        .side(frame)
        .store(side.encode(ZpoolKind::Zfit), Release);
}
