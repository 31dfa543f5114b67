//! Cleaning: what still lives in sparse segments is moved together, and the segments become free.
//!
//! One piece reads at most one stretch of the device ([`READ_BYTES_MAX`]) and copies what lives there
//! into the survivors' batch, or writes that batch, so a read that misses never waits behind more
//! than one such request. The records stay where they are, readable, until the batch is written.
//!
//! How much, so that writers never wait for it and the device is not kept busy with it:
//!
//! * While objects are written back, cleaning earns with every byte of them, the more the fewer
//!   segments are free: nothing at the target, [`EARNED_MAX`] bytes a byte when none are left. It
//!   settles where it frees as much as write-back takes, so its share of the device follows from
//!   what is written and not from a setting that would be wrong for one device or the other.
//! * While nothing is written back, it fills up the free segments to the target, for at most
//!   [`AHEAD_RUN`] of each [`AHEAD_RUN`] and pause: a fifth of the time of the device.
//! * When write-back finds no segment, it is cleaning's turn until there is one.
//!
//! The target is small, since room that is kept free is room that cleaning cannot choose from: it
//! makes every segment that is cleaned a little fuller.
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use std::time::Duration;

use super::Context;
use super::streams::{Push, Stream, Streams, is_current, lose};
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::store::{
    Candidates, Choice, Location, READ_BYTES_MAX, ReadBuffer, RecordRef, SegmentIndex, Store,
};

/// A segment is worth cleaning when at most this share of it lives, in per cent. Cleaning at 75 % live
/// costs three bytes written for each byte freed; above that the log would mostly copy itself.
const LIVE_PERCENT_MAX: u32 = 75;

/// The limit when nothing else helps: better a log that copies much than writes refused.
const LIVE_PERCENT_MAX_LAST: u32 = 95;

/// Bytes of records that cleaning may move for each byte written back, at most: what emptying
/// segments of [`LIVE_PERCENT_MAX`] costs.
const EARNED_MAX: u64 = 3;

/// Segments that are kept free besides the reserve: this share of all.
const TARGET_SHARE: u32 = 128;
/// But at least so many.
const TARGET_MIN: u32 = 2;

/// How long cleaning ahead of need works before it pauses, while nothing is written back. The pause
/// is the background thread's, 100 ms.
const AHEAD_RUN: Duration = Duration::from_millis(25);

/// How long segments stay set aside, at least, when nothing but them could be emptied.
const RETRY: Duration = Duration::from_secs(60);

/// How badly a free segment is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Not now.
    Ahead,
    /// Write-back waits for one.
    Now,
    /// The same, and no segment is sparse.
    Last,
}

/// Cleaning between two pieces.
pub(super) struct Cleaner {
    candidates: Candidates,
    buffer: ReadBuffer,
    /// What lives in the segment that is being emptied, the next at the end.
    records: Vec<RecordRef>,
    /// The records of the present piece.
    piece: Vec<RecordRef>,
    /// Segments that were emptied into the survivors' batch since it was opened.
    emptied: u32,
    /// Bytes that may be moved before more is written back.
    earned_bytes: u64,
    /// When segments that could not be read may be tried again.
    retry_at: Duration,
    /// When cleaning ahead of need began to work after its last pause.
    ahead_since: Option<Duration>,
}

impl Cleaner {
    /// Buffers for segments of `store`.
    pub(super) fn new(store: &Store) -> Cleaner {
        let room = || Vec::with_capacity(store.records_max());
        Cleaner {
            candidates: Candidates::default(),
            buffer: ReadBuffer::new(),
            records: room(),
            piece: room(),
            emptied: 0,
            earned_bytes: 0,
            retry_at: Duration::ZERO,
            ahead_since: None,
        }
    }

    /// `bytes` were written back: cleaning may do its share.
    pub(super) fn earn(&mut self, store: &Store, bytes: u64) {
        let target = u64::from(target(store));
        let earned = bytes * EARNED_MAX * u64::from(missing(store)) / target;
        let most = EARNED_MAX * u64::from(store.segment_bytes());
        self.earned_bytes = (self.earned_bytes + earned).min(most);
    }

    /// Does what was earned. False: nothing was, or there is nothing to clean.
    pub(super) fn keep_pace(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        streams: &mut Streams,
    ) -> bool {
        if self.earned_bytes == 0 {
            return false;
        }
        let did = self.piece(context, store, streams, Need::Ahead);
        if !did {
            self.earned_bytes = 0;
        }
        did
    }

    /// Works while nothing is written back. None: there is nothing to do; false: it pauses.
    pub(super) fn get_ahead(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        streams: &mut Streams,
    ) -> Option<bool> {
        if missing(store) == 0 {
            self.ahead_since = None;
            return None;
        }
        let since = *self.ahead_since.get_or_insert(context.now);
        if context.now.saturating_sub(since) >= AHEAD_RUN {
            self.ahead_since = None;
            return Some(false);
        }
        if self.piece(context, store, streams, Need::Ahead) {
            return Some(true);
        }
        // The batch itself takes a segment: to write it pays if it frees more than one.
        let did = self.emptied > 1 && self.write(context, store, streams);
        did.then_some(true)
    }

