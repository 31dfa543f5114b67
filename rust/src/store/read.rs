//! Reading records: neighbours in one read, several reads under way at once where the device can,
//! each record verified, each with its own verdict.
//!
//! Not here: whether a record is still its owner's. A segment can be freed and rewritten while it
//! is read; then nothing verifies (the sequence is part of every checksum), or the old bytes do.
//! So after a read the caller compares table word and sequence with those before it.
//! Locking: none. Any number of threads read at once, each with its own [`ReadBuffer`].

use std::io;

use crate::error::{Error, Result};

use super::buffer::AlignedBuffer;
use super::device::{BLOCK_BYTES, Span};
use super::form::{Form, RECORD_BYTES_MAX};
use super::layout::OBJECT_BYTES_MAX;
use super::log::{RecordRef, Store};

/// Largest read of the device, bytes.
pub const READ_BYTES_MAX: usize = 128 << 10;
/// Widest gap that is read and thrown away rather than making two reads of one. An SSD answers an
/// additional 16 KiB sooner than an additional request.
pub const GAP_BYTES_MAX: u64 = 16 << 10;
/// Reads that one reader has under way at once: as many as it takes fetches at a time.
pub const GROUP_READS_MAX: usize = 32;
/// Bytes of these together: records of 4 KiB at random, two blocks each.
const GROUP_BYTES_MAX: usize = 256 << 10;
/// Records that are sorted at once.
pub(super) const RECORDS_PER_PASS: usize = 256;

// Any record, wherever in a block it begins, is read at once.
const _: () = assert!(RECORD_BYTES_MAX + 2 * BLOCK_BYTES <= READ_BYTES_MAX);
// Every group has one read at least, and a run's end fits.
const _: () = assert!(READ_BYTES_MAX <= GROUP_BYTES_MAX && RECORDS_PER_PASS <= u16::MAX as usize);

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
            bytes: AlignedBuffer::new(GROUP_BYTES_MAX),
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

/// The blocks of a record.
fn span_of(form: &Form, record: &RecordRef) -> Span {
    let start = record.location.offset();
    Span::around(start, start + u64::from(form.record_bytes(record.bytes)))
}

/// Both spans, of which `next` does not begin before the other, if that is worth one read.
fn join(span: Span, next: Span) -> Option<Span> {
    let joined = Span {
        start: span.start,
        end: span.end.max(next.end),
    };
    let near = next.start.saturating_sub(span.end) <= GAP_BYTES_MAX;
    (near && joined.len() <= READ_BYTES_MAX).then_some(joined)
}

/// Reads that are under way together, and the records that each covers: *runs* of the sorted ones.
struct Group {
    spans: [Span; GROUP_READS_MAX],
    /// Where each run ends among the sorted records.
    ends: [u16; GROUP_READS_MAX],
    reads: usize,
}

impl Group {
    /// As many of the sorted records as go into one group; one at least.
    fn next(form: &Form, records: &[RecordRef], order: &[u32]) -> Self {
        let mut group = Group {
            spans: [Span::default(); GROUP_READS_MAX],
            ends: [0; GROUP_READS_MAX],
            reads: 0,
        };
        let (mut bytes, mut end) = (0, 0);
        while end < order.len() && group.reads < GROUP_READS_MAX {
            let (run, span) = next_run(form, records, &order[end..]);
            bytes += span.len();
            if bytes > GROUP_BYTES_MAX {
                break;
            }
            end += run;
            (group.spans[group.reads], group.ends[group.reads]) = (span, end as u16);
            group.reads += 1;
        }
        group
    }

    fn spans(&self) -> &[Span] {
        &self.spans[..self.reads]
    }

    /// Those of the sorted records that a read covers.
    fn run<'a>(&self, order: &'a [u32], read: usize) -> impl Iterator<Item = usize> + use<'a> {
        let begin = read.checked_sub(1).map_or(0, |before| self.ends[before]);
        let run = &order[usize::from(begin)..usize::from(self.ends[read])];
        run.iter().map(|index| *index as usize)
    }

    /// How many of the sorted records it covers.
    fn len(&self) -> usize {
        usize::from(self.ends[self.reads - 1])
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
            let group = Group::next(&self.form, records, rest);
            self.read_group((bytes, plain), &group, records, rest, each);
            rest = &rest[group.len()..];
        }
    }

    /// Reads the records of a group, which begin the sorted ones, with the two parts of a buffer.
    fn read_group(
        &self,
        (bytes, plain): (&mut [u8], &mut [u8]),
        group: &Group,
        records: &[RecordRef],
        order: &[u32],
        each: &mut dyn FnMut(usize, Result<&[u8]>),
    ) {
        let mut has_failed = [false; GROUP_READS_MAX];
        self.counters.device_reads.add(group.reads as u64);
        let mut done = |read: usize, bytes: &[u8], result: io::Result<()>| {
            if result.is_err() {
                has_failed[read] = true;
                return;
            }
            self.counters.read_bytes.add(bytes.len() as u64);
            for index in group.run(order, read) {
                let start = group.spans[read].start;
                each(index, self.verify(bytes, plain, start, &records[index]));
            }
        };
        self.device.read_many(bytes, group.spans(), &mut done);
        // One bad block must not cost its neighbours: each record gets a read of its own.
        let failed = (0..group.reads).filter(|read| has_failed[*read]);
        for index in failed.flat_map(|read| group.run(order, read)) {
            let record = &records[index];
            let own = span_of(&self.form, record);
            let object = match self.read_span(bytes, own) {
                Ok(()) => self.verify(bytes, plain, own.start, record),
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

    /// The object of `record` in `bytes`, read from `start`, or in `plain` if it was sealed.
    fn verify<'a>(
        &self,
        bytes: &'a [u8],
        plain: &'a mut [u8],
        start: u64,
        record: &RecordRef,
    ) -> Result<&'a [u8]> {
        let raw = &bytes[(record.location.offset() - start) as usize..];
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
        .map(|index| span_of(form, &records[*index as usize]));
    let mut run = 1;
    let mut span = spans.next().expect("a run of no records");
    while let Some(joined) = spans.next().and_then(|next| join(span, next)) {
        span = joined;
        run += 1;
    }
    (run, span)
}
