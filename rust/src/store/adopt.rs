//! Taking over the segments of a predecessor: the table of its pages says which records live, the
//! heads of their segments say of which use of the segment they are.
//!
//! Records are not verified here, each read does that. Locking: none; one thread adopts, before any
//! other uses the store.

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};

use super::device::{BLOCK_BYTES, Span};
use super::geometry::{Location, SegmentIndex};
use super::layout::{HEAD_BYTES, Head, OBJECT_BYTES_MAX, Shape};
use super::log::Store;
use super::read::{READ_BYTES_MAX, ReadBuffer};
use super::tombstone::tombstone_at;

const NO_RECORDS: Shape = Shape {
    records: 0,
    records_bytes: 0,
};

impl Store {
    /// A page of the predecessor's table is at this place. Gives the sequence of its segment, or
    /// says that no such record can be there; then the page is lost. All calls come before
    /// [`adopted`](Self::adopted).
    pub fn adopt_record(
        &self,
        buffer: &mut ReadBuffer,
        location: Location,
        object_bytes: u32,
    ) -> Result<u64> {
        assert!(
            self.adopting.load(Ordering::Acquire),
            "a record after adopted()"
        );
        let wrong = |what, wanted, found| {
            Err(Error::Corrupt {
                what,
                at: location.0.saturating_mul(8),
                wanted,
                found,
            })
        };
        let Some((segment, byte)) = self.geometry.find(location) else {
            return wrong(
                "record location",
                u64::from(self.geometry.segments),
                location.0,
            );
        };
        if !(1..=OBJECT_BYTES_MAX as u32).contains(&object_bytes) {
            return wrong(
                "record length",
                OBJECT_BYTES_MAX as u64,
                object_bytes.into(),
            );
        }
        if self.segments.unreadable(segment) {
            return wrong("segment head", 1, 0);
        }
        let (sequence, shape) = match self.segments.shape(segment) {
            Some(known) => known,
            None => {
                let head = self
                    .find_head(segment, &mut buffer.bytes)
                    .inspect_err(|_| {
                        self.segments.set_unreadable(segment);
                    })?;
                self.segments.found(segment, head.sequence, head.shape);
                (head.sequence, head.shape)
            }
        };
        let bytes = self.record_bytes(object_bytes);
        let end = shape.summary_at() as u32;
        if byte < HEAD_BYTES as u32 || byte + bytes > end {
            return wrong("record end", end.into(), u64::from(byte) + u64::from(bytes));
        }
        if !self.segments.claim(segment, bytes, shape.records_bytes) {
            return wrong("living bytes", shape.records_bytes.into(), bytes.into());
        }
        Ok(sequence)
    }

    /// Ends adoption: segments that nobody claimed are free.
    pub fn adopted(&self) {
        assert!(self.adopting.load(Ordering::Acquire), "adopted() twice");
        self.segments.list_free(true);
        self.adopting.store(false, Ordering::Release);
    }

    /// What a predecessor wrote since a sync that failed may not be on the device, its tombstones neither: those
    /// are written again before anything is written behind them. For a store that is being taken over, after
    /// [`find_segments`](Self::find_segments).
    pub fn distrust_tombstones(&self, buffer: &mut ReadBuffer) {
        for segment in (0..self.segments()).map(SegmentIndex) {
            if self.segments.shape(segment).is_some() {
                continue;
            }
            let start = self.geometry.start(segment);
            let block = Span::around(start.offset(), start.offset() + 1);
            if self.read_span(&mut buffer.bytes, block).is_err() {
                self.keep_unknown(segment, 1);
                continue;
            }
            let blocks = &buffer.bytes[..block.len()];
            if let Some(sequence) = tombstone_at(blocks, &self.form, start) {
                self.segments.found(segment, sequence.max(1), NO_RECORDS);
            }
        }
    }

    /// Nobody knows what is in this segment: it is kept until a checkpoint has succeeded, whatever that is.
    pub fn keep_unknown(&self, segment: SegmentIndex, position: u64) {
        if self.segments.shape(segment).is_none() {
            self.segments.found(segment, 1, NO_RECORDS);
        }
        self.segments.outlived(segment);
        self.segments.doubt(segment, position.max(1));
    }

    /// What is in this segment is not known to be whole.
    pub fn doubt(&self, segment: SegmentIndex) {
        self.segments
            .doubt(segment, self.segments.sequence(segment));
    }

    /// The same for segments of sequences from `position` on that were found: those in which nothing lives, or all.
    pub fn doubt_from(&self, position: u64, is_all: bool) {
        for segment in (0..self.segments()).map(SegmentIndex) {
            let is_dead = self.segments.live_bytes(segment) == 0;
            if (is_all || is_dead) && self.segments.sequence(segment) >= position.max(1) {
                self.doubt(segment);
            }
        }
    }

    /// Is what is in the segment around this place in doubt?
    pub fn is_doubted(&self, location: Location) -> bool {
        self.segments.is_doubted(self.geometry.segment(location))
    }

