//! What goes to the device in one write: a batch, whose its records are, and what becomes of those pages.
//!
//! An object of the pool is *chosen* by the thread that steps, which marks its page as moving, and copied
//! into the batch by whoever writes that ([`Shipment::write`]): copying waits for memory, and there is more
//! than one thread that writes. A page that was changed in between has lost the mark, and nothing is
//! written of it. Everything else is copied when it is pushed: records of the store, marks, and the objects
//! of durable exports, since a flush may be answered because of them whatever becomes of their pages.
//!
//! Not here: which pages, which batch, and in which order they go (`streams`).
//! Locking: one page at a time, never across a call to the store that does I/O.

use super::Context;
use crate::courtesy;
use crate::durable::{MARK_BYTES, MARK_CODEC, Mark, POSITION_PAGE};
use crate::error::Result;
use crate::page::PageId;
use crate::store::{Batch, Location, RecordRef, Store};
use crate::table::{ObjectAt, PageGuard, Place, Word};
use crate::tiers::Tiers;
use crate::zpool::{Handle, Zpool};

/// Objects between the one that is copied and the one that is fetched from memory meanwhile.
const PREFETCHED: usize = 4;

/// Objects that are copied before others may run.
const COPIED_TOGETHER: usize = 64;

/// A page whose record goes along.
struct Entry {
    page: PageId,
    /// The page's word when it was pushed.
    word: Word,
    /// Where the record will be; None: the object was chosen and is not in the batch.
    to: Option<Location>,
    /// Where the page's record is that cleaning copied; None: the page has no record.
    from: Option<Location>,
}

/// A batch and its pages.
pub(super) struct Shipment {
    pub(super) batch: Batch,
    entries: Vec<Entry>,
    /// Objects that were chosen and not copied yet, and the bytes of their records.
    chosen: u32,
    chosen_bytes: u32,
    /// For an object that does not lie in one piece.
    scratch: Box<[u8]>,
}

impl Shipment {
    /// An empty one; allocates all that it will ever need.
    pub(super) fn new(tiers: &Tiers) -> Shipment {
        let store = tiers.store_of_a_stored_page();
        Shipment {
            batch: store.batch(),
            entries: Vec::with_capacity(store.records_max()),
            chosen: 0,
            chosen_bytes: 0,
            scratch: vec![0; tiers.pool.object_bytes_max()].into_boxed_slice(),
        }
    }

    /// Does no page go along?
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageId> {
        self.entries.iter().map(|entry| entry.page)
    }

    /// Bytes of all records.
    pub(super) fn records_bytes(&self) -> u32 {
        self.batch.records_bytes() + self.chosen_bytes
    }

    /// Bytes that [`write`](Self::write) will write, at most.
    pub(super) fn written_bytes(&self) -> u64 {
        (self.batch).written_bytes_with(self.chosen, self.chosen_bytes)
    }

    /// Would so many more records, of `records_bytes` together, find room?
    pub(super) fn fits(&self, records: u32, records_bytes: u32) -> bool {
        let bytes = self.chosen_bytes + records_bytes;
        self.batch.fits(self.chosen + records, bytes)
    }

    /// Marks a page whose object is to be copied. False: there is no room for it.
    pub(super) fn choose(&mut self, store: &Store, guard: &PageGuard<'_>, bytes: usize) -> bool {
        let bytes = store.record_bytes(bytes as u32);
        if !self.fits(1, bytes) {
            return false;
        }
        self.chosen += 1;
        self.chosen_bytes += bytes;
        self.take(guard, None, None);
        true
    }

    /// Copies what a page is to be found as, and marks the page. False: there is no room for it.
    pub(super) fn push(
        &mut self,
        store: &Store,
        guard: &PageGuard<'_>,
        (codec, object): (u8, &[u8]),
    ) -> bool {
        let is_there_room = self.fits(1, store.record_bytes(object.len() as u32));
        if is_there_room {
            let to = self.batch.push(guard.page().0, codec, object);
            self.take(guard, to, None);
        }
        is_there_room
    }

    /// Copies the object that a page has in the pool, and marks the page. False: there is no room for it.
    pub(super) fn push_object(
        &mut self,
        tiers: &Tiers,
        guard: &PageGuard<'_>,
        object: ObjectAt<Handle>,
    ) -> bool {
        let store = tiers.store_of_a_stored_page();
        let is_there_room = self.fits(1, store.record_bytes(object.bytes as u32));
        if is_there_room {
            let bytes = (tiers.pool).load(object.at, object.bytes, &mut self.scratch);
            let to = (self.batch).push(guard.page().0, object.codec as u8, bytes);
            self.take(guard, to, None);
        }
        is_there_room
    }

    /// Copies the record that a page has in the store. False: there is no room for it.
    pub(super) fn push_record(
        &mut self,
        store: &Store,
        guard: &PageGuard<'_>,
        (record, object): (&RecordRef, &[u8]),
    ) -> bool {
        let is_there_room = self.fits(1, store.record_bytes(object.len() as u32));
        if is_there_room {
            let to = (self.batch).push(record.page, record.codec, object);
            self.take(guard, to, Some(record.location));
        }
        is_there_room
    }

    /// Writes down what concerns no page. False: there is no room for it.
    pub(super) fn push_position(&mut self, store: &Store, object: &[u8]) -> bool {
        self.fits(1, store.record_bytes(object.len() as u32))
            && (self.batch.push(POSITION_PAGE, MARK_CODEC, object)).is_some()
    }

