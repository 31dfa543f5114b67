//! Taking over a predecessor's blocks.
//!
//! The page table says which slots hold objects; side words say how their blocks were laid out.
//! Heads, tags and free chains are written anew, so a predecessor that was killed in the middle of
//! a change leaves nothing behind.
//!
//! Locking: single-threaded by contract; class locks are taken all the same.

use std::sync::atomic::Ordering::Relaxed;

use super::{Layout, NO_OWNER, NO_SLOT, Shape, Slotted, unpack};
use crate::zpool::groups::Groups;
use crate::zpool::side::Side;
use crate::zpool::{AdoptError, HANDLE_BITS, Handle, Tag};

impl<L: Layout> Slotted<L> {
    pub(super) fn adopt_object(
        &self,
        handle: Handle,
        bytes: usize,
        tag: Tag,
    ) -> Result<(), AdoptError> {
        // What the table says was written by another process: nothing here is an assertion.
        if handle.0 >> HANDLE_BITS != 0 || tag.owner == NO_OWNER {
            return Err(AdoptError::BadHandle);
        }
        let (head, slot) = unpack(handle);
        if head >= self.arena.frames() {
            return Err(AdoptError::BadHandle);
        }
        let class = match self.side(head) {
            Side::Head { class, .. } if usize::from(class) < self.whole_class() => {
                usize::from(class)
            }
            Side::Whole(_) => self.whole_class(),
            _ => return Err(AdoptError::BadHandle),
        };
        let shape = self.shapes[class];
        if slot >= shape.slots || bytes == 0 || bytes > shape.object_bytes_max as usize {
            return Err(AdoptError::BadHandle);
        }
        if shape.is_whole() {
            self.adopt_whole(head, tag)?;
        } else {
            self.adopt_block(class, &shape, head)?;
            self.adopt_slot(&shape, head, slot, tag)?;
        }
        let mut state = self.lock(class);
        state.slots_used += 1;
        state.object_bytes += bytes as u64;
        Ok(())
    }

    fn adopt_whole(&self, frame: u32, tag: Tag) -> Result<(), AdoptError> {
        if !self.arena.claim_run(frame, 1) {
            return Err(AdoptError::Overlap);
        }
        self.set_side(frame, Side::Whole(tag));
        self.lock(self.whole_class()).blocks += 1;
        Ok(())
    }

    /// Claims the block of the first object that leads to it; it starts with all slots free.
    fn adopt_block(&self, class: usize, shape: &Shape, head: u32) -> Result<(), AdoptError> {
        // A frame that is claimed and says Head was claimed as one: `claim` reads the side words.
        if self.arena.in_use(head) {
            return Ok(());
        }
        if !L::claim(&self.arena, shape, head) {
            return Err(AdoptError::Overlap);
        }
        let block = self.head(head);
        block.free().store(NO_SLOT, Relaxed);
        block.fresh().store(shape.slots as u16, Relaxed);
        block.used().store(0, Relaxed);
        for slot in 0..shape.slots {
            self.owner(shape, head, slot).store(NO_OWNER, Relaxed);
        }
        self.lock(class).blocks += 1;
        Ok(())
    }

    fn adopt_slot(&self, shape: &Shape, head: u32, slot: u32, tag: Tag) -> Result<(), AdoptError> {
        let owner = self.owner(shape, head, slot);
        if owner.load(Relaxed) != NO_OWNER {
            return Err(AdoptError::Overlap);
        }
        owner.store(tag.owner, Relaxed);
        self.stamp(shape, head, slot).store(tag.stamp, Relaxed);
        let used = self.head(head).used();
        used.store(used.load(Relaxed) + 1, Relaxed);
        Ok(())
    }

    pub(super) fn end_adoption(&self) {
        for frame in 0..self.arena.frames() {
            // The other side words are leftovers, or were never written: they are not looked at.
            if self.arena.in_use(frame)
                && let Side::Head { class, .. } = self.side(frame)
            {
                self.chain_free_slots(usize::from(class), frame);
            }
        }
    }

    fn chain_free_slots(&self, class: usize, head: u32) {
        let shape = &self.shapes[class];
        let block = self.head(head);
        let mut next = NO_SLOT;
        // From the last to the first, so that the lowest slots are used first.
        for slot in (0..shape.slots).rev() {
            if self.owner(shape, head, slot).load(Relaxed) == NO_OWNER {
                self.stamp(shape, head, slot).store(next, Relaxed);
                next = slot as u16;
            }
        }
        block.free().store(next, Relaxed);
        let used = block.used().load(Relaxed);
        if u32::from(used) < shape.slots {
            let group = Groups::group(used, shape.slots);
            self.lock(class).groups.push(&*self.arena, group, head);
        }
    }
}
