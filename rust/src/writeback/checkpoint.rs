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
//! wait for one are wanted; and when a recovery would have much to verify. The budget does not stop it:
//! what it writes is counted there.
//!
//! When segments run out, sparse ones are cleaned and synced; after that it takes one of those that are kept
//! for cleaning, if that is enough and frees others. When that does not help, or the device
//! fails, the flushes fail; everything is owed as before, and the next checkpoint tries again.
//!
//! After a sync that failed nothing that it should have covered is believed: it is written again, from
//! what can be read of it, by the next process if this one is killed before (`durable::Belief`).
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Context;
use super::cleaner::{Cleaner, Need};
use super::streams::{Push, Stream, Streams, is_current, lose};
use super::victims::Victim;
use crate::durable::{Durable, Flush, FlushError, MARK_BYTES};
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::stats::Counter;
use crate::store::{ReadBuffer, RecordRef, Store};
use crate::table::{ObjectAt, Place};

/// Pages that one piece looks at, at most.
const PIECE_PAGES: u32 = 1024;

/// Owed pages may need at most this share of the free segments, in per cent.
const OWED_PERCENT_MAX: u64 = 50;

/// Segments that a recovery may have to verify: this share of all, but at least so many.
const UNSURE_SHARE: u64 = 16;
const UNSURE_MIN: u64 = 64;

/// Pieces of cleaning that are tried for a segment before the store is called full: enough to empty two dozen full
/// segments, which must give one. Segments that nearly all live can be moved together without end.
const CLEANING_PIECES_MAX: u32 = 512;

/// Segments that are emptied before they are made free.
const EMPTIED_MAX: u32 = 16;

/// More than what a segment has besides its records and their entries.
const SEGMENT_OVERHEAD_BYTES: u32 = 256;
/// What the list of records takes for each.
const ENTRY_BYTES: u32 = 8;

