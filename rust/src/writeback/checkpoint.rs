//! Making everything that durable exports owe survive loss of the host: what a client's FLUSH waits for.
//!
//! A checkpoint sends what is in open batches, then writes down every page that is owed, in the order of
//! their numbers: the object of one that is in the pool, which is in the store from then on, and a mark
//! for one that has no object. When all of that has landed it syncs, and then the flushes that were asked
//! for before it began are answered. A page that is changed meanwhile is owed again, or still: the version
//! that was written down is one that the flush may be answered with, and its segment is kept until a
//! later checkpoint (`Store::outlived`).
//!
//! It is made for a flush; when so much is owed that there may soon be no room for it; when segments that
//! wait for one are wanted, or were relieved for want of others; and when a recovery would have much to
//! verify. The budget does not stop it: what it writes is counted there.
//!
//! When segments run out, some are emptied first, those too that wait for the very checkpoint (`relief`). When that
//! does not help, or the device fails, the flushes fail; everything is owed as before, and the next checkpoint tries
//! again.
//!
//! After a sync that failed nothing that it should have covered is believed: it is written again, from
//! what can be read of it, by the next process if this one is killed before (`durable::Belief`).
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Context;
use super::cleaner::Cleaner;
use super::owed;
use super::relief::{Relief, Relieved};
use super::streams::{Push, Stream, Streams};
use crate::durable::{Durable, Flush, FlushError};
use crate::page::PageId;
use crate::stats::Counter;
use crate::store::{ReadBuffer, Store};

/// Pages that one piece looks at, at most.
const PIECE_PAGES: u32 = 1024;

/// Owed pages may need at most this share of the free segments, in per cent.
const OWED_PERCENT_MAX: u64 = 50;

/// Segments that a recovery may have to verify: this share of all, but at least so many.
const UNSURE_SHARE: u64 = 16;
const UNSURE_MIN: u64 = 64;

/// Times that segments are made free, at most, before the sweep comes on: only a page that changes at each moment
/// that it is looked at keeps it from that.
const RELIEFS_MAX: u32 = 64;

/// More than what a segment has besides its records and their entries.
const SEGMENT_OVERHEAD_BYTES: u32 = 256;
/// What the list of records takes for each.
const ENTRY_BYTES: u32 = 8;

/// Segments that are buried before a sync, at most: 4 KiB each.
const BURIED_PER_SYNC: u32 = 64;

/// How long flushes fail because the record of an owed page cannot be read, before that is taken to be for ever:
/// the page is lost then, and the flushes of all others succeed.
const UNREADABLE_FOR: Duration = Duration::from_secs(30);

/// How long a checkpoint that nobody asked for waits after one that failed, and after one that could not
/// free all segments that wait.
const PAUSE: Duration = Duration::from_secs(1);

/// What checkpoints did.
#[derive(Debug, Default)]
pub struct CheckpointStats {
    /// Checkpoints that succeeded.
    pub done: Counter,
    /// Checkpoints that failed: flushes were answered with an error.
    pub failed: Counter,
    /// Pages that they wrote down.
    pub pages: Counter,
    /// Syncs of the backing file that failed.
    pub syncs_failed: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// What open batches hold goes first: a page may be in one in an older version.
    Draining,
    /// Owed pages from this one on are still to be written down.
    Sweeping(u32),
    /// Everything is sent.
    Landing,
}

/// A checkpoint, between two pieces.
pub(super) struct Checkpoint {
    stage: Stage,
    /// The store's number of it.
    number: u64,
    /// What it will answer.
    flush: Option<Flush>,
    /// The last one failed: none that nobody asked for before this time.
    not_before: Duration,
    /// Segments that waited when the last one was over, and since when.
    held_left: u32,
    held_since: Duration,
    /// Batches that had failed when that was last looked at.
    failures_seen: u64,
    has_position: bool,
    /// Times that segments were made free since the sweep last came on.
    reliefs: u32,
    /// Since when no checkpoint succeeded because the device does not give the record of an owed page.
    unreadable_since: Option<Duration>,
    /// The sequence that was next when the last one succeeded.
    last_sequence: u64,
    buffer: ReadBuffer,
}

