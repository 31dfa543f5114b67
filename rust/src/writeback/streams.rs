//! The segments being filled: several batches side by side, so that what will die together lies
//! together, and what becomes of their records once they are written.
//!
//! What makes it safe to publish a record is one rule: **a page is in one open batch at most**. While
//! it is, no other batch takes it, whatever became of it meanwhile ([`Streams::holds`]).
//!
//! * An object from the pool carries the moving mark from its push on. Every change of the page takes
//!   the mark away, and only a push sets it. So a mark that is there at the commit was set by this
//!   batch's push, and the bytes behind it are those that were copied, although slot, length and
//!   codec alone could have come back.
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

use rustc_hash::FxBuildHasher;

use super::Context;
use super::dispatch::{DEPTH, Dispatch};
use super::health::Health;
use super::victims::Victim;
use crate::codec::CodecId;
use crate::durable::{Durable, MARK_BYTES, MARK_CODEC, Mark, POSITION_PAGE, position_object};
use crate::error::Result;
use crate::page::PageId;
use crate::store::{Batch, Location, Reason, RecordRef, Store};
use crate::table::{ObjectAt, Place, Word};
use crate::zpool::Zpool;

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
}

/// An object that is on its way to the device.
struct Entry {
    page: PageId,
    /// The page's word when it was pushed.
    word: Word,
    to: Location,
    /// Where the page's record is that cleaning copied; None: the page has no record.
    from: Option<Location>,
}

struct Open {
    batch: Batch,
    entries: Vec<Entry>,
}

impl Open {
    fn new(store: &Store) -> Open {
        Open {
            batch: store.batch(),
            entries: Vec::with_capacity(store.records_max()),
        }
    }
}

/// What is in a batch that is under way.
struct Leaving {
    entries: Vec<Entry>,
    /// Bytes that it will take out of the pool.
    bytes: u64,
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
    all: [Open; Stream::ALL.len()],
    spares: Vec<Open>,
    dispatch: Arc<Dispatch>,
    /// The batches under way, the oldest first.
    under_way: VecDeque<Leaving>,
    /// The pages in all of them. Page numbers are hashed by a multiplication: twice for every page that
    /// is written back, keyed hashes took a sixth of all the time.
    pages: HashSet<u32, FxBuildHasher>,
    health: Health,
    /// Bytes that the device was given since they were asked for.
    written_bytes: u64,
}

impl Streams {
    /// Batches for `store`; allocates all that they will ever need.
    pub(super) fn new(store: &Store, dispatch: Arc<Dispatch>) -> Streams {
        // Twice the room: a table that is at most half full is tidied in place when pages come and go.
        let most = (Stream::ALL.len() + SPARES) * store.records_max();
        let mut pages = HashSet::with_capacity_and_hasher(2 * most, FxBuildHasher);
        // Takes the memory now.
        pages.extend(0..most as u32);
        pages.clear();
        Streams {
            all: Stream::ALL.map(|_| Open::new(store)),
            spares: (0..SPARES).map(|_| Open::new(store)).collect(),
            dispatch,
            under_way: VecDeque::with_capacity(DEPTH),
            pages,
            health: Health::default(),
            written_bytes: 0,
        }
    }

    fn at(&mut self, stream: Stream) -> &mut Open {
        &mut self.all[stream as usize]
    }

    /// The batch of a stream.
    pub(super) fn batch(&self, stream: Stream) -> &Batch {
        &self.all[stream as usize].batch
    }

    /// Is the page in an open batch?
    pub(super) fn holds(&self, page: PageId) -> bool {
        self.pages.contains(&page.0)
    }

    /// Does the batch of a stream hold records that are not written yet?
    pub(super) fn is_filling(&self, stream: Stream) -> bool {
        !self.all[stream as usize].entries.is_empty()
    }

    /// The stream whose batch holds most, if any holds something.
    pub(super) fn fullest(&self) -> Option<Stream> {
        Stream::ALL
            .into_iter()
            .filter(|&stream| self.is_filling(stream))
            .max_by_key(|&stream| self.batch(stream).records_bytes())
    }

