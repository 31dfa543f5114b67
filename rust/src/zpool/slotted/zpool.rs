//! The trait's side of a slotted pool.
//!
//! Locking: as the trait says; content and tag of a live object belong to who holds its handle.

use std::sync::atomic::Ordering::Relaxed;

use super::{FULL, Layout, NO_OWNER, Place, Slotted};
use crate::error;
use crate::zpool::side::Side;
use crate::zpool::{
    AdoptError, AllocError, Arena, ClassStats, Handle, Resident, Sweep, Tag, Zpool, ZpoolKind,
    ZpoolStats,
};

/// Bytes of an object that are fetched ahead; the CPU follows a run of lines by itself.
const PREFETCH_BYTES: usize = 512;

impl<L: Layout> Zpool for Slotted<L> {
    fn kind(&self) -> ZpoolKind {
        L::KIND
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn slot_bytes(&self, bytes: usize) -> usize {
        let shape = &self.shapes[self.class_for(bytes)];
        self.block_bytes(shape, 1).div_ceil(u64::from(shape.slots)) as usize
    }

    fn alloc(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        assert!(bytes > 0, "an object of no bytes");
        assert!(tag.owner != NO_OWNER, "owner {NO_OWNER} marks free slots");
        if bytes > self.object_bytes_max() {
            return Err(AllocError::TooLarge);
        }
        let own = self.class_for(bytes);
        let may_borrow = L::CLASSES_TO_BORROW_OF > 0;
        self.alloc_in(own, may_borrow, bytes, tag)
            .or_else(|| may_borrow.then(|| self.borrow(own, bytes, tag))?)
            .or_else(|| {
                let mut classes = own..self.shapes.len();
                classes.find_map(|class| self.alloc_in(class, false, bytes, tag))
            })
            .ok_or(AllocError::Full)
    }

    fn free(&self, handle: Handle, bytes: usize) {
        let (class, spot) = self.locate(handle, bytes);
        let shape = &self.shapes[class];
        let mut state = self.lock(class);
        if shape.is_whole() {
            let frame = handle.frame();
            assert!(
                matches!(self.side(frame), Side::Whole(_)),
                "{handle:?} is freed twice"
            );
            self.set_side(frame, Side::Free);
            self.arena.free_run(frame, 1);
            state.fullness[FULL] -= 1;
        } else {
            self.free_slot(&mut state, shape, &spot);
        }
        state.slots_used -= 1;
        state.object_bytes -= bytes as u64;
        state.has_freed = true;
        self.debts.settle(self.class_for(bytes), class);
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        let (_, spot) = self.locate(handle, object.len());
        let near = L::contiguous_bytes(&self.arena, &spot).min(object.len());
        let (near, far) = object.split_at(near);
        self.arena.store_bytes(spot.object_at, near);
        if !far.is_empty() {
            self.arena.store_bytes(L::rest_at(&self.arena, &spot), far);
        }
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, scratch: &'a mut [u8]) -> &'a [u8] {
        let (_, spot) = self.locate(handle, bytes);
        let near = L::contiguous_bytes(&self.arena, &spot);
        if bytes <= near {
            return self.arena.bytes(spot.object_at, bytes);
        }
        let far_at = L::rest_at(&self.arena, &spot);
        scratch[..near].copy_from_slice(self.arena.bytes(spot.object_at, near));
        scratch[near..bytes].copy_from_slice(self.arena.bytes(far_at, bytes - near));
        &scratch[..bytes]
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        if let Some(Place { block, class }) = self.resolve(handle) {
            let spot = L::spot(&self.arena, &self.shapes[class], block, handle);
            // The block may be another by now, so that the place is none.
            if spot.object_at < self.arena.end() {
                let bytes = bytes.min(PREFETCH_BYTES);
                self.arena.prefetch(spot.object_at, bytes);
            }
        }
    }

    fn tag(&self, handle: Handle, bytes: usize) -> Tag {
        let (class, spot) = self.locate(handle, bytes);
        if let Side::Whole(tag) = self.side(handle.frame()) {
            return tag;
        }
        let (owner, stamp) = self.tag_words(&self.shapes[class], &spot);
        let owner = owner.load(Relaxed);
        assert!(owner != NO_OWNER, "{handle:?} was freed");
        Tag {
            owner,
            stamp: stamp.load(Relaxed),
        }
    }

    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool {
        self.sweep_frames(sweep, frames, visit)
    }

    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        self.isolate_block(visit)
    }

    fn settle(&self) {
        self.settle_blocks();
    }

    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> Result<(), AdoptError> {
        self.adopt_object(handle, bytes, tag)
    }

    fn adopted(&self) -> error::Result<()> {
        self.end_adoption();
        Ok(())
    }

    fn stats(&self) -> ZpoolStats {
        let mut sum = ZpoolStats::default();
        for (class, shape) in self.shapes.iter().enumerate() {
            let state = self.lock(class);
            sum.objects += state.slots_used;
            sum.object_bytes += state.object_bytes;
            sum.slot_bytes += self.block_bytes(shape, state.slots_used) / u64::from(shape.slots);
            sum.block_bytes += self.block_bytes(shape, state.blocks());
        }
        sum
    }

    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        for (class, shape) in self.shapes.iter().enumerate() {
            let (fullness, slots_used) = {
                let state = self.lock(class);
                (state.fullness, state.slots_used)
            };
            let blocks = fullness.iter().sum();
            let slots = blocks * u64::from(shape.slots);
            let blocks_freeable = (slots - slots_used) / u64::from(shape.slots);
            visit(ClassStats {
                object_bytes_max: shape.object_bytes_max,
                block_frames: shape.frames,
                block_slots: shape.slots,
                blocks,
                frames: blocks * u64::from(shape.frames),
                slots,
                slots_used,
                freeable_frames: blocks_freeable * u64::from(shape.frames),
                fullness,
            });
        }
    }

    fn check(&self) {
        self.check_all();
    }
}
