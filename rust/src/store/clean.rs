//! Getting space back: which segment to empty, what is in it, and giving freed ones to the device.
//!
//! Cleaning is the caller's loop: `victim`, `segment_records`, read those that its table still
//! points to, push them into a batch begun for cleaning, commit, publish, release the old places.
//! The last release frees the segment. A batch may hold what lives in many segments.
//!
//! Locking: none here, see `segment`. One thread cleans at a time.

use std::io;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};

use super::device::{BLOCK_BYTES, Span};
use super::form::RECORD_BYTES_MAX;
use super::geometry::{Location, SegmentIndex};
use super::layout::{ENTRY_BYTES, HEAD_BYTES, Head, RECORDS_MAX, Shape};
use super::log::{RecordRef, Store};
use super::read::{READ_BYTES_MAX, ReadBuffer};
use super::segment::{Candidates, Choice, Use};

/// Segments that one call of `tidy` discards at most.
const DISCARDS_PER_CALL: u32 = 8;

// A summary that begins anywhere in a block, with its tail, fits one read.
const _: () = {
    let summary_and_tail = RECORDS_MAX as usize * ENTRY_BYTES + HEAD_BYTES;
    let unaligned = BLOCK_BYTES - 8;
    assert!((unaligned + summary_and_tail).next_multiple_of(BLOCK_BYTES) <= READ_BYTES_MAX);
};

impl Store {
    /// The segment to empty next, of those of which at most `live_percent_max` lives: above that,
    /// cleaning writes nearly as much as it frees. It is not named again until it was freed, or
    /// [`spare`](Self::spare)d.
    pub fn victim(
        &self,
        candidates: &mut Candidates,
        choice: Choice,
        live_percent_max: u32,
    ) -> Option<SegmentIndex> {
        assert!(live_percent_max <= 100, "{live_percent_max} percent");
        let segment_bytes = self.geometry.segment_bytes;
        let limit = u64::from(segment_bytes) * u64::from(live_percent_max) / 100;
        self.segments
            .victim(candidates, choice, limit as u32, segment_bytes)
    }

    /// The place where a segment begins.
    pub fn start(&self, segment: SegmentIndex) -> Location {
        self.geometry.start(segment)
    }

    /// The segment around a place.
    pub fn segment(&self, location: Location) -> SegmentIndex {
        self.geometry.segment(location)
    }

    /// As [`set_aside`](Self::set_aside), for the segment around `location`.
    pub fn set_aside_at(&self, location: Location) {
        self.set_aside(self.geometry.segment(location));
    }

    /// What was moved out of the segment around `location` did not reach the device: it may be
    /// named again.
    pub fn spare(&self, location: Location) {
        self.segments.spare(self.geometry.segment(location));
    }

    /// Keeps [`victim`](Self::victim) from naming a segment that could not be emptied, because
    /// something in it cannot be read. It becomes free when its owners let go of it.
    pub fn set_aside(&self, segment: SegmentIndex) {
        self.segments.set_aside(segment);
    }

    /// Lets [`victim`](Self::victim) name again what was set aside: the device may read it by now.
    /// False: nothing was.
    pub fn retry_set_aside(&self) -> bool {
        self.segments.retry_set_aside()
    }

    /// Living bytes of a segment, 0 when it is free.
    pub fn segment_live_bytes(&self, segment: SegmentIndex) -> u32 {
        self.segments.live_bytes(segment)
    }

    /// Reports all records of a segment, dead ones too: only the caller's table knows which live.
    /// Nothing when the segment is free. They come from the summary, or one by one from their
    /// headers when the summary is damaged; records damaged themselves are left out then, and an
    /// error says that some blocks could not be read. What was reported before it counts.
    pub fn segment_records(
        &self,
        segment: SegmentIndex,
        buffer: &mut ReadBuffer,
        each: &mut dyn FnMut(RecordRef),
    ) -> Result<()> {
        let Some((sequence, shape)) = self.segments.shape(segment) else {
            return Ok(());
        };
        match self.listed_records((segment, sequence, shape), buffer, each) {
            Ok(()) => Ok(()),
            // Freed, and maybe rewritten, while it was read.
            Err(_) if self.segments.sequence(segment) != sequence => Ok(()),
            Err(_) => {
                self.counters.summary_errors.add(1);
                self.search_records(segment, sequence, shape, buffer, each)
            }
        }
    }

    /// Reports all records of a use of a segment, whether or not that is freed, if their list is whole.
    pub fn use_records(
        &self,
        one: &Use,
        buffer: &mut ReadBuffer,
        each: &mut dyn FnMut(RecordRef),
    ) -> Result<()> {
        self.listed_records((one.segment, one.sequence, one.shape), buffer, each)
    }

    fn listed_records(
        &self,
        (segment, sequence, shape): (SegmentIndex, u64, Shape),
        buffer: &mut ReadBuffer,
        each: &mut dyn FnMut(RecordRef),
    ) -> Result<()> {
        let entries = self.read_summary(segment, sequence, shape, &mut buffer.bytes)?;
        let start = self.geometry.start(segment).offset();
        let mut at = start + HEAD_BYTES as u64;
        for raw in entries.chunks_exact(ENTRY_BYTES) {
            let place = Location::at_offset(at);
            // The checksum was right, so that we wrote them.
            let Some(entry) = self.form.entry(raw, sequence, place) else {
                break;
            };
            each(RecordRef::new(&entry, place, sequence));
            at += u64::from(self.record_bytes(entry.bytes));
        }
        Ok(())
    }

