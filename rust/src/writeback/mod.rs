//! Moving cold objects from the pool to the store, still compressed, and keeping both tidy.
//!
//! All of it happens in [`Writeback::step`], which does one bounded piece of work and returns: no
//! thread, no clock, no chance. A thread calls it in production, a seed in tests.
//!
//! Above the high mark, until the low mark is reached:
//!
//! 1. if much of the pool is holes (slots of part-filled blocks), empty the emptiest block into the
//!    others: that costs copies only;
//! 2. otherwise write back: a census of ages gives a threshold (`age`), a sweep collects what is
//!    older (`victims`), the objects are put into the batches of their streams in the order of their
//!    page numbers and marked as moving (`transfer`, `streams`), a full batch is copied together and
//!    goes to the device in one write (`shipment`, by the threads of `dispatch`), and every page that
//!    nobody touched meanwhile is published at its new place.
//!
//! Between the marks objects are moved together while others write, a few for each write (`zpool::Pace`).
//!
//! For exports whose flushed pages survive loss of the host, flushes come first (`checkpoint`).
//!
//! Beside it, and in its measure, sparse segments are emptied (`cleaner`). All that is written comes out
//! of a budget, if there is one (`budget`), and nothing is while the device fails (`health`). In small shares, what lies in zpools that are not the
//! current one moves there (`moving`). When nothing of that is to do, [`Writeback::scrub`] verifies what
//! lies in the store (`scrub`).
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

mod budget;
mod checkpoint;
mod cleaner;
mod dispatch;
mod health;
mod moving;
mod owed;
mod relief;
#[cfg(test)]
mod scene;
mod scrub;
mod shipment;
mod streams;
mod transfer;
mod victims;

use std::sync::Arc;
use std::time::Duration;

pub use budget::WriteBudget;
pub use dispatch::Dispatch;

use crate::incident::Incidents;
use crate::page::PageId;
use crate::stats::{Counter, LaneStats};
use crate::store::Store;
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::{Pressure, Tiers};
use crate::zpool::{Handle, Pace, Resident, Tag, Zpool, ZpoolStats};
use budget::Budget;
pub use checkpoint::CheckpointStats;
use checkpoint::{Checkpoint, Tools, free_held};
use cleaner::{Cleaner, Need};
use moving::Moving;
use relief::{Relief, Relieved};
use scrub::Scrub;
pub use scrub::ScrubStats;
use streams::{Stream, Streams};
use transfer::{Outcome, transfer};
use victims::{Victims, current};

/// Holes are moved together when they are more than this share of what blocks hold: 1/16. Random
/// overwrites alone leave about 1/20, and moving them would cost copies without end.
const LOOSE_SHARE: u64 = 16;

/// When nobody writes, holes are moved together down to this share, 1/128.
const LOOSE_SHARE_QUIET: u64 = 128;

/// This share of the pool's frames may be free and stay in memory, so that a burst finds them: 1/256.
const SPARE_SHARE: u32 = 256;

/// Freed segments that are buried in one piece of work: 4 KiB each.
const BURIED_PER_PIECE: u32 = 8;

/// Pieces of work in one step until a batch is full, or holds all that there is.
const PROBE_PIECES_MAX: u32 = 8;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Something was done and there may be more: call again.
    More,
    /// Nothing to do before somebody writes or discards.
    Idle,
    /// There is something to do that would disturb writers: call again when they may be gone.
    Later,
    /// Nothing can be done now, and time alone changes that: call again after a while.
    Blocked,
}

