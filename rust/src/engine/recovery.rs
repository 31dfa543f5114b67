//! What the log says of durable exports when an engine is opened: all that there is after loss of the
//! host, and what is still owed to it when the memory of a predecessor was taken over (`comparison`).
//!
//! Segments are looked at from the newest to the oldest, so that of a page the first record that is found
//! counts. How much of the log is known to be whole and on the device stands in it (`position`, written
//! by every checkpoint). There the lists of records are enough, and whether an object is what was written
//! is found out when it is read, as always. Of what was written since, part may be missing: every record
//! is verified, and one that is damaged was never acknowledged as flushed, so that the one before it
//! counts. Its page is owed: before the log is called whole again, there is a newer record of it. So are all pages
//! with records in such a segment, which is in doubt until it is empty and buried (`Store::whole_up_to`).
//!
//! Of a record that is damaged together with the list of its segment the page is an error, as far as either
//! names it. What it cannot tell: a record of the newest segments that rotted between the last checkpoint and
//! the loss of the host from one that was never wholly written; and which pages a segment had both of whose
//! heads are past mending ([`Store::find_segments`]). Those it counts. What the device does not give at all
//! ends the recovery with its error: it may be better later.
//!
//! Locking: none, nothing else runs yet.

mod comparison;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::codec::CodecId;
use crate::durable::{Durable, MARK_BYTES, MARK_CODEC, Mark, POSITION_PAGE, PageSet, position_of};
use crate::error::{Error, Result};
use crate::page::PageId;
use crate::store::{Location, ReadBuffer, RecordRef, SegmentIndex, Store};
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::Tiers;

/// Segments that are buried when a store is taken over, at most; the others are while it runs.
const BURIED_MAX: u32 = 64;

/// What a recovery found of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSurvey {
    /// All segments of smaller sequences are whole and were synced.
    pub position: u64,
    /// Segments of this generation.
    pub segments: u64,
    /// Of these, the ones that were written since: every record of theirs was verified.
    pub segments_unsure: u64,
    /// Of all, the ones whose list of records is damaged.
    pub lists_damaged: u64,
    /// Segments that nothing can be had of, since both heads are damaged.
    pub heads_damaged: u64,
    /// Records of whole segments that are damaged together with the list, and that nobody can name.
    pub records_unnamed: u64,
    /// Pages that a start writes down again.
    pub pages_owed: u64,
}

impl LogSurvey {
    /// What the operator should know, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        let (heads, records) = (self.heads_damaged, self.records_unnamed);
        (heads > 0 || records > 0).then(|| {
            format!(
                "the backing file is damaged where nobody can say whose pages were there: {heads} \
                 segments and {records} records; a page whose newest version was there reads as an \
                 older one, as zeros or as an error"
            )
        })
    }
}

/// The log of a store that is being taken over, as it is read.
pub(super) struct Recovery<'a> {
    tiers: &'a Tiers,
    store: &'a Store,
    durable: &'a Durable,
    buffer: ReadBuffer,
    records: Vec<RecordRef>,
    /// Pages whose newest record was found.
    seen: PageSet,
    /// Pages that are to be written down again.
    again: PageSet,
    /// Segments that a predecessor left and that the device does not give.
    unreadable: BTreeSet<u32>,
    /// Something of the segment that is looked at is damaged.
    is_torn: bool,
    /// Whole segments had records that are gone without a name.
    unnamed: u64,
    /// Segments that were found, and of these the ones that are not known to be whole.
    segments: u64,
    segments_unsure: u64,
}

/// Is it of a page of a durable export?
fn is_ours(tiers: &Tiers, record: &RecordRef) -> bool {
    (record.page as usize) < tiers.table.pages() && tiers.durable_of(PageId(record.page)).is_some()
}

/// The word of a page that is what the mark says.
fn word_of(mark: Mark) -> Word {
    Word::of(match mark {
        Mark::Discarded => Place::Hole,
        Mark::Filled(pattern) => Place::Same(pattern),
        Mark::Lost => Place::Lost,
    })
}