    /// Finds the segments that hold something of this generation, whether or not it lives: their
    /// sequences, the newest first. For a store that is being taken over, before the first record. `unreadable`
    /// is asked what to make of one of which the device does not say whether there is something in it.
    ///
    /// Errors: what `unreadable` gives.
    pub fn find_segments(
        &self,
        buffer: &mut ReadBuffer,
        unreadable: &mut dyn FnMut(SegmentIndex, Error) -> Result<()>,
    ) -> Result<Vec<(u64, SegmentIndex)>> {
        assert!(
            self.adopting.load(Ordering::Acquire),
            "a search after adopted()"
        );
        let mut found = Vec::new();
        for segment in (0..self.segments()).map(SegmentIndex) {
            match self.head_at(segment, &mut buffer.bytes) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    self.segments.found(segment, head.sequence, head.shape);
                    found.push((head.sequence, segment));
                }
                Err(error) => unreadable(segment, error)?,
            }
        }
        found.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        if let Some((newest, _)) = found.first() {
            self.segments.pass(*newest);
        }
        Ok(found)
    }

    /// The head of a segment, unless that is buried, was never written or given back to the file system (most
    /// of a file is holes, and to search each of them for a tail would take minutes) or is of another
    /// generation.
    pub(super) fn head_at(&self, segment: SegmentIndex, bytes: &mut [u8]) -> Result<Option<Head>> {
        let start = self.geometry.start(segment);
        let first = Span::around(start.offset(), start.offset() + 2 * BLOCK_BYTES as u64);
        if self.read_span(bytes, first).is_err() {
            return self.find_head(segment, bytes).map(Some);
        }
        let blocks = &bytes[..first.len()];
        if tombstone_at(blocks, &self.form, start).is_some() {
            return Ok(None);
        }
        let is_blank = blocks.iter().all(|byte| *byte == 0);
        let is_ours = Head::generation(&blocks[..HEAD_BYTES]) == Some(self.form.key.generation);
        if is_blank || self.is_of_another_generation(start, bytes) {
            return Ok(None);
        }
        let head = self.find_head(segment, bytes).ok();
        // A write that was cut short leaves a whole head, an older one or none.
        if head.is_none() && is_ours {
            self.counters.heads_damaged.add(1);
        }
        Ok(head)
    }

    /// Is this, whose first blocks are in `bytes`, what another generation left? Head and tail have to
    /// say so, which one damaged byte cannot make them do.
    fn is_of_another_generation(&self, start: Location, bytes: &mut [u8]) -> bool {
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&bytes[..HEAD_BYTES]);
        let other = Head::generation(&head).filter(|found| *found != self.form.key.generation);
        let written = other.and_then(|_| Head::claimed_bytes(&head, self.geometry.segment_bytes));
        let Some(written) = written else {
            return false;
        };
        let end = start.offset() + written as u64;
        let block = Span::around(end - HEAD_BYTES as u64, end);
        let is_read = self.read_span(bytes, block).is_ok();
        is_read && bytes[block.len() - HEAD_BYTES..block.len()] == head
    }

    /// The head of a segment; its copy at the end of the write if the head itself is damaged, so that one
    /// bad block does not cost a whole segment, and what the two come to if both are, in few bytes.
    ///
    /// If that fails nothing of the segment is to be had. Its records are all there, each with a checksum,
    /// but the checksums depend on the segment's sequence, which only heads have, so that no record can be
    /// told from one that an earlier use of the segment left there. To guess sequences until one is right
    /// would take that one for the page's newest.
    pub(super) fn find_head(&self, segment: SegmentIndex, bytes: &mut [u8]) -> Result<Head> {
        let start = self.geometry.start(segment);
        let block = Span::around(start.offset(), start.offset() + 1);
        let mut raw = [0; HEAD_BYTES];
        let head = match self.read_span(bytes, block) {
            Ok(()) => {
                raw.copy_from_slice(&bytes[..HEAD_BYTES]);
                Head::decode(&raw, &self.form, start, self.geometry.segment_bytes)
            }
            Err(source) => {
                self.counters.read_errors.add(1);
                Err(Error::io("read segment head", start.offset(), source))
            }
        };
        head.or_else(|error| self.find_tail(start, bytes, &raw).ok_or(error))
    }

    /// The newest tail in a segment, mended with the damaged `head` where that helps. A longer, earlier use
    /// may have left an older one behind it.
    fn find_tail(
        &self,
        start: Location,
        bytes: &mut [u8],
        head: &[u8; HEAD_BYTES],
    ) -> Option<Head> {
        let segment_bytes = self.geometry.segment_bytes;
        let end = start.offset() + u64::from(segment_bytes);
        let mut newest: Option<Head> = None;
        let mut from = start.offset();
        while from < end {
            let window = Span::around(from, end.min(from + READ_BYTES_MAX as u64));
            from = window.end;
            // What cannot be read holds no tail that verifies.
            let _ = self.read_what_can_be(bytes, window);
            for (number, block) in bytes[..window.len()].chunks_exact(BLOCK_BYTES).enumerate() {
                let mut raw = [0; HEAD_BYTES];
                raw.copy_from_slice(&block[BLOCK_BYTES - HEAD_BYTES..]);
                let written = window.start - start.offset() + ((number + 1) * BLOCK_BYTES) as u64;
                newest = Head::decode(&raw, &self.form, start, segment_bytes)
                    .ok()
                    .or_else(|| Head::mend(head, &raw, &self.form, start, segment_bytes))
                    .filter(|tail| tail.shape.written_bytes() as u64 == written)
                    .into_iter()
                    .chain(newest)
                    .max_by_key(|tail| tail.sequence);
            }
        }
        newest
    }
}