/// What write-back did, in pages unless the name says bytes.
#[derive(Debug, Default)]
pub struct WritebackStats {
    /// Pages that moved from the pool to the store.
    pub pages_written_back: Counter,
    /// Their compressed bytes.
    pub bytes_written_back: Counter,
    /// Pages that were rewritten or discarded while they were on their way: chosen, and mostly written, for
    /// nothing.
    pub pages_overtaken: Counter,
    /// Pages that cleaning moved inside the store.
    pub pages_cleaned: Counter,
    /// Their compressed bytes.
    pub bytes_cleaned: Counter,
    /// Pages that compaction moved inside the pool.
    pub pages_compacted: Counter,
    /// Pages that moved from a former zpool to the current one.
    pub pages_moved: Counter,
    /// Segments that could not be written.
    pub segments_failed: Counter,
    /// 1 while the device fails or is full, so that nothing is written but to try it again, else 0.
    pub is_degraded: Counter,
    /// 1 while it is so for want of space, else 0.
    pub is_out_of_space: Counter,
    /// Times that the pool passed its high mark.
    pub high_mark_hits: Counter,
    /// Bytes that the budget allows now, as of the last step; `u64::MAX` without one.
    pub budget_left_bytes: Counter,
    /// 1 while write-back waits for the budget, else 0.
    pub is_over_budget: Counter,
    /// Times that it began to wait.
    pub budget_waits: Counter,
    /// What the scrub did.
    pub scrub: ScrubStats,
    /// What checkpoints did.
    pub checkpoints: CheckpointStats,
}

/// What a step needs besides the tiers.
pub struct Context<'a> {
    /// The places of pages.
    pub tiers: &'a Tiers,
    /// The shard of the thread that steps.
    pub lane: &'a LaneStats,
    /// The counters of write-back.
    pub stats: &'a WritebackStats,
    /// Time since the engine was opened.
    pub now: Duration,
    /// Where damaged records are named.
    pub incidents: &'a Incidents,
}

/// The state of write-back between steps.
pub struct Writeback {
    /// None without a store.
    outflow: Option<Outflow>,
    /// None without a store.
    scrub: Option<Scrub>,
    moving: Moving,
    scratch: Box<[u8]>,
    is_active: bool,
    /// The clock's writes when it was last looked whether somebody writes.
    writes_seen: u64,
    /// What may be moved inside the pool while somebody writes.
    pace: Pace,
    /// The writes that it knows of.
    writes_paced: u64,
}

/// What moves objects to the store and inside it.
struct Outflow {
    victims: Victims,
    streams: Streams,
    cleaner: Cleaner,
    budget: Budget,
    /// None without durable exports.
    checkpoint: Option<Checkpoint>,
    /// The same.
    relief: Option<Relief>,
}

impl Writeback {
    /// Write-back for `tiers`; allocates all that it will ever need. `scrub_bytes_per_s`: what the
    /// scrub may read, 0 for none.
    pub fn new(
        tiers: &Tiers,
        budget: Option<WriteBudget>,
        dispatch: Arc<Dispatch>,
        scrub_bytes_per_s: u64,
    ) -> Writeback {
        let store = tiers.store.as_ref();
        Writeback {
            outflow: store.map(|store| Outflow {
                victims: Victims::new(store.records_max()),
                streams: Streams::new(tiers, dispatch),
                cleaner: Cleaner::new(store),
                budget: Budget::new(budget),
                checkpoint: (tiers.durable.as_ref()).map(|_| Checkpoint::new(store)),
                relief: (tiers.durable.as_ref()).map(|_| Relief::new(store)),
            }),
            scrub: store.map(|store| Scrub::new(store, scrub_bytes_per_s)),
            moving: Moving::default(),
            scratch: vec![0; tiers.pool.object_bytes_max()].into_boxed_slice(),
            is_active: false,
            writes_seen: 0,
            pace: Pace::default(),
            writes_paced: 0,
        }
    }

    /// The store's superblock is still to be written: nothing else is before.
    pub fn begin_degraded(&mut self, stats: &WritebackStats, store: &Store) {
        if let Some(outflow) = &mut self.outflow {
            outflow.streams.begin_degraded(stats, store);
        }
    }

