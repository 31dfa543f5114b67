//! The pool's invariants, checked by walking everything.
//!
//! Locking: takes all shards' locks, in order; nothing else ever holds two.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::Zfit;
use super::bins::{BANDS, Memory};
use super::region::Region;
use super::shard::{Band, Shard};
use crate::zpool::groups::FULL;
use crate::zpool::side::{NONE, Side};

/// What the regions of a shard say, to be compared with what its state says.
#[derive(Default)]
struct Found {
    regions: u64,
    frames: u64,
    bands: [Band; BANDS],
    /// Holes in allocation, by spot, with their length.
    holes: HashMap<u64, u32>,
}

impl Zfit {
    pub(super) fn check_all(&self) {
        let shards: Vec<_> = (0..self.shards.len()).map(|i| self.lock(i)).collect();
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
        let (mut at, end) = (self.grain.first(), region.end(self.grain));
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
                assert_eq!(before, granules, "end of the hole at {at} of {region:?}");
                if shard.isolated != region.head {
                    found
                        .holes
                        .insert(region.handle(self.grain, at).0, granules);
                }
            } else {
                assert_eq!(word.is_after_hole(), hole > 0, "slot {at} of {region:?}");
                hole = 0;
                live += granules;
                let band = &mut found.bands[shard.slot_band(granules)];
                band.slots += 1;
                band.granules += u64::from(granules);
            }
            at += granules;
        }
        assert_eq!(at, end, "the end of {region:?}");
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
        assert_eq!(shard.regions, found.regions, "regions");
        assert_eq!(shard.frames, found.frames, "frames");
        assert_eq!(shard.bands, found.bands, "slots by length");
        let (mut holes, mut granules) = (0, 0);
        let memory = Memory {
            arena: &self.arena,
            grain: self.grain,
        };
        shard.bins.each(memory, |spot, is_right| {
            assert!(
                found.holes.remove(&spot).is_some(),
                "spot {spot:#x} is not a hole"
            );
            let frame = crate::zpool::Handle(spot).frame();
            let region = Region::around(&self.arena, frame).expect("a hole is in a region");
            let at = region.granule(self.grain, crate::zpool::Handle(spot));
            let length = region.read(&self.arena, self.grain, at).granules();
            assert!(is_right(length), "bin of the hole at {at} of {region:?}");
            holes += 1;
            granules += u64::from(length);
        });
        // Only short holes may be forgotten.
        let is_forgettable = |&granules: &u32| !memory.has_links(granules);
        assert!(found.holes.values().all(is_forgettable), "holes in no bin");
        assert_eq!(
            (shard.bins.holes(), shard.bins.granules()),
            (holes, granules)
        );
        let mut listed = u64::from(shard.isolated != NONE);
        for group in 0..FULL {
            for head in shard.groups.list(&&*self.arena, group) {
                let head = head as u32;
                let region = Region::at(&self.arena, head).expect("a listed region");
                let live = region.live(&self.arena);
                assert_eq!(shard.group(&region, live), group, "list of {region:?}");
                assert!(head != shard.isolated, "isolated {region:?} is listed");
                listed += 1;
            }
        }
        assert_eq!(listed, shard.regions, "listed regions");
    }
}
