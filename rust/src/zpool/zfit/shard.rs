//! A shard: some of the regions, their holes, and how slots are cut out of holes and given back.
//!
//! Not here: who holds the lock (`zfit`), walking over regions (`upkeep`).
//! Locking: none, the shard's lock is held.

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

/// This share of the objects may be waiting as freed slots: 1/768. They are bytes that hold nothing, so
/// it is what they cost; a quarter to a third of all slots are then taken as they were freed.
const QUICK_SHARE: u64 = 768;

/// The same in frames of more than 4 KiB. They hold fewer objects, of more lengths, and with 1/512 few of
/// those were ever found waiting.
const QUICK_SHARE_LARGE: u64 = 128;

/// There, a freed slot is taken by an object that is shorter by this share at most; otherwise by one that
/// is shorter by a granule.
const SLACK_SHARE: u32 = 64;

/// Freed slots that become holes before it is looked again for one that is long enough.
const JOINED_TOGETHER: usize = 16;

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
    /// Bytes that were asked for, of all objects.
    pub object_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Granules in slots with an object.
    pub live: u64,
    /// Slots that are being freed: their words are fetched. With the lengths of their objects.
    freed: Waiting,
    /// Freed slots, to be taken again as they are. For their regions they count as slots.
    pub quick: Quick,
    /// Those that are no longer kept for that: the words behind them are fetched.
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
        loop {
            if let Some((spot, hole)) = self.bins.take(self.memory(arena), granules) {
                return Some(self.cut_from(arena, spot, hole, (granules, bytes, tag)));
            }
            if !self.join_some(arena) {
                return None;
            }
        }
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

    /// The word of a slot will be read.
    pub fn fetch(&self, arena: &Arena, spot: Spot) {
        arena.prefetch(self.memory(arena).place(spot), 1);
    }

    /// Frees a slot, a little later.
    #[inline]
    pub fn free_soon(&mut self, arena: &Arena, spot: Spot, bytes: usize) {
        if let Some((spot, bytes)) = self.freed.pass(spot, bytes as u32) {
            self.free(arena, spot, bytes as usize);
        }
    }

    /// Has a slot wait to be taken again.
    fn free(&mut self, arena: &Arena, spot: Spot, bytes: usize) {
        let place = arena.word_u64(self.memory(arena).place(spot));
        let word = Word(place.load(Relaxed));
        let length = word.granules();
        assert!(
            word.is_live() && bytes + word::BYTES <= self.grain.bytes(length),
            "{bytes} bytes at {spot:#x} are freed twice, or were never taken"
        );
        self.objects -= 1;
        self.live -= u64::from(length);
        self.object_bytes -= bytes as u64;
        place.store(word.freed().0, Relaxed);
        if self.isolated != NONE && self.is_isolated(arena, spot) {
            // Nothing may be put into that region.
            self.join(arena, spot);
            return;
        }
        if !self.quick.put(length, spot) {
            self.join_soon(arena, spot, length);
        }
        let share = match self.grain.is_large() {
            true => QUICK_SHARE_LARGE,
            false => QUICK_SHARE,
        };
        while self.quick.slots() > self.objects / share
            && let Some((length, spot)) = self.quick.give_up()
        {
            self.join_soon(arena, spot, length);
        }
    }

    fn is_isolated(&self, arena: &Arena, spot: Spot) -> bool {
        Region::around(arena, Handle(spot).frame())
            .is_some_and(|region| region.head == self.isolated)
    }

    /// Makes a hole of a freed slot, a little later.
    fn join_soon(&mut self, arena: &Arena, spot: Spot, granules: u32) {
        let at = self.memory(arena).place(spot);
        for place in [at, at + self.grain.bytes(granules)] {
            if place < arena.end() {
                arena.prefetch(place, 1);
            }
        }
        if let Some((spot, _)) = self.joining.pass(spot, granules) {
            self.join(arena, spot);
        }
    }

    /// Bytes of its lists, outside of the arena.
    pub fn index_bytes(&self) -> u64 {
        self.bins.index_bytes() + self.quick.index_bytes()
    }

    /// Does what is under way: what was freed waits to be taken again, or becomes a hole. True if
    /// something did.
    pub fn settle_accounts(&mut self, arena: &Arena) -> bool {
        while let Some((spot, bytes)) = self.freed.take() {
            self.free(arena, spot, bytes as usize);
        }
        let mut is_joined = false;
        while let Some((spot, _)) = self.joining.take() {
            self.join(arena, spot);
            is_joined = true;
        }
        is_joined
    }

    /// Makes holes of some of the freed slots. False: there were none.
    pub fn join_some(&mut self, arena: &Arena) -> bool {
        let is_joined = self.settle_accounts(arena);
        for _ in 0..JOINED_TOGETHER {
            let Some((length, spot)) = self.quick.give_up() else {
                break;
            };
            self.join_soon(arena, spot, length);
        }
        self.settle_accounts(arena) || is_joined
    }

    /// Counts an object in a slot of `granules`.
    pub fn count(&mut self, granules: u32, bytes: usize) {
        self.objects += 1;
        self.live += u64::from(granules);
        self.object_bytes += bytes as u64;
    }

    /// Makes one hole of a freed slot and those beside it.
    fn join(&mut self, arena: &Arena, spot: Spot) {
        let (handle, grain) = (Handle(spot), self.grain);
        let region = &Region::around(arena, handle.frame()).expect("a slot is part of a region");
        let at = region.granule(grain, handle);
        let word = region.read(arena, grain, at);
        assert!(word.is_free(), "{word:?} of a freed slot");
        let length = word.granules();
        let live = region.live(arena);
        let (mut from, mut to) = (at, at + length);
        if word.is_after_hole() {
            let before = region.hole_before(arena, grain, at);
            from -= before.granules();
            self.take_hole(arena, region, from, before);
            // Nobody may take the old word for a slot.
            region.write(arena, grain, at, Word::hole(length, nodes::NONE));
        }
        if to < region.end(grain) {
            let next = region.read(arena, grain, to);
            if next.is_hole() {
                self.take_hole(arena, region, to, next);
                to += next.granules();
            }
        }
        region.set_live(arena, live - length);
        if live == length {
            self.release(arena, region);
            return;
        }
        self.put_hole(arena, region, from, to - from);
        region.set_after_hole(arena, grain, to, true);
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
