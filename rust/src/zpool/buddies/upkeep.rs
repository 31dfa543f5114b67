//! Walking over the pool in the background: reporting what lives, and emptying frames.
//!
//! An object's bytes belong to whoever holds its page, so a pool cannot move one by itself. What it
//! can do is name a frame of one object, when another frame has room for it: the caller moves the
//! object there, and the frame is free. Each such move gives a frame back, so they end.
//!
//! Locking: a shard's lock is held while a frame is copied out, never while it is visited.

use std::sync::atomic::Ordering::Relaxed;

use super::{Buddies, NONE, Rule, SHARDS, SHARED};
use crate::zpool::side::Side;
use crate::zpool::{Handle, Resident, Sweep};

impl<R: Rule> Buddies<R> {
    pub(super) fn sweep_frames(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
        let (taken, at_end) = sweep.advance(frames, self.arena.side_frames());
        for frame in taken {
            match self.side(frame) {
                // One word says it all, so no lock is needed to read it whole.
                Side::Whole(tag) => visit(Resident {
                    handle: Handle::of(frame, 0),
                    tag,
                }),
                SHARED => self.report(frame, visit),
                _ => {}
            }
        }
        at_end
    }

    /// Reports the live objects of a frame, if it is still a shared one.
    fn report(&self, frame: u32, visit: &mut dyn FnMut(Resident)) {
        let shard = self.lock(frame);
        if self.side(frame) == SHARED {
            let residents = self.residents(frame);
            drop(shard);
            residents.into_iter().flatten().for_each(visit);
        }
    }

    pub(super) fn isolate_frame(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        let mut shards: [usize; SHARDS] = std::array::from_fn(|at| at);
        shards.sort_unstable_by_key(|&at| std::cmp::Reverse(self.shards[at].room_max()));
        let Some(frame) = shards.into_iter().find_map(|at| self.isolate_in(at)) else {
            return false;
        };
        self.report(frame, visit);
        true
    }

    /// Takes the emptiest frame of a shard out of allocation, if another frame has room for its
    /// one object.
    fn isolate_in(&self, at: usize) -> Option<u32> {
        let mut shard = self.shards[at].lock();
        let frame = shard.emptiest()?;
        let occupancy = self.header(frame).occupancy();
        let listing = Self::listing(&occupancy).expect("the frame is listed");
        // Without it, what the shards announce is what others have.
        shard.unlist(&self.arena, listing, frame);
        let has_room = self.tightest(occupancy.chunks_used(), at).is_some();
        let is_first = || {
            let isolated = &self.isolated;
            isolated
                .compare_exchange(NONE, frame, Relaxed, Relaxed)
                .is_ok()
        };
        if has_room && is_first() {
            return Some(frame);
        }
        shard.list(&self.arena, listing, frame);
        None
    }

    pub(super) fn settle_frame(&self) {
        let frame = self.isolated.load(Relaxed);
        if frame == NONE {
            return;
        }
        let mut shard = self.lock(frame);
        // It may have been emptied before the lock was there.
        if self.isolated.load(Relaxed) == frame {
            self.isolated.store(NONE, Relaxed);
            if let Some(listing) = Self::listing(&self.header(frame).occupancy()) {
                shard.list(&self.arena, listing, frame);
            }
        }
    }
}
