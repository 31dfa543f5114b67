//! The trait's side of zfit.
//!
//! Locking: as the trait says; content and tag of a live object belong to who holds its handle.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::word::{self, Word};
use super::{Place, SHARDS_MAX, Zfit, turn};
use crate::error;
use crate::zpool::side::Side;
use crate::zpool::{
    AdoptError, AllocError, Arena, ClassStats, FULLNESS_GROUPS, Handle, Resident, SIDE_BYTES,
    Sweep, Tag, Zpool, ZpoolKind, ZpoolStats,
};

/// Bytes of an object that are fetched ahead; the CPU follows a run of lines by itself.
const PREFETCH_BYTES: usize = 512;

impl Zpool for Zfit {
    fn kind(&self) -> ZpoolKind {
        ZpoolKind::Zfit
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn slot_bytes(&self, bytes: usize) -> usize {
        if self.is_whole(bytes) {
            return self.arena.frame_bytes() + SIDE_BYTES as usize;
        }
        self.charged_bytes(self.granules(bytes).into()) as usize
    }

    fn alloc(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        assert!(bytes > 0, "an object of no bytes");
        assert!(tag.owner != word::NO_OWNER, "an object of nobody");
        if bytes > self.object_bytes_max() {
            return Err(AllocError::TooLarge);
        }
        if self.is_whole(bytes)
            && let Some(handle) = self.alloc_whole(bytes, tag)
        {
            return Ok(handle);
        }
        let granules = self.granules(bytes);
        // What needs two neighbouring frames for a slot can have one for itself: where free frames lie
        // scattered, or when the last slot of one was given back just now.
        let is_long = granules > self.grain.per_frame;
        self.alloc_slot(granules, bytes, tag)
            .or_else(|| is_long.then(|| self.alloc_whole(bytes, tag))?)
            .ok_or(AllocError::Full)
    }

    fn free(&self, handle: Handle, bytes: usize) {
        let frame = handle.frame();
        assert!(
            frame < self.arena.frames(),
            "{handle:?} is not of this pool"
        );
        match self.side(frame) {
            Side::Whole(_) => self.free_whole(frame, bytes),
            side @ (Side::Free | Side::Link { .. }) => {
                panic!("{handle:?} leads to {side:?}: freed, or not of this pool")
            }
            _ => while !self.free_slot(self.shard_of(handle), handle, bytes) {},
        }
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        let at = self.content_at(handle, object.len());
        self.fetch(at, object.len());
        self.arena.store_bytes(at, object);
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, _: &'a mut [u8]) -> &'a [u8] {
        self.arena.bytes(self.content_at(handle, bytes), bytes)
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        let at = self.word_at(handle);
        if at < self.arena.end() {
            self.arena.prefetch(at, bytes.min(PREFETCH_BYTES));
        }
    }

    fn tag(&self, handle: Handle, _: usize) -> Tag {
        match self.locate(handle) {
            Place::Whole(frame) => match self.side(frame) {
                Side::Whole(tag) => tag,
                other => panic!("{handle:?} was freed: {other:?}"),
            },
            Place::Slot(region, at) => {
                let word = region.read(&self.arena, self.grain, at);
                assert!(word.is_live(), "{handle:?} was freed");
                word.tag()
            }
        }
    }

    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool {
        self.sweep_frames(sweep, frames, visit)
    }

    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        self.isolate_objects(visit)
    }

    fn settle(&self) {
        self.settle_regions();
    }

    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> Result<(), AdoptError> {
        self.adopt_object(handle, bytes, tag)
    }

    fn adopted(&self) -> error::Result<()> {
        self.end_adoption();
        Ok(())
    }

    fn stats(&self) -> ZpoolStats {
        let frame_bytes = self.arena.frame_bytes() as u64 + SIDE_BYTES;
        // `Pools::retire` relies on the order.
        let whole = self.whole.objects.load(SeqCst);
        let mut sum = ZpoolStats {
            objects: whole,
            object_bytes: self.whole.object_bytes.load(Relaxed),
            slot_bytes: whole * frame_bytes,
            block_bytes: whole * frame_bytes,
            index_bytes: 0,
        };
        // All at once: no region may go from one that was not counted to one that was.
        let shards: [_; SHARDS_MAX] =
            std::array::from_fn(|index| (index < self.shards.len()).then(|| self.lock(index)));
        for mut shard in shards.into_iter().flatten() {
            shard.settle_accounts(&self.arena);
            sum.objects += shard.objects;
            sum.object_bytes = sum.object_bytes.wrapping_add(shard.object_bytes);
            sum.slot_bytes += self.charged_bytes(shard.live);
            sum.block_bytes += shard.frames * frame_bytes;
            sum.index_bytes += shard.index_bytes();
        }
        sum
    }

    /// There are no sizes to tell classes by: the regions are one, the whole frames another. Regions
    /// are of different lengths; those that could be freed count as long as they are on average.
    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        let frame_bytes = self.arena.frame_bytes();
        let mut regions = ClassStats {
            object_bytes_max: (frame_bytes - self.grain.bytes(1)) as u32,
            ..ClassStats::default()
        };
        let granules = u64::from(self.grain.per_frame);
        let mut live = 0;
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            shard.settle_accounts(&self.arena);
            regions.blocks += shard.regions;
            regions.frames += shard.frames;
            regions.slots += shard.objects + shard.bins.holes();
            regions.slots_used += shard.objects;
            live += shard.live;
        }
        self.each_region(0..self.arena.side_frames(), |region| {
            let fullness = region.fullness(&self.arena, self.grain);
            let group = ((fullness * 10) >> 16) as usize + usize::from(fullness > 0);
            regions.fullness[group] += 1;
        });
        if let Some(mean) = (regions.frames * granules).checked_div(regions.blocks) {
            let blocks_freeable = (regions.frames * granules - live) / mean;
            regions.freeable_frames = blocks_freeable * regions.frames / regions.blocks;
        }
        visit(regions);
        let whole = self.whole.objects.load(Relaxed);
        let mut fullness = [0; FULLNESS_GROUPS];
        fullness[FULLNESS_GROUPS - 1] = whole;
        visit(ClassStats {
            object_bytes_max: frame_bytes as u32,
            block_frames: 1,
            block_slots: 1,
            blocks: whole,
            frames: whole,
            slots: whole,
            slots_used: whole,
            freeable_frames: 0,
            fullness,
        });
    }

    fn check(&self) {
        self.check_all();
    }
}