    /// Copies a victim into the batch of a stream and marks it.
    pub(super) fn push_victim(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        victim: &Victim,
        to: Stream,
        scratch: &mut [u8],
    ) -> Push {
        if self.holds(victim.page) {
            return Push::Stale;
        }
        let Some(stream) = self.open(store, to) else {
            return Push::NoSegment;
        };
        let pool = &context.tiers.pool;
        let (page, object) = (victim.page, victim.object);
        let guard = context.tiers.table.lock(page);
        let word = guard.word();
        if word.place() != Place::Pool(object) {
            return Push::Stale;
        }
        let bytes = pool.load(object.at, object.bytes, scratch);
        let open = self.at(stream);
        let Some(to) = open.batch.push(page.0, object.codec as u8, bytes) else {
            return Push::Full(stream);
        };
        let word = word.with_moving(true);
        guard.publish(word);
        let from = None;
        open.entries.push(Entry {
            page,
            word,
            to,
            from,
        });
        self.pages.insert(page.0);
        Push::Done
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
        if self.holds(page) {
            return Push::Stale;
        }
        let Some(stream) = self.open(store, to) else {
            return Push::NoSegment;
        };
        let guard = context.tiers.table.lock(page);
        if !is_current(context, record) {
            return Push::Stale;
        }
        let open = self.at(stream);
        let Some(to) = open.batch.push(record.page, record.codec, bytes) else {
            return Push::Full(stream);
        };
        open.entries.push(Entry {
            page,
            word: guard.word(),
            to,
            from: Some(record.location),
        });
        self.pages.insert(page.0);
        Push::Done
    }

    /// Writes down that a page has no object, if that is owed and so.
    pub(super) fn push_mark(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        page: PageId,
        durable: &Durable,
    ) -> Push {
        if self.holds(page) {
            return Push::Stale;
        }
        let Some(stream) = self.open(store, Stream::Old) else {
            return Push::NoSegment;
        };
        let guard = context.tiers.table.lock(page);
        let word = guard.word();
        let Some(mark) = mark_of(word).filter(|_| durable.owed.contains(page)) else {
            return Push::Stale;
        };
        let open = self.at(stream);
        let Some(to) = open.batch.push(page.0, MARK_CODEC, &mark.encode()) else {
            return Push::Full(stream);
        };
        let word = word.with_moving(true);
        guard.publish(word);
        open.entries.push(Entry {
            page,
            word,
            to,
            from: None,
        });
        self.pages.insert(page.0);
        Push::Done
    }

    /// Writes down that all segments of smaller sequences are whole and on the device.
    pub(super) fn push_position(&mut self, store: &Store, sequence: u64) -> Push {
        let Some(stream) = self.open(store, Stream::Old) else {
            return Push::NoSegment;
        };
        let batch = &mut self.at(stream).batch;
        match batch.push(POSITION_PAGE, MARK_CODEC, &position_object(sequence)) {
            Some(_) => Push::Done,
            None => Push::Full(stream),
        }
    }

    /// Makes sure that the survivors' batch is open. False: there is no segment.
    pub(super) fn open_survivors(&mut self, store: &Store) -> bool {
        self.open(store, Stream::Survivors).is_some()
    }

    /// Opens a batch for what has to be written down in a segment that is kept for cleaning. False: there is
    /// none.
    pub(super) fn open_from_reserve(&mut self, store: &Store) -> bool {
        let batch = &mut self.at(Stream::Old).batch;
        !batch.is_open() && store.begin(batch, Reason::Cleaning).is_ok()
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
        self.batch(other).is_open().then_some(other)
    }

    /// Sends a batch on its way to the device, and publishes one that was sent before it if that is
    /// written, or must be for want of room on the way.
    pub(super) fn send(&mut self, context: &Context<'_>, store: &Store, stream: Stream) {
        let must_arrive = self.under_way.len() == DEPTH || self.is_written();
        let arrived = must_arrive.then(|| self.arrive(store)).flatten();
        let spare = self.spares.pop().expect("some are under way at most");
        let Open { batch, entries } = std::mem::replace(self.at(stream), spare);
        self.written_bytes += batch.written_bytes();
        let bytes = match stream {
            Stream::Read | Stream::Old => u64::from(batch.records_bytes()),
            Stream::Survivors => 0,
        };
        self.under_way.push_back(Leaving { entries, bytes });
        self.dispatch.hand_over(batch);
        if let Some((open, result)) = arrived {
            self.conclude(context, store, open, result);
        }
        if !self.dispatch.is_served() {
            self.land_all(context, store);
        }
    }

    /// Bytes that will leave the pool with the batches that are under way.
    pub(super) fn leaving_bytes(&self) -> u64 {
        self.under_way.iter().map(|leaving| leaving.bytes).sum()
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
        let Some((open, result)) = self.arrive(store) else {
            return false;
        };
        let is_written = result.is_ok();
        self.conclude(context, store, open, result);
        is_written
    }

    /// Waits until no batch is under way.
    pub(super) fn land_all(&mut self, context: &Context<'_>, store: &Store) {
        while self.is_under_way() {
            self.land(context, store);
        }
    }