/// Segments that are buried before a sync, at most: 4 KiB each.
const BURIED_PER_SYNC: u32 = 64;

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
    /// Pieces of cleaning since a page was last written down.
    cleaning_pieces: u32,
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
            cleaning_pieces: 0,
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

    fn begin(&mut self, context: &Context<'_>, tools: &Tools<'_>) -> bool {
        let Tools { store, durable, .. } = tools;
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
        self.failures_seen = context.stats.segments_failed.get();
        self.has_position = false;
        self.cleaning_pieces = 0;
        self.stage = Stage::Draining;
        true
    }

    /// Is one wanted that nobody has asked for?
    fn is_due(&self, tools: &Tools<'_>, now: Duration) -> bool {
        let Tools {
            store,
            durable,
            cleaner,
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
                    self.cleaning_pieces = 0;
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
                    self.cleaning_pieces += 1;
                    let found = self.cleaning_pieces < CLEANING_PIECES_MAX
                        && find_room(context, tools)?
                        || open_from_reserve(context, tools)?;
                    return if found { Ok(()) } else { Err(FlushError::Full) };
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
        let word = context.tiers.table.peek(page);
        Ok(match word.place() {
            Place::Pool(object) => {
                let victim = Victim {
                    page,
                    object,
                    is_read: false,
                };
                (tools.streams).push_victim(context, store, &victim, Stream::Old)
            }
            Place::Store(object) => return self.push_stored(context, tools, (page, object)),
            Place::Hole | Place::Same(_) | Place::Lost => {
                tools.streams.push_mark(context, store, page, durable)
            }
            Place::Unwritten => {
                // Never written, and so nothing of it can be owed.
                durable.owed.remove(page);
                Push::Stale
            }
        })
    }

    /// Writes a page again whose record is not to be relied on.
    fn push_stored(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        (page, object): (PageId, ObjectAt<crate::store::Location>),
    ) -> Result<Push, FlushError> {
        let (store, streams) = (tools.store, &mut *tools.streams);
        let record = RecordRef {
            page: page.0,
            codec: object.codec as u8,
            bytes: object.bytes as u32,
            location: object.at,
            sequence: store.sequence(object.at),
        };
        let mut pushed = Ok(Push::Stale);
        store.read(&mut self.buffer, &[record], &mut |_, bytes| {
            pushed = match bytes {
                Ok(bytes) => Ok(streams.push_record(context, store, (&record, bytes), Stream::Old)),
                Err(_) if !is_current(context, &record) => Ok(Push::Stale),
                Err(Error::Corrupt { .. }) => {
                    if lose(context, &record) {
                        let offset = record.location.offset();
                        let incidents = context.incidents;
                        incidents.add(page, offset, Fault::Damaged, Finder::Cleaning);
                    }
                    Ok(Push::Stale)
                }
                Err(_) => Err(FlushError::Failed),
            };
        });
        pushed
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
fn failure_of(streams: &Streams) -> FlushError {
    if streams.health().is_out_of_space() {
        FlushError::Full
    } else {
        FlushError::Failed
    }
}

/// Buries segments and syncs what has landed. After a failure nothing that is not known to be on the device is believed, by
/// the next process neither.
fn sync(
    context: &Context<'_>,
    store: &Store,
    durable: &Durable,
    streams: &mut Streams,
) -> Result<(), FlushError> {
    let belief = context.tiers.belief();
    streams.bury(store, BURIED_PER_SYNC);
    let was_in_doubt = belief.doubt();
    // Segments of smaller sequences are all landed, and on the device if this succeeds.
    let covered = (!streams.is_under_way()).then(|| store.sequence_next());
    match store.sync() {
        Ok(()) => {
            // What was promised may have been superseded by what is there now, and be reused.
            if let Some(sequence) = covered {
                store.set_promised(sequence);
            }
            if !was_in_doubt {
                covered.inspect(|sequence| belief.promise(*sequence));
                belief.restore();
            }
            durable.unsynced.drain(|_| {});
            Ok(())
        }
        Err(_) => {
            context.stats.checkpoints.syncs_failed.add(1);
            let tiers = context.tiers;
            (durable.unsynced).drain(|page| tiers.owe_again(&tiers.table.lock(page)));
            Err(FlushError::Failed)
        }
    }
}

/// Takes a segment that is kept for cleaning, after those that wait for syncs alone were made free. False: that
/// would not pay.
///
/// # Errors
/// As [`free_held`].
fn open_from_reserve(context: &Context<'_>, tools: &mut Tools<'_>) -> Result<bool, FlushError> {
    let store = tools.store;
    if store.segments_released() > 0 {
        free_held(context, store, tools.durable, tools.streams)?;
    }
    Ok(pays_for_itself(context, tools) && tools.streams.open_from_reserve(store))
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
        let object_bytes = match context.tiers.table.peek(page).place() {
            Place::Pool(object) => object.bytes,
            Place::Store(object) => object.bytes,
            _ => MARK_BYTES,
        };
        bytes += u64::from(store.record_bytes(object_bytes as u32) + ENTRY_BYTES);
        if bytes > room {
            return false;
        }
    }
    true
}

/// There is no segment to write into. True: there may be one now.
///
/// # Errors
/// A sync failed: what was written down is owed again, from the first page on.
fn find_room(context: &Context<'_>, tools: &mut Tools<'_>) -> Result<bool, FlushError> {
    let Tools {
        store,
        durable,
        streams,
        cleaner,
    } = tools;
    if streams.land(context, store) {
        return Ok(true);
    }
    // Few records may be all that lives in hundreds of segments: to move them all first would take for ever.
    if cleaner.emptied() >= EMPTIED_MAX && cleaner.write(context, store, streams) {
        return Ok(true);
    }
    if store.segments_released() >= EMPTIED_MAX {
        return free_held(context, store, durable, streams);
    }
    let is_cleaned = cleaner.piece(context, store, streams, Need::Now)
        || cleaner.piece(context, store, streams, Need::Last);
    if is_cleaned {
        return Ok(true);
    }
    if streams.is_filling(Stream::Survivors) {
        streams.send(context, store, Stream::Survivors);
        return Ok(true);
    }
    free_held(context, store, durable, streams)
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
