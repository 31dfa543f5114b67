//! Moving cold objects from the pool to the store, still compressed, and keeping both tidy.
//!
//! All of it happens in [`Writeback::step`], which does one bounded piece of work and returns: no
//! thread, no clock, no chance. A thread calls it in production, a seed in tests.
//!
//! Above the high mark, until the low mark is reached:
//!
//! 1. if much of the pool is holes (slots of part-filled blocks), empty the emptiest block into the
//!    others: that costs copies only;
//! 2. otherwise write back one segment: a census of ages gives a threshold (`age`), a sweep collects
//!    what is older, the objects are copied into the batch in the order of their page numbers and
//!    marked as moving, the batch goes to the device in one write, and every page that nobody
//!    touched meanwhile is published at its new place;
//!    When free segments run out, the batch begins with what still lives in the sparsest segment, so
//!    that writing one segment frees another.
//!
//! When nothing of that is to do, [`Writeback::scrub`] verifies what lies in the store (`scrub`).
//!
//! Besides, in small shares, what lies in zpools that are not the current one moves there (`moving`).
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

mod moving;
mod scrub;
mod transfer;
mod victims;

use crate::incident::Incidents;
use crate::page::PageId;
use crate::stats::{Counter, LaneStats};
use crate::store::Store;
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::{Pressure, Tiers};
use crate::zpool::{Handle, Resident, Tag, Zpool};
use moving::Moving;
use scrub::Scrub;
pub use scrub::ScrubStats;
use transfer::Transfer;
use victims::{Victims, current};

/// Holes are moved together when they are more than this share of what blocks hold: 1/16. Random
/// overwrites alone leave about 1/20, and moving them would cost copies without end.
const LOOSE_SHARE: u64 = 16;

/// When nobody writes, holes are moved together down to this share, 1/64.
const LOOSE_SHARE_QUIET: u64 = 64;

/// This share of the pool's frames may be free and stay in memory, so that a burst finds them: 1/256.
const SPARE_SHARE: u32 = 256;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Something was done and there may be more: call again.
    More,
    /// Nothing to do before somebody writes or discards.
    Idle,
    /// There is something to do that would disturb writers: call again when they may be gone.
    Later,
    /// Writes are refused, and nothing can be done about it now: call again after a while.
    Blocked,
}

/// What write-back did, in pages unless the name says bytes.
#[derive(Debug, Default)]
pub struct WritebackStats {
    /// Pages that moved from the pool to the store.
    pub pages_written_back: Counter,
    /// Their compressed bytes.
    pub bytes_written_back: Counter,
    /// Pages that were rewritten or discarded while they were on their way: written for nothing.
    pub pages_overtaken: Counter,
    /// Pages that cleaning moved inside the store.
    pub pages_cleaned: Counter,
    /// Pages that compaction moved inside the pool.
    pub pages_compacted: Counter,
    /// Pages that moved from a former zpool to the current one.
    pub pages_moved: Counter,
    /// Segments that could not be written.
    pub segments_failed: Counter,
    /// 1 while the last segment could not be written, else 0.
    pub is_failing: Counter,
    /// Times that the pool passed its high mark.
    pub high_mark_hits: Counter,
    /// What the scrub did.
    pub scrub: ScrubStats,
}

/// What a step needs besides the tiers.
pub struct Context<'a> {
    /// The places of pages.
    pub tiers: &'a Tiers,
    /// The shard of the thread that steps.
    pub lane: &'a LaneStats,
    /// The counters of write-back.
    pub stats: &'a WritebackStats,
    /// Where damaged records are named.
    pub incidents: &'a Incidents,
}

/// The state of write-back between steps.
pub struct Writeback {
    victims: Victims,
    /// None without a store.
    transfer: Option<Transfer>,
    /// None without a store.
    scrub: Option<Scrub>,
    moving: Moving,
    scratch: Box<[u8]>,
    is_active: bool,
    /// The clock's writes when it was last looked whether somebody writes.
    writes_seen: u64,
}

impl Writeback {
    /// Write-back for `tiers`; allocates all that it will ever need. `scrub_bytes_per_s`: what the
    /// scrub may read, 0 for none.
    pub fn new(tiers: &Tiers, scrub_bytes_per_s: u64) -> Writeback {
        let store = tiers.store.as_ref();
        Writeback {
            victims: Victims::new(store.map_or(0, Store::records_max)),
            transfer: store.map(|store| Transfer::new(tiers, store)),
            scrub: store.map(|store| Scrub::new(store, scrub_bytes_per_s)),
            moving: Moving::default(),
            scratch: vec![0; tiers.pool.object_bytes_max()].into_boxed_slice(),
            is_active: false,
            writes_seen: 0,
        }
    }

