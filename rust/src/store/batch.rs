//! One segment in the making: records are packed into a buffer that is then written at once.
//!
//! Made once by [`Store::batch`](super::Store::batch) and used for one segment after the other:
//! begin, push, commit, (retain), seal. Its records can be walked from the first push until the
//! next begin, also after a failed commit; in a store that is encrypted their objects are sealed then.
//!
//! Several batches may be open at once. Each gets its sequence when it is committed, so sequences
//! tell the order of the commits: of two records of one page the later committed one is the newer,
//! if its owner never has a page in two open batches.
//!
//! Not here: which segment it becomes (`segment`), the write (`log`).
//! Locking: none, the owner's.

use super::buffer::AlignedBuffer;
use super::form::Form;
use super::geometry::{Geometry, Location, SegmentIndex};
use super::layout::{ENTRY_BYTES, Entry, HEAD_BYTES, Head, OBJECT_BYTES_MAX, RECORDS_MAX, Shape};
use super::log::RecordRef;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Owns no segment. Records of a failed commit may still be there.
    Idle,
    /// Owns a segment and takes records.
    Open,
    /// Its segment is written and not sealed.
    Committed,
}

/// Records for one segment.
pub struct Batch {
    pub(super) buffer: AlignedBuffer,
    pub(super) state: State,
    pub(super) segment: SegmentIndex,
    /// 0 until the commit.
    pub(super) sequence: u64,
    form: Form,
    /// Records are as they go to the device.
    is_sealed: bool,
    start: Location,
    shape: Shape,
}

impl Batch {
    pub(super) fn new(geometry: &Geometry, form: Form) -> Self {
        Batch {
            buffer: AlignedBuffer::new(geometry.segment_bytes as usize),
            state: State::Idle,
            segment: SegmentIndex(0),
            sequence: 0,
            form,
            is_sealed: false,
            start: Location(0),
            shape: Shape {
                records: 0,
                records_bytes: 0,
            },
        }
    }

    pub(super) fn open(&mut self, segment: SegmentIndex, start: Location) {
        assert_eq!(self.state, State::Idle, "a batch was begun twice");
        self.state = State::Open;
        self.segment = segment;
        self.start = start;
        self.sequence = 0;
        self.is_sealed = false;
        self.shape = Shape {
            records: 0,
            records_bytes: 0,
        };
    }

    /// Appends a record and says where it will be. None when it does not fit any more.
    pub fn push(&mut self, page: u32, codec: u8, object: &[u8]) -> Option<Location> {
        assert_eq!(self.state, State::Open, "a push without begin");
        assert!(
            (1..=OBJECT_BYTES_MAX).contains(&object.len()),
            "object of {} bytes",
            object.len()
        );
        let entry = Entry {
            page,
            bytes: object.len() as u32,
            codec,
        };
        let bytes = self.form.record_bytes(entry.bytes);
        if !self.fits(1, bytes) {
            return None;
        }
        let from = self.shape.summary_at();
        let location = self.place(from);
        let raw = &mut self.buffer[from..from + bytes as usize];
        self.form.place_record(raw, &entry, object);
        self.shape = self.grown(1, bytes);
        Some(location)
    }

    /// Would so many more records, of `records_bytes` together, find room?
    pub fn fits(&self, records: u32, records_bytes: u32) -> bool {
        let grown = self.grown(records, records_bytes);
        grown.records <= RECORDS_MAX && grown.summary_end() + HEAD_BYTES <= self.buffer.len()
    }

    fn grown(&self, records: u32, records_bytes: u32) -> Shape {
        Shape {
            records: self.shape.records + records,
            records_bytes: self.shape.records_bytes + records_bytes,
        }
    }

    /// Does it take records?
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Bytes that a commit would write after so many more records, of `records_bytes` together.
    pub fn written_bytes_with(&self, records: u32, records_bytes: u32) -> u64 {
        self.grown(records, records_bytes).written_bytes() as u64
    }

    /// Bytes of its records so far.
    pub fn records_bytes(&self) -> u32 {
        self.shape.records_bytes
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.shape.records as usize
    }

    /// True when nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.shape.records == 0
    }

    /// The records with their objects, in the order of their places.
    pub fn records(&self) -> impl Iterator<Item = (RecordRef, &[u8])> {
        let mut at = HEAD_BYTES;
        (0..self.shape.records).map(move |_| {
            let (entry, object) = self.record(at);
            let location = self.place(at);
            at += self.form.record_bytes(entry.bytes) as usize;
            (RecordRef::new(&entry, location, self.sequence), object)
        })
    }

    fn record(&self, at: usize) -> (Entry, &[u8]) {
        let raw = &self.buffer[at..at + ENTRY_BYTES];
        let entry = if self.is_sealed {
            self.form.entry(raw, self.sequence, self.place(at))
        } else {
            Entry::decode(raw)
        };
        let entry = entry.expect("push wrote it");
        let object = at + self.form.header_bytes();
        (entry, &self.buffer[object..object + entry.bytes as usize])
    }

    /// The location of a byte of the segment.
    fn place(&self, byte: usize) -> Location {
        Location::at_offset(self.start.offset() + byte as u64)
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Completes the segment around the records, under its sequence: all that is to be written.
    pub(super) fn finish(&mut self, sequence: u64) -> &[u8] {
        assert!(
            self.state == State::Open && !self.is_empty(),
            "a commit of nothing"
        );
        self.sequence = sequence;
        let shape = self.shape;
        let (summary_at, summary_end) = (shape.summary_at(), shape.summary_end());
        let mut from = HEAD_BYTES;
        for to in (summary_at..summary_end).step_by(ENTRY_BYTES) {
            let (entry, _) = self.record(from);
            let end = from + self.form.record_bytes(entry.bytes) as usize;
            let (at, raw) = (self.place(from), &mut self.buffer[from..end]);
            self.form.seal_record(raw, sequence, at, &entry);
            self.buffer.copy_within(from..from + ENTRY_BYTES, to);
            from = end;
        }
        assert_eq!(
            from, summary_at,
            "the records do not end where the summary begins"
        );

        self.is_sealed = true;
        let summary_place = self.place(summary_at);
        let summary = &self.buffer[summary_at..summary_end];
        let summary_checksum = self.form.checksum(self.sequence, summary_place, summary);
        let head = Head {
            sequence: self.sequence,
            shape,
            summary_checksum,
        };
        let raw = head.encode(&self.form, self.start);
        let written = shape.written_bytes();
        self.buffer[..HEAD_BYTES].copy_from_slice(&raw);
        self.buffer[summary_end..written - HEAD_BYTES].fill(0);
        self.buffer[written - HEAD_BYTES..written].copy_from_slice(&raw);
        &self.buffer[..written]
    }
}
