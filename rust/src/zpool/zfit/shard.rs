//! A shard: some of the regions, their holes, and how slots are cut out of holes and given back.
//!
//! Not here: who holds the lock (`zfit`), walking over regions (`upkeep`).
//! Locking: none, the shard's lock is held.

use super::bins::{Bins, Memory, Spot};
use super::region::{Grain, Region};
use super::word::{self, Word};
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::groups::{GROUPS, Groups};
use crate::zpool::side::NONE;
use crate::zpool::{Arena, Handle, Tag};

/// Regions are at most this share of what the shard holds, so that the last one, part-filled,
/// weighs little in a small pool: 1/256.
const REGION_SHARE: u32 = 256;

/// Bytes of the shortest hole that an object fits into: the word in front, and eight bytes or fewer.
const HOLE_BYTES_MIN: usize = 16;

/// A shorter region wastes too much at its end.
const REGION_FRAMES_MIN: u32 = 4;

/// Slots that wait to be given back: long enough for their words to arrive from memory.
const WAITING_MAX: usize = 8;

/// A slot that is to be given back.
#[derive(Clone, Copy)]
struct Freed {
    region: Region,
    at: u32,
    bytes: usize,
}

/// Regions of one shard.
pub struct Shard {
    grain: Grain,
    index: u8,
    /// Holes, but those of the region that is out of allocation and those that were forgotten.
    pub bins: Bins,
    /// Regions by how much of them is in slots.
    groups: Groups,
    /// How many regions each list has.
    pub fullness: [u64; GROUPS],
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
    /// Granules in slots.
    pub live: u64,
    /// Freed slots, in a ring that begins at `oldest`. Their words are being fetched, which takes
    /// longer than all the rest of giving a slot back.
    waiting: [Option<Freed>; WAITING_MAX],
    oldest: usize,
}

impl Shard {
    /// A shard without regions.
    pub fn new(grain: Grain, index: u8) -> Self {
        let object_max = grain.per_frame as usize * grain.bytes;
        let exact_max = (object_max + word::BYTES).div_ceil(grain.bytes) as u32;
        Self {
            grain,
            index,
            bins: Bins::new(exact_max),
            groups: Groups::new(),
            fullness: [0; GROUPS],
            isolated: NONE,
            is_futile: false,
            patience: 0,
            regions: 0,
            frames: 0,
            object_bytes: 0,
            objects: 0,
            live: 0,
            waiting: [None; WAITING_MAX],
            oldest: 0,
        }
    }

