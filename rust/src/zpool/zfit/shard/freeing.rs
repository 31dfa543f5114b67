//! How a shard's slots are given back: they wait to be taken again as they are, or become holes.
//!
//! Both wait for memory, so some are done together (`waiting`).
//!
//! Locking: none, the shard's lock is held.

use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use crate::zpool::zfit::bins::Spot;
use crate::zpool::zfit::nodes;
use crate::zpool::zfit::region::Region;
use crate::zpool::zfit::word::{self, Word};
use crate::zpool::{Arena, Handle};

/// This share of the objects may be waiting as freed slots: 1/320. They are bytes that hold nothing, so
/// it is what they cost, and an overwrite is cheaper the more are taken as they were freed. With 1/192 it takes 3 % less
/// time, and a store of 768 MiB 0.0005 bytes a byte more.
const QUICK_SHARE: u64 = 320;

/// The same in frames of more than 4 KiB. They hold fewer objects, of more lengths. With pages of 16 KiB an overwrite takes as
/// long as with 1/64, and to allocate and free alone 4 to 12 % less: there is less to look through before frames are taken.
/// 1/256 took 5 % more for an overwrite than 1/64, and a store of 768 MiB 0.003 bytes a byte less.
const QUICK_SHARE_LARGE: u64 = 96;

/// Freed slots that become holes before it is looked again for one that is long enough.
const JOINED_TOGETHER: usize = 16;

impl Shard {
    /// Frees a slot, a little later.
    #[inline]
    pub fn free_soon(&mut self, arena: &Arena, spot: Spot, bytes: usize) {
        if self.freed.push(spot, bytes as u32) {
            self.free_some(arena);
        }
    }

    /// Frees the slots whose words were fetched, and fetches the next ones'.
    fn free_some(&mut self, arena: &Arena) {
        let (next, batch) = self.freed.turn();
        for (spot, _) in next.each() {
            arena.prefetch(self.memory(arena).place(spot), 1);
        }
        for (spot, bytes) in batch.each() {
            self.free(arena, spot, bytes as usize);
        }
    }

    /// Takes an object out of its slot, and says how long that is.
    pub fn clear(&mut self, arena: &Arena, spot: Spot, bytes: usize) -> u32 {
        let place = arena.word_u64(self.memory(arena).place(spot));
        let word = Word(place.load(Relaxed));
        let length = word.granules();
        assert!(
            word.is_live() && bytes + word::BYTES <= self.grain.bytes(length),
            "{bytes} bytes at {spot:#x} are freed twice, or were never taken"
        );
        self.objects -= 1;
        self.live -= u64::from(length);
        self.object_bytes = self.object_bytes.wrapping_sub(bytes as u64);
        place.store(word.freed().0, Relaxed);
        length
    }

    /// Has a slot wait to be taken again.
    fn free(&mut self, arena: &Arena, spot: Spot, bytes: usize) {
        let length = self.clear(arena, spot, bytes);
        if self.isolated.has(spot) {
            // Nothing may be put there.
            self.join(arena, spot);
            return;
        }
        if !self.quick.put(length, spot) {
            self.join_soon(arena, spot, length);
        }
        let share = match self.grain.is_large() {
            true => QUICK_SHARE_LARGE,
            false => QUICK_SHARE,
        };
        while self.quick.slots() > self.objects / share
            && let Some((length, spot)) = self.quick.give_up()
        {
            self.join_soon(arena, spot, length);
        }
    }

    /// Makes a hole of a freed slot, a little later.
    pub fn join_soon(&mut self, arena: &Arena, spot: Spot, granules: u32) {
        if self.joining.push_new(spot, granules) {
            self.join_batch(arena);
        }
    }

    /// Joins the slots whose words were fetched, and fetches the next ones' and those behind them.
    fn join_batch(&mut self, arena: &Arena) {
        let (next, batch) = self.joining.turn();
        for (spot, granules) in next.each() {
            let at = self.memory(arena).place(spot);
            for place in [at, at + self.grain.bytes(granules)] {
                if place < arena.end() {
                    arena.prefetch(place, 1);
                }
            }
        }
        for (spot, granules) in batch.each() {
            self.fetch_beside(arena, spot, granules);
        }
        for (spot, _) in batch.each() {
            self.join(arena, spot);
        }
    }

    /// Fetches the other ends of the holes beside a freed slot.
    fn fetch_beside(&self, arena: &Arena, spot: Spot, granules: u32) {
        let (handle, grain) = (Handle(spot), self.grain);
        let Some(region) = Region::around(arena, handle.frame()) else {
            return;
        };
        let at = region.granule(grain, handle);
        if region.read(arena, grain, at).is_after_hole() {
            let before = region.hole_before(arena, grain, at).granules();
            arena.prefetch(region.place(arena, grain, at - before), 1);
        }
        let to = at + granules;
        if to < region.end(grain) {
            let next = region.read(arena, grain, to);
            if next.is_hole() && to + next.granules() < region.end(grain) {
                arena.prefetch(region.place(arena, grain, to + next.granules()), 1);
            }
        }
    }

    /// Does what is under way: what was freed waits to be taken again, or becomes a hole. True if
    /// something did.
    pub fn settle_accounts(&mut self, arena: &Arena) -> bool {
        while !self.freed.is_empty() {
            self.free_some(arena);
        }
        let is_joined = !self.joining.is_empty();
        while !self.joining.is_empty() {
            self.join_batch(arena);
        }
        is_joined
    }

    /// Makes holes of some of the freed slots. False: there were none.
    pub fn join_some(&mut self, arena: &Arena) -> bool {
        let is_joined = self.settle_accounts(arena);
        for _ in 0..JOINED_TOGETHER {
            let Some((length, spot)) = self.quick.give_up() else {
                break;
            };
            self.join_soon(arena, spot, length);
        }
        self.settle_accounts(arena) || is_joined
    }

    /// Makes one hole of a freed slot and those beside it.
    fn join(&mut self, arena: &Arena, spot: Spot) {
        let (handle, grain) = (Handle(spot), self.grain);
        let region = &Region::around(arena, handle.frame()).expect("a slot is part of a region");
        let at = region.granule(grain, handle);
        let word = region.read(arena, grain, at);
        assert!(word.is_free(), "{word:?} of a freed slot");
        let length = word.granules();
        let live = region.live(arena);
        let (mut from, mut to) = (at, at + length);
        if word.is_after_hole() {
            let before = region.hole_before(arena, grain, at);
            from -= before.granules();
            self.take_hole(arena, region, from, before);
            // Nobody may take the old word for a slot.
            region.write(arena, grain, at, Word::hole(length, nodes::NONE));
        }
        if to < region.end(grain) {
            let next = region.read(arena, grain, to);
            if next.is_hole() {
                self.take_hole(arena, region, to, next);
                to += next.granules();
            }
        }
        region.set_live(arena, live - length);
        if live == length {
            self.release(arena, region);
            return;
        }
        self.open(arena, region, from..to);
    }
}