    /// Are fewer segments free than should be?
    pub(super) fn wants_segments(&self, store: &Store) -> bool {
        missing(store) > 0
    }

    /// Is every segment that was named empty, or as good as empty once the batch is written?
    pub(super) fn is_between_segments(&self) -> bool {
        self.records.is_empty()
    }

    /// Does one piece. False: no segment can be emptied, or there is none to write to.
    pub(super) fn piece(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        streams: &mut Streams,
        need: Need,
    ) -> bool {
        if self.records.is_empty() {
            return self.name(context, store, streams, need);
        }
        if !streams.open_survivors(store) {
            return false;
        }
        self.take_piece(store, streams);
        if self.piece.is_empty() {
            return self.write(context, store, streams);
        }
        self.copy_piece(context, store, streams);
        self.emptied += u32::from(self.records.is_empty());
        true
    }

    /// Chooses the next segment and lists what lives in it.
    fn name(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        streams: &mut Streams,
        need: Need,
    ) -> bool {
        let (choice, percent) = match need {
            Need::Ahead => (Choice::Benefit, LIVE_PERCENT_MAX),
            Need::Now => (Choice::Emptiest, LIVE_PERCENT_MAX),
            Need::Last => (Choice::Emptiest, LIVE_PERCENT_MAX_LAST),
        };
        let mut named = store.victim(&mut self.candidates, choice, percent);
        if named.is_none() && need == Need::Last && context.now >= self.retry_at {
            self.retry_at = context.now + RETRY;
            if store.retry_set_aside() {
                named = store.victim(&mut self.candidates, choice, percent);
            }
        }
        let Some(segment) = named else {
            return false;
        };
        if !streams.open_survivors(store) {
            store.spare(store.start(segment));
            return false;
        }
        self.list(context, store, segment);
        true
    }

    fn list(&mut self, context: &Context<'_>, store: &Store, segment: SegmentIndex) {
        let records = &mut self.records;
        let listed = store.segment_records(segment, &mut self.buffer, &mut |record| {
            if is_current(context, &record) {
                records.push(record);
            }
        });
        if listed.is_err() {
            store.set_aside(segment);
        }
        records.reverse();
    }

    /// Takes the next records that lie within one read and fit into the batch.
    fn take_piece(&mut self, store: &Store, streams: &Streams) {
        let shipment = streams.shipment(Stream::Survivors);
        self.piece.clear();
        let (mut bytes, mut first) = (0, None::<Location>);
        while let Some(record) = self.records.last() {
            let first = *first.get_or_insert(record.location);
            let record_bytes = store.record_bytes(record.bytes);
            let end = record.location.offset() + u64::from(record_bytes);
            let is_near = end - first.offset() <= READ_BYTES_MAX as u64 || self.piece.is_empty();
            if !is_near || !shipment.fits(self.piece.len() as u32 + 1, bytes + record_bytes) {
                break;
            }
            bytes += record_bytes;
            self.piece.extend(self.records.pop());
        }
        self.earned_bytes = self.earned_bytes.saturating_sub(u64::from(bytes));
    }

    /// Reads the piece and copies it. A record that does not verify is lost; one that the device
    /// does not give keeps its segment from being named again.
    fn copy_piece(&mut self, context: &Context<'_>, store: &Store, streams: &mut Streams) {
        let piece = &mut self.piece;
        // Listed some steps ago: the page may have moved on, and the segment too.
        piece.retain(|record| is_current(context, record));
        store.read(&mut self.buffer, piece, &mut |index, object| {
            let record = &piece[index];
            match object {
                Ok(object) => {
                    let record = (record, object);
                    let pushed = streams.push_record(context, store, record, Stream::Survivors);
                    assert!(
                        matches!(pushed, Push::Done | Push::Stale),
                        "it was looked whether it fits: {pushed:?}"
                    );
                }
                Err(Error::Corrupt { .. }) => {
                    if lose(context, record) {
                        name(context, record, Fault::Damaged);
                    }
                }
                Err(_) => {
                    store.set_aside_at(record.location);
                    name(context, record, Fault::Unreadable);
                }
            }
        });
    }

    /// Sends the survivors' batch on its way. False: it is empty.
    pub(super) fn write(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        streams: &mut Streams,
    ) -> bool {
        self.emptied = 0;
        // After a failure, which is counted there, the segments can be named again.
        streams.is_filling(Stream::Survivors) && {
            streams.send(context, store, Stream::Survivors);
            true
        }
    }
}

/// Leaves the name of a record that cleaning could not move.
fn name(context: &Context<'_>, record: &RecordRef, fault: Fault) {
    let (page, offset) = (PageId(record.page), record.location.offset());
    context.incidents.add(page, offset, fault, Finder::Cleaning);
}

/// Segments to be kept free besides the reserve.
fn target(store: &Store) -> u32 {
    (store.segments() / TARGET_SHARE).max(TARGET_MIN)
}

/// Free segments that are missing to the target.
fn missing(store: &Store) -> u32 {
    let wanted = target(store) + store.segments_reserved();
    wanted.saturating_sub(store.segments_free())
}
