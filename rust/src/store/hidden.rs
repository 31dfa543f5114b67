//! Records that a segment is known to have and that nobody can find: the list of records is damaged, and so
//! are they. Whose they were.
//!
//! A recovery must know it, or it takes an older version of such a page for the newest. Each record is
//! named twice, by the entry in the list and by the one in its own header. Neither is proven here: a page is
//! named for each entry that can be true where it stands, so that of a record both of whose entries say
//! different things two pages are named. One named for nothing is an error too many, which is
//! the side to err on. What has no entry that can be true stays without a name, and is counted; so does what
//! was never written, behind the end of a write that was cut short: zeros, which would say page 0.
//!
//! Not here: records that do verify (`clean`). Locking: none; for a store that is looked at or recovered, it
//! allocates.

use crate::error::Result;

use super::device::Span;
use super::geometry::{Location, SegmentIndex};
use super::layout::{ENTRY_BYTES, Entry, HEAD_BYTES, RECORD_HEADER_BYTES, Shape};
use super::log::{RecordRef, Store};
use super::read::{READ_BYTES_MAX, ReadBuffer};

impl Store {
    /// Reports what the records of a segment may have been that cannot be found in it, each where it stood,
    /// and gives the number of those of which nothing is known. Nothing where the list of records is whole.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) where the device does not give all of the segment.
    pub fn hidden_records(
        &self,
        segment: SegmentIndex,
        buffer: &mut ReadBuffer,
        each: &mut dyn FnMut(RecordRef),
    ) -> Result<u64> {
        let Some((sequence, shape)) = self.segments.shape(segment) else {
            return Ok(0);
        };
        if self
            .read_summary(segment, sequence, shape, &mut buffer.bytes)
            .is_ok()
        {
            return Ok(0);
        }
        let mut found = Vec::with_capacity(shape.records as usize);
        self.search_records(segment, sequence, shape, buffer, &mut |record| {
            found.push(record);
        })?;
        if found.len() == shape.records as usize {
            return Ok(0);
        }
        let list = self.raw_list(segment, shape, buffer);
        let mut search = Search {
            store: self,
            sequence,
            list,
            // The next entry of the list, while it is known which that is.
            next: Some(0),
            named: 0,
        };
        let start = self.geometry.start(segment).offset();
        let mut at = start + HEAD_BYTES as u64;
        let end = start + shape.summary_at() as u64;
        for record in found.iter().map(Some).chain([None]) {
            let until = record.map_or(end, |record| record.location.offset());
            search.name_gap(at, until, &mut buffer.bytes, each);
            if let Some(RecordRef {
                bytes, location, ..
            }) = record
            {
                at = location.offset() + u64::from(self.record_bytes(*bytes));
                search.next = search.next.map(|next| next + 1);
            }
        }
        let missing = u64::from(shape.records) - found.len() as u64;
        Ok(missing.saturating_sub(search.named))
    }

    /// The list of records as it is; empty if it cannot be read.
    fn raw_list(&self, segment: SegmentIndex, shape: Shape, buffer: &mut ReadBuffer) -> Vec<u8> {
        let start = self.geometry.start(segment).offset();
        let from = start + shape.summary_at() as u64;
        let span = Span::around(from, start + shape.summary_end() as u64);
        if span.len() > READ_BYTES_MAX || self.read_span(&mut buffer.bytes, span).is_err() {
            return Vec::new();
        }
        let skipped = (from - span.start) as usize;
        buffer.bytes[skipped..skipped + shape.records as usize * ENTRY_BYTES].to_vec()
    }
}

/// A walk over what lies between the records that were found.
struct Search<'a> {
    store: &'a Store,
    sequence: u64,
    list: Vec<u8>,
    next: Option<usize>,
    named: u64,
}

impl Search<'_> {
    fn name_gap(
        &mut self,
        from: u64,
        until: u64,
        bytes: &mut [u8],
        each: &mut dyn FnMut(RecordRef),
    ) {
        let size = |entry: &Entry| u64::from(self.store.record_bytes(entry.bytes));
        let mut at = from;
        while at < until {
            let place = Location::at_offset(at);
            let can_be = |entry: &Entry| at + size(entry) <= until;
            let listed = self.listed(place).filter(can_be);
            let own = self.own(place, bytes).filter(can_be);
            for entry in listed.iter().chain(&own.filter(|own| listed != Some(*own))) {
                each(RecordRef::new(entry, place, self.sequence));
            }
            let ends_it = |entry: &Entry| at + size(entry) == until;
            let Some(entry) = listed
                .filter(ends_it)
                .or(own.filter(ends_it))
                .or(listed)
                .or(own)
            else {
                // Nobody knows how many there are up to the next one that was found.
                self.next = None;
                return;
            };
            self.named += 1;
            self.next = self.next.map(|next| next + 1);
            at += size(&entry);
        }
    }

    /// The entry that the list has for the record at this place.
    fn listed(&self, place: Location) -> Option<Entry> {
        let from = self.next? * ENTRY_BYTES;
        let raw = self.list.get(from..from + ENTRY_BYTES)?;
        (!is_blank(raw))
            .then(|| self.store.form.entry(raw, self.sequence, place))
            .flatten()
    }

    /// The entry that the record at this place begins with.
    fn own(&self, place: Location, bytes: &mut [u8]) -> Option<Entry> {
        let at = place.offset();
        let span = Span::around(at, at + RECORD_HEADER_BYTES as u64);
        self.store.read_span(bytes, span).ok()?;
        let from = (at - span.start) as usize;
        let header = &bytes[from..from + RECORD_HEADER_BYTES];
        (!is_blank(header))
            .then(|| {
                let entry = &header[..ENTRY_BYTES];
                self.store.form.entry(entry, self.sequence, place)
            })
            .flatten()
    }
}

/// Was this never written?
fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