/// What a checkpoint works with.
pub(super) struct Tools<'a> {
    pub(super) store: &'a Store,
    pub(super) durable: &'a Durable,
    pub(super) streams: &'a mut Streams,
    pub(super) cleaner: &'a mut Cleaner,
    pub(super) relief: &'a mut Relief,
}

impl Checkpoint {
    /// None yet; allocates all that it will ever need.
    pub(super) fn new(store: &Store) -> Checkpoint {
        Checkpoint {
            stage: Stage::Idle,
            number: 0,
            flush: None,
            not_before: Duration::ZERO,
            held_left: 0,
            held_since: Duration::ZERO,
            failures_seen: 0,
            has_position: false,
            reliefs: 0,
            unreadable_since: None,
            last_sequence: store.sequence_next(),
            buffer: ReadBuffer::new(),
        }
    }

    /// Does a piece. False: there is nothing to do.
    pub(super) fn run(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) -> bool {
        if self.stage == Stage::Idle && !self.begin(context, tools) {
            return false;
        }
        let outcome = match self.stage {
            Stage::Idle => Ok(()),
            Stage::Draining => {
                self.drain(context, tools);
                Ok(())
            }
            Stage::Sweeping(from) => self.sweep(context, tools, from),
            Stage::Landing => self.land(context, tools),
        };
        if let Err(why) = outcome.and_then(|()| self.look_for_failures(context, tools.streams)) {
            self.fail(context, tools, why);
        }
        true
    }

    fn begin(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) -> bool {
        let (store, durable) = (tools.store, tools.durable);
        let segment_bytes = u64::from(store.segment_bytes());
        let free = store
            .segments_free()
            .saturating_sub(store.segments_reserved());
        let room_pages = u64::from(free) * segment_bytes / context.tiers.page_bytes as u64;
        let owed_max = room_pages * OWED_PERCENT_MAX / 100;
        durable.owed_max.store(owed_max, Ordering::Relaxed);
        let flush = durable.flushes.waiting();
        if flush.is_none() && !self.is_due(tools, context.now) {
            return false;
        }
        if durable.owed.is_empty() && durable.unsynced.is_empty() && store.segments_held() == 0 {
            // Nothing has changed since the last one.
            if let Some(flush) = flush {
                durable.flushes.end(flush, Ok(()));
            }
            return flush.is_some();
        }
        if !tools.streams.health().allows(context.now) {
            // It failed a moment ago, and is tried again after a while.
            let why = failure_of(tools.streams);
            if let Some(flush) = flush {
                durable.flushes.end(flush, Err(why));
            }
            return flush.is_some();
        }
        self.flush = flush;
        // After the flushes were looked at: what they cover is owed by now. Before the first owed page
        // is looked for: what is outlived from now on waits for the next checkpoint.
        self.number = store.begin_checkpoint();
        tools.relief.was_needed = false;
        self.failures_seen = context.stats.segments_failed.get();
        self.has_position = false;
        self.reliefs = 0;
        self.stage = Stage::Draining;
        true
    }

    /// Is one wanted that nobody has asked for?
    fn is_due(&self, tools: &Tools<'_>, now: Duration) -> bool {
        let Tools {
            store,
            durable,
            cleaner,
            relief,
            ..
        } = tools;
        if now < self.not_before {
            return false;
        }
        let held = store.segments_held();
        let is_worth_it = held > self.held_left || held > 0 && now >= self.held_since + PAUSE;
        let written = store.sequence_next() - self.last_sequence;
        let unsure_max = (u64::from(store.segments()) / UNSURE_SHARE).max(UNSURE_MIN);
        durable.owes_too_much()
            || relief.was_needed
            || written > unsure_max
            || is_worth_it && cleaner.wants_segments(store)
    }

    fn drain(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) {
        if tools.streams.land(context, tools.store) {
            return;
        }
        match tools.streams.fullest() {
            Some(stream) => tools.streams.send(context, tools.store, stream),
            None => self.stage = Stage::Sweeping(0),
        }
    }

