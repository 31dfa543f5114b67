//! Walking over the regions in the background: reporting what lives, and emptying sparse ones.
//!
//! Locking: a shard's lock is held while residents of a region are copied out, never while they are
//! visited.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::region::Region;
use super::shard::Shard;
use super::walk::{Walk, walk_together};
use super::window::Window;
use super::word::Word;
use super::{Zfit, turn};
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::side::Side;
use crate::zpool::{Handle, Resident, Sweep, Tag};

/// Objects that are copied out under one hold of the lock: more than most regions have. Each batch
/// walks its regions from their start, so regions of tiny objects want few of them: with 128 a sweep
/// over objects of 8 bytes in frames of 64 KiB took 340 ns an object, most of it walking.
const BATCH: usize = 1024;

/// Regions that are walked at once.
const WALKED_TOGETHER: usize = 4;

/// The emptiest regions are looked for among those of so many frames: all of a pool of 128 MiB, and
/// enough to choose from in a larger one. It takes about 30 us.
const LOOKED_AT_FRAMES: u32 = 32 << 10;

/// So many of the emptiest ones are tried there.
const REGIONS_TRIED: usize = 32;

/// If the first slots of a region find holes elsewhere it is tried to empty it: all of them, unless they are tiny.
const SLOTS_TRIED: usize = 256;

impl Zfit {
    pub(super) fn sweep_frames(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
        for shard in &self.shards {
            // It may part regions: none is to lose its latter part after its head was seen.
            shard.lock(&self.arena).settle_accounts(&self.arena);
        }
        let (taken, at_end) = sweep.advance(frames, self.arena.side_frames());
        let mut walks = [Walk::default(); WALKED_TOGETHER];
        let mut count = 0;
        for frame in taken {
            match self.side(frame) {
                Side::Head { .. } => {
                    walks[count] = Walk::new(frame);
                    count += 1;
                }
                // One word says it all, so no lock is needed to read it whole.
                Side::Whole(tag) => visit(Resident {
                    handle: Handle::of(frame, 0),
                    tag,
                }),
                Side::Tail { .. } | Side::Link { .. } | Side::Free => {}
            }
            if count == WALKED_TOGETHER {
                self.report(&mut walks, visit);
                count = 0;
            }
        }
        self.report(&mut walks[..count], visit);
        at_end
    }

    /// Reports the objects of regions, batch by batch, as long as there are these regions.
    fn report(&self, walks: &mut [Walk], visit: &mut dyn FnMut(Resident)) {
        let nothing = Resident {
            handle: Handle(0),
            tag: Tag { owner: 0, stamp: 0 },
        };
        let mut batch = [nothing; BATCH];
        while let Some(region) = walks.iter().find_map(|walk| walk.rest(&self.arena)) {
            let mut shard = self.lock(region.shard.into());
            shard.settle_accounts(&self.arena);
            let mut count = 0;
            walk_together(walks, (&self.arena, self.grain), region.shard, |resident| {
                let has_room = count < BATCH;
                if has_room {
                    batch[count] = resident;
                    count += 1;
                }
                has_room
            });
            drop(shard);
            batch[..count].iter().for_each(|&resident| visit(resident));
        }
    }

    pub(super) fn isolate_objects(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        for index in 0..self.shards.len() {
            // Not in one go, which would keep writers waiting.
            while self.lock(index).join_some(&self.arena) {}
            let mut shard = self.lock(index);
            shard.end_merging();
            if !shard.isolated.is_none() {
                // One in all shards.
                return false;
            }
        }
        let found = (0..self.shards.len()).any(|index| self.isolate_separators(index, visit))
            || self.isolate_region(visit);
        if !found {
            // What was tried may have put short holes on lists.
            (0..self.shards.len()).for_each(|index| self.lock(index).await_other_holes());
        }
        found
    }

    /// Reports the objects of one of the emptiest regions, or of its emptiest frame.
    fn isolate_region(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        let is_worth = |index: &usize| self.lock(*index).is_worth_a_look();
        let wanted = (0..self.shards.len()).filter(is_worth);
        let wanted = wanted.fold(0u32, |wanted, index| wanted | 1 << index);
        if wanted == 0 {
            return false;
        }
        let end = self.arena.side_frames();
        let mut from = self.looked_to.load(Relaxed);
        let mut left = end;
        while left > 0 {
            from = if from < end { from } else { 0 };
            let to = end.min(from + LOOKED_AT_FRAMES);
            let frames = from..to;
            left = left.saturating_sub(to - from);
            from = to;
            self.looked_to.store(to, Relaxed);
            let tried = self.emptiest(frames, wanted);
            let found = tried.into_iter().flatten().find_map(|(_, region)| {
                let window = self.isolate_if_worth(region)?;
                Some((region, window))
            });
            if let Some((region, window)) = found {
                // Where there is room for its objects, which this thread moves.
                turn::take(region.shard.into(), self.in_use.load(Relaxed));
                self.report(&mut [Walk::new(region.head)], &mut |resident| {
                    if window.has(resident.handle.0) {
                        visit(resident);
                    }
                });
                return true;
            }
        }
        for index in (0..self.shards.len()).filter(|index| wanted >> index & 1 == 1) {
            self.lock(index).await_more_holes();
        }
        false
    }

