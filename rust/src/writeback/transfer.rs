//! One batch on its way to the device: copied, written, and then published page by page.
//!
//! The moving mark is what makes publishing safe: a page that was rewritten meanwhile may have got the
//! same slot, length and codec again, but not the mark, and there is only one batch at a time.
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use super::Context;
use super::victims::{Victim, Victims};
use crate::codec::CodecId;
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::store::{Batch, Location, ReadBuffer, Reason, RecordRef, SegmentIndex, Store};
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::Tiers;
use crate::zpool::Zpool;

/// A segment is worth cleaning when at most this share of it lives, in per cent. Cleaning at 75 % live
/// costs three bytes written for each byte freed; above that the log would mostly copy itself.
const CLEAN_LIVE_PERCENT: u32 = 75;

/// The limit when only the reserve is left: better a log that copies much than writes refused.
const CLEAN_LIVE_PERCENT_LAST: u32 = 95;

/// After so many segments in a row that could not be written, each at another place, the device is
/// failing: writes that find no room are refused until a later attempt succeeds.
const FAILURES_MAX: u32 = 3;

/// An object that is on its way to the device.
struct Moved {
    page: PageId,
    word: Word,
    to: Location,
}

/// The buffers of a batch, and what is in it.
pub(super) struct Transfer {
    batch: Batch,
    moved: Vec<Moved>,
    buffer: ReadBuffer,
    records: Vec<RecordRef>,
    scratch: Box<[u8]>,
    /// Segments in a row that could not be written.
    failures: u32,
}

impl Transfer {
    /// Buffers for batches of `store`.
    pub(super) fn new(tiers: &Tiers, store: &Store) -> Transfer {
        Transfer {
            batch: store.batch(),
            moved: Vec::with_capacity(store.records_max()),
            buffer: ReadBuffer::new(),
            records: Vec::with_capacity(store.records_max()),
            scratch: vec![0; tiers.pool.object_bytes_max()].into_boxed_slice(),
            failures: 0,
        }
    }

    /// Writes one segment: what still lives in the sparsest segment, if free ones are running out,
    /// and then victims. `round_bytes` are to be moved in all. False: nothing could be written.
    pub(super) fn run(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        victims: &mut Victims,
        round_bytes: u64,
    ) -> bool {
        self.moved.clear();
        let Some(sparse) = self.begin(store) else {
            return false;
        };
        if let Some(segment) = sparse {
            self.gather(context, store, segment);
        }
        let segment_bytes = u64::from(store.segment_bytes());
        let found = victims.collect(context.tiers, segment_bytes, round_bytes);
        self.copy(context, victims);
        if self.moved.is_empty() {
            // Everything that was found was overtaken: the next attempt finds something else.
            store.cancel(&mut self.batch);
            return found;
        }
        self.commit(context, store, victims)
    }

    /// Begins a batch, with the segment that it is to clean. None: there is no segment to write to.
    fn begin(&mut self, store: &Store) -> Option<Option<SegmentIndex>> {
        let sparse = store
            .is_low()
            .then(|| store.victim(CLEAN_LIVE_PERCENT))
            .flatten();
        let reason = sparse.map_or(Reason::WriteBack, |_| Reason::Cleaning);
        if store.begin(&mut self.batch, reason).is_ok() {
            return Some(sparse);
        }
        let nearly_full = store.victim(CLEAN_LIVE_PERCENT_LAST)?;
        store.begin(&mut self.batch, Reason::Cleaning).ok()?;
        Some(Some(nearly_full))
    }

    /// Copies victims into the batch until it is full, and marks them.
    fn copy(&mut self, context: &Context<'_>, victims: &mut Victims) {
        while let Some(Victim { page, object, .. }) = victims.first() {
            let guard = context.tiers.table.lock(page);
            let word = guard.word();
            if word.place() == Place::Pool(object) && !word.is_moving() {
                let bytes = context
                    .tiers
                    .pool
                    .load(object.at, object.bytes, &mut self.scratch);
                let Some(to) = self.batch.push(page.0, object.codec as u8, bytes) else {
                    return;
                };
                let word = word.with_moving(true);
                guard.publish(word);
                self.moved.push(Moved { page, word, to });
            }
            victims.pop();
        }
    }