    fn sweep(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        from: u32,
    ) -> Result<(), FlushError> {
        let mut from = from;
        for _ in 0..PIECE_PAGES {
            let Some(page) = tools.durable.owed.next(from) else {
                if let Some(stream) = tools.streams.fullest() {
                    tools.streams.send(context, tools.store, stream);
                }
                self.stage = Stage::Landing;
                return Ok(());
            };
            if tools.streams.holds(page) {
                // Cleaning has it, in an older version: that goes first.
                self.stage = Stage::Draining;
                return Ok(());
            }
            match self.push(context, tools, page)? {
                Push::Done => {
                    context.stats.checkpoints.pages.add(1);
                }
                // It is not what it was a moment ago: looked at again.
                Push::Stale if tools.durable.owed.contains(page) => continue,
                Push::Stale => {}
                Push::Full(stream) => {
                    tools.streams.send(context, tools.store, stream);
                    self.stage = Stage::Sweeping(page.0);
                    return Ok(());
                }
                Push::NoSegment => {
                    self.stage = Stage::Sweeping(page.0);
                    return self.relieve(context, tools, page);
                }
            }
            from = page.0 + 1;
        }
        self.stage = Stage::Sweeping(from);
        Ok(())
    }

    /// Puts an owed page into a batch.
    fn push(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        page: PageId,
    ) -> Result<Push, FlushError> {
        let (store, durable) = (tools.store, tools.durable);
        if !self.has_position {
            let position = durable.position.load(Ordering::Relaxed);
            match tools.streams.push_position(store, position) {
                Push::Done => self.has_position = true,
                other => return Ok(other),
            }
        }
        let tools = (store, durable, &mut *tools.streams);
        let pushed = owed::push(context, tools, &mut self.buffer, page, Stream::Old);
        if pushed.is_err() {
            let since = *self.unreadable_since.get_or_insert(context.now);
            if context.now - since >= UNREADABLE_FOR {
                owed::give_up(context, page);
                return Ok(Push::Stale);
            }
        }
        pushed
    }

    /// Makes segments free, and writes down what keeps them and what is next.
    fn relieve(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        page: PageId,
    ) -> Result<(), FlushError> {
        let parts = &mut (tools.store, tools.durable, &mut *tools.streams);
        let from = (page.0, self.reliefs > 0);
        let Relieved::Freed(next) = tools.relief.run(context, parts, from)? else {
            return match open_from_reserve(context, tools) {
                true => Ok(()),
                false => Err(FlushError::Full),
            };
        };
        self.stage = Stage::Sweeping(next);
        self.reliefs = if next > page.0 { 0 } else { self.reliefs + 1 };
        match self.reliefs < RELIEFS_MAX {
            true => Ok(()),
            false => Err(FlushError::Full),
        }
    }

    fn land(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) -> Result<(), FlushError> {
        let Tools {
            store,
            durable,
            streams,
            ..
        } = tools;
        if streams.land(context, store) || streams.is_under_way() {
            return Ok(());
        }
        if let Some(stream) = streams.fullest() {
            streams.send(context, store, stream);
            return Ok(());
        }
        self.look_for_failures(context, streams)?;
        if self.stage != Stage::Landing {
            return Ok(());
        }
        sync(context, store, durable, streams)?;
        let sequence = store.sequence_next();
        let (position, is_because_of_pages) = store.whole_up_to(sequence);
        durable.position.store(position, Ordering::Relaxed);
        (context.tiers.belief()).settle(sequence, position, !is_because_of_pages);
        self.last_sequence = sequence;
        self.unreadable_since = None;
        store.end_checkpoint(self.number);
        if let Some(flush) = self.flush.take() {
            durable.flushes.end(flush, Ok(()));
        }
        if tools.cleaner.wants_segments(store) && store.segments_spent() > 0 {
            sync(context, store, durable, streams)?;
        }
        (self.held_left, self.held_since) = (store.segments_held(), context.now);
        self.stage = Stage::Idle;
        context.stats.checkpoints.done.add(1);
        Ok(())
    }

    /// After a batch that could not be written its pages are still owed: begins again with the first,
    /// unless the device fails wherever it is written.
    fn look_for_failures(
        &mut self,
        context: &Context<'_>,
        streams: &Streams,
    ) -> Result<(), FlushError> {
        let failures = context.stats.segments_failed.get();
        if std::mem::replace(&mut self.failures_seen, failures) == failures {
            return Ok(());
        }
        self.has_position = false;
        if streams.health().is_degraded() {
            return Err(failure_of(streams));
        }
        if self.stage != Stage::Idle {
            self.stage = Stage::Draining;
        }
        Ok(())
    }

