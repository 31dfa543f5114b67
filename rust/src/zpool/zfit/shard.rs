//! A shard: some of the regions, their holes, and how slots are cut out of holes.
//!
//! Not here: how they are given back (`freeing`), where regions come from and go (`frames`), who holds the lock
//! (`zfit`), walking over regions (`upkeep`).
//! Locking: none, the shard's lock is held.

mod frames;
mod freeing;

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::bins::{Bins, Spot};
use super::links::Memory;
use super::nodes;
use super::quick::{Quick, SLACK_MAX};
use super::region::{Grain, Region};
use super::turn::Meetings;
use super::waiting::Waiting;
use super::window::Window;
use super::word::{self, Word};
use crate::zpool::{Arena, Handle, Tag};

/// Bytes of the shortest hole that an object fits into: the word in front, and eight bytes or fewer.
const HOLE_BYTES_MIN: usize = 16;

/// In frames of more than 4 KiB a freed slot is taken by an object that is shorter by this share at most; otherwise by one that
/// is shorter by a granule. With 1/64 to allocate and free with pages of 16 KiB takes 7 % more time, as fewer slots fit and
/// more often all that wait are looked through; an overwritten store of 768 MiB takes 0.003 bytes a byte less.
const SLACK_SHARE: u32 = 32;

/// Granules of a slot that is cut out of a `hole` for an object that needs `granules`: what no object fits into stays part
/// of the slot, where it is free of bookkeeping.
pub fn slot_granules(grain: Grain, granules: u32, hole: u32) -> u32 {
    match grain.bytes(hole - granules) < HOLE_BYTES_MIN {
        true => hole,
        false => granules,
    }
}

/// Lengths of slots beyond those that objects need: what was too short for a hole.
const SPARE_LENGTHS: u32 = 2;

/// Regions of one shard.
pub struct Shard {
    grain: Grain,
    index: u8,
    /// Holes, but those in what is being emptied and those that were forgotten.
    pub bins: Bins,
    /// What is being emptied.
    pub isolated: Window,
    /// Frames were taken meanwhile, or it could not be emptied: trying freed nothing.
    pub is_futile: bool,
    /// The squares of the holes when objects between short ones began to be moved.
    squares_merging: Option<u64>,
    /// The same when there was nothing to be won by that.
    squares_merged: u64,
    /// Nothing is to be emptied before there are so many granules in holes.
    patience: u64,
    /// Or the squares of the holes sum up to so much.
    squares_awaited: u64,
    /// Regions and their frames.
    pub regions: u64,
    /// Frames of all regions.
    pub frames: u64,
    /// Bytes that were asked for, of all objects that were put in less those taken out. Objects come from other shards, too,
    /// so that only the sum over all shards is a number of bytes; the others wrap.
    pub object_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Granules in slots with an object.
    pub live: u64,
    /// Objects that were ever put in.
    taken: u64,
    /// Threads that waited.
    meetings: Meetings,
    /// Slots that are being freed, with the lengths of their objects.
    freed: Waiting,
    /// Freed slots, to be taken again as they are. For their regions they count as slots.
    pub quick: Quick,
    /// Those that are no longer kept for that, with their own lengths.
    joining: Waiting,
}

impl Shard {
    /// A shard without regions; so many of its holes have nodes.
    pub fn new(grain: Grain, index: u8, nodes: usize) -> Self {
        let exact_max = grain.granules(grain.bytes(grain.per_frame) + word::BYTES);
        Self {
            grain,
            index,
            bins: Bins::new(exact_max, nodes),
            isolated: Window::NONE,
            is_futile: false,
            squares_merging: None,
            squares_merged: 0,
            patience: 0,
            squares_awaited: 0,
            regions: 0,
            frames: 0,
            object_bytes: 0,
            objects: 0,
            live: 0,
            taken: 0,
            meetings: Meetings::default(),
            freed: Waiting::new(),
            quick: Quick::new(exact_max + SPARE_LENGTHS),
            joining: Waiting::new(),
        }
    }

