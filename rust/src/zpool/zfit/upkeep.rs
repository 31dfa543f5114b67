//! Walking over the regions in the background: reporting what lives, and emptying sparse ones.
//!
//! Locking: a shard's lock is held while residents of a region are copied out, never while they are
//! visited.

use super::Zfit;
use super::region::Region;
use super::shard::Shard;
use crate::zpool::side::{NONE, Side};
use crate::zpool::{Handle, Resident, Sweep, Tag};

/// Objects that are copied out under one hold of the lock: more than most regions have. Each batch
/// walks the region from its start, so a region of tiny objects wants few of them: with 128 a sweep
/// over objects of 8 bytes in frames of 64 KiB took 340 ns an object, most of it walking.
const BATCH: usize = 512;

/// Regions that isolation looks at in the emptiest list, which bounds how long it holds the lock.
const CANDIDATES: usize = 16;

impl Zfit {
    pub(super) fn sweep_frames(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
        let (taken, at_end) = sweep.advance(frames, self.arena.side_frames());
        for frame in taken {
            match self.side(frame) {
                Side::Head { .. } => self.report(frame, visit),
                // One word says it all, so no lock is needed to read it whole.
                Side::Whole(tag) => visit(Resident {
                    handle: Handle::of(frame, 0),
                    tag,
                }),
                Side::Tail { .. } | Side::Link { .. } | Side::Free => {}
            }
        }
        at_end
    }

    /// Reports the objects of the region that begins with `head`, batch by batch, as long as one
    /// does. Slots may be joined and cut meanwhile, so each batch finds its place anew.
    fn report(&self, head: u32, visit: &mut dyn FnMut(Resident)) {
        let nothing = Resident {
            handle: Handle(0),
            tag: Tag { owner: 0, stamp: 0 },
        };
        let mut batch = [nothing; BATCH];
        let mut from = 0;
        loop {
            let Some(region) = Region::at(&self.arena, head) else {
                return;
            };
            let mut shard = self.lock(region.shard.into());
            shard.settle_accounts(&self.arena);
            if Region::at(&self.arena, head) != Some(region) {
                continue;
            }
            let mut count = 0;
            from = region.walk(&self.arena, self.grain, from, |at, tag| {
                if count == BATCH {
                    return false;
                }
                batch[count] = Resident {
                    handle: region.handle(self.grain, at),
                    tag,
                };
                count += 1;
                true
            });
            let is_done = from >= region.end(self.grain);
            drop(shard);
            batch[..count].iter().for_each(|&resident| visit(resident));
            if is_done {
                return;
            }
        }
    }

    pub(super) fn isolate_region(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        let mut best: Option<(usize, u64)> = None;
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            shard.settle_accounts(&self.arena);
            if shard.isolated != NONE {
                // One in all shards.
                return false;
            }
            if let Some((_, fullness)) = self.candidate(&mut shard)
                && best.is_none_or(|(_, least)| fullness < least)
            {
                best = Some((index, fullness));
            }
        }
        // The shard was unlocked meanwhile, so its emptiest region is looked for anew.
        let Some((index, _)) = best else {
            return false;
        };
        let mut shard = self.lock(index);
        shard.settle_accounts(&self.arena);
        let Some((region, _)) = self.candidate(&mut shard) else {
            return false;
        };
        shard.unlist(&self.arena, &region, region.live(&self.arena));
        self.each_hole(&region, |at, granules| {
            shard.take_hole(&self.arena, &region, at, granules);
        });
        shard.isolated = region.head;
        drop(shard);
        self.report(region.head, visit);
        true
    }

    /// The emptiest region of a shard, near enough, and its fullness in 1/65536, if the holes of the
    /// others could take its objects.
    fn candidate(&self, shard: &mut Shard) -> Option<(Region, u64)> {
        if shard.isolated != NONE {
            return None;
        }
        let arena = &*self.arena;
        let regions = shard.emptiest(&arena).take(CANDIDATES);
        let (region, fullness) = regions
            .map(|region| {
                let capacity = u64::from(region.capacity(self.grain));
                (region, (u64::from(region.live(arena)) << 16) / capacity)
            })
            .min_by_key(|&(_, fullness)| fullness)?;
        let live = u64::from(region.live(arena));
        let holes = self.room_outside(shard, &region);
        // Emptying the last region freed nothing, with so much in holes: wait for more.
        let patience = if shard.is_futile {
            u64::MAX
        } else {
            shard.patience
        };
        shard.is_futile = false;
        shard.patience = patience.min(holes + u64::from(self.grain.per_frame));
        (holes >= live && holes >= shard.patience).then_some((region, fullness))
    }

    /// Granules in holes outside of a region that are long enough for most of its objects.
    fn room_outside(&self, shard: &Shard, region: &Region) -> u64 {
        let mut slots = 0;
        region.walk(&self.arena, self.grain, 0, |_, _| {
            slots += 1;
            true
        });
        let mean = region.live(&self.arena).div_ceil(slots.max(1));
        let mut inside = 0;
        self.each_hole(region, |_, granules| {
            if granules >= mean {
                inside += u64::from(granules);
            }
        });
        shard.bins.granules_from(mean).saturating_sub(inside)
    }

    fn each_hole(&self, region: &Region, mut visit: impl FnMut(u32, u32)) {
        let (mut at, end) = (self.grain.first(), region.end(self.grain));
        while at < end {
            let word = region.read(&self.arena, self.grain, at);
            if word.is_hole() {
                visit(at, word.granules());
            }
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
            shard.list(&self.arena, &region, region.live(&self.arena));
            self.each_hole(&region, |at, granules| {
                shard.put_hole(&self.arena, &region, at, granules);
            });
        }
    }
}
