//! The pool's invariants, checked by walking everything.
//!
//! Locking: takes all shards' locks, in order, as sums do.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::Zfit;
use super::links::Memory;
use super::region::Region;
use super::shard::Shard;
use super::word::Word;
use crate::zpool::side::Side;

/// What the regions of a shard say, to be compared with what its state says.
#[derive(Default)]
struct Found {
    regions: u64,
    frames: u64,
    objects: u64,
    /// Granules in slots with an object.
    live: u64,
    /// Freed slots, by spot, with their length.
    freed: HashMap<u64, u32>,
    /// Holes in allocation, by spot, with their word.
    holes: HashMap<u64, Word>,
}

impl Zfit {
    pub(super) fn check_all(&self) {
        let mut shards: Vec<_> = (0..self.shards.len()).map(|i| self.lock(i)).collect();
        for shard in &mut shards {
            shard.settle_accounts(&self.arena);
        }
        let mut found: Vec<_> = shards.iter().map(|_| Found::default()).collect();
        let mut whole = 0;
        let mut frame = 0;
        while frame < self.arena.side_frames() {
            let frames = match self.side(frame) {
                Side::Free => 1,
                Side::Whole(_) => {
                    whole += 1;
                    1
                }
                Side::Head { .. } => {
                    let region = Region::at(&self.arena, frame).expect("a head");
                    let index = usize::from(region.shard);
                    self.check_region(&shards[index], &region, &mut found[index]);
                    region.frames
                }
                other => panic!("{other:?} at {frame} without a region"),
            };
            let is_free = self.side(frame) == Side::Free;
            let in_use = |frame| is_free || self.arena.in_use(frame);
            assert!(
                (frame..frame + frames).all(in_use),
                "{frame} is a free frame"
            );
            frame += frames;
        }
        assert_eq!(self.whole.objects.load(Relaxed), whole, "whole frames");
        for (shard, found) in shards.iter().zip(found) {
            self.check_shard(shard, found);
        }
    }

    fn check_region(&self, shard: &Shard, region: &Region, found: &mut Found) {
        assert!(region.is_marked(&self.arena), "side words of {region:?}");
        let (mut at, end) = (0, region.end(self.grain));
        let (mut live, mut hole) = (0, 0);
        while at < end {
            let word = region.read(&self.arena, self.grain, at);
            let granules = word.granules();
            assert!(
                granules > 0 && granules <= end - at,
                "{granules} at {at} of {region:?}"
            );
            if word.is_hole() {
                assert_eq!(hole, 0, "two holes meet at {at} of {region:?}");
                hole = granules;
                let before = region.hole_before(&self.arena, self.grain, at + granules);
                assert_eq!(before, word, "end of the hole at {at} of {region:?}");
                if !shard.isolates(region, at..at + granules) {
                    found.holes.insert(region.handle(self.grain, at).0, word);
                }
            } else {
                assert_eq!(word.is_after_hole(), hole > 0, "slot {at} of {region:?}");
                hole = 0;
                live += granules;
                if word.is_live() {
                    found.objects += 1;
                    found.live += u64::from(granules);
                } else {
                    let spot = region.handle(self.grain, at).0;
                    found.freed.insert(spot, granules);
                }
            }
            at += granules;
        }
        assert_eq!(at, end, "the end of {region:?}");
        assert_eq!(region.ends_in_hole(&self.arena), hole > 0, "{region:?}");
        assert!(live > 0, "{region:?} has no slot");
        assert_eq!(
            region.live(&self.arena),
            live,
            "granules in slots of {region:?}"
        );
        found.regions += 1;
        found.frames += u64::from(region.frames);
    }

    fn check_shard(&self, shard: &Shard, mut found: Found) {
        let says = (shard.regions, shard.frames, shard.objects, shard.live);
        let is = (found.regions, found.frames, found.objects, found.live);
        assert_eq!(says, is, "regions, frames, objects, granules in slots");
        for (length, spot) in shard.quick.each() {
            let found = found.freed.remove(&spot);
            assert_eq!(found, Some(length), "the freed slot at {spot:#x}");
        }
        assert!(found.freed.is_empty(), "freed slots that nobody can take");
        let (mut holes, mut granules) = (0, 0);
        let memory = Memory {
            arena: &self.arena,
            grain: self.grain,
        };
        shard.bins.each(memory, |spot, node, is_right| {
            let word = found.holes.remove(&spot);
            let word = word.unwrap_or_else(|| panic!("spot {spot:#x} is not a hole"));
            let length = word.granules();
            assert_eq!(word.node(), node, "node of the hole at {spot:#x}");
            assert!(is_right(length), "bin of the hole of {length} at {spot:#x}");
            holes += 1;
            granules += u64::from(length);
        });
        // Only short holes may be forgotten.
        let is_forgettable = |hole: &Word| !memory.has_links(hole.granules());
        assert!(found.holes.values().all(is_forgettable), "holes in no bin");
        let says = (shard.bins.holes(), shard.bins.granules());
        assert_eq!(says, (holes, granules), "holes and their granules");
        let isolated = shard.isolated;
        assert!(
            isolated.is_none() || Region::around(&self.arena, isolated.frame()).is_some(),
            "what is being emptied is in no region"
        );
    }
}
