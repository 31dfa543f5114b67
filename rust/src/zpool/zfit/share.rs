//! How a shard that came into use gets its share of the regions.
//!
//! As long as threads do not meet all regions are of one shard (`turn`). A shard that is used from then on is
//! empty, and stays so while others have holes for its objects: its thread would go on to wait for theirs. So a shard
//! with less than its share takes a region for an object that it has no hole for, holes and slots, where they are.
//!
//! Locking: the lock of the shard that gets one, and that of the other if nobody has it. A region's side word says
//! whose it is; it changes under both.

use std::sync::atomic::Ordering::Relaxed;

use super::Zfit;
use super::region::Region;
use super::shard::Shard;
use crate::zpool::{Handle, Tag};

/// A region of the other shard is looked for among so many frames: in all that are long together some is.
const LOOKED_AT_FRAMES: u32 = 1024;

/// A shard has its share if it lacks less than one in so many of the other's frames, or less than so many
/// frames: the last ones are not worth the work.
const SHARE_MARGIN: u64 = 128;
const FRAMES_MARGIN: u64 = 16;

/// Regions that are taken together: freed slots wait in all of them, and are looked through once.
const TAKEN_TOGETHER: usize = 16;

impl Zfit {
    /// A slot in a region that comes from another shard, if this one has less than its share.
    #[cold]
    pub(super) fn alloc_in_shared(
        &self,
        own: usize,
        granules: u32,
        bytes: usize,
        tag: Tag,
    ) -> Option<Handle> {
        let count = self.in_use.load(Relaxed);
        if count == 1 || own >= count {
            return None;
        }
        let mut shard = self.lock(own);
        for other in (own + 1..count).chain(0..own) {
            if self.take_regions(&mut shard, own, other) {
                return shard.cut(&self.arena, granules, bytes, tag);
            }
        }
        None
    }

    /// Takes regions out of another shard, unless that is busy, has no more than this one, or none is found at once.
    fn take_regions(&self, shard: &mut Shard, own: usize, other: usize) -> bool {
        let Some(mut from) = self.shards[other].try_lock(&self.arena) else {
            return false;
        };
        let margin = FRAMES_MARGIN.max(from.frames / SHARE_MARGIN);
        if shard.frames + margin >= from.frames {
            return false;
        }
        let mut lacking = (from.frames - shard.frames) / 2;
        let mut taken = [None; TAKEN_TOGETHER];
        for place in &mut taken {
            let region = self.next_region(other, &from);
            let Some(region) = region.filter(|region| u64::from(region.frames) <= lacking) else {
                break;
            };
            lacking -= u64::from(region.frames);
            *place = Some(region.move_to(&self.arena, own as u8));
        }
        if taken[0].is_none() {
            return false;
        }
        // What was freed in them before, or by who read the old side word, must not be left where it was.
        self.shards[other].empty_inbox(&self.arena, &mut from);
        while from.join_some(&self.arena) {}
        for region in taken.into_iter().flatten() {
            // Or it was parted by that, or its last slots were freed, and frames of it went to somebody else.
            self.each_region(region.head..region.head + region.frames, |part| {
                if usize::from(part.shard) == own {
                    self.take_over(&part, shard, &mut from);
                }
            });
        }
        true
    }

    /// Has a region of one shard, of whose slots none is freed, counted and its holes listed by another one.
    fn take_over(&self, region: &Region, shard: &mut Shard, from: &mut Shard) {
        let (mut objects, mut live) = (0, 0);
        self.each_word(region, |at, word| {
            if word.is_hole() {
                from.take_hole(&self.arena, region, at, word);
                shard.put_hole(&self.arena, region, at, word.granules());
            } else {
                assert!(word.is_live(), "a freed slot at {at} of {region:?}");
                objects += 1;
                live += u64::from(word.granules());
            }
        });
        from.regions -= 1;
        from.objects -= objects;
        from.live -= live;
        from.set_frames(from.frames - u64::from(region.frames));
        shard.regions += 1;
        shard.objects += objects;
        shard.live += live;
        shard.set_frames(shard.frames + u64::from(region.frames));
    }

    /// The next region of a shard, near enough, but not the one that is out of allocation.
    fn next_region(&self, index: usize, shard: &Shard) -> Option<Region> {
        let last = self.arena.side_frames();
        let from = self.shared_to.load(Relaxed);
        let from = if from < last { from } else { 0 };
        let to = last.min(from + LOOKED_AT_FRAMES);
        let mut found = None;
        let mut frame = from;
        while found.is_none() && frame < to {
            let region = Region::at(&self.arena, frame);
            frame += region.map_or(1, |region| region.frames.max(1));
            found = region.filter(|region| {
                usize::from(region.shard) == index
                    && !shard.isolates(region, 0..region.end(self.grain))
            });
        }
        self.shared_to.store(frame, Relaxed);
        found
    }
}