    fn arrive(&mut self, store: &Store) -> Option<(Open, Result<()>)> {
        let Leaving { entries, .. } = self.under_way.pop_front()?;
        let (batch, result) = self.dispatch.take_back(store);
        Some((Open { batch, entries }, result))
    }

    /// Publishes the new place of every page that is still where it was. If the batch could not be
    /// written, its pages stay where they are.
    fn conclude(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        mut open: Open,
        result: Result<()>,
    ) {
        for entry in &open.entries {
            self.pages.remove(&entry.page.0);
        }
        match &result {
            Ok(()) => self.health.wrote(),
            Err(error) => self.health.failed(context.now, error.is_out_of_space()),
        }
        let (is_degraded, is_out_of_space) =
            (self.health.is_degraded(), self.health.is_out_of_space());
        store.set_device_in_doubt(is_degraded);
        context.stats.is_degraded.set(is_degraded.into());
        context.stats.is_out_of_space.set(is_out_of_space.into());
        if result.is_ok() {
            for entry in open.entries.drain(..) {
                publish(context, store, &entry);
            }
            store.seal(&mut open.batch);
        } else {
            context.stats.segments_failed.add(1);
            // Part of it may have landed: what a recovery finds of it must not be the newest of a page.
            for entry in open.entries.iter().filter(|entry| entry.from.is_some()) {
                context
                    .tiers
                    .owe_again(&context.tiers.table.lock(entry.page));
            }
            take_back(context, store, &mut open.entries);
        }
        self.spares.push(open);
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

    /// Gives up the batches that write-back fills: their pages stay in the pool, where there is room
    /// for them now, and no segment is written half full.
    pub(super) fn abandon(&mut self, context: &Context<'_>, store: &Store) {
        for stream in [Stream::Read, Stream::Old] {
            let Open { batch, entries } = &mut self.all[stream as usize];
            for entry in &*entries {
                self.pages.remove(&entry.page.0);
            }
            take_back(context, store, entries);
            if batch.is_open() {
                store.cancel(batch);
            }
        }
    }
}

/// Publishes the new place of a page, if it is where it was when it was pushed.
fn publish(context: &Context<'_>, store: &Store, entry: &Entry) {
    let guard = context.tiers.table.lock(entry.page);
    let word = guard.word();
    let durable = context.tiers.durable_of(entry.page);
    let is_mark = mark_of(entry.word).is_some();
    let is_there = word.unmarked() == entry.word.unmarked()
        && word.is_moving() == entry.word.is_moving()
        && (!is_mark || durable.is_some_and(|durable| durable.mark(entry.page) == entry.from));
    if !is_there {
        context.stats.pages_overtaken.add(1);
        if durable.is_some() {
            // A flush may be answered because of this record, and the page is owed already.
            store.outlived(entry.to);
        }
        return;
    }
    if let Some(durable) = durable {
        durable.committed(entry.page);
    }
    let (codec, bytes) = match word.place() {
        Place::Pool(object) => {
            context.stats.pages_written_back.add(1);
            context.stats.bytes_written_back.add(object.bytes as u64);
            (object.codec, object.bytes)
        }
        Place::Store(object) => {
            context.stats.pages_cleaned.add(1);
            context.stats.bytes_cleaned.add(object.bytes as u64);
            (object.codec, object.bytes)
        }
        _ => {
            let durable = durable.expect("pages of others have no marks");
            store.retain(entry.to, MARK_BYTES as u32);
            guard.publish(word.with_moving(false));
            if let Some(old) = durable.set_mark(entry.page, Some(entry.to)) {
                store.release(old, MARK_BYTES as u32);
            }
            return;
        }
    };
    store.retain(entry.to, bytes as u32);
    let at = entry.to;
    let place = Place::Store(ObjectAt { codec, bytes, at });
    context.tiers.replace(&guard, Word::of(place), context.lane);
}

/// The batch will not be written: its pages stay where they are.
fn take_back(context: &Context<'_>, store: &Store, entries: &mut Vec<Entry>) {
    for entry in entries.drain(..) {
        match entry.from {
            Some(from) => store.spare(from),
            None => {
                let guard = context.tiers.table.lock(entry.page);
                guard.publish(guard.word().with_moving(false));
            }
        }
    }
}

/// What a page without an object is.
fn mark_of(word: Word) -> Option<Mark> {
    match word.place() {
        Place::Hole => Some(Mark::Discarded),
        Place::Lost => Some(Mark::Lost),
        Place::Same(pattern) => Some(Mark::Filled(pattern)),
        Place::Unwritten | Place::Pool(_) | Place::Store(_) => None,
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