    /// Does one piece of work. `is_asked`: a write found no place, whatever the marks say.
    pub fn step(&mut self, context: &Context<'_>, is_asked: bool) -> Work {
        let tiers = context.tiers;
        let pool = tiers.pool.stats();
        // What was asked for may have been done since, by the step that was under way or by a
        // discard. Taken for urgent, it would drain the pool and call it stuck for being empty.
        let is_urgent = is_asked && !has_room(tiers);
        if !self.is_active && (pool.block_bytes >= tiers.marks.high_bytes || is_urgent) {
            self.is_active = true;
            if tiers.pressure() == Pressure::Calm {
                context.stats.high_mark_hits.add(1);
            }
        }
        if self.is_active && pool.block_bytes <= tiers.marks.low_bytes && !is_urgent {
            self.is_active = false;
            self.victims.clear();
            tiers.pool.settle();
        }
        let holes = pool.block_bytes - pool.slot_bytes;
        if !self.is_active {
            tiers.set_pressure(Pressure::Calm);
            let is_loose = holes > pool.block_bytes / LOOSE_SHARE_QUIET;
            return self.tidy(context, is_loose);
        }
        let did = holes > pool.block_bytes / LOOSE_SHARE && self.compact(context)
            || self.make_room(context, pool.block_bytes)
            || self.compact(context)
            // Or others made room meanwhile, and left nothing to move.
            || is_urgent && has_room(tiers);
        let moved = self.moving.run(context, &mut self.scratch);
        if did {
            tiers.set_pressure(Pressure::Working);
            return Work::More;
        }
        tiers.set_pressure(Pressure::Stuck);
        // Lets the arena ask the system again for memory that it was refused.
        tiers.pool.arena().release_free(u32::MAX);
        self.is_active = false;
        match moved {
            Some(work) => work,
            None if is_asked => Work::Blocked,
            None => Work::Idle,
        }
    }

    /// Verifies a piece of the store if it is time for one; for when [`step`](Self::step) has nothing
    /// to do. `now_us`: microseconds on any clock that never goes back. Gives the microseconds after
    /// which it wants to be called again, None if never.
    pub fn scrub(&mut self, context: &Context<'_>, now_us: u64) -> Option<u64> {
        let store = context.tiers.store.as_ref()?;
        self.scrub.as_mut()?.piece(context, store, now_us)
    }

    /// Gives freed segments back, and while nobody writes moves objects together and gives back the
    /// memory of free frames. Under writers that would take from them what they ask for next.
    fn tidy(&mut self, context: &Context<'_>, is_loose: bool) -> Work {
        let arena = context.tiers.pool.arena();
        if context.tiers.store.as_ref().is_some_and(Store::tidy) {
            return Work::More;
        }
        if let Some(work) = self.moving.run(context, &mut self.scratch) {
            return work;
        }
        let spare_frames = arena.frames() / SPARE_SHARE;
        if !is_loose && arena.spare_frames() <= spare_frames {
            return Work::Idle;
        }
        let writes = context.tiers.clock.writes();
        if std::mem::replace(&mut self.writes_seen, writes) != writes {
            return Work::Later;
        }
        if is_loose && self.compact(context) {
            return Work::More;
        }
        arena.release_free(spare_frames);
        Work::Idle
    }

    /// Empties one sparse block into the free slots of others. False: no block can be emptied.
    fn compact(&mut self, context: &Context<'_>) -> bool {
        let (tiers, scratch) = (context.tiers, &mut self.scratch);
        let mut moved = 0;
        let found = tiers.pool.isolate(&mut |resident| {
            let tag = resident.tag;
            let alloc = |object: ObjectAt<Handle>| tiers.pool.alloc(object.bytes, tag).ok();
            moved += u64::from(relocate(context, scratch, resident, alloc));
        });
        tiers.pool.settle();
        context.stats.pages_compacted.add(moved);
        found && moved > 0
    }

    /// Writes one segment back. False: there is no store, or nothing could be written.
    fn make_room(&mut self, context: &Context<'_>, block_bytes: u64) -> bool {
        let (Some(store), Some(transfer)) = (&context.tiers.store, &mut self.transfer) else {
            return false;
        };
        let excess = block_bytes.saturating_sub(context.tiers.marks.low_bytes);
        transfer.run(context, store, &mut self.victims, excess)
    }
}

/// Would a page find a place now, whatever its content?
fn has_room(tiers: &Tiers) -> bool {
    let nobody = Tag { owner: 0, stamp: 0 };
    let place = tiers.pool.alloc(tiers.page_bytes, nobody);
    if let Ok(handle) = place {
        tiers.pool.free(handle, tiers.page_bytes);
    }
    place.is_ok()
}

/// Moves one object to the place that `alloc` finds. False: it is gone, or there is no place.
fn relocate(
    context: &Context<'_>,
    scratch: &mut [u8],
    resident: Resident,
    alloc: impl FnOnce(ObjectAt<Handle>) -> Option<Handle>,
) -> bool {
    let tiers = context.tiers;
    let guard = tiers.table.lock(PageId(resident.tag.owner));
    let word = guard.word();
    let Some((_, object)) = current(tiers, resident) else {
        return false;
    };
    let Some(at) = alloc(object) else {
        return false;
    };
    tiers
        .pool
        .store(at, tiers.pool.load(object.at, object.bytes, scratch));
    let moved = Word::of(Place::Pool(ObjectAt { at, ..object }));
    let moved = if word.is_read() {
        moved.with_read()
    } else {
        moved
    };
    tiers.replace(&guard, moved, context.lane);
    true
}
