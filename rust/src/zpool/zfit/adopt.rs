//! Taking over a predecessor's regions.
//!
//! The page table says where objects are and whose; side words say where regions begin. The word in
//! front of an object was written before the table knew of it and stays until the table has
//! forgotten it, so it must agree. What no object claims becomes holes: a predecessor that was
//! killed in the middle of a change leaves nothing behind, but maybe a region whose latter part is a region already.
//!
//! Locking: single-threaded by contract; the claims and the shards are locked all the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering::Relaxed;

use super::Zfit;
use super::region::Region;
use super::word::Word;
use crate::zpool::arena::RUN_FRAMES_MAX;
use crate::zpool::side::Side;
use crate::zpool::{AdoptError, HANDLE_BITS, Handle, Tag};

/// Slots that the table has claimed, by the first frame of their region; each list in order. About
/// 16 bytes an object, until adoption ends.
#[derive(Default)]
pub struct Claims(BTreeMap<u32, Vec<Claim>>);

/// One slot.
#[derive(Clone, Copy)]
struct Claim {
    at: u32,
    granules: u32,
    bytes: u32,
}

impl Zfit {
    pub(super) fn adopt_object(
        &self,
        handle: Handle,
        bytes: usize,
        tag: Tag,
    ) -> Result<(), AdoptError> {
        // What the table says was written by another process: nothing here is an assertion.
        let frame = handle.frame();
        let is_possible = handle.0 >> HANDLE_BITS == 0
            && frame < self.arena.frames()
            && (1..=self.arena.frame_bytes()).contains(&bytes);
        if !is_possible {
            return Err(AdoptError::BadHandle);
        }
        if let Side::Whole(_) = self.side(frame) {
            if handle.low() != 0 {
                return Err(AdoptError::BadHandle);
            }
            if !self.arena.claim_run(frame, 1) {
                return Err(AdoptError::Overlap);
            }
            self.set_side(frame, Side::Whole(tag));
            self.count_whole(bytes);
            return Ok(());
        }
        let region = Region::around(&self.arena, frame).ok_or(AdoptError::BadHandle)?;
        self.claim_slot(&region, handle, bytes, tag)
    }

    fn claim_slot(
        &self,
        region: &Region,
        handle: Handle,
        bytes: usize,
        tag: Tag,
    ) -> Result<(), AdoptError> {
        let is_possible = usize::from(region.shard) < self.shards.len()
            && (1..=RUN_FRAMES_MAX).contains(&region.frames)
            && region.frames <= self.arena.frames() - region.head;
        let at = region.granule(self.grain, handle);
        if !is_possible || handle.low() >= self.grain.per_frame {
            return Err(AdoptError::BadHandle);
        }
        let word = region.read(&self.arena, self.grain, at);
        let claim = Claim {
            at,
            granules: word.granules(),
            bytes: bytes as u32,
        };
        let is_slot = word.is_live()
            && word.tag().owner == tag.owner
            && claim.granules >= self.granules(bytes)
            && at + claim.granules <= region.end(self.grain);
        if !is_slot {
            return Err(AdoptError::BadHandle);
        }
        let mut all = self.claims.lock().expect("adoption is single-threaded");
        let claims = &mut all.get_or_insert_default().0;
        let slots = match claims.entry(region.head) {
            Entry::Occupied(slots) => slots.into_mut(),
            Entry::Vacant(_) if self.mend(region) => {
                drop(all);
                return self.adopt_object(handle, bytes, tag);
            }
            Entry::Vacant(place) => {
                let is_ours = region.is_marked(&self.arena)
                    && self.arena.claim_run(region.head, region.frames);
                if !is_ours {
                    return Err(AdoptError::Overlap);
                }
                place.insert(Vec::new())
            }
        };
        let index = slots.partition_point(|other| other.at < claim.at);
        let is_clear = slots[..index]
            .last()
            .is_none_or(|before| before.at + before.granules <= claim.at)
            && slots
                .get(index)
                .is_none_or(|after| claim.at + claim.granules <= after.at);
        if !is_clear {
            return Err(AdoptError::Overlap);
        }
        slots.insert(index, claim);
        let word = Word::slot(claim.granules, tag, false);
        region.write(&self.arena, self.grain, claim.at, word);
        Ok(())
    }

    /// Parts a region whose parting the predecessor did not end, if `region` is either part of it. False: it is not.
    fn mend(&self, region: &Region) -> bool {
        let arena = &self.arena;
        let covers = |other: &Region| other.head + other.frames > region.head;
        let mut before = (1..RUN_FRAMES_MAX).map_while(|place| region.head.checked_sub(place));
        let whole = before.find_map(|head| Region::at(arena, head).filter(covers));
        let whole = whole.unwrap_or(*region);
        let end = whole.head + whole.frames;
        let mut inside = whole.head + 1..end.min(arena.frames());
        let Some(part) = inside.find_map(|frame| Region::at(arena, frame)) else {
            return false;
        };
        // Anything else no process leaves behind.
        let is_parted = part.head + part.frames == end
            && end <= arena.frames()
            && whole.frames <= RUN_FRAMES_MAX
            && part.shard == whole.shard;
        if is_parted {
            part.set_tails(arena, 1);
            whole.shorten(arena, part.head - whole.head, 0, true);
        }
        is_parted
    }

    pub(super) fn end_adoption(&self) {
        let mut claims = self.claims.lock().expect("adoption is single-threaded");
        for (head, slots) in claims.take().unwrap_or_default().0 {
            let region = Region::at(&self.arena, head).expect("a claimed region");
            self.rebuild(&region, &slots);
        }
    }

    /// Fills the gaps between the slots of a region with holes.
    fn rebuild(&self, region: &Region, slots: &[Claim]) {
        let (arena, grain) = (&*self.arena, self.grain);
        let mut shard = self.lock(region.shard.into());
        (self.in_use).fetch_max(usize::from(region.shard) + 1, Relaxed);
        let (mut at, mut live) = (0, 0);
        for slot in slots {
            let is_after_hole = at < slot.at;
            if is_after_hole {
                shard.put_hole(arena, region, at, slot.at - at);
            }
            let word = region.read(arena, grain, slot.at);
            region.write(arena, grain, slot.at, word.with_after_hole(is_after_hole));
            shard.count(slot.granules, slot.bytes as usize);
            live += slot.granules;
            at = slot.at + slot.granules;
        }
        let ends_in_hole = at < region.end(grain);
        if ends_in_hole {
            shard.put_hole(arena, region, at, region.end(grain) - at);
        }
        region.set_after_hole(arena, grain, region.end(grain), ends_in_hole);
        region.set_live(arena, live);
        shard.regions += 1;
        let frames = shard.frames + u64::from(region.frames);
        shard.set_frames(frames);
    }
}
