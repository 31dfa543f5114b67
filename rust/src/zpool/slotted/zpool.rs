//! The trait's side of a slotted pool.
//!
//! Locking: as the trait says; content and tag of a live object belong to who holds its handle.

use std::sync::atomic::Ordering::Relaxed;

use super::{Layout, NO_OWNER, Place, Slotted, unpack};
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
        (self.class_for(bytes)..self.shapes.len())
            .find_map(|class| self.alloc_in(class, bytes, tag))
            .ok_or(AllocError::Full)
    }

    fn free(&self, handle: Handle, bytes: usize) {
        let Place { head, slot, class } = self.locate(handle, bytes);
        let shape = &self.shapes[class];
        let mut state = self.lock(class);
        if shape.is_whole() {
            assert!(
                matches!(self.side(head), Side::Whole(_)),
                "{handle:?} is freed twice"
            );
            self.set_side(head, Side::Free);
            self.arena.free_run(head, 1);
            state.blocks -= 1;
        } else {
            self.free_slot(&mut state, shape, head, slot);
        }
        state.slots_used -= 1;
        state.object_bytes -= bytes as u64;
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        let Place { head, slot, class } = self.locate(handle, object.len());
        let offset = self.shapes[class].object_at(slot);
        let near = L::contiguous_bytes(&self.arena, offset).min(object.len());
        let (near, far) = object.split_at(near);
        self.arena
            .store_bytes(L::place(&self.arena, head, offset), near);
        if !far.is_empty() {
            self.arena
                .store_bytes(L::place(&self.arena, head, offset + near.len()), far);
        }
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, scratch: &'a mut [u8]) -> &'a [u8] {
        let Place { head, slot, class } = self.locate(handle, bytes);
        let offset = self.shapes[class].object_at(slot);
        let near = L::contiguous_bytes(&self.arena, offset);
        let at = L::place(&self.arena, head, offset);
        if bytes <= near {
            return self.arena.bytes(at, bytes);
        }
        let far_at = L::place(&self.arena, head, offset + near);
        scratch[..near].copy_from_slice(self.arena.bytes(at, near));
        scratch[near..bytes].copy_from_slice(self.arena.bytes(far_at, bytes - near));
        &scratch[..bytes]
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        let (head, slot) = unpack(handle);
        if head >= self.arena.frames() {
            return;
        }
        let offset = match self.side(head) {
            Side::Head { class, .. } => self.shapes[usize::from(class)].object_at(slot),
            _ => 0,
        };
        let at = self.arena.frame_at(head) + offset;
        if L::contiguous_bytes(&self.arena, 0) > offset && at < self.arena.end() {
            self.arena.prefetch(at, bytes.min(PREFETCH_BYTES));
        }
    }

    fn tag(&self, handle: Handle, bytes: usize) -> Tag {
        let Place { head, slot, class } = self.locate(handle, bytes);
        if let Side::Whole(tag) = self.side(head) {
            return tag;
        }
        let shape = &self.shapes[class];
        let owner = self.owner(shape, head, slot).load(Relaxed);
        assert!(owner != NO_OWNER, "{handle:?} was freed");
        Tag {
            owner,
            stamp: self.stamp(shape, head, slot).load(Relaxed),
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
            sum.block_bytes += self.block_bytes(shape, state.blocks);
        }
        sum
    }

    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        for (class, shape) in self.shapes.iter().enumerate() {
            let (blocks, slots_used) = {
                let state = self.lock(class);
                (state.blocks, state.slots_used)
            };
            visit(ClassStats {
                object_bytes_max: shape.object_bytes_max,
                block_frames: shape.frames,
                block_slots: shape.slots,
                blocks,
                slots: blocks * u64::from(shape.slots),
                slots_used,
            });
        }
    }

    fn check(&self) {
        self.check_all();
    }
}