    /// Does one piece of work. `is_asked`: a write found no place, whatever the marks say.
    pub fn step(&mut self, context: &Context<'_>, is_asked: bool) -> Work {
        if let Some(outflow) = &mut self.outflow {
            outflow.budget.fill(context.now);
        }
        let work = self.work(context, is_asked);
        let Some(outflow) = &mut self.outflow else {
            return work;
        };
        outflow.settle(context.stats);
        match work {
            // It is tried again when it is time to, whether or not somebody writes.
            Work::Idle if outflow.streams.health().is_degraded() => Work::Blocked,
            work => work,
        }
    }

    fn work(&mut self, context: &Context<'_>, is_asked: bool) -> Work {
        let tiers = context.tiers;
        if self.checkpoint(context) {
            return Work::More;
        }
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
        // What is under way leaves without more being sent after it.
        let leaving_bytes = (self.outflow.as_ref()).map_or(0, |out| out.streams.leaving_bytes());
        let block_bytes = pool.block_bytes.saturating_sub(leaving_bytes);
        if self.is_active && block_bytes <= tiers.marks.low_bytes && !is_urgent {
            self.is_active = false;
            if let (Some(store), Some(outflow)) = (&tiers.store, &mut self.outflow) {
                outflow.end_round(context, store);
            }
            tiers.pool.settle();
        }
        let holes = pool.block_bytes - pool.slot_bytes;
        if !self.is_active {
            tiers.set_pressure(Pressure::Calm);
            context.stats.is_over_budget.set(0);
            return self.tidy(context, &pool);
        }
        let did = holes > pool.block_bytes / LOOSE_SHARE && self.compact(context) > 0
            || self.make_room(context, block_bytes)
            || self.compact(context) > 0
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
            // Time alone makes the budget larger, and nobody rings for that.
            None if is_asked || context.stats.is_over_budget.get() != 0 => Work::Blocked,
            None => Work::Idle,
        }
    }

    /// Does a piece of a checkpoint, if one is under way or due.
    fn checkpoint(&mut self, context: &Context<'_>) -> bool {
        let tiers = context.tiers;
        let (Some(store), Some(durable)) = (&tiers.store, &tiers.durable) else {
            return false;
        };
        let Some(outflow) = &mut self.outflow else {
            return false;
        };
        let Outflow {
            streams,
            cleaner,
            checkpoint: Some(checkpoint),
            relief: Some(relief),
            victims,
            ..
        } = outflow
        else {
            return false;
        };
        let mut tools = Tools {
            store,
            durable,
            streams,
            cleaner,
            relief,
        };
        let did = checkpoint.run(context, &mut tools);
        if did {
            // Those that were chosen may be in the store by now.
            victims.clear();
        }
        did
    }

    /// Verifies a piece of the store if it is time for one; for when [`step`](Self::step) has nothing
    /// to do. `now_us`: microseconds on any clock that never goes back. Gives the microseconds after
    /// which it wants to be called again, None if never.
    pub fn scrub(&mut self, context: &Context<'_>, now_us: u64) -> Option<u64> {
        let store = context.tiers.store.as_ref()?;
        self.scrub.as_mut()?.piece(context, store, now_us)
    }

    /// Gives freed segments back, moves objects together and gives back the memory of free frames. Under writers that would take
    /// from them what they ask for next, so no memory goes back then, and objects move in a pool that is nearly full
    /// alone, a few for each write.
    fn tidy(&mut self, context: &Context<'_>, pool: &ZpoolStats) -> Work {
        let tiers = context.tiers;
        let arena = tiers.pool.arena();
        if let Some(work) = self.tidy_store(context) {
            return work;
        }
        if let Some(work) = self.moving.run(context, &mut self.scratch) {
            return work;
        }
        let writes = tiers.clock.writes();
        let written = writes - std::mem::replace(&mut self.writes_paced, writes);
        self.pace.note_writes(written);
        if self.pace.allows(pool) && pool.block_bytes > tiers.marks.low_bytes {
            let moved = self.compact(context);
            self.pace.note_moves(moved, pool.objects);
            if moved > 0 {
                return Work::More;
            }
        }
        let spare_frames = arena.frames() / SPARE_SHARE;
        let holes = pool.block_bytes - pool.slot_bytes;
        let is_loose = holes > pool.block_bytes / LOOSE_SHARE_QUIET;
        if !is_loose && arena.spare_frames() <= spare_frames {
            return Work::Idle;
        }
        if std::mem::replace(&mut self.writes_seen, writes) != writes {
            return Work::Later;
        }
        if is_loose && self.compact(context) > 0 {
            return Work::More;
        }
        arena.release_free(spare_frames);
        Work::Idle
    }

    /// Empties one sparse block into the free slots of others, or moves a few objects so that there are fewer holes. Returns how
    /// many were moved: 0 if there is nothing of that to do.
    fn compact(&mut self, context: &Context<'_>) -> u64 {
        let (tiers, scratch) = (context.tiers, &mut self.scratch);
        let mut moved = 0;
        tiers.pool.isolate(&mut |resident| {
            let tag = resident.tag;
            let alloc = |object: ObjectAt<Handle>| tiers.pool.alloc(object.bytes, tag).ok();
            moved += u64::from(relocate(context, scratch, resident, alloc));
        });
        tiers.pool.settle();
        context.stats.pages_compacted.add(moved);
        moved
    }

    /// Discards freed segments and fills up the free ones. None: nothing to do.
    fn tidy_store(&mut self, context: &Context<'_>) -> Option<Work> {
        let (Some(store), Some(outflow)) = (&context.tiers.store, &mut self.outflow) else {
            return None;
        };
        if outflow.streams.is_under_way() {
            outflow.streams.land(context, store);
            return Some(Work::More);
        }
        if store.tidy() {
            return Some(Work::More);
        }
        let allows = outflow.may_write(context, store);
        if outflow.streams.health().is_degraded() {
            return (allows && outflow.probe(context, store)).then_some(Work::More);
        }
        if outflow.streams.bury(store, BURIED_PER_PIECE) {
            return Some(Work::More);
        }
        let may_clean = allows && outflow.budget.is_ample();
        let Outflow {
            cleaner, streams, ..
        } = outflow;
        let did = may_clean.then(|| cleaner.get_ahead(context, store, streams));
        let is_running = did.flatten()?;
        Some(if is_running { Work::More } else { Work::Later })
    }

    /// Writes back or cleans. False: there is no store, or nothing could be written.
    fn make_room(&mut self, context: &Context<'_>, block_bytes: u64) -> bool {
        let (Some(store), Some(outflow)) = (&context.tiers.store, &mut self.outflow) else {
            return false;
        };
        let excess = block_bytes.saturating_sub(context.tiers.marks.low_bytes);
        outflow.run(context, store, excess)
    }
}