    fn take(&mut self, guard: &PageGuard<'_>, to: Option<Location>, from: Option<Location>) {
        let mut word = guard.word();
        if from.is_none() {
            word = word.with_moving(true);
            guard.publish(word);
        }
        let page = guard.page();
        self.entries.push(Entry {
            page,
            word,
            to,
            from,
        });
    }

    /// Copies what was chosen and is still there, and writes the batch. False: there was nothing to write.
    pub(super) fn write(&mut self, tiers: &Tiers) -> Result<bool> {
        let store = tiers.store_of_a_stored_page();
        self.copy_chosen(tiers);
        if self.batch.is_empty() {
            store.cancel(&mut self.batch);
            return Ok(false);
        }
        store.commit(&mut self.batch).map(|()| true)
    }

    fn copy_chosen(&mut self, tiers: &Tiers) {
        if self.chosen == 0 {
            return;
        }
        for index in 0..self.entries.len() {
            if index.is_multiple_of(COPIED_TOGETHER) {
                courtesy::give_way();
            }
            if let Some(next) = self.entries.get(index + PREFETCHED)
                && let (None, Place::Pool(object)) = (next.to, next.word.place())
            {
                tiers.pool.prefetch(object.at, object.bytes);
            }
            let entry = &mut self.entries[index];
            if entry.to.is_some() {
                continue;
            }
            let guard = tiers.table.lock(entry.page);
            let word = guard.word();
            if let Place::Pool(object) = word.place()
                && entry.is_as_it_was(word)
            {
                let bytes = (tiers.pool).load(object.at, object.bytes, &mut self.scratch);
                let to = self.batch.push(entry.page.0, object.codec as u8, bytes);
                entry.to = Some(to.expect("room was promised to it"));
            }
        }
        (self.chosen, self.chosen_bytes) = (0, 0);
    }

    /// It is on the device: publishes the new place of every page that is still where it was.
    pub(super) fn publish(&mut self, context: &Context<'_>, store: &Store) {
        for entry in self.entries.drain(..) {
            publish(context, store, &entry);
        }
        // Unless all that was chosen had changed.
        if !self.batch.is_empty() {
            store.seal(&mut self.batch);
        }
    }

    /// It could not be written: its pages stay where they are.
    pub(super) fn fail(&mut self, context: &Context<'_>, store: &Store) {
        // Part of it may have landed: what a recovery finds of it must not be the newest of a page.
        for entry in self.entries.iter().filter(|entry| entry.from.is_some()) {
            let tiers = context.tiers;
            tiers.owe_again(&tiers.table.lock(entry.page));
        }
        self.take_back(context, store);
    }

    /// It will not be written: its pages stay where they are, and its segment is free.
    pub(super) fn give_up(&mut self, context: &Context<'_>, store: &Store) {
        self.take_back(context, store);
        if self.batch.is_open() {
            store.cancel(&mut self.batch);
        }
    }

    fn take_back(&mut self, context: &Context<'_>, store: &Store) {
        for entry in self.entries.drain(..) {
            match entry.from {
                Some(from) => store.spare(from),
                None => {
                    let guard = context.tiers.table.lock(entry.page);
                    guard.publish(guard.word().with_moving(false));
                }
            }
        }
        (self.chosen, self.chosen_bytes) = (0, 0);
    }
}

impl Entry {
    /// Is this word of the page the one of the push, whether or not the client read the page since?
    fn is_as_it_was(&self, word: Word) -> bool {
        word.unmarked() == self.word.unmarked() && word.is_moving() == self.word.is_moving()
    }
}

/// Publishes the new place of a page, if it is where it was when it was pushed.
fn publish(context: &Context<'_>, store: &Store, entry: &Entry) {
    let Some(to) = entry.to else {
        // It was changed before it was copied, and no mark is set again while it is in an open batch.
        context.stats.pages_overtaken.add(1);
        return;
    };
    let guard = context.tiers.table.lock(entry.page);
    let word = guard.word();
    let durable = context.tiers.durable_of(entry.page);
    let is_mark = mark_of(entry.word).is_some();
    let is_there = entry.is_as_it_was(word)
        && (!is_mark || durable.is_some_and(|durable| durable.mark(entry.page) == entry.from));
    if !is_there {
        context.stats.pages_overtaken.add(1);
        if durable.is_some() {
            // A flush may be answered because of this record, and the page is owed already.
            store.outlived(to);
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
            store.retain(to, MARK_BYTES as u32);
            guard.publish(word.with_moving(false));
            if let Some(old) = durable.set_mark(entry.page, Some(to)) {
                store.release(old, MARK_BYTES as u32);
            }
            return;
        }
    };
    store.retain(to, bytes as u32);
    let place = Place::Store(ObjectAt {
        codec,
        bytes,
        at: to,
    });
    context.tiers.replace(&guard, Word::of(place), context.lane);
}

/// What a page without an object is.
pub(super) fn mark_of(word: Word) -> Option<Mark> {
    match word.place() {
        Place::Hole => Some(Mark::Discarded),
        Place::Lost => Some(Mark::Lost),
        Place::Same(pattern) => Some(Mark::Filled(pattern)),
        Place::Unwritten | Place::Pool(_) | Place::Store(_) => None,
    }
}
