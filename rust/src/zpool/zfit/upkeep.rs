//! Walking over the regions in the background: reporting what lives, and emptying sparse ones.
//!
//! Locking: a shard's lock is held while residents of a region are copied out, never while they are
//! visited.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::region::Region;
use super::shard::Shard;
use super::walk::{Walk, walk_together};
use super::word::Word;
use super::{Zfit, turn};
use crate::zpool::side::{NONE, Side};
use crate::zpool::{Handle, Resident, Sweep, Tag};

/// Objects that are copied out under one hold of the lock: more than most regions have. Each batch
/// walks its regions from their start, so regions of tiny objects want few of them: with 128 a sweep
/// over objects of 8 bytes in frames of 64 KiB took 340 ns an object, most of it walking.
const BATCH: usize = 1024;

/// Regions that are walked at once.
const WALKED_TOGETHER: usize = 4;

/// The emptiest region is looked for among those of so many frames: all of a pool of 128 MiB, and
/// enough to choose from in a larger one. It takes about 30 us.
const LOOKED_AT_FRAMES: u32 = 32 << 10;

impl Zfit {
    pub(super) fn sweep_frames(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
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

    pub(super) fn isolate_region(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        let mut wanted = 0u32;
        for index in 0..self.shards.len() {
            // Not in one go, which would keep writers waiting.
            while self.lock(index).join_some(&self.arena) {}
            let shard = self.lock(index);
            if shard.isolated != NONE {
                // One in all shards.
                return false;
            }
            wanted |= u32::from(shard.has_holes_enough()) << index;
        }
        let last = self.arena.side_frames();
        let mut from = self.looked_to.load(Relaxed);
        let mut left = last;
        while left > 0 {
            from = if from < last { from } else { 0 };
            let to = last.min(from + LOOKED_AT_FRAMES);
            let frames = from..to;
            left = left.saturating_sub(to - from);
            from = to;
            self.looked_to.store(to, Relaxed);
            let mut shards = wanted;
            while let Some(region) = self.emptiest(frames.clone(), shards) {
                if self.isolate_if_worth(region) {
                    // Where there is room for its objects, which this thread moves.
                    turn::take(region.shard.into(), self.in_use.load(Relaxed));
                    self.report(&mut [Walk::new(region.head)], visit);
                    return true;
                }
                // That of another shard may be worth it.
                shards &= !(1 << region.shard);
            }
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

    /// The emptiest region that begins in a range of frames, of those shards whose bit is set.
    fn emptiest(&self, frames: Range<u32>, shards: u32) -> Option<Region> {
        let mut emptiest = None;
        self.each_region(frames, |region| {
            let fullness = region.fullness(&self.arena, self.grain);
            let is_emptier = emptiest.is_none_or(|(least, _)| fullness < least);
            if shards >> region.shard & 1 == 1 && is_emptier {
                emptiest = Some((fullness, region));
            }
        });
        emptiest.map(|(_, region)| region)
    }

    /// Takes a region out of allocation if the holes of the others could take its objects.
    fn isolate_if_worth(&self, region: Region) -> bool {
        let mut shard = self.lock(region.shard.into());
        // What was freed meanwhile: nothing in the region may be taken again.
        while shard.join_some(&self.arena) {}
        // It was found without the lock.
        if Region::at(&self.arena, region.head) != Some(region) || shard.isolated != NONE {
            return false;
        }
        let holes = self.room_outside(&shard, &region);
        // Emptying the last region freed nothing, with so much in holes: wait for more.
        let patience = match std::mem::take(&mut shard.is_futile) {
            true => u64::MAX,
            false => shard.patience,
        };
        shard.patience = patience.min(holes + u64::from(self.grain.per_frame));
        if holes < u64::from(region.live(&self.arena)) || holes < shard.patience {
            return false;
        }
        self.each_hole(&region, |at, hole| {
            shard.take_hole(&self.arena, &region, at, hole);
        });
        shard.isolated = region.head;
        true
    }

    /// Granules in holes outside of a region that are long enough for most of its objects.
    fn room_outside(&self, shard: &Shard, region: &Region) -> u64 {
        let mut slots = 0;
        self.each_word(region, |_, word| slots += u32::from(word.is_live()));
        let mean = region.live(&self.arena).div_ceil(slots.max(1));
        let mut inside = 0;
        self.each_hole(region, |_, hole| {
            if hole.granules() >= mean {
                inside += u64::from(hole.granules());
            }
        });
        shard.bins.granules_from(mean).saturating_sub(inside)
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
        let (mut at, end) = (0, region.end(self.grain));
        while at < end {
            let word = region.read(&self.arena, self.grain, at);
            assert!(word.granules() > 0, "an empty slot at {at} of {region:?}");
            visit(at, word);
            at += word.granules();
        }
    }

    pub(super) fn settle_regions(&self) {
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            shard.settle_accounts(&self.arena);
            let head = std::mem::replace(&mut shard.isolated, NONE);
            if head == NONE {
                continue;
            }
            let region = Region::at(&self.arena, head).expect("an isolated region");
            shard.is_futile = true;
            self.each_hole(&region, |at, hole| {
                shard.put_hole(&self.arena, &region, at, hole.granules());
            });
        }
    }
}
