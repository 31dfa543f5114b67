//! The segments being filled: several batches side by side, so that what will die together lies
//! together, and what becomes of their records once they are written.
//!
//! What makes it safe to publish a record is one rule: **a page is in one open batch at most**. While
//! it is, no other batch takes it, whatever became of it meanwhile ([`Streams::holds`]).
//!
//! * An object from the pool carries the moving mark from its push on. Every change of the page takes
//!   the mark away, and only a push sets it. So a mark that is there when the object is copied, and
//!   when the batch is written, was set by this batch's push: it is one object all the time, although
//!   slot, length and codec alone could have come back.
//! * A record from the store has no mark. Its place could only have come to mean newer bytes if a
//!   newer version of the page had been written there, by a batch that was pushed to and committed
//!   meanwhile; the rule excludes it. So an equal word stands for the same bytes.
//! * A mark (`durable`: a page that has no object) is pushed and published as objects are: under the
//!   moving mark when it is new, by its place when it survives from a segment that is cleaned.
//! * A segment gets its sequence when it is committed. So of two records of a page the newer one is in
//!   the segment of the larger sequence, or there were two open batches with the page: whoever
//!   recovers a log can tell them apart.
//!
//! A batch that is under way to the device (`dispatch`) is still open in this sense, until its records
//! are published.
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use super::dispatch::{DEPTH, Dispatch};
use super::health::Health;
use super::shipment::{Shipment, mark_of};
use super::victims::Victim;
use super::{Context, WritebackStats};
use crate::codec::CodecId;
use crate::durable::{Durable, MARK_CODEC, position_object};
use crate::error::{Error, Result};
use crate::page::PageId;
use crate::store::{BLOCK_BYTES, Reason, RecordRef, Store};
use crate::table::{ObjectAt, PageGuard, Place, Word};
use crate::tiers::Tiers;

/// What is parted from what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Pages that were read since they were written: the client has them and will write them anew.
    Read,
    /// Pages that only grew old.
    Old,
    /// What outlived others in the segments that were cleaned: it will live on.
    Survivors,
}

impl Stream {
    pub(super) const ALL: [Stream; 3] = [Stream::Read, Stream::Old, Stream::Survivors];
    /// Those that write-back fills.
    pub(super) const OF_WRITE_BACK: [Stream; 2] = [Stream::Read, Stream::Old];
}

/// Batches besides those that are filled: some are under way while another is published.
const SPARES: usize = DEPTH + 1;

/// How a push went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push {
    Done,
    /// The page is not there any more, or in an open batch.
    Stale,
    /// The batch of this stream is full.
    Full(Stream),
    /// There is no free segment for it.
    NoSegment,
}

/// All open batches.
pub(super) struct Streams {
    all: [Shipment; Stream::ALL.len()],
    spares: Vec<Shipment>,
    dispatch: Arc<Dispatch>,
    /// Bytes that each batch under way will take out of the pool, the oldest first.
    under_way: VecDeque<u64>,
    /// The pages in all of them. Page numbers are hashed by a multiplication: twice for every page that
    /// is written back, keyed hashes took a sixth of all the time.
    pages: HashSet<u32, FxBuildHasher>,
    health: Health,
    /// Bytes that the device was given since they were asked for.
    written_bytes: u64,
}

impl Streams {
    /// Batches for the store of `tiers`; allocates all that they will ever need.
    pub(super) fn new(tiers: &Tiers, dispatch: Arc<Dispatch>) -> Streams {
        let store = tiers.store_of_a_stored_page();
        // Twice the room: a table that is at most half full is tidied in place when pages come and go.
        let most = (Stream::ALL.len() + SPARES) * store.records_max();
        let mut pages = HashSet::with_capacity_and_hasher(2 * most, FxBuildHasher);
        // Takes the memory now.
        pages.extend(0..most as u32);
        pages.clear();
        Streams {
            all: Stream::ALL.map(|_| Shipment::new(tiers)),
            spares: (0..SPARES).map(|_| Shipment::new(tiers)).collect(),
            dispatch,
            under_way: VecDeque::with_capacity(DEPTH),
            pages,
            health: Health::default(),
            written_bytes: 0,
        }
    }

