//! A shard: some of the regions, their holes, and how slots are cut out of holes.
//!
//! Not here: how they are given back (`freeing`), who holds the lock (`zfit`), walking over regions (`upkeep`).
//! Locking: none, the shard's lock is held.

mod freeing;

use std::sync::atomic::Ordering::Relaxed;

use super::BYTES_PER_NODE;
use super::bins::{Bins, Spot};
use super::links::Memory;
use super::nodes;
use super::quick::{Quick, SLACK_MAX};
use super::region::{Grain, Region};
use super::waiting::Waiting;
use super::word::{self, Word};
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::side::NONE;
use crate::zpool::{Arena, Handle, Tag};

/// Regions are at most this share of what the shard holds, so that the last one, part-filled,
/// weighs little in a small pool: 1/256.
const REGION_SHARE: u32 = 256;

/// Bytes of the shortest hole that an object fits into: the word in front, and eight bytes or fewer.
const HOLE_BYTES_MIN: usize = 16;

/// Nodes that a shard has however little it holds.
const NODES_MIN: usize = 64;

/// In frames of more than 4 KiB a freed slot is taken by an object that is shorter by this share at most; otherwise by one that
/// is shorter by a granule.
const SLACK_SHARE: u32 = 64;

/// Lengths of slots beyond those that objects need: what was too short for a hole.
const SPARE_LENGTHS: u32 = 2;

/// A shorter region wastes too much at its end.
const REGION_FRAMES_MIN: u32 = 4;

/// Regions of one shard.
pub struct Shard {
    grain: Grain,
    index: u8,
    /// Holes, but those of the region that is out of allocation and those that were forgotten.
    pub bins: Bins,
    /// The first frame of the region that is out of allocation, or NONE.
    pub isolated: u32,
    /// A region was made while one was out of allocation, or that one could not be emptied: trying
    /// freed nothing.
    pub is_futile: bool,
    /// No region is taken out of allocation before there are more granules in holes than this.
    pub patience: u64,
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
            isolated: NONE,
            is_futile: false,
            patience: 0,
            regions: 0,
            frames: 0,
            object_bytes: 0,
            objects: 0,
            live: 0,
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

    /// Cuts a slot out of a region that is made for it.
    pub fn cut_new(
        &mut self,
        arena: &Arena,
        granules: u32,
        bytes: usize,
        tag: Tag,
    ) -> Option<Handle> {
        self.build(arena, granules)?;
        self.cut(arena, granules, bytes, tag)
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
        let rest = hole - granules;
        // What no object fits into stays part of the slot, where it is free of bookkeeping.
        let length = if grain.bytes(rest) < HOLE_BYTES_MIN {
            region.set_after_hole(arena, grain, at + hole, false);
            hole
        } else {
            self.put_hole(arena, &region, at + granules, rest);
            granules
        };
        // What lies before the hole is a slot, or the two holes would be one.
        region.write(arena, grain, at, Word::slot(length, tag, false));
        region.set_live(arena, region.live(arena) + length);
        self.count(length, bytes);
        handle
    }

    /// Bytes of its lists, outside of the arena.
    pub fn index_bytes(&self) -> u64 {
        self.bins.index_bytes() + self.quick.index_bytes()
    }

    /// Counts an object in a slot of `granules`.
    pub fn count(&mut self, granules: u32, bytes: usize) {
        self.objects += 1;
        self.live += u64::from(granules);
        self.object_bytes = self.object_bytes.wrapping_add(bytes as u64);
    }

    /// Makes a hole of granules that are nobody's; what follows must be marked by the caller.
    pub fn put_hole(&mut self, arena: &Arena, region: &Region, at: u32, granules: u32) {
        let node = if self.isolated == region.head {
            nodes::NONE
        } else {
            let spot = region.handle(self.grain, at).0;
            self.bins.push(self.memory(arena), spot, granules)
        };
        region.write_hole(arena, self.grain, at, Word::hole(granules, node));
    }

    /// The opposite of `put_hole`; its words stay.
    pub fn take_hole(&mut self, arena: &Arena, region: &Region, at: u32, hole: Word) {
        if self.isolated != region.head {
            let spot = region.handle(self.grain, at).0;
            self.bins.remove(self.memory(arena), spot, hole);
        }
    }

    /// Makes a region that holds a slot of `granules` at least: one hole.
    fn build(&mut self, arena: &Arena, granules: u32) -> Option<()> {
        let frames_min = granules.div_ceil(self.grain.per_frame);
        let share = u32::try_from(self.frames).unwrap_or(u32::MAX) / REGION_SHARE;
        let mut frames = share.clamp(frames_min.max(REGION_FRAMES_MIN), RUN_FRAMES_MAX);
        let head = loop {
            // Where free frames lie scattered, a shorter run will do.
            match arena.alloc_run(frames) {
                Some(head) => break head,
                None if frames == frames_min => return None,
                None => frames = (frames / 2).max(frames_min),
            }
        };
        let region = Region {
            head,
            frames,
            shard: self.index,
        };
        region.mark(arena);
        self.regions += 1;
        self.set_frames(self.frames + u64::from(frames));
        self.note_new_region();
        self.put_hole(arena, &region, 0, region.end(self.grain));
        Some(())
    }

    /// Has so many frames from now on, and nodes for them.
    pub fn set_frames(&mut self, frames: u64) {
        self.frames = frames;
        let bytes = frames * self.grain.bytes(self.grain.per_frame) as u64;
        let nodes = (bytes / BYTES_PER_NODE) as usize;
        self.bins.allow_nodes(nodes.max(NODES_MIN));
    }

    /// A region was made, in this shard or in another one.
    pub fn note_new_region(&mut self) {
        self.is_futile |= self.isolated != NONE;
    }

    /// Whether emptying a region may be worth a look.
    pub fn has_holes_enough(&self) -> bool {
        let holes = self.bins.granules();
        holes > 0 && (self.is_futile || holes >= self.patience)
    }

    /// Gives the frames of a region without slots back. Its holes are in no bin.
    fn release(&mut self, arena: &Arena, region: &Region) {
        if self.isolated == region.head {
            self.isolated = NONE;
        }
        region.unmark(arena);
        arena.free_run(region.head, region.frames);
        self.regions -= 1;
        self.set_frames(self.frames - u64::from(region.frames));
    }
}