    /// Writes the batch and publishes the new place of every page that is still where it was.
    fn commit(&mut self, context: &Context<'_>, store: &Store, victims: &mut Victims) -> bool {
        if store.commit(&mut self.batch).is_err() {
            context.stats.segments_failed.add(1);
            context.stats.is_failing.set(1);
            self.take_back(context);
            victims.clear();
            self.failures += 1;
            return self.failures < FAILURES_MAX;
        }
        context.stats.is_failing.set(0);
        self.failures = 0;
        for moved in &self.moved {
            let guard = context.tiers.table.lock(moved.page);
            let word = guard.word();
            if word.unmarked() != moved.word.unmarked()
                || word.is_moving() != moved.word.is_moving()
            {
                context.stats.pages_overtaken.add(1);
                continue;
            }
            let (codec, bytes) = match word.place() {
                Place::Pool(object) => {
                    context.stats.pages_written_back.add(1);
                    context.stats.bytes_written_back.add(object.bytes as u64);
                    (object.codec, object.bytes)
                }
                Place::Store(object) => {
                    context.stats.pages_cleaned.add(1);
                    (object.codec, object.bytes)
                }
                place => unreachable!("a batch of objects has {place:?}"),
            };
            store.retain(moved.to, bytes as u32);
            let place = Place::Store(ObjectAt {
                codec,
                bytes,
                at: moved.to,
            });
            context.tiers.replace(&guard, Word::of(place), context.lane);
        }
        store.seal(&mut self.batch);
        true
    }

    /// The batch could not be written: its pages stay where they are.
    fn take_back(&mut self, context: &Context<'_>) {
        for moved in self.moved.drain(..) {
            let guard = context.tiers.table.lock(moved.page);
            guard.publish(guard.word().with_moving(false));
        }
    }

    /// Copies what lives in a segment into the batch. A record that does not verify is lost; one
    /// that the device does not give keeps its segment from being cleaned.
    fn gather(&mut self, context: &Context<'_>, store: &Store, segment: SegmentIndex) {
        let tiers = context.tiers;
        let (records, moved, batch) = (&mut self.records, &mut self.moved, &mut self.batch);
        records.clear();
        let listed = store.segment_records(segment, &mut self.buffer, &mut |record| {
            if is_current(tiers, &record) {
                records.push(record);
            }
        });
        let mut is_readable = listed.is_ok();
        store.read(&mut self.buffer, records, &mut |index, object| {
            let record = &records[index];
            match object {
                Ok(object) => {
                    let to = batch.push(record.page, record.codec, object);
                    let to = to.expect("what lives in one segment fits into another");
                    moved.push(Moved {
                        page: PageId(record.page),
                        word: word_of(record),
                        to,
                    });
                }
                Err(Error::Corrupt { .. }) => {
                    if lose(context, record) {
                        name(context, record, Fault::Damaged);
                    }
                }
                Err(_) => {
                    is_readable = false;
                    name(context, record, Fault::Unreadable);
                }
            }
        });
        if !is_readable {
            store.set_aside(segment);
        }
    }
}

/// The word of a page that is where the record is.
fn word_of(record: &RecordRef) -> Word {
    let codec = CodecId::from_bits(record.codec).expect("we wrote it");
    Word::of(Place::Store(ObjectAt {
        codec,
        bytes: record.bytes as usize,
        at: record.location,
    }))
}

/// Is the record where its page is?
pub(super) fn is_current(tiers: &Tiers, record: &RecordRef) -> bool {
    tiers.table.peek(PageId(record.page)) == word_of(record)
}

/// The bytes of a record are not what was written: its page is lost, and known to be. False: the page
/// is elsewhere by now.
pub(super) fn lose(context: &Context<'_>, record: &RecordRef) -> bool {
    let guard = context.tiers.table.lock(PageId(record.page));
    let is_there = is_current(context.tiers, record);
    if is_there {
        context
            .tiers
            .replace(&guard, Word::of(Place::Lost), context.lane);
    }
    is_there
}

/// Leaves the name of a record that cleaning could not move.
fn name(context: &Context<'_>, record: &RecordRef, fault: Fault) {
    let (page, offset) = (PageId(record.page), record.location.offset());
    context.incidents.add(page, offset, fault, Finder::Cleaning);
}