impl Outflow {
    /// Writes back so that `excess_bytes` leave the pool, and cleans in its measure. False: nothing
    /// could be done.
    fn run(&mut self, context: &Context<'_>, store: &Store, excess_bytes: u64) -> bool {
        let is_over_budget = !self.budget.allows(store.segment_bytes().into());
        if is_over_budget && context.stats.is_over_budget.get() == 0 {
            context.stats.budget_waits.add(1);
        }
        context.stats.is_over_budget.set(is_over_budget.into());
        let may_write = self.may_write(context, store);
        // What has landed may have been all that there was, and is room: nobody is stuck.
        let mut is_landed = false;
        if self.streams.is_written() || !may_write {
            is_landed = self.streams.land(context, store);
            if !may_write {
                return is_landed;
            }
        }
        let did = self.write_or_clean(context, store, excess_bytes) || is_landed;
        // What is under way may be the room that is wanted.
        did || self.streams.is_under_way()
            && (self.streams.land(context, store) || !self.streams.health().is_degraded())
    }

    /// Do budget and device allow a segment to be written?
    fn may_write(&self, context: &Context<'_>, store: &Store) -> bool {
        self.budget.allows(store.segment_bytes().into())
            && self.streams.health().allows(context.now)
    }

    /// Sends a batch of the oldest objects although the pool is below its marks, to see whether a
    /// device that failed can be written again; what it takes to make a segment for it is done before. If the
    /// superblock is still to be written, that is what is tried.
    /// False: there is nothing to write, or no place for it.
    fn probe(&mut self, context: &Context<'_>, store: &Store) -> bool {
        if store.is_superblock_owed() {
            return self.streams.write_superblock(context, store);
        }
        let mut is_working = true;
        for _ in 0..PROBE_PIECES_MAX {
            is_working = match self.transfer(context, store, 0, None) {
                Outcome::Did(0) => true,
                Outcome::NoSegment => self.make_segment(context, store, 0),
                Outcome::Did(_) | Outcome::Nothing => false,
            };
            if !is_working || self.streams.has_sent() {
                break;
            }
        }
        self.victims.clear();
        self.streams.abandon(context, store, &Stream::OF_WRITE_BACK);
        is_working || self.streams.has_sent()
    }