impl<'a> Recovery<'a> {
    /// None without durable exports.
    pub(super) fn new(tiers: &'a Tiers) -> Result<Option<Recovery<'a>>> {
        let (Some(store), Some(durable)) = (&tiers.store, &tiers.durable) else {
            return Ok(None);
        };
        let pages = tiers.table.pages();
        Ok(Some(Recovery {
            tiers,
            store,
            durable,
            buffer: ReadBuffer::new(),
            records: Vec::with_capacity(store.records_max()),
            seen: PageSet::new(pages, false)?,
            again: PageSet::new(pages, false)?,
            unreadable: BTreeSet::new(),
            is_torn: false,
            unnamed: 0,
            segments: 0,
            segments_unsure: 0,
        }))
    }

    /// Lists the records of a segment that concern us.
    ///
    /// # Errors
    /// [`Error::Io`] where the device does not give the list, nor all of what it lists.
    fn list(&mut self, segment: SegmentIndex) -> Result<()> {
        let (tiers, records) = (self.tiers, &mut self.records);
        records.clear();
        self.store
            .segment_records(segment, &mut self.buffer, &mut |record| {
                if is_ours(tiers, &record) || record.page == POSITION_PAGE {
                    records.push(record);
                }
            })
    }

    /// Pages whose newest record may be one that is damaged together with the list of its segment.
    fn lose_hidden(&mut self, segment: SegmentIndex, is_whole: bool) -> Result<()> {
        let (store, tiers) = (self.store, self.tiers);
        let mut hidden = Vec::new();
        let unnamed = store.hidden_records(segment, &mut self.buffer, &mut |record| {
            if is_ours(tiers, &record) {
                hidden.push(PageId(record.page));
            }
        })?;
        for page in hidden {
            if is_whole {
                self.lose(page)?;
            } else if !self.seen.contains(page) {
                // Maybe it was never wholly written.
                self.again.insert(page);
            }
        }
        self.unnamed += if is_whole { unnamed } else { 0 };
        Ok(())
    }

    /// Makes the words of all durable pages from the log. `kind` says of the export of a page whether it
    /// was durable before (if not, what is found of it is of no use, and the page is lost), and whether
    /// pages that are in no record are lost.
    pub(super) fn find_pages(&mut self, kind: &dyn Fn(PageId) -> (bool, bool)) -> Result<()> {
        let mut position = 0;
        let found = (self.store).find_segments(&mut self.buffer, &mut |_, error| Err(error))?;
        for (sequence, segment) in found {
            let is_whole = sequence < position;
            self.segments += 1;
            self.segments_unsure += u64::from(!is_whole);
            let lists_damaged = self.store.summary_errors();
            self.list(segment)?;
            let mut records = std::mem::take(&mut self.records);
            for record in &records {
                let page = PageId(record.page);
                if record.page != POSITION_PAGE && !kind(page).0 {
                    self.lose(page)?;
                }
            }
            if is_whole {
                for record in &records {
                    if record.codec != MARK_CODEC {
                        self.take_object(record)?;
                    }
                }
                records.retain(|record| record.codec == MARK_CODEC);
            }
            let found = self.verify(&records, is_whole)?;
            position = position.max(found);
            self.records = records;
            if self.store.summary_errors() > lists_damaged {
                self.lose_hidden(segment, is_whole)?;
                self.is_torn = true;
            }
            if std::mem::take(&mut self.is_torn) && !is_whole {
                self.store.doubt(segment);
            }
        }
        self.durable.position.store(position, Ordering::Relaxed);
        (self.tiers.belief()).settle(self.store.sequence_next(), position, true);
        // Of a page without any whole record none was ever flushed, unless a segment is gone with all of it.
        let is_incomplete = self.store.heads_damaged() > 0;
        let mut from = 0;
        while let Some(page) = self.again.next(from) {
            from = page.0 + 1;
            if !self.seen.contains(page) {
                self.tiers.table.reserve(page)?;
                let word = if is_incomplete || kind(page).1 {
                    Place::Lost
                } else {
                    Place::Hole
                };
                self.tiers.table.lock(page).publish(Word::of(word));
            }
        }
        self.owe_where(|store, at| store.is_doubted(at));
        Ok(())
    }

    /// Owes the pages whose newest records are where they are not to be relied on.
    fn owe_where(&mut self, is_unsure: impl Fn(&Store, Location) -> bool) {
        self.each_page(|recovery, page, word| {
            let at = match word.place() {
                Place::Store(object) => Some(object.at),
                _ => recovery.durable.mark(page),
            };
            if at.is_none_or(|at| is_unsure(recovery.store, at)) {
                recovery.again.insert(page);
            }
        });
    }

    /// Reads records and takes those that are what was written. The position that one of them tells, or 0.
    fn verify(&mut self, records: &[RecordRef], is_whole: bool) -> Result<u64> {
        let mut position = 0;
        let mut outcome = Ok(());
        let mut buffer = std::mem::take(&mut self.buffer);
        self.store.read(&mut buffer, records, &mut |index, object| {
            let record = &records[index];
            self.is_torn |= object.is_err();
            if record.page == POSITION_PAGE {
                let found = object.ok().and_then(position_of);
                position = position.max(found.unwrap_or(0));
                return;
            }
            let page = PageId(record.page);
            let taken = match object {
                Ok(object) if record.codec == MARK_CODEC => self.take_mark(record, object),
                Ok(_) => self.take_object(record),
                // What cannot be read may well be what was flushed.
                Err(error) if is_whole || matches!(error, Error::Io { .. }) => self.lose(page),
                Err(_) if self.seen.contains(page) => Ok(()),
                Err(_) => {
                    self.again.insert(page);
                    Ok(())
                }
            };
            if let Err(error) = taken {
                outcome = Err(error);
            }
        });
        self.buffer = buffer;
        outcome.map(|()| position)
    }

    fn take_object(&mut self, record: &RecordRef) -> Result<()> {
        let codec = CodecId::from_bits(record.codec);
        match codec.filter(|_| record.bytes as usize <= self.tiers.page_bytes) {
            Some(codec) => {
                let place = Place::Store(ObjectAt {
                    codec,
                    bytes: record.bytes as usize,
                    at: record.location,
                });
                self.take(PageId(record.page), Word::of(place))
            }
            // Of a codec of a later version, perhaps.
            None => self.lose(PageId(record.page)),
        }
    }

    fn take(&mut self, page: PageId, word: Word) -> Result<()> {
        if self.seen.contains(page) {
            return Ok(());
        }
        self.seen.insert(page);
        self.tiers.table.reserve(page)?;
        self.tiers.table.lock(page).publish(word);
        Ok(())
    }

    /// The page's newest record is damaged.
    fn lose(&mut self, page: PageId) -> Result<()> {
        if self.seen.contains(page) {
            return Ok(());
        }
        // Written down, since the record may be reused.
        self.again.insert(page);
        self.take(page, Word::of(Place::Lost))
    }

    fn take_mark(&mut self, record: &RecordRef, object: &[u8]) -> Result<()> {
        let page = PageId(record.page);
        if self.seen.contains(page) {
            return Ok(());
        }
        let Some(mark) = Mark::decode(object) else {
            return self.lose(page);
        };
        self.take(page, word_of(mark))?;
        self.durable.set_mark(page, Some(record.location));
        Ok(())
    }

    /// What was found of the log.
    pub(super) fn survey(&self) -> LogSurvey {
        LogSurvey {
            position: self.durable.position.load(Ordering::Relaxed),
            segments: self.segments,
            segments_unsure: self.segments_unsure,
            lists_damaged: self.store.summary_errors(),
            heads_damaged: self.store.heads_damaged(),
            records_unnamed: self.unnamed,
            pages_owed: self.again.len(),
        }
    }

    /// Syncs what was found in the log, which may be nowhere but in the device's cache. A device that fails now may
    /// not have given all that it has: as with a read of the lists, that ends the recovery.
    pub(super) fn make_sure(&self) -> Result<()> {
        let belief = self.tiers.belief();
        self.store.set_promised(belief.promised());
        belief.doubt();
        self.store.sync()?;
        belief.restore();
        Ok(())
    }

    /// Claims the records of the marks that were found, as adoption claims those of objects.
    pub(super) fn claim_marks(&mut self) {
        let mut from = 0;
        while let Some(page) = self.seen.next(from) {
            from = page.0 + 1;
            let Some(at) = self.durable.mark(page) else {
                continue;
            };
            let claimed = (self.store).adopt_record(&mut self.buffer, at, MARK_BYTES as u32);
            if claimed.is_err() {
                self.durable.set_mark(page, None);
                self.again.insert(page);
            }
        }
    }

    /// Ends it, when the store is adopted: what was found to be owed is, and what is spent is made free, or there
    /// might be nothing to write into.
    pub(super) fn end(self) {
        let tiers = self.tiers;
        if self.store.bury(BURIED_MAX) > 0 {
            let was_in_doubt = tiers.belief().doubt();
            match self.store.sync() {
                Ok(()) if was_in_doubt => {}
                Ok(()) => tiers.belief().restore(),
                Err(_) => tiers.belief().begin_anew(self.store.sequence_next()),
            }
        }
        self.again
            .drain(|page| tiers.owe_again(&tiers.table.lock(page)));
    }

    /// Goes over all durable pages that were written.
    fn each_page(&mut self, mut each: impl FnMut(&mut Self, PageId, Word)) {
        let tiers = self.tiers;
        let pages = tiers.table.pages() as u32;
        let mut at = 0;
        while let Some(part) = tiers.table.touched_in(at..pages) {
            at = part.end;
            for page in part.map(PageId) {
                let word = tiers.table.peek(page);
                if word != Word::default() && tiers.durable_of(page).is_some() {
                    each(self, page, word);
                }
            }
        }
    }
}