    fn at(&mut self, stream: Stream) -> &mut Shipment {
        &mut self.all[stream as usize]
    }

    /// What a stream fills.
    pub(super) fn shipment(&self, stream: Stream) -> &Shipment {
        &self.all[stream as usize]
    }

    /// Is the page in an open batch?
    pub(super) fn holds(&self, page: PageId) -> bool {
        self.pages.contains(&page.0)
    }

    /// Does the batch of a stream hold records that are not written yet?
    pub(super) fn is_filling(&self, stream: Stream) -> bool {
        !self.shipment(stream).is_empty()
    }

    /// The stream whose batch holds most, if any holds something.
    pub(super) fn fullest(&self) -> Option<Stream> {
        Stream::ALL
            .into_iter()
            .filter(|&stream| self.is_filling(stream))
            .max_by_key(|&stream| self.shipment(stream).records_bytes())
    }

    /// Puts a victim into the batch of a stream and marks it. It is copied when the batch is written, and
    /// at once if it is of a durable export.
    pub(super) fn push_victim(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        victim: &Victim,
        to: Stream,
    ) -> Push {
        let (page, object) = (victim.page, victim.object);
        self.push(context, store, page, to, |shipment, guard| {
            let tiers = context.tiers;
            (guard.word().place() == Place::Pool(object)).then(|| match tiers.durable_of(page) {
                None => shipment.choose(store, guard, object.bytes),
                Some(_) => shipment.push_object(tiers, guard, object),
            })
        })
    }

    /// Copies a record that is read, if it is still its page's, into the batch of a stream.
    pub(super) fn push_record(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        (record, bytes): (&RecordRef, &[u8]),
        to: Stream,
    ) -> Push {
        let page = PageId(record.page);
        self.push(context, store, page, to, |shipment, guard| {
            is_current(context, record).then(|| shipment.push_record(store, guard, (record, bytes)))
        })
    }

    /// Writes down that a page has no object, if that is owed and so.
    pub(super) fn push_mark(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        (page, durable): (PageId, &Durable),
        to: Stream,
    ) -> Push {
        self.push(context, store, page, to, |shipment, guard| {
            let mark = mark_of(guard.word()).filter(|_| durable.owed.contains(page))?;
            Some(shipment.push(store, guard, (MARK_CODEC, &mark.encode())))
        })
    }