    fn memory<'a>(&self, arena: &'a Arena) -> Memory<'a> {
        Memory {
            arena,
            grain: self.grain,
        }
    }

    /// Cuts a slot of `granules` out of the shortest hole that is long enough.
    pub fn cut(&mut self, arena: &Arena, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        let found = self.bins.find(granules).or_else(|| {
            self.settle_accounts(arena);
            self.bins.find(granules)
        });
        let (spot, length) = found?;
        Some(self.cut_from(arena, spot, length, (granules, bytes, tag)))
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

    /// Cuts a slot out of a hole, whose length is given if its bin knows it.
    fn cut_from(
        &mut self,
        arena: &Arena,
        spot: Spot,
        length: Option<u32>,
        (granules, bytes, tag): (u32, usize, Tag),
    ) -> Handle {
        let (handle, grain) = (Handle(spot), self.grain);
        let region = Region::around(arena, handle.frame()).expect("a hole is part of a region");
        let at = region.granule(grain, handle);
        // The hole itself is not looked at if its bin says how long it is: that would be to wait.
        let hole = length.unwrap_or_else(|| region.read(arena, grain, at).granules());
        debug_assert_eq!(
            region.read(arena, grain, at),
            Word::hole(hole),
            "{region:?}"
        );
        self.bins.remove(self.memory(arena), spot, hole);
        let rest = hole - granules;
        // What no object fits into stays part of the slot, where it is free of bookkeeping.
        let length = if rest as usize * grain.bytes < HOLE_BYTES_MIN {
            region.set_after_hole(arena, grain, at + hole, false);
            hole
        } else {
            self.put_hole(arena, &region, at + granules, rest);
            granules
        };
        // What lies before the hole is a slot, or the two holes would be one.
        region.write(arena, grain, at, Word::slot(length, tag, false));
        self.count(arena, &region, length, bytes);
        handle
    }

    /// Has a slot given back a little later.
    pub fn give_back_soon(&mut self, arena: &Arena, region: Region, at: u32, bytes: usize) {
        let is_waiting = |freed: &Freed| (freed.region.head, freed.at) == (region.head, at);
        assert!(
            !self.waiting.iter().flatten().any(is_waiting),
            "granule {at} of {region:?} is freed twice"
        );
        let freed = Freed { region, at, bytes };
        let oldest = self.waiting[self.oldest].replace(freed);
        self.oldest = (self.oldest + 1) % WAITING_MAX;
        if let Some(Freed { region, at, bytes }) = oldest {
            self.give_back(arena, &region, at, bytes);
        }
    }

    /// Gives all slots back that wait for it.
    pub fn settle_accounts(&mut self, arena: &Arena) {
        for index in 0..WAITING_MAX {
            let freed = self.waiting[(self.oldest + index) % WAITING_MAX].take();
            if let Some(Freed { region, at, bytes }) = freed {
                self.give_back(arena, &region, at, bytes);
            }
        }
    }

    fn count(&mut self, arena: &Arena, region: &Region, granules: u32, bytes: usize) {
        let live = region.live(arena);
        region.set_live(arena, live + granules);
        self.regroup(arena, region, live, live + granules);
        self.count_adopted(granules, bytes);
    }

    /// Counts a slot whose region is not in a list yet.
    pub fn count_adopted(&mut self, granules: u32, bytes: usize) {
        self.objects += 1;
        self.live += u64::from(granules);
        self.object_bytes += bytes as u64;
    }

    /// Gives a slot back; it becomes one hole with those beside it.
    fn give_back(&mut self, arena: &Arena, region: &Region, at: u32, bytes: usize) {
        let grain = self.grain;
        let word = region.read(arena, grain, at);
        let length = word.granules();
        assert!(
            !word.is_hole() && bytes + word::BYTES <= length as usize * grain.bytes,
            "{bytes} bytes at granule {at} of {region:?} are freed twice, or were never taken"
        );
        let live = region.live(arena);
        self.objects -= 1;
        self.live -= u64::from(length);
        self.object_bytes -= bytes as u64;
        let (mut from, mut to) = (at, at + length);
        if word.is_after_hole() {
            from -= region.hole_before(arena, grain, at);
            self.take_hole(arena, region, from, at - from);
            // Nobody may take the old word for a slot.
            region.write(arena, grain, at, Word::hole(length));
        }
        if to < region.end(grain) {
            let next = region.read(arena, grain, to);
            if next.is_hole() {
                self.take_hole(arena, region, to, next.granules());
                to += next.granules();
            }
        }
        region.set_live(arena, live - length);
        if live == length {
            self.release(arena, region, live);
            return;
        }
        self.regroup(arena, region, live, live - length);
        self.put_hole(arena, region, from, to - from);
        region.set_after_hole(arena, grain, to, true);
    }

    /// Makes a hole of granules that are nobody's; what follows must be marked by the caller.
    pub fn put_hole(&mut self, arena: &Arena, region: &Region, at: u32, granules: u32) {
        region.write_hole(arena, self.grain, at, granules);
        if self.isolated != region.head {
            let spot = region.handle(self.grain, at).0;
            self.bins.push(self.memory(arena), spot, granules);
        }
    }

    /// The opposite of `put_hole`; its words stay.
    pub fn take_hole(&mut self, arena: &Arena, region: &Region, at: u32, granules: u32) {
        if self.isolated != region.head {
            let spot = region.handle(self.grain, at).0;
            self.bins.remove(self.memory(arena), spot, granules);
        }
    }

    /// Makes a region that holds a slot of `granules` at least: one hole.
    fn build(&mut self, arena: &Arena, granules: u32) -> Option<()> {
        let frames_min = (granules + self.grain.first()).div_ceil(self.grain.per_frame);
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
        self.frames += u64::from(frames);
        self.note_new_region();
        self.list(arena, &region, 0);
        let grain = self.grain;
        self.put_hole(arena, &region, grain.first(), region.capacity(grain));
        Some(())
    }

    /// A region was made, in this shard or in another one.
    pub fn note_new_region(&mut self) {
        self.is_futile |= self.isolated != NONE;
    }

    /// Gives the frames of a region without slots back. Its holes are in no bin.
    fn release(&mut self, arena: &Arena, region: &Region, live: u32) {
        if self.isolated == region.head {
            self.isolated = NONE;
        } else {
            self.unlist(arena, region, live);
        }
        region.unmark(arena);
        arena.free_run(region.head, region.frames);
        self.regions -= 1;
        self.frames -= u64::from(region.frames);
    }

    /// The list for a region with `live` granules in slots: its tenth of fullness.
    pub fn group(&self, region: &Region, live: u32) -> usize {
        match live {
            0 => 0,
            _ => (live * 10 / region.end(self.grain)) as usize + 1,
        }
    }

    fn regroup(&mut self, arena: &Arena, region: &Region, before: u32, after: u32) {
        let is_same = self.group(region, before) == self.group(region, after);
        if !is_same && self.isolated != region.head {
            self.unlist(arena, region, before);
            self.list(arena, region, after);
        }
    }

    /// Puts a region with `live` granules in slots into its list.
    pub fn list(&mut self, arena: &Arena, region: &Region, live: u32) {
        let group = self.group(region, live);
        self.groups.push(&arena, group, region.head.into());
        self.fullness[group] += 1;
    }

    /// Takes it out.
    pub fn unlist(&mut self, arena: &Arena, region: &Region, live: u32) {
        let group = self.group(region, live);
        self.groups.remove(&arena, group, region.head.into());
        self.fullness[group] -= 1;
    }

    /// Regions of the list of the emptiest ones.
    pub fn emptiest<'a>(&'a self, arena: &'a &Arena) -> impl Iterator<Item = Region> + 'a {
        let heads = self.groups.emptiest(arena);
        heads.map(|head| Region::at(arena, head as u32).expect("a listed region"))
    }

    /// Regions of one list.
    pub fn listed<'a>(
        &'a self,
        arena: &'a &Arena,
        group: usize,
    ) -> impl Iterator<Item = Region> + 'a {
        let heads = self.groups.list(arena, group);
        heads.map(|head| Region::at(arena, head as u32).expect("a listed region"))
    }
}
