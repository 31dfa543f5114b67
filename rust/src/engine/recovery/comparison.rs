//! A predecessor's table, taken over after a kill, and the log: the table is what counts, and the log is brought to
//! agree with it, so that loss of the host costs nothing before everything is written down again.
//!
//! A block that cannot be read keeps nobody from starting here: the table knows what lives, and what a recovery would
//! need of the segment is kept with it until the next checkpoint.
//!
//! Locking: none, nothing else runs yet.

use std::sync::atomic::Ordering;

use super::{Recovery, word_of};
use crate::durable::{MARK_CODEC, Mark, POSITION_PAGE, PageSet};
use crate::error::Result;
use crate::page::PageId;
use crate::stats::LaneStats;
use crate::store::{RecordRef, SegmentIndex};
use crate::table::{Place, Word};

impl Recovery<'_> {
    /// The segments that a predecessor left, newest first. Its table knows what lives in those that cannot be read;
    /// what a recovery would need of them is kept with them.
    fn find_readable(&mut self) -> Result<Vec<(u64, SegmentIndex)>> {
        let (store, unreadable) = (self.store, &mut self.unreadable);
        let position = self.tiers.belief().position();
        store.find_segments(&mut self.buffer, &mut |segment, _| {
            store.keep_unknown(segment, position);
            unreadable.insert(segment.0);
            Ok(())
        })
    }

    /// Lists the records of a segment of a predecessor. One that cannot be read is kept until its pages are written
    /// down again.
    fn list_what_can_be(&mut self, segment: SegmentIndex) {
        if self.list(segment).is_err() {
            self.store.outlived(self.store.start(segment));
            self.unreadable.insert(segment.0);
        }
    }

    /// What the operator should know of segments that a predecessor left.
    pub(in crate::engine) fn warn_of_unreadable(&self) -> Option<String> {
        (!self.unreadable.is_empty()).then(|| {
            format!(
                "{} segments of the backing file have blocks that cannot be read; nothing was lost with them now, \
                 but loss of the host before the next FLUSH could lose pages, and so could these blocks themselves",
                self.unreadable.len()
            )
        })
    }

    /// Finds what a predecessor's table knows and the log does not. Segments that a recovery would need
    /// until that is written down are kept: of a page that is not in the store the one with its newest
    /// record that is whole. Below the position all are; what is above was written by a write that failed,
    /// perhaps, and is read.
    pub(in crate::engine) fn compare(&mut self, lane: &LaneStats) -> Result<()> {
        let position = self.tiers.belief().position();
        self.durable.position.store(position, Ordering::Relaxed);
        for (sequence, segment) in self.find_readable()? {
            let is_whole = sequence < position;
            let lists_damaged = self.store.summary_errors();
            self.list_what_can_be(segment);
            let is_torn = !is_whole && self.store.summary_errors() > lists_damaged;
            let mut unsure = Vec::new();
            for record in std::mem::take(&mut self.records) {
                let page = PageId(record.page);
                if record.page == POSITION_PAGE || self.seen.contains(page) {
                    continue;
                }
                match self.tiers.table.peek(page).place() {
                    Place::Store(object) => {
                        self.seen.insert(page);
                        if object.at != record.location {
                            // A copy of it that was not published, and maybe not wholly written.
                            self.again.insert(page);
                        }
                        continue;
                    }
                    Place::Unwritten => {
                        // Discarded while the export was not a durable one.
                        self.tiers.table.reserve(page)?;
                        let word = Word::of(Place::Hole);
                        self.tiers.table.lock(page).publish(word);
                        lane.moved(self.tiers.export_of(page), Word::default(), word);
                    }
                    Place::Pool(_) | Place::Hole | Place::Same(_) | Place::Lost => {}
                }
                if is_whole && record.codec != MARK_CODEC {
                    self.seen.insert(page);
                    self.store.outlived(record.location);
                } else {
                    unsure.push(record);
                }
            }
            self.keep(&unsure, is_whole, is_torn);
        }
        self.claim_marks();
        // The predecessor died before it had published them, maybe before they were wholly written.
        self.store.doubt_from(position, false);
        self.each_page(|recovery, page, word| {
            let is_known = matches!(word.place(), Place::Store(_));
            if !is_known && recovery.durable.mark(page).is_none() {
                recovery.again.insert(page);
            }
        });
        Ok(())
    }

    /// Takes those marks that say what their pages are, and keeps what else is whole, since it was outlived. Not from
    /// a segment whose write was cut short (`is_torn`): with a mark that lives there it would pass for one that is whole.
    fn keep(&mut self, records: &[RecordRef], is_whole: bool, is_torn: bool) {
        let (store, tiers, durable, seen) = (self.store, self.tiers, self.durable, &self.seen);
        store.read(&mut self.buffer, records, &mut |index, object| {
            let record = &records[index];
            let page = PageId(record.page);
            if object.is_err() && !is_whole {
                // Its write failed: an older record counts.
                return;
            }
            seen.insert(page);
            let mark = object.ok().filter(|_| record.codec == MARK_CODEC);
            let says = mark.and_then(Mark::decode).map(word_of);
            if !is_torn && says == Some(tiers.table.peek(page).unmarked()) {
                durable.set_mark(page, Some(record.location));
            } else {
                store.outlived(record.location);
            }
        });
    }

    /// Syncs what was found, which may be nowhere but in the device's cache. If that cannot be done, or
    /// a predecessor could not (`was_in_doubt`), what was written since the last success is not relied on: it is written
    /// again, and until then what was promised is kept. Before the store is adopted.
    pub(in crate::engine) fn sync(&mut self, was_in_doubt: bool) -> Result<()> {
        let belief = self.tiers.belief();
        self.store.set_promised(belief.kept_up_to());
        if self.store.sync().is_ok() && !was_in_doubt {
            belief.restore();
            return Ok(());
        }
        self.keep_promised()?;
        let position = belief.position();
        self.owe_where(|store, at| store.sequence(at) >= position);
        self.store.doubt_from(position, true);
        self.store.distrust_tombstones(&mut self.buffer);
        belief.begin_anew(self.store.sequence_next());
        Ok(())
    }

    /// Keeps of each page the newest whole record that a flush may have been answered with, or that superseded
    /// it, until the page is written again. Segments without such a record are free: they are all that there is
    /// to write into.
    fn keep_promised(&mut self) -> Result<()> {
        let belief = self.tiers.belief();
        let (store, tiers, durable) = (self.store, self.tiers, self.durable);
        let found = PageSet::new(tiers.table.pages(), false)?;
        for (sequence, segment) in self.find_readable()? {
            let is_anew = belief.is_anew(sequence);
            if sequence >= belief.promised() && !is_anew {
                continue;
            }
            self.list_what_can_be(segment);
            let mut unsure = Vec::new();
            for record in &self.records {
                let (page, at) = (PageId(record.page), record.location);
                if record.page == POSITION_PAGE || found.contains(page) {
                    continue;
                }
                let lives = match tiers.table.peek(page).place() {
                    Place::Store(object) => object.at == at,
                    _ => durable.mark(page) == Some(at),
                };
                if lives || is_anew || sequence < belief.position() {
                    found.insert(page);
                    if !lives {
                        store.outlived(at);
                    }
                } else {
                    unsure.push(*record);
                }
            }
            store.read(&mut self.buffer, &unsure, &mut |index, object| {
                if object.is_ok() {
                    found.insert(PageId(unsure[index].page));
                    store.outlived(unsure[index].location);
                }
            });
        }
        Ok(())
    }
}