    /// Fills `found` up to its capacity with the freed segments that wait for a checkpoint, and then with those in
    /// which least lives.
    pub fn emptiest(&self, found: &mut Vec<Use>) {
        self.segments.emptiest(found);
    }

    /// Of every page that has a record in this use of a segment there is a newer one on the device, or nobody needs
    /// it: it waits for no checkpoint any more. False: it is not freed.
    pub fn relieve(&self, one: &Use) -> bool {
        self.segments.relieve(one.segment, one.sequence)
    }

    /// The summary of a segment, verified. It and the tail are one read.
    pub(super) fn read_summary<'a>(
        &self,
        segment: SegmentIndex,
        sequence: u64,
        shape: Shape,
        bytes: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let start = self.geometry.start(segment);
        let summary_at = Location::at_offset(start.offset() + shape.summary_at() as u64);
        let end = start.offset() + shape.written_bytes() as u64;
        let span = Span::around(summary_at.offset(), end);
        self.read_span(bytes, span)
            .map_err(|source| Error::io("read summary", summary_at.offset(), source))?;

        let tail = &bytes[span.len() - HEAD_BYTES..span.len()];
        let head = Head::decode(tail, &self.form, start, self.geometry.segment_bytes)?;
        let at = start.offset();
        if (head.sequence, head.shape) != (sequence, shape) {
            let (what, wanted, found) = ("segment sequence", sequence, head.sequence);
            return Err(Error::Corrupt {
                what,
                at,
                wanted,
                found,
            });
        }
        let from = (summary_at.offset() - span.start) as usize;
        let summary = &bytes[from..from + shape.records as usize * ENTRY_BYTES];
        let found = self.form.checksum(sequence, summary_at, summary);
        if found != head.summary_checksum {
            let (what, wanted) = ("summary checksum", head.summary_checksum);
            return Err(Error::Corrupt {
                what,
                at: summary_at.offset(),
                wanted,
                found,
            });
        }
        Ok(summary)
    }

    /// Finds records without the summary: wherever one verifies. A damaged one is skipped in steps
    /// of 8 bytes until the next verifies, so it hides none of the others.
    pub(super) fn search_records(
        &self,
        segment: SegmentIndex,
        sequence: u64,
        shape: Shape,
        buffer: &mut ReadBuffer,
        each: &mut dyn FnMut(RecordRef),
    ) -> Result<()> {
        let ReadBuffer { bytes, plain, .. } = buffer;
        let start = self.geometry.start(segment).offset();
        let end = start + shape.summary_at() as u64;
        let mut at = start + HEAD_BYTES as u64;
        let mut window = Span { start: at, end: at };
        let mut outcome = Ok(());
        while at < end {
            let whole = end.min(at + RECORD_BYTES_MAX as u64);
            if whole > window.end {
                window = Span::around(at, end);
                window.end = window.end.min(window.start + READ_BYTES_MAX as u64);
                if let Err(source) = self.read_what_can_be(bytes, window) {
                    outcome = Err(Error::io("search segment", window.start, source));
                }
            }
            let raw = &bytes[(at - window.start) as usize..(whole - window.start) as usize];
            match self.record_at(raw, plain, sequence, Location::at_offset(at)) {
                Some(record) => {
                    each(record);
                    at += u64::from(self.record_bytes(record.bytes));
                }
                None => at += 8,
            }
        }
        outcome
    }

    /// The record at the beginning of `raw`, if one verifies there.
    fn record_at(
        &self,
        raw: &[u8],
        plain: &mut [u8],
        sequence: u64,
        at: Location,
    ) -> Option<RecordRef> {
        let entry = self.form.entry(raw.get(..ENTRY_BYTES)?, sequence, at)?;
        if raw.len() < self.form.header_bytes() + entry.bytes as usize {
            return None;
        }
        (self.form)
            .decode_record(raw, sequence, at, &entry, plain)
            .ok()?;
        Some(RecordRef::new(&entry, at, sequence))
    }

    /// Discards some of the segments that were freed, so that the file takes no more room than it
    /// needs. True when more are waiting. To be called now and then by the thread that also
    /// begins batches: a segment is not free during its discard.
    pub fn tidy(&self) -> bool {
        for _ in 0..DISCARDS_PER_CALL {
            if !self.punch.load(Ordering::Relaxed) {
                return false;
            }
            let Some(segment) = self.segments.take_freed() else {
                return false;
            };
            // Not its tombstone: what is behind that counts again without it.
            let kept = self.tombstones.as_ref().map_or(0, |_| BLOCK_BYTES as u64);
            let bytes = u64::from(self.geometry.segment_bytes) - kept;
            match self
                .device
                .discard(self.geometry.start(segment).offset() + kept, bytes)
            {
                Ok(()) => self.counters.discarded_bytes.add(bytes),
                Err(error) => {
                    self.counters.discard_errors.add(1);
                    if error.kind() == io::ErrorKind::Unsupported {
                        self.punch.store(false, Ordering::Relaxed);
                    }
                }
            }
            if !self.segments.discarded(segment) {
                return false;
            }
        }
        true
    }
}
