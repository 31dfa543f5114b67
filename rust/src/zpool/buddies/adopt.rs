//! Taking over a predecessor's frames.
//!
//! The page table says which chunks hold objects; the side word says that a frame is this pool's.
//! Headers are written anew, so a predecessor that was killed in the middle of a change leaves
//! nothing behind.
//!
//! Locking: single-threaded by contract; shards are locked all the same.

use super::{Buddies, Extent, Occupancy, Rule, SHARED};
use crate::zpool::side::Side;
use crate::zpool::{AdoptError, HANDLE_BITS, Handle, Tag};

impl<R: Rule> Buddies<R> {
    pub(super) fn adopt_object(
        &self,
        handle: Handle,
        bytes: usize,
        tag: Tag,
    ) -> Result<(), AdoptError> {
        // What the table says was written by another process: nothing here is an assertion.
        let (frame, start) = (handle.frame(), handle.low());
        let exists = handle.0 >> HANDLE_BITS == 0 && frame < self.arena.frames();
        if !exists || bytes == 0 || bytes > self.arena.frame_bytes() {
            return Err(AdoptError::BadHandle);
        }
        match (self.side(frame), self.shared_chunks(bytes)) {
            (Side::Whole(_), None) if start == 0 => self.adopt_whole(frame, tag)?,
            (SHARED, Some(chunks)) => self.adopt_shared(frame, Extent { start, chunks }, tag)?,
            _ => return Err(AdoptError::BadHandle),
        }
        self.lock(frame).counts.object_bytes += bytes as u64;
        Ok(())
    }

    fn adopt_whole(&self, frame: u32, tag: Tag) -> Result<(), AdoptError> {
        if !self.arena.claim_run(frame, 1) {
            return Err(AdoptError::Overlap);
        }
        self.set_side(frame, Side::Whole(tag));
        self.lock(frame).counts.whole += 1;
        Ok(())
    }

    fn adopt_shared(&self, frame: u32, extent: Extent, tag: Tag) -> Result<(), AdoptError> {
        if !Occupancy::EMPTY.is_free(extent) {
            return Err(AdoptError::BadHandle);
        }
        let header = self.header(frame);
        // A frame that is claimed and says that it is shared was claimed as such: by the first of
        // its objects, when it had no others.
        if !self.arena.in_use(frame) {
            let is_claimed = self.arena.claim_run(frame, 1);
            assert!(is_claimed, "frame {frame} was claimed meanwhile");
            header.set_occupancy(&Occupancy::EMPTY);
        }
        let before = header.occupancy();
        if before.count() == R::OBJECTS_MAX || !before.is_free(extent) {
            return Err(AdoptError::Overlap);
        }
        let place = before.vacancy();
        header.set_tag(place, tag);
        let after = before.with(place, extent);
        self.change(&mut self.lock(frame), frame, &before, &after);
        Ok(())
    }
}