    /// Locks a page that is in no open batch, and has `put` put it into that of a stream: None if the page
    /// is not what it should be, false if there is no room for it.
    fn push(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        page: PageId,
        to: Stream,
        put: impl FnOnce(&mut Shipment, &PageGuard<'_>) -> Option<bool>,
    ) -> Push {
        if self.holds(page) {
            return Push::Stale;
        }
        let Some(stream) = self.open(store, to) else {
            return Push::NoSegment;
        };
        let guard = context.tiers.table.lock(page);
        match put(self.at(stream), &guard) {
            None => Push::Stale,
            Some(false) => Push::Full(stream),
            Some(true) => {
                self.pages.insert(page.0);
                Push::Done
            }
        }
    }

    /// Writes down that all segments of smaller sequences are whole and on the device.
    pub(super) fn push_position(&mut self, store: &Store, sequence: u64) -> Push {
        let Some(stream) = self.open(store, Stream::Old) else {
            return Push::NoSegment;
        };
        match (self.at(stream)).push_position(store, &position_object(sequence)) {
            true => Push::Done,
            false => Push::Full(stream),
        }
    }

    /// Makes sure that the survivors' batch is open. False: there is no segment.
    pub(super) fn open_survivors(&mut self, store: &Store) -> bool {
        self.open(store, Stream::Survivors).is_some()
    }

    /// Makes sure that the survivors' batch is open, in a segment that is kept for relief if there is no other.
    /// False: there is none at all.
    pub(super) fn open_for_relief(&mut self, store: &Store) -> bool {
        let batch = &mut self.at(Stream::Survivors).batch;
        batch.is_open() || store.begin(batch, Reason::Relief).is_ok()
    }

    /// Opens a batch for what has to be written down in a segment that is kept for relief. False: there is none.
    pub(super) fn open_from_reserve(&mut self, store: &Store) -> bool {
        let batch = &mut self.at(Stream::Old).batch;
        !batch.is_open() && store.begin(batch, Reason::Relief).is_ok()
    }

    /// Opens the batch of a stream; without a segment for it, the other one that write-back fills.
    fn open(&mut self, store: &Store, wanted: Stream) -> Option<Stream> {
        let (reason, other) = match wanted {
            Stream::Read => (Reason::WriteBack, Stream::Old),
            Stream::Old => (Reason::WriteBack, Stream::Read),
            Stream::Survivors => (Reason::Cleaning, Stream::Survivors),
        };
        let batch = &mut self.at(wanted).batch;
        if batch.is_open() || store.begin(batch, reason).is_ok() {
            return Some(wanted);
        }
        self.shipment(other).batch.is_open().then_some(other)
    }

    /// Sends a batch on its way to the device, and publishes one that was sent before it if that is
    /// written, or must be for want of room on the way.
    pub(super) fn send(&mut self, context: &Context<'_>, store: &Store, stream: Stream) {
        let must_arrive = self.under_way.len() == DEPTH || self.is_written();
        let arrived = must_arrive.then(|| self.arrive(context)).flatten();
        let spare = self.spares.pop().expect("some are under way at most");
        let shipment = std::mem::replace(self.at(stream), spare);
        self.written_bytes += shipment.written_bytes();
        self.under_way.push_back(match stream {
            Stream::Read | Stream::Old => u64::from(shipment.records_bytes()),
            Stream::Survivors => 0,
        });
        self.dispatch.hand_over(shipment);
        if let Some((shipment, result)) = arrived {
            self.conclude(context, store, shipment, result);
        }
        if !self.dispatch.is_served() {
            self.land_all(context, store);
        }
    }

    /// Bytes that will leave the pool with the batches that are under way.
    pub(super) fn leaving_bytes(&self) -> u64 {
        self.under_way.iter().sum()
    }

    /// Is a batch under way?
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Has the oldest batch that is under way been written?
    pub(super) fn is_written(&self) -> bool {
        self.is_under_way() && self.dispatch.is_written()
    }

    /// Waits for the oldest batch that is under way and publishes it. False: there is none, or it could
    /// not be written.
    pub(super) fn land(&mut self, context: &Context<'_>, store: &Store) -> bool {
        let Some((shipment, result)) = self.arrive(context) else {
            return false;
        };
        let is_written = result.is_ok();
        self.conclude(context, store, shipment, result);
        is_written
    }

    /// Waits until no batch is under way.
    pub(super) fn land_all(&mut self, context: &Context<'_>, store: &Store) {
        while self.is_under_way() {
            self.land(context, store);
        }
    }

    fn arrive(&mut self, context: &Context<'_>) -> Option<(Shipment, Result<bool>)> {
        self.under_way.pop_front()?;
        Some(self.dispatch.take_back(context.tiers))
    }

    /// Publishes the new place of every page that is still where it was. If the batch could not be
    /// written, its pages stay where they are.
    fn conclude(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        mut shipment: Shipment,
        result: Result<bool>,
    ) {
        for page in shipment.pages() {
            self.pages.remove(&page.0);
        }
        // If nothing was written, nothing was asked of the device.
        if !matches!(result, Ok(false)) {
            self.learn(context, store, result.as_ref().err());
        }
        if result.is_ok() {
            shipment.publish(context, store);
        } else {
            context.stats.segments_failed.add(1);
            shipment.fail(context, store);
        }
        self.spares.push(shipment);
    }

    /// The device has taken a write, or `failure` came of it.
    fn learn(&mut self, context: &Context<'_>, store: &Store, failure: Option<&Error>) {
        match failure {
            None => self.health.wrote(),
            Some(error) => self.health.failed(context.now, error.is_out_of_space()),
        }
        self.tell(context.stats, store);
    }

    fn tell(&self, stats: &WritebackStats, store: &Store) {
        let health = &self.health;
        store.set_device_in_doubt(health.is_degraded());
        stats.is_degraded.set(health.is_degraded().into());
        stats.is_out_of_space.set(health.is_out_of_space().into());
    }

    /// The device refused the superblock when the store was opened.
    pub(super) fn begin_degraded(&mut self, stats: &WritebackStats, store: &Store) {
        let refused = store.refusals().superblock.as_ref();
        let is_out_of_space = refused.is_some_and(Error::is_out_of_space);
        (self.health).failed_everywhere(Duration::ZERO, is_out_of_space);
        self.tell(stats, store);
    }

    /// Tries to write the superblock. False: the device refuses it.
    pub(super) fn write_superblock(&mut self, context: &Context<'_>, store: &Store) -> bool {
        let written = store.write_superblock();
        self.learn(context, store, written.as_ref().err());
        written.is_ok()
    }

    /// What is known of the device.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Was something sent since [`take_written_bytes`](Self::take_written_bytes)?
    pub(super) fn has_sent(&self) -> bool {
        self.written_bytes > 0
    }

    /// Bytes that the device was given since the last call, those of failed writes too.
    pub(super) fn take_written_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.written_bytes)
    }

    /// Buries up to `most` freed segments. False: none was, or none could be.
    pub(super) fn bury(&mut self, store: &Store, most: u32) -> bool {
        let buried = store.bury(most);
        self.written_bytes += u64::from(buried) * BLOCK_BYTES as u64;
        buried > 0
    }

    /// Gives up the batches of these streams: their pages stay where they are, and no segment is written half full.
    pub(super) fn abandon(&mut self, context: &Context<'_>, store: &Store, streams: &[Stream]) {
        for stream in streams {
            let shipment = &mut self.all[*stream as usize];
            for page in shipment.pages() {
                self.pages.remove(&page.0);
            }
            shipment.give_up(context, store);
        }
    }
}