    fn fail(&mut self, context: &Context<'_>, tools: &Tools<'_>, why: FlushError) {
        if let Some(flush) = self.flush.take() {
            tools.durable.flushes.end(flush, Err(why));
        }
        self.not_before = context.now + PAUSE;
        self.stage = Stage::Idle;
        context.stats.checkpoints.failed.add(1);
    }
}

/// Why the device cannot be written.
pub(super) fn failure_of(streams: &Streams) -> FlushError {
    if streams.health().is_out_of_space() {
        FlushError::Full
    } else {
        FlushError::Failed
    }
}

/// Buries segments and syncs what has landed. After a failure nothing that is not known to be on the device is believed, by
/// the next process neither.
pub(super) fn sync(
    context: &Context<'_>,
    store: &Store,
    durable: &Durable,
    streams: &mut Streams,
) -> Result<(), FlushError> {
    let belief = context.tiers.belief();
    streams.bury(store, BURIED_PER_SYNC);
    // What is under way might be told of in the answer to this sync and to no other.
    streams.land_all(context, store);
    let was_in_doubt = belief.doubt();
    let covered = store.sequence_next();
    match store.sync() {
        Ok(()) => {
            // What was promised may have been superseded by what is there now, and be reused.
            store.set_promised(covered);
            if was_in_doubt {
                belief.note_anew(covered);
            } else {
                belief.promise(covered);
                belief.restore();
            }
            durable.unsynced.drain(|_| {});
            Ok(())
        }
        Err(_) => {
            context.stats.checkpoints.syncs_failed.add(1);
            belief.begin_anew(store.sequence_next());
            let tiers = context.tiers;
            (durable.unsynced).drain(|page| tiers.owe_again(&tiers.table.lock(page)));
            Err(FlushError::Failed)
        }
    }
}

/// Takes a segment that is kept for relief, where there can be none: after a sync that failed everything waits for
/// this checkpoint. False: it would not be enough for that.
fn open_from_reserve(context: &Context<'_>, tools: &mut Tools<'_>) -> bool {
    pays_for_itself(context, tools) && tools.streams.open_from_reserve(tools.store)
}

/// Would the free segments, those that are kept for cleaning included, take all that is owed, and others be freed by
/// that?
fn pays_for_itself(context: &Context<'_>, tools: &Tools<'_>) -> bool {
    let Tools { store, durable, .. } = tools;
    let free = store.segments_free();
    if free == 0 || store.segments_held() == 0 {
        return false;
    }
    // What does not fit the end of one segment goes to the next.
    let record_bytes_max = store.record_bytes(context.tiers.page_bytes as u32) + ENTRY_BYTES;
    let usable = u64::from(store.segment_bytes() - SEGMENT_OVERHEAD_BYTES);
    let room = usable + u64::from(free - 1) * usable.saturating_sub(record_bytes_max.into());
    let (mut bytes, mut from) = (0, 0);
    while let Some(page) = durable.owed.next(from) {
        from = page.0 + 1;
        let object_bytes = owed::object_bytes(context.tiers, page);
        bytes += u64::from(store.record_bytes(object_bytes) + ENTRY_BYTES);
        if bytes > room {
            return false;
        }
    }
    true
}

/// Syncs until segments that wait for that are free. False: none is.
///
/// # Errors
/// A sync failed, or none of them can be buried.
pub(super) fn free_held(
    context: &Context<'_>,
    store: &Store,
    durable: &Durable,
    streams: &mut Streams,
) -> Result<bool, FlushError> {
    let free = store.segments_free();
    // What the first one lets go of has to be buried, which the second one makes last.
    for _ in 0..2 {
        if store.segments_held() > 0 && store.segments_free() == free {
            sync(context, store, durable, streams)?;
        }
    }
    match store.segments_free() > free {
        false if store.segments_spent() > 0 => Err(FlushError::Failed),
        is_free => Ok(is_free),
    }
}
