//! Reading records: neighbours together, each one verified, each with its own verdict.
//!
//! Not here: whether a record is still its owner's. A segment can be freed and rewritten while it
//! is read; then nothing verifies (the sequence is part of every checksum), or the old bytes do.
//! So after a read the caller compares table word and sequence with those before it.
//! Locking: none. Any number of threads read at once, each with its own [`ReadBuffer`].

use std::io;

use crate::error::{Error, Result};

use super::buffer::AlignedBuffer;
use super::device::BLOCK_BYTES;
use super::form::{Form, RECORD_BYTES_MAX};
use super::layout::OBJECT_BYTES_MAX;
use super::log::{RecordRef, Store};

/// Largest read of the device, bytes.
pub const READ_BYTES_MAX: usize = 128 << 10;
/// Widest gap that is read and thrown away rather than making two reads of one. An SSD answers an
/// additional 16 KiB sooner than an additional request.
pub const GAP_BYTES_MAX: u64 = 16 << 10;
/// Records that are sorted at once.
pub(super) const RECORDS_PER_PASS: usize = 256;

// Any record, wherever in a block it begins, is read at once.
const _: () = assert!(RECORD_BYTES_MAX + 2 * BLOCK_BYTES <= READ_BYTES_MAX);

/// What a reader needs: made once, used for every read.
pub struct ReadBuffer {
    pub(super) bytes: AlignedBuffer,
    /// A sealed object, decrypted.
    pub(super) plain: Box<[u8]>,
    /// Indexes of the caller's records in the order of their places.
    order: Vec<u32>,
}

impl ReadBuffer {
    /// The only allocations of a reader.
    pub fn new() -> Self {
        ReadBuffer {
            bytes: AlignedBuffer::new(READ_BYTES_MAX),
            plain: vec![0; OBJECT_BYTES_MAX].into_boxed_slice(),
            order: Vec::with_capacity(RECORDS_PER_PASS),
        }
    }

    /// The indexes of those of up to [`RECORDS_PER_PASS`] records that are wanted, in the order of their
    /// places.
    pub(super) fn sort(
        &mut self,
        records: &[RecordRef],
        is_wanted: &dyn Fn(usize) -> bool,
    ) -> &[u32] {
        self.order.clear();
        let wanted = (0..records.len()).filter(|index| is_wanted(*index));
        self.order.extend(wanted.map(|index| index as u32));
        self.order
            .sort_unstable_by_key(|index| records[*index as usize].location);
        &self.order
    }
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Whole blocks of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    /// The blocks around a range of bytes.
    pub fn around(start: u64, end: u64) -> Self {
        let block = BLOCK_BYTES as u64;
        Span {
            start: start / block * block,
            end: end.next_multiple_of(block),
        }
    }

    fn of(form: &Form, record: &RecordRef) -> Self {
        let start = record.location.offset();
        Span::around(start, start + u64::from(form.record_bytes(record.bytes)))
    }

    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Is the byte at this offset in it?
    pub fn holds(&self, offset: u64) -> bool {
        (self.start..self.end).contains(&offset)
    }

    /// This span and `next`, which does not begin before it, if that is worth one read.
    fn join(self, next: Span) -> Option<Span> {
        let joined = Span {
            start: self.start,
            end: self.end.max(next.end),
        };
        let near = next.start.saturating_sub(self.end) <= GAP_BYTES_MAX;
        (near && joined.len() <= READ_BYTES_MAX).then_some(joined)
    }
}

impl Store {
    /// Reads records in any order and hands each over as soon as it is there, by its index in
    /// `records`: the object, or why not. Never fewer and never more than one answer a record.
    pub fn read(
        &self,
        buffer: &mut ReadBuffer,
        records: &[RecordRef],
        each: &mut dyn FnMut(usize, Result<&[u8]>),
    ) {
        for (pass, records) in records.chunks(RECORDS_PER_PASS).enumerate() {
            let first = pass * RECORDS_PER_PASS;
            self.read_those(buffer, records, &|_| true, &mut |index, object| {
                each(first + index, object);
            });
        }
    }

