//! Taking over a predecessor's blocks.
//!
//! The page table says which slots hold objects; side words say how their blocks were laid out.
//! Heads, tags and free chains are written anew, so a predecessor that was killed in the middle of
//! a change leaves nothing behind.
//!
//! Locking: single-threaded by contract; class locks are taken all the same.

use std::sync::atomic::Ordering::Relaxed;

use super::{FULL, Layout, NO_OWNER, Place, Shape, Slotted, Spot};
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
        let Place { block, class } = self.resolve(handle).ok_or(AdoptError::BadHandle)?;
        let shape = self.shapes[class];
        if bytes == 0 || bytes > shape.object_bytes_max as usize {
            return Err(AdoptError::BadHandle);
        }
        if shape.is_whole() {
            self.adopt_whole(block, tag)?;
        } else {
            let spot = self.adopt_block(&shape, block, handle)?;
            self.adopt_slot(&shape, &spot, tag)?;
        }
        self.count(&mut self.lock(class), class, bytes);
        Ok(())
    }

    fn adopt_whole(&self, frame: u32, tag: Tag) -> Result<(), AdoptError> {
        if !self.arena.claim_run(frame, 1) {
            return Err(AdoptError::Overlap);
        }
        self.set_side(frame, Side::Whole(tag));
        self.lock(self.whole_class()).fullness[FULL] += 1;
        Ok(())
    }

    /// Claims the block of the first object that leads to it; it starts with all slots free.
    fn adopt_block(&self, shape: &Shape, block: u32, handle: Handle) -> Result<Spot, AdoptError> {
        // A frame that is claimed and says Head was claimed as one: `agrees` reads the side words.
        let is_new = !self.arena.in_use(block);
        if is_new && !L::agrees(&self.arena, shape, block) {
            return Err(AdoptError::Overlap);
        }
        let spot = self.find(shape, block, handle.low());
        if L::handle(&self.arena, &spot) != handle {
            return Err(AdoptError::BadHandle);
        }
        if is_new {
            L::claim(&self.arena, shape, block);
            for slot in 0..shape.slots {
                let (owner, _) = self.tag_words(shape, &self.find(shape, block, slot));
                owner.store(NO_OWNER, Relaxed);
            }
        }
        Ok(spot)
    }

    fn adopt_slot(&self, shape: &Shape, spot: &Spot, tag: Tag) -> Result<(), AdoptError> {
        let (owner, stamp) = self.tag_words(shape, spot);
        if owner.load(Relaxed) != NO_OWNER {
            return Err(AdoptError::Overlap);
        }
        owner.store(tag.owner, Relaxed);
        stamp.store(tag.stamp, Relaxed);
        Ok(())
    }

    pub(super) fn end_adoption(&self) {
        for frame in 0..self.arena.frames() {
            // The other side words are leftovers, or were never written: they are not looked at.
            if self.arena.in_use(frame)
                && let Side::Head { class, .. } = self.side(frame)
            {
                let class = usize::from(class);
                self.list(&mut self.lock(class), &self.shapes[class], frame);
            }
        }
    }
}
