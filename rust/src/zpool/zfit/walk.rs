//! Walking over the slots of several regions at once.
//!
//! Where a slot begins says the word of the one before it, so one region is walked as fast as one
//! word after the other comes from memory. Of several regions several words are on their way.
//!
//! Not here: which regions, and what becomes of their objects (`upkeep`).
//! Locking: the lock of the shard is held in which the walks are, from `begin` to `end`.

use super::region::{Grain, Region};
use crate::zpool::{Arena, Resident};

/// A walk over the slots of the region that begins with a frame, in one or several parts.
#[derive(Clone, Copy, Default)]
pub struct Walk {
    head: u32,
    /// The region, while it is walked.
    region: Option<Region>,
    /// Granule of the next slot.
    at: u32,
    /// Slots before this granule were reported in an earlier part.
    from: u32,
    is_over: bool,
}

impl Walk {
    /// A walk over the region that begins with frame `head`.
    pub fn new(head: u32) -> Walk {
        Walk {
            head,
            ..Walk::default()
        }
    }

    /// The region, if there still is one and something of it is to be walked.
    pub fn rest(&self, arena: &Arena) -> Option<Region> {
        Region::at(arena, self.head).filter(|_| !self.is_over)
    }

    /// Begins a part if the region is in `shard`. Slots may have been joined and cut since the last one, so it
    /// finds its place anew.
    fn begin(&mut self, arena: &Arena, shard: u8) {
        self.region = self.rest(arena).filter(|region| region.shard == shard);
        self.at = 0;
    }

    /// Takes one slot or hole. False: `report` has no room for it.
    fn step(
        &mut self,
        (arena, grain): (&Arena, Grain),
        region: &Region,
        report: &mut impl FnMut(Resident) -> bool,
    ) -> bool {
        let at = self.at;
        let word = region.read(arena, grain, at);
        let resident = || Resident {
            handle: region.handle(grain, at),
            tag: word.tag(),
        };
        if word.is_live() && at >= self.from && !report(resident()) {
            return false;
        }
        assert!(word.granules() > 0, "an empty slot at {at} of {region:?}");
        self.at += word.granules();
        if self.at < region.end(grain) {
            arena.prefetch(region.place(arena, grain, self.at), 1);
        }
        true
    }

    /// Ends a part.
    fn end(&mut self, grain: Grain) {
        if let Some(region) = self.region.take() {
            self.from = self.at;
            self.is_over = self.at >= region.end(grain);
        }
    }
}

/// Reports the objects of those regions that are in `shard`, until `report` has no room for one, which it says by
/// false.
pub fn walk_together(
    walks: &mut [Walk],
    (arena, grain): (&Arena, Grain),
    shard: u8,
    mut report: impl FnMut(Resident) -> bool,
) {
    walks.iter_mut().for_each(|walk| walk.begin(arena, shard));
    let mut goes_on = true;
    while std::mem::take(&mut goes_on) {
        for walk in walks.iter_mut() {
            let Some(region) = walk.region.filter(|region| walk.at < region.end(grain)) else {
                continue;
            };
            goes_on = walk.step((arena, grain), &region, &mut report);
            if !goes_on {
                break;
            }
        }
    }
    walks.iter_mut().for_each(|walk| walk.end(grain));
}