    /// Reads those of up to [`RECORDS_PER_PASS`] records that are wanted, by their index.
    pub(super) fn read_those(
        &self,
        buffer: &mut ReadBuffer,
        records: &[RecordRef],
        is_wanted: &dyn Fn(usize) -> bool,
        each: &mut dyn FnMut(usize, Result<&[u8]>),
    ) {
        buffer.sort(records, is_wanted);
        let ReadBuffer {
            bytes,
            plain,
            order,
        } = buffer;
        let mut rest = &order[..];
        while !rest.is_empty() {
            let (run, span) = next_run(&self.form, records, rest);
            let (now, later) = rest.split_at(run);
            self.read_run((bytes, plain), span, records, now, each);
            rest = later;
        }
    }

    /// Reads the records `run` of `records`, which lie in `span`, with the two parts of a buffer.
    fn read_run(
        &self,
        (bytes, plain): (&mut [u8], &mut [u8]),
        span: Span,
        records: &[RecordRef],
        run: &[u32],
        each: &mut dyn FnMut(usize, Result<&[u8]>),
    ) {
        let whole = self.read_span(bytes, span).is_ok();
        for index in run.iter().map(|index| *index as usize) {
            let record = &records[index];
            if whole {
                each(index, self.verify(bytes, plain, span, record));
                continue;
            }
            // One bad block must not cost its neighbours: each record gets a read of its own.
            let own = Span::of(&self.form, record);
            let object = match self.read_span(bytes, own) {
                Ok(()) => self.verify(bytes, plain, own, record),
                Err(source) => {
                    self.counters.read_errors.add(1);
                    Err(Error::io("read record", record.location.offset(), source))
                }
            };
            each(index, object);
        }
    }

    /// Fills the beginning of `bytes` with a span of the file.
    pub(super) fn read_span(&self, bytes: &mut [u8], span: Span) -> io::Result<()> {
        self.counters.device_reads.add(1);
        self.device.read_at(&mut bytes[..span.len()], span.start)?;
        self.counters.read_bytes.add(span.len() as u64);
        Ok(())
    }

    /// Like `read_span`, but a bad block costs only itself: it becomes zeros, in which nothing
    /// verifies, and an error at the end.
    pub(super) fn read_what_can_be(&self, bytes: &mut [u8], span: Span) -> io::Result<()> {
        if self.read_span(bytes, span).is_ok() {
            return Ok(());
        }
        let mut outcome = Ok(());
        for (number, block) in bytes[..span.len()]
            .chunks_exact_mut(BLOCK_BYTES)
            .enumerate()
        {
            let start = span.start + (number * BLOCK_BYTES) as u64;
            let block_span = Span {
                start,
                end: start + BLOCK_BYTES as u64,
            };
            if let Err(error) = self.read_span(block, block_span) {
                self.counters.read_errors.add(1);
                block.fill(0);
                outcome = Err(error);
            }
        }
        outcome
    }

    /// The object of `record` in `bytes`, which hold `span`, or in `plain` if it was sealed.
    fn verify<'a>(
        &self,
        bytes: &'a [u8],
        plain: &'a mut [u8],
        span: Span,
        record: &RecordRef,
    ) -> Result<&'a [u8]> {
        let raw = &bytes[(record.location.offset() - span.start) as usize..];
        let (at, sequence) = (record.location, record.sequence);
        let form = &self.form;
        let object = form.decode_record(raw, sequence, at, &record.entry(), plain);
        if object.is_ok() {
            self.counters.records_read.add(1);
            return object;
        }
        let now = self.sequence(at);
        if now == sequence {
            self.counters.checksum_errors.add(1);
            return object;
        }
        // The page moved on while the device was reading: no fault of the disk.
        self.counters.stale_reads.add(1);
        let what = "segment sequence";
        Err(Error::Corrupt {
            what,
            at: at.offset(),
            wanted: sequence,
            found: now,
        })
    }
}

/// How many of the sorted records one read covers, and the read.
fn next_run(form: &Form, records: &[RecordRef], order: &[u32]) -> (usize, Span) {
    let mut spans = order
        .iter()
        .map(|index| Span::of(form, &records[*index as usize]));
    let mut run = 1;
    let mut span = spans.next().expect("a run of no records");
    while let Some(joined) = spans.next().and_then(|next| span.join(next)) {
        span = joined;
        run += 1;
    }
    (run, span)
}