impl Zfit {
    fn alloc_whole(&self, bytes: usize, tag: Tag) -> Option<Handle> {
        let frame = self.arena.alloc_run(1)?;
        self.set_side(frame, Side::Whole(tag));
        self.count_whole(bytes);
        Some(Handle::of(frame, 0))
    }

    pub(super) fn count_whole(&self, bytes: usize) {
        self.whole.objects.fetch_add(1, SeqCst);
        self.whole.object_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Frees a slot in a shard. False: its region is in another one by now.
    #[inline]
    fn free_slot(&self, index: usize, handle: Handle, bytes: usize) -> bool {
        // Under a lock, that is: what was read before may be no more.
        let is_here = || self.shard_of(handle) == index;
        let (shard, freed) = (&self.shards[index], (handle.0, bytes));
        if index == turn::current(self.in_use.load(Relaxed)) {
            shard.free(&self.arena, freed, is_here)
        } else {
            shard.free_later(&self.arena, freed, is_here)
        }
    }

    fn free_whole(&self, frame: u32, bytes: usize) {
        self.set_side(frame, Side::Free);
        self.arena.free_run(frame, 1);
        self.whole.objects.fetch_sub(1, Relaxed);
        self.whole.object_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// Whether a slot with room for `bytes` begins at a place in the mapping. Not asked in production:
    /// to wait for the word doubles the time of a load.
    fn holds(&self, at: usize, bytes: usize) -> bool {
        let word = Word(self.arena.word_u64(at).load(Relaxed));
        word.is_live() && bytes + word::BYTES <= self.grain.bytes(word.granules())
    }

    /// Place in the mapping of an object's first byte.
    fn content_at(&self, handle: Handle, bytes: usize) -> usize {
        let at = self.word_at(handle);
        if let Side::Whole(_) = self.side(handle.frame()) {
            assert!(bytes <= self.arena.frame_bytes(), "{bytes} in a frame");
            return at;
        }
        debug_assert!(
            self.holds(at, bytes),
            "{handle:?} does not lead to an object of {bytes}: freed, or not of this pool"
        );
        at + word::BYTES
    }
}