    fn write_or_clean(&mut self, context: &Context<'_>, store: &Store, excess_bytes: u64) -> bool {
        if self.cleaner.keep_pace(context, store, &mut self.streams) {
            return true;
        }
        match self.transfer(context, store, excess_bytes, None) {
            Outcome::Did(bytes) => {
                self.cleaner.earn(store, bytes);
                true
            }
            Outcome::Nothing => false,
            Outcome::NoSegment => self.make_segment(context, store, excess_bytes),
        }
    }

    fn transfer(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        bytes: u64,
        to: Option<Stream>,
    ) -> Outcome {
        let (streams, victims) = (&mut self.streams, &mut self.victims);
        transfer((context, store), streams, victims, bytes, to)
    }

    /// There is no segment to write back into. Sparse ones are emptied together; where none is sparse,
    /// what lives in the emptiest goes to the device together with victims, which takes as many
    /// segments as it frees.
    fn make_segment(&mut self, context: &Context<'_>, store: &Store, excess_bytes: u64) -> bool {
        if self.streams.is_under_way() {
            // It may have emptied some.
            return self.streams.land(context, store) || !self.streams.health().is_degraded();
        }
        let (cleaner, streams) = (&mut self.cleaner, &mut self.streams);
        if cleaner.piece(context, store, streams, Need::Now) {
            return true;
        }
        if cleaner.is_between_segments() && streams.is_filling(Stream::Survivors) {
            let to = Some(Stream::Survivors);
            return self.transfer(context, store, excess_bytes, to) != Outcome::Nothing;
        }
        if cleaner.piece(context, store, streams, Need::Last) {
            return true;
        }
        let (Some(durable), Some(relief)) = (&context.tiers.durable, &mut self.relief) else {
            return false;
        };
        if store.segments_released() > 0 && free_held(context, store, durable, streams) == Ok(true)
        {
            return true;
        }
        let relieved = relief.run(context, &mut (store, durable, streams), (0, false));
        matches!(relieved, Ok(Relieved::Freed(_)))
    }

    /// The pool is below its low mark.
    fn end_round(&mut self, context: &Context<'_>, store: &Store) {
        self.victims.clear();
        self.streams.land_all(context, store);
        self.streams.abandon(context, store, &Stream::OF_WRITE_BACK);
    }

    /// After a step: pays for what was written.
    fn settle(&mut self, stats: &WritebackStats) {
        self.budget.spend(self.streams.take_written_bytes());
        let left = self.budget.left_bytes().unwrap_or(u64::MAX);
        stats.budget_left_bytes.set(left);
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