    fn memory<'a>(&self, arena: &'a Arena) -> Memory<'a> {
        Memory {
            arena,
            grain: self.grain,
        }
    }

    /// Takes a freed slot of about `granules`, or cuts one out of the shortest hole that is long enough.
    pub fn cut(&mut self, arena: &Arena, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        let slack = match self.grain.is_large() {
            true => (granules / SLACK_SHARE).min(SLACK_MAX),
            false => 1,
        };
        if let Some(spot) = self.quick.take(granules, slack) {
            return Some(self.reuse(arena, spot, bytes, tag));
        }
        let (spot, hole) = self.bins.take(self.memory(arena), granules)?;
        Some(self.cut_from(arena, spot, hole, (granules, bytes, tag)))
    }

    /// The same from holes that freed slots are made to be for it.
    pub fn cut_joined(
        &mut self,
        arena: &Arena,
        granules: u32,
        bytes: usize,
        tag: Tag,
    ) -> Option<Handle> {
        self.quick.give_up_from(granules);
        while self.join_some(arena) {
            let found = self.cut(arena, granules, bytes, tag);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Gives a freed slot another object.
    fn reuse(&mut self, arena: &Arena, spot: Spot, bytes: usize, tag: Tag) -> Handle {
        let place = arena.word_u64(self.memory(arena).place(spot));
        let word = Word(place.load(Relaxed));
        assert!(word.is_free(), "{word:?} of a freed slot");
        let length = word.granules();
        place.store(Word::slot(length, tag, word.is_after_hole()).0, Relaxed);
        self.count(length, bytes);
        Handle(spot)
    }

    /// Cuts a slot out of frames that are taken for it.
    pub fn cut_new(
        &mut self,
        arena: &Arena,
        granules: u32,
        bytes: usize,
        tag: Tag,
    ) -> Option<Handle> {
        // Not out of any hole: another one may have come about meanwhile, and a region be left without a slot.
        let (spot, hole) = self.build(arena, granules)?;
        Some(self.cut_from(arena, spot, hole, (granules, bytes, tag)))
    }

    /// Whether there are holes for so many slots, which are looked for as objects would be. Nothing may wait to be taken again.
    pub fn has_room(&mut self, arena: &Arena, slots: impl Iterator<Item = u32>) -> bool {
        let nobody = Tag { owner: 0, stamp: 0 };
        let mut has_room = true;
        for granules in slots {
            // A slot may be a little longer than any object needs: what was too short for a hole.
            let granules = granules.min(self.bins.exact_max());
            let hole = self.bins.take(self.memory(arena), granules);
            let Some((spot, hole)) = hole else {
                has_room = false;
                break;
            };
            let tried = self.cut_from(arena, spot, hole, (granules, 0, nobody)).0;
            let length = self.clear(arena, tried, 0);
            if !self.quick.put(length, tried) {
                self.join_soon(arena, tried, length);
                break;
            }
        }
        while self.join_some(arena) {}
        has_room
    }

    /// Cuts a slot out of a hole that is in no bin any more.
    fn cut_from(
        &mut self,
        arena: &Arena,
        spot: Spot,
        hole: u32,
        (granules, bytes, tag): (u32, usize, Tag),
    ) -> Handle {
        let (handle, grain) = (Handle(spot), self.grain);
        let region = Region::around(arena, handle.frame()).expect("a hole is part of a region");
        let at = region.granule(grain, handle);
        // What will be written, together: the lock is not given back before all of it has come from memory.
        for granule in [at, at + granules.min(hole - 1), at + hole - 1] {
            arena.prefetch(region.place(arena, grain, granule), 1);
        }
        debug_assert!(region.read(arena, grain, at).is_hole(), "{region:?}");
        let length = slot_granules(grain, granules, hole);
        if length == hole {
            region.set_after_hole(arena, grain, at + hole, false);
        } else {
            self.put_hole(arena, &region, at + length, hole - length);
        }
        // What lies before the hole is a slot, or the two holes would be one.
        region.write(arena, grain, at, Word::slot(length, tag, false));
        region.set_live(arena, region.live(arena) + length);
        self.count(length, bytes);
        handle
    }

    /// A thread waited for this shard because all were busy. Whether that happens too often.
    pub fn meet(&mut self) -> bool {
        self.meetings.add(self.taken)
    }

    /// Bytes of its lists, outside of the arena.
    pub fn index_bytes(&self) -> u64 {
        self.bins.index_bytes() + self.quick.index_bytes()
    }

    /// Counts an object in a slot of `granules`.
    pub fn count(&mut self, granules: u32, bytes: usize) {
        self.objects += 1;
        self.taken += 1;
        self.live += u64::from(granules);
        self.object_bytes = self.object_bytes.wrapping_add(bytes as u64);
    }

    /// Makes a hole of granules that are nobody's; what follows must be marked by the caller.
    pub fn put_hole(&mut self, arena: &Arena, region: &Region, at: u32, granules: u32) {
        let node = if self.isolates(region, at..at + granules) {
            nodes::NONE
        } else {
            let spot = region.handle(self.grain, at).0;
            self.bins.push(self.memory(arena), spot, granules)
        };
        region.write_hole(arena, self.grain, at, Word::hole(granules, node));
    }

    /// The opposite of `put_hole`; its words stay.
    pub fn take_hole(&mut self, arena: &Arena, region: &Region, at: u32, hole: Word) {
        if !self.isolates(region, at..at + hole.granules()) {
            let spot = region.handle(self.grain, at).0;
            self.bins.remove(self.memory(arena), spot, hole);
        }
    }

    /// Whether granules of a region have a part in what is being emptied.
    #[inline]
    pub fn isolates(&self, region: &Region, granules: Range<u32>) -> bool {
        let isolated = self.isolated;
        !isolated.is_none() && isolated.overlaps(Window::of(region, self.grain, granules))
    }

    /// Frames were taken, by this shard or by another one.
    pub fn note_new_region(&mut self) {
        self.is_futile |= !self.isolated.is_none();
    }

    /// Whether it is worth looking for something to be emptied: not if that was futile the last time, and holes have neither
    /// grown by a frame since they were fewest nor been merged to one as long.
    pub fn is_worth_a_look(&mut self) -> bool {
        if std::mem::take(&mut self.is_futile) {
            self.await_more_holes();
        }
        let holes = self.bins.granules();
        self.patience = self.patience.min(holes + u64::from(self.grain.per_frame));
        holes > 0 && (holes >= self.patience || self.bins.squares() >= self.squares_awaited)
    }

    /// Nothing could be emptied into the holes that there are now.
    pub fn await_more_holes(&mut self) {
        let frame = u64::from(self.grain.per_frame);
        self.patience = self.bins.granules() + frame;
        self.squares_awaited = self.bins.squares() + frame * frame;
    }

    /// Holes are short that half of an object of average length does not fit into.
    pub fn short_granules(&self) -> u32 {
        (self.live / (2 * self.objects.max(1))) as u32
    }

    /// Whether to look for objects between short holes: not if there was none or it did not help to move them, and holes are
    /// as they were then.
    pub fn is_worth_merging(&self) -> bool {
        self.bins.squares() != self.squares_merged
    }

    /// Objects between short holes are moved now.
    pub fn merge(&mut self) {
        self.squares_merging = Some(self.bins.squares());
    }

    /// They were moved, and their places are holes.
    pub fn end_merging(&mut self) {
        let squares = self.bins.squares();
        if (self.squares_merging.take()).is_some_and(|before| squares <= before) {
            self.squares_merged = squares;
        }
    }

    /// There are none that are worth it.
    pub fn await_other_holes(&mut self) {
        self.squares_merged = self.bins.squares();
    }
}
