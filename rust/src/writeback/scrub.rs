//! Reading what lies in the store before anybody asks for it, so that bit rot is known early.
//!
//! A pass goes over all segments; of each, the records that pages point to are read and verified in
//! small pieces. A page whose record is not what was written is lost from then on: it would answer with
//! an error anyway, and now the operator hears of it first. What the device does not give is named and
//! left alone, since a later read may get it.
//!
//! A segment says itself what lies in it. If that does not account for all that lives there, since its
//! write was lost, or landed elsewhere, or cannot be read, the page table is asked instead.
//!
//! A rate paces the pieces, by the time that the caller says it is. Time that went by without a piece
//! is not made up for: a scrub after a busy hour is as slow as any. A pass begins a day after the one
//! before began, at the earliest.
//!
//! Not here: when there is time for a piece (`background`). Locking: one page at a time, never across
//! a call to the store.

use super::Context;
use super::streams::{is_current, lose};
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::stats::Counter;
use crate::store::{ReadBuffer, RecordRef, SegmentIndex, Store};
use crate::table::Place;

/// A piece reads records that span at most this; a disk does it in well under a millisecond.
const PIECE_BYTES: u64 = 64 << 10;

/// Free segments that one piece may pass over: to look at one takes nanoseconds.
const SEGMENTS_PER_PIECE: u32 = 4096;

/// From the begin of one pass to that of the next, at least.
const PASS_US: u64 = 24 * 3600 * 1_000_000;

/// What the scrub did.
#[derive(Debug, Default)]
pub struct ScrubStats {
    /// Segments that the present pass has behind it; all of them between two passes.
    pub segments_done: Counter,
    /// Passes that went over the whole store.
    pub passes: Counter,
    /// When the last of them ended, microseconds on the caller's clock; 0 while there was none.
    pub passed_us: Counter,
    /// Bytes of the objects that were read, whatever came of it.
    pub bytes: Counter,
    /// Pages that were found to be lost.
    pub pages_lost: Counter,
    /// Records that the device did not give.
    pub records_unreadable: Counter,
}

/// Where the scrub stands.
pub(super) struct Scrub {
    /// 0: it is off.
    bytes_per_s: u64,
    segment: u32,
    /// What lives in the segment, in the order of places, and how many of them are done.
    records: Vec<RecordRef>,
    done: usize,
    buffer: ReadBuffer,
    /// No piece before this time.
    due_us: u64,
    pass_began_us: u64,
}

impl Scrub {
    /// A scrub of `store`; allocates all that it will ever need.
    pub(super) fn new(store: &Store, bytes_per_s: u64) -> Scrub {
        let room = if bytes_per_s == 0 {
            0
        } else {
            store.records_max()
        };
        Scrub {
            bytes_per_s,
            segment: 0,
            records: Vec::with_capacity(room),
            done: 0,
            buffer: ReadBuffer::new(),
            due_us: 0,
            pass_began_us: 0,
        }
    }

    /// Verifies one piece if it is time for one. Microseconds until the next; None: it is off.
    pub(super) fn piece(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        now_us: u64,
    ) -> Option<u64> {
        if self.bytes_per_s == 0 {
            return None;
        }
        if now_us >= self.due_us {
            let bytes = self.advance(context, store, now_us);
            // A pass that has just ended has set the time of the next.
            let pause_us = bytes.saturating_mul(1_000_000) / self.bytes_per_s;
            self.due_us = self.due_us.max(now_us + pause_us);
        }
        Some(self.due_us.saturating_sub(now_us))
    }

    /// Reads a piece. How many bytes that cost the device.
    fn advance(&mut self, context: &Context<'_>, store: &Store, now_us: u64) -> u64 {
        let read_before = store.read_bytes();
        if self.done < self.records.len() {
            self.verify(context, store);
        } else {
            self.list(context, store, now_us);
        }
        store.read_bytes() - read_before
    }

    /// Lists what lives in the next segment that is in use, or ends the pass.
    fn list(&mut self, context: &Context<'_>, store: &Store, now_us: u64) {
        let stats = &context.stats.scrub;
        if self.segment == 0 {
            self.pass_began_us = now_us;
        }
        self.records.clear();
        self.done = 0;
        for _ in 0..SEGMENTS_PER_PIECE {
            if self.segment == store.segments() {
                self.segment = 0;
                stats.passes.add(1);
                stats.passed_us.set(now_us.max(1));
                self.due_us = self.pass_began_us + PASS_US;
                return;
            }
            let segment = SegmentIndex(self.segment);
            self.segment += 1;
            stats.segments_done.set(u64::from(self.segment));
            if store.segment_live_bytes(segment) == 0 {
                continue;
            }
            let records = &mut self.records;
            // What a block that cannot be read hides is missing then. A summary that does not verify
            // is counted by the store.
            let _ = store.segment_records(segment, &mut self.buffer, &mut |record| {
                if is_current(context, &record) {
                    records.push(record);
                }
            });
            let listed = records
                .iter()
                .map(|record| store.record_bytes(record.bytes));
            if listed.sum::<u32>() < store.segment_live_bytes(segment) {
                self.list_by_table(context, store, segment);
            }
            return;
        }
    }

    /// Lists what lives in a segment by a walk over all pages.
    fn list_by_table(&mut self, context: &Context<'_>, store: &Store, segment: SegmentIndex) {
        let table = &context.tiers.table;
        let records = &mut self.records;
        records.clear();
        let mut rest = 0..table.pages() as u32;
        while let Some(part) = table.touched_in(rest.clone()) {
            rest.start = part.end;
            for page in part {
                let Place::Store(object) = table.peek(PageId(page)).place() else {
                    continue;
                };
                // More than fit there are not of one moment: the next pass sees the others.
                if store.segment(object.at) == segment && records.len() < store.records_max() {
                    records.push(RecordRef {
                        page,
                        codec: object.codec as u8,
                        bytes: object.bytes as u32,
                        location: object.at,
                        sequence: store.sequence(object.at),
                    });
                }
            }
        }
        records.sort_unstable_by_key(|record| record.location);
    }

    /// Verifies the next records that lie together.
    fn verify(&mut self, context: &Context<'_>, store: &Store) {
        let rest = &self.records[self.done..];
        let end = rest[0].location.offset() + PIECE_BYTES;
        let near = rest.partition_point(|record| record.location.offset() < end);
        let piece = &rest[..near];
        self.done += near;
        let stats = &context.stats.scrub;
        store.read(&mut self.buffer, piece, &mut |index, object| {
            let record = &piece[index];
            stats.bytes.add(u64::from(record.bytes));
            let fault = match object {
                Ok(_) => return,
                Err(Error::Corrupt { .. }) => Fault::Damaged,
                Err(_) => Fault::Unreadable,
            };
            let did = match fault {
                Fault::Damaged if lose(context, record) => &stats.pages_lost,
                // Rewritten or moved meanwhile: nobody will ask for this record any more.
                Fault::Damaged => return,
                Fault::Unreadable => &stats.records_unreadable,
            };
            did.add(1);
            let (page, offset) = (PageId(record.page), record.location.offset());
            context.incidents.add(page, offset, fault, Finder::Scrub);
        });
    }
}