/// The word of a page that is where the record is; None: it is of no codec of ours.
fn word_of(record: &RecordRef) -> Option<Word> {
    Some(Word::of(Place::Store(ObjectAt {
        codec: CodecId::from_bits(record.codec)?,
        bytes: record.bytes as usize,
        at: record.location,
    })))
}

/// Is the record where its page is, in the segment that it was listed in?
pub(super) fn is_current(context: &Context<'_>, record: &RecordRef) -> bool {
    let tiers = context.tiers;
    if record.page as usize >= tiers.table.pages() {
        return false;
    }
    let page = PageId(record.page);
    let is_there = if record.codec == MARK_CODEC {
        let durable = tiers.durable_of(page);
        durable.is_some_and(|durable| durable.mark(page) == Some(record.location))
    } else {
        word_of(record) == Some(tiers.table.peek(page))
    };
    is_there && tiers.store_of_a_stored_page().sequence(record.location) == record.sequence
}

/// The bytes of a record are not what was written: its page is lost, and known to be. False: the page
/// is elsewhere by now.
pub(super) fn lose(context: &Context<'_>, record: &RecordRef) -> bool {
    let tiers = context.tiers;
    let guard = tiers.table.lock(PageId(record.page));
    if !is_current(context, record) {
        return false;
    }
    if record.codec == MARK_CODEC {
        // What it said, the page's word says too: it is written anew.
        tiers.owe_again(&guard);
        return false;
    }
    tiers.change(&guard, Word::of(Place::Lost), context.lane);
    true
}

#[cfg(test)]
mod tests;