    /// Visits every region that begins in a range of frames. No lock is held, so it may be no more.
    pub(super) fn each_region(&self, frames: Range<u32>, mut visit: impl FnMut(Region)) {
        let mut frame = frames.start;
        while frame < frames.end {
            match Region::at(&self.arena, frame) {
                Some(region) => {
                    frame += region.frames.max(1);
                    visit(region);
                }
                None => frame += 1,
            }
        }
    }

    /// The emptiest regions that begin in a range of frames, of those shards whose bit is set, with their fullness.
    fn emptiest(&self, frames: Range<u32>, shards: u32) -> [Option<(u32, Region)>; REGIONS_TRIED] {
        let mut emptiest = [None; REGIONS_TRIED];
        let mut least_of_others = u32::MAX;
        self.each_region(frames, |region| {
            let fullness = region.fullness(&self.arena, self.grain);
            if shards >> region.shard & 1 == 0 || fullness >= least_of_others {
                return;
            }
            let is_emptier =
                |kept: &Option<(u32, Region)>| kept.is_some_and(|(it, _)| it <= fullness);
            let place = emptiest.partition_point(is_emptier);
            emptiest[place..].rotate_right(1);
            emptiest[place] = Some((fullness, region));
            if let Some((fullness, _)) = emptiest[REGIONS_TRIED - 1] {
                least_of_others = fullness;
            }
        });
        emptiest
    }

    /// Takes a region, or else its emptiest frame, out of allocation if other holes can take the objects.
    fn isolate_if_worth(&self, region: Region) -> Option<Window> {
        let mut shard = self.lock(region.shard.into());
        // What was freed meanwhile: nothing in the region may be taken again.
        while shard.join_some(&self.arena) {}
        // It was found without the lock.
        let found = Region::at(&self.arena, region.head);
        let region = found.filter(|found| found.shard == region.shard)?;
        if !shard.isolated.is_none() {
            return None;
        }
        let whole = 0..region.end(self.grain);
        if let Some(window) = self.isolate_if_room(&mut shard, &region, whole) {
            return Some(window);
        }
        // Frames that nobody had given back since adoption may be gone now.
        let is_same = Region::at(&self.arena, region.head) == Some(region);
        let frame = is_same.then(|| self.emptiest_frame(&region))?;
        self.isolate_if_room(&mut shard, &region, frame)
    }

    /// Takes a part of a region out of allocation if holes elsewhere can take its objects.
    fn isolate_if_room(
        &self,
        shard: &mut Shard,
        region: &Region,
        part: Range<u32>,
    ) -> Option<Window> {
        let window = Window::of(region, self.grain, part.clone());
        self.each_hole(region, |at, hole| {
            if part.contains(&at) {
                shard.take_hole(&self.arena, region, at, hole);
            }
        });
        shard.isolated = window;
        let slots = self
            .words(region)
            .filter(|(at, word)| part.contains(at) && word.is_live());
        let slots = slots.map(|(_, word)| word.granules()).take(SLOTS_TRIED);
        let has_room = shard.has_room(&self.arena, slots);
        if !has_room {
            self.put_back(shard);
        }
        has_room.then_some(window)
    }

    /// The slots and holes that have a part in that frame of a region whose slots are shortest.
    fn emptiest_frame(&self, region: &Region) -> Range<u32> {
        let per_frame = self.grain.per_frame;
        let frames_of =
            |at: u32, word: Word| at / per_frame..=(at + word.granules() - 1) / per_frame;
        let mut live = [0; RUN_FRAMES_MAX as usize];
        for (at, word) in self.words(region).filter(|(_, word)| !word.is_hole()) {
            frames_of(at, word).for_each(|place| live[place as usize] += word.granules());
        }
        let place = (0..region.frames).min_by_key(|&place| live[place as usize]);
        let place = place.expect("a region has a frame");
        let mut inside =
            (self.words(region)).filter(|&(at, word)| frames_of(at, word).contains(&place));
        let first = inside.next().expect("a frame is part of something");
        let (at, word) = inside.last().unwrap_or(first);
        first.0..at + word.granules()
    }

    pub(super) fn each_hole(&self, region: &Region, mut visit: impl FnMut(u32, Word)) {
        self.each_word(region, |at, word| {
            if word.is_hole() {
                visit(at, word);
            }
        });
    }

    /// Visits every slot and hole of a region with its first granule.
    pub(super) fn each_word(&self, region: &Region, mut visit: impl FnMut(u32, Word)) {
        self.words(region).for_each(|(at, word)| visit(at, word));
    }

    fn words(&self, region: &Region) -> impl Iterator<Item = (u32, Word)> {
        region.words(&self.arena, self.grain, 0)
    }

    pub(super) fn settle_regions(&self) {
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            // The places of objects that were moved are to be one with the holes beside them.
            while shard.join_some(&self.arena) {}
            shard.end_merging();
            if !shard.isolated.is_none() {
                shard.is_futile = true;
                self.put_back(&mut shard);
            }
        }
    }

    /// Allocates again from what was to be emptied.
    fn put_back(&self, shard: &mut Shard) {
        let window = std::mem::replace(&mut shard.isolated, Window::NONE);
        let region = Region::around(&self.arena, window.frame());
        let mut region = region.expect("what is being emptied is part of a region");
        let mut at = 0;
        while at < region.end(self.grain) {
            let word = region.read(&self.arena, self.grain, at);
            let to = at + word.granules();
            let was_out = window.overlaps(Window::of(&region, self.grain, at..to));
            (region, at) = match word.is_hole() && was_out {
                true => shard.open(&self.arena, &region, at..to),
                false => (region, to),
            };
        }
    }
}
