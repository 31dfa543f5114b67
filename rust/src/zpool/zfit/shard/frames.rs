//! The frames of a shard's regions: a region is made or made longer when no hole is long enough, and gives back
//! the frames that a hole has all of, wherever they are in it. So half a store that is discarded leaves a good part of
//! its memory though no region is empty.
//!
//! Locking: none, the shard's lock is held.

use std::ops::Range;

use super::Shard;
use crate::zpool::Arena;
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::zfit::BYTES_PER_NODE;
use crate::zpool::zfit::bins::Spot;
use crate::zpool::zfit::nodes;
use crate::zpool::zfit::region::Region;
use crate::zpool::zfit::window::Window;
use crate::zpool::zfit::word::Word;

/// A shard takes at most this share of its frames at once, so that what it has just taken weighs little in
/// a small pool: 1/256.
const TAKEN_SHARE: u32 = 256;

/// Nodes that a shard has however little it holds.
const NODES_MIN: usize = 64;

impl Shard {
    /// Makes a hole that is long enough for a slot of `granules`: a region of its own, or the end of one that has room for the
    /// frames. Where half as many lie together lower down, these are taken: so scattered frames are used again, but not
    /// one by one, each of which would have all freed slots looked through first.
    /// Returns where it is and how long. It is in no bin.
    pub fn build(&mut self, arena: &Arena, granules: u32) -> Option<(Spot, u32)> {
        let frames_min = granules.div_ceil(self.grain.per_frame);
        let share = u32::try_from(self.frames).unwrap_or(u32::MAX) / TAKEN_SHARE;
        let most = share.clamp(frames_min, RUN_FRAMES_MAX);
        let run = (arena.alloc_run_up_to(frames_min.max(most / 2), most))
            .or_else(|| arena.alloc_run_up_to(frames_min, most))?;
        let frames = run.end - run.start;
        let (region, from) = match self.region_before(arena, &run) {
            Some(region) => {
                let from = self.take_last_hole(arena, &region);
                (region.extend(arena, frames), from)
            }
            None => {
                let region = Region {
                    head: run.start,
                    frames,
                    shard: self.index,
                };
                region.mark(arena);
                self.regions += 1;
                (region, 0)
            }
        };
        self.set_frames(self.frames + u64::from(frames));
        self.note_new_region();
        let length = region.end(self.grain) - from;
        region.write_hole(arena, self.grain, from, Word::hole(length, nodes::NONE));
        Some((region.handle(self.grain, from).0, length))
    }

    /// The region of this shard that ends where a run begins, and may have these frames, too.
    fn region_before(&self, arena: &Arena, run: &Range<u32>) -> Option<Region> {
        let region = Region::around(arena, run.start.checked_sub(1)?)?;
        let is_possible = region.shard == self.index
            && !self.isolates(&region, 0..region.end(self.grain))
            && region.head + region.frames == run.start
            && run.end - region.head <= RUN_FRAMES_MAX;
        is_possible.then_some(region)
    }

    /// Takes the hole at the end of a region, if there is one, and says where it begins.
    fn take_last_hole(&mut self, arena: &Arena, region: &Region) -> u32 {
        let end = region.end(self.grain);
        if !region.ends_in_hole(arena) {
            return end;
        }
        let hole = region.hole_before(arena, self.grain, end);
        let from = end - hole.granules();
        self.take_hole(arena, region, from, hole);
        from
    }

    /// Makes a hole of granules that are nobody's, and gives back the frames that it has all of, unless it is part of what is
    /// being emptied. Returns the region that goes on behind the hole, and where in it that is. There is a slot in the region.
    pub fn open(&mut self, arena: &Arena, region: &Region, hole: Range<u32>) -> (Region, u32) {
        let per_frame = self.grain.per_frame;
        let places = hole.start.div_ceil(per_frame)..hole.end / per_frame;
        if self
            .isolated
            .is_in(Window::of(region, self.grain, hole.clone()))
        {
            // It is empty.
            self.isolated = Window::NONE;
        }
        if !places.is_empty() && !self.isolates(region, hole.clone()) {
            return self.give_back(arena, region, hole, places);
        }
        self.put_hole(arena, region, hole.start, hole.end - hole.start);
        region.set_after_hole(arena, self.grain, hole.end, true);
        (*region, hole.end)
    }

    /// Gives back the frames at some places of a region, which lie in a hole, and makes holes of what is left of it.
    fn give_back(
        &mut self,
        arena: &Arena,
        region: &Region,
        hole: Range<u32>,
        places: Range<u32>,
    ) -> (Region, u32) {
        let (live, frames) = (region.live(arena), region.frames);
        let mut goes_on = None;
        let mut live_behind = 0;
        if places.end < frames {
            live_behind = match places.start {
                0 => live,
                _ => self.live_from(arena, region, hole.end),
            };
            let part = region.part(arena, places.end, live_behind);
            let rest = hole.end - places.end * self.grain.per_frame;
            if rest > 0 {
                self.put_hole(arena, &part, 0, rest);
            }
            part.set_after_hole(arena, self.grain, rest, rest > 0);
            self.regions += 1;
            goes_on = Some((part, rest));
        }
        if places.start > 0 {
            let end = places.start * self.grain.per_frame;
            let rest = end - hole.start;
            let former = region.shorten(arena, places.start, live - live_behind, rest > 0);
            if rest > 0 {
                self.put_hole(arena, &former, hole.start, rest);
            }
            goes_on = goes_on.or(Some((former, end)));
        } else {
            self.regions -= 1;
        }
        region.unmark(arena, places.clone());
        let count = places.end - places.start;
        arena.free_run(region.head + places.start, count);
        self.set_frames(self.frames - u64::from(count));
        goes_on.expect("a region with a slot")
    }

    /// Granules in the slots of a region from the one at `from` on.
    fn live_from(&self, arena: &Arena, region: &Region, from: u32) -> u32 {
        let words = region.words(arena, self.grain, from);
        let slots = words.filter(|(_, word)| !word.is_hole());
        slots.map(|(_, word)| word.granules()).sum()
    }

    /// Gives the frames of a region without slots back. Its holes are in no bin.
    pub fn release(&mut self, arena: &Arena, region: &Region) {
        if self.isolates(region, 0..region.end(self.grain)) {
            self.isolated = Window::NONE;
        }
        region.unmark(arena, 0..region.frames);
        arena.free_run(region.head, region.frames);
        self.regions -= 1;
        self.set_frames(self.frames - u64::from(region.frames));
    }

    /// Has so many frames from now on, and nodes for them.
    pub fn set_frames(&mut self, frames: u64) {
        self.frames = frames;
        let bytes = frames * self.grain.bytes(self.grain.per_frame) as u64;
        let nodes = (bytes / BYTES_PER_NODE) as usize;
        self.bins.allow_nodes(nodes.max(NODES_MIN));
    }
}
