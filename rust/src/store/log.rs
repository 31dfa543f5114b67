//! The log: one batch becomes one segment, and the store keeps count of what lives in it.
//!
//! The life of a record: `push`, `commit`, then either `retain` (the table points to it now) or
//! nothing (its page changed meanwhile), then `seal`; later `release`. What is neither retained nor
//! sealed yet is readable but not alive.
//!
//! Not here: opening (`open`, `adopt`), reading (`read`), cleaning (`clean`).
//! Locking: see `segment`. Each thread that writes has its own [`Batch`].

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

use super::ahead::Ahead;
use super::batch::{Batch, State};
use super::buffer::AlignedBuffer;
use super::device::Device;
use super::form::Form;
use super::geometry::{Geometry, Location};
use super::layout::{Entry, RECORDS_MAX};
use super::precedence::{Precedence, pieces_of};
use super::refusals::Refusals;
use super::segment::{Reason, Segments};
use super::stats::{Counters, StoreStats};
use super::superblock::SuperblockWriter;
use super::traffic::Lines;

/// A record as its reader knows it: what must be found, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// Owner.
    pub page: u32,
    /// How the object is compressed; meaningless here.
    pub codec: u8,
    /// Length of the object.
    pub bytes: u32,
    /// Where it is.
    pub location: Location,
    /// [`Store::sequence`] of that place, taken when the owner's table was looked at.
    pub sequence: u64,
}

impl RecordRef {
    pub(super) fn new(entry: &Entry, location: Location, sequence: u64) -> Self {
        let Entry { page, bytes, codec } = *entry;
        RecordRef {
            page,
            codec,
            bytes,
            location,
            sequence,
        }
    }

    pub(super) fn entry(&self) -> Entry {
        Entry {
            page: self.page,
            bytes: self.bytes,
            codec: self.codec,
        }
    }
}

/// How several reads are done at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// In an io_uring.
    IoUring,
    /// Each by a thread that waits for it; and why so.
    Threads(String),
}

/// The packed log on one device.
pub struct Store {
    pub(super) device: Box<dyn Device>,
    /// What is under way to the device.
    pub(super) lines: Arc<Lines>,
    /// Of the file behind the device, if it is one.
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) reading: Reading,
    pub(super) geometry: Geometry,
    pub(super) form: Form,
    pub(super) segments: Segments,
    pub(super) superblock: SuperblockWriter,
    pub(super) refusals: Refusals,
    pub(super) counters: Counters,
    pub(super) ahead: Ahead,
    pub(super) precedence: Precedence,
    /// What freed segments are buried under; None in a store that no recovery reads.
    pub(super) tombstones: Option<Mutex<AlignedBuffer>>,
    /// Freed segments are discarded. Goes off for good when the device says that it cannot.
    pub(super) punch: AtomicBool,
    /// Between open and [`adopted`](Self::adopted) of a store that is taken over.
    pub(super) adopting: AtomicBool,
}

impl Store {
    /// Sequence of the segment around `location`, 0 while it is free. Two equal answers with the
    /// same table word in between mean that the bytes there did not change.
    pub fn sequence(&self, location: Location) -> u64 {
        self.segments.sequence(self.geometry.segment(location))
    }

    /// Largest object that [`Batch::push`] can take.
    pub fn object_bytes_max(&self) -> u32 {
        self.geometry.object_bytes_max()
    }

    /// Segments in the backing file; their numbers are below it.
    pub fn segments(&self) -> u32 {
        self.geometry.segments
    }

    /// [`StoreStats::summary_errors`] without the walk.
    pub fn summary_errors(&self) -> u64 {
        self.counters.summary_errors.get()
    }

    /// [`StoreStats::heads_damaged`] without the walk.
    pub fn heads_damaged(&self) -> u64 {
        self.counters.heads_damaged.get()
    }

    /// [`StoreStats::read_bytes`] without the walk.
    pub fn read_bytes(&self) -> u64 {
        self.counters.read_bytes.get()
    }

    /// Bytes of a segment, the most that one batch writes.
    pub fn segment_bytes(&self) -> u32 {
        self.geometry.segment_bytes
    }

    /// The most records that one batch can take.
    pub fn records_max(&self) -> usize {
        (self.geometry.segment_bytes / self.record_bytes(1)).min(RECORDS_MAX) as usize
    }

    /// Bytes that an object takes among the records of a segment.
    pub fn record_bytes(&self, object_bytes: u32) -> u32 {
        self.form.record_bytes(object_bytes)
    }

    /// How several reads are done at once.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Is what it writes encrypted?
    pub fn is_encrypted(&self) -> bool {
        self.form.cipher.is_some()
    }

    /// What the device refused to do when it was opened.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Is the superblock still to be written? Then nothing else is.
    pub fn is_superblock_owed(&self) -> bool {
        !self.superblock.is_written()
    }

    /// Did a sync fail when the superblock was written?
    pub fn has_superblock_failed_to_sync(&self) -> bool {
        self.superblock.has_failed_to_sync()
    }

    /// Writes the superblock if it is still to be written. Everything that writes begins with it.
    pub fn write_superblock(&self) -> Result<()> {
        self.superblock.write(&*self.device, &self.counters)
    }

    /// What is under way to the device.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The device as a whole is in doubt, or not any more: while it is, a write that fails says
    /// nothing against its segment.
    pub fn set_device_in_doubt(&self, is_in_doubt: bool) {
        self.segments.set_device_in_doubt(is_in_doubt);
    }

    /// Segments that a batch could take, those in reserve for cleaning included, suspect ones not.
    pub fn segments_free(&self) -> u32 {
        self.segments.free_count() as u32
    }

    /// Segments that are freed and wait for a sync, a checkpoint or a tombstone, none of which is counted as free.
    pub fn segments_held(&self) -> u32 {
        self.segments.held_count() as u32
    }

    /// Of these, the ones that two syncs make free, without a checkpoint.
    pub fn segments_released(&self) -> u32 {
        self.segments.released_count() as u32
    }

    /// Segments that are not for write-back.
    pub fn segments_reserved(&self) -> u32 {
        self.segments.reserve()
    }

    /// A batch for this store: one buffer of a segment, to be used over and over.
    pub fn batch(&self) -> Batch {
        Batch::new(&self.geometry, self.form.clone())
    }

    /// Reserves a free segment for a batch and empties it. StoreFull when there is none, or none but those that
    /// are kept for better reasons.
    pub fn begin(&self, batch: &mut Batch, reason: Reason) -> Result<()> {
        assert!(
            !self.adopting.load(Ordering::Acquire),
            "begin before adopted()"
        );
        assert_eq!(batch.state, State::Idle, "a batch was begun twice");
        let segment = self.segments.take(reason)?;
        batch.open(segment, self.geometry.start(segment));
        Ok(())
    }

    /// Gives back the segment of a batch that was begun but will not be committed.
    pub fn cancel(&self, batch: &mut Batch) {
        assert_eq!(batch.state, State::Open, "a cancel without begin");
        self.segments.give_back(batch.segment);
        batch.state = State::Idle;
    }

    /// Are there reads that writes should give way to? Then one segment is to be written at a time.
    pub fn has_readers(&self) -> bool {
        self.precedence.has_readers()
    }

    /// Writes the batch as one segment, in pieces if there are readers. After it the records can be read
    /// and retained.
    ///
    /// On an error nothing of it counts as written, the records stay in the batch for the caller,
    /// and the segment is not trusted any more (see `segment`), unless only space was missing or nothing
    /// can be written at all.
    pub fn commit(&self, batch: &mut Batch) -> Result<()> {
        // Before it has a sequence: until the superblock is written, those belong to nobody.
        if let Err(error) = self.write_superblock() {
            self.segments.give_back(batch.segment);
            batch.state = State::Idle;
            return Err(error);
        }
        let at = self.geometry.start(batch.segment).offset();
        let bytes = batch.finish(self.segments.next_sequence());
        let written_bytes = bytes.len() as u64;
        let piece_bytes = match self.precedence.begin_segment() {
            true => pieces_of(self.geometry.segment_bytes as usize),
            false => bytes.len(),
        };
        let mut pieces = (at..).step_by(piece_bytes).zip(bytes.chunks(piece_bytes));
        let result = pieces.try_for_each(|(at, piece)| self.device.write_at(piece, at));
        if let Err(source) = result {
            self.counters.write_errors.add(1);
            self.segments.doubt(batch.segment, batch.sequence);
            let error = Error::io("write segment", at, source);
            if error.is_out_of_space() {
                self.segments.give_back(batch.segment);
            } else {
                self.segments.suspect(batch.segment);
            }
            batch.state = State::Idle;
            return Err(error);
        }
        self.segments
            .written(batch.segment, batch.sequence, batch.shape());
        batch.state = State::Committed;
        self.counters.written_bytes.add(written_bytes);
        self.counters.records_written.add(batch.len() as u64);
        Ok(())
    }

    /// The caller's table now points to this record of a committed batch.
    pub fn retain(&self, location: Location, object_bytes: u32) {
        self.segments.retain(
            self.geometry.segment(location),
            self.record_bytes(object_bytes),
        );
    }

    /// The caller's table does not point to this record any more. The last release of a sealed
    /// segment frees it.
    pub fn release(&self, location: Location, object_bytes: u32) {
        self.segments.release(
            self.geometry.segment(location),
            self.record_bytes(object_bytes),
        );
    }

    /// Every record of the batch that will live was retained. The batch can begin again.
    pub fn seal(&self, batch: &mut Batch) {
        assert_eq!(batch.state, State::Committed, "a seal without commit");
        batch.state = State::Idle;
        self.segments.seal(batch.segment);
    }

    /// What superseded the record at `location` is not in the log yet: its segment, once it is freed, is
    /// kept until a checkpoint that begins from now on has succeeded. To be called before the release.
    pub fn outlived(&self, location: Location) {
        self.segments.outlived(self.geometry.segment(location));
    }

    /// Makes everything that was committed survive loss of power; frees segments that waited for that.
    /// No batch may be under way whose records are to count as durable.
    pub fn sync(&self) -> Result<()> {
        let number = self.segments.begin_sync();
        if let Err(source) = self.device.sync() {
            self.segments.doubt_sync();
            return Err(Error::io("sync the backing file", 0, source));
        }
        self.segments.end_sync(number);
        Ok(())
    }

    /// What flushes were answered with, or what superseded that, is in segments of smaller sequences and on the
    /// device: a sync that succeeded, of this process or of a predecessor, has covered them.
    pub fn set_promised(&self, sequence: u64) {
        self.segments.set_promised(sequence);
    }

    /// All segments of sequences below `covered` have landed, and a sync that began after that succeeded: how
    /// far the log is whole, and whether it is so because of a segment that is in use.
    pub fn whole_up_to(&self, covered: u64) -> (u64, bool) {
        self.segments.whole_up_to(covered)
    }

    /// A checkpoint begins: what is outlived from now on waits for another one. Its number.
    pub fn begin_checkpoint(&self) -> u64 {
        self.segments.begin_checkpoint()
    }

    /// Everything that had outlived a record when that checkpoint began is in the log and synced: frees
    /// segments that waited for that.
    pub fn end_checkpoint(&self, number: u64) {
        self.segments.end_checkpoint(number);
    }

    /// Plants a bug: freed segments are reused at once.
    #[cfg(test)]
    pub(crate) fn forget_to_keep_freed(&mut self) {
        self.segments.keeps_freed = false;
    }

    /// Plants a bug: the log is called whole where it is not known to be.
    #[cfg(test)]
    pub(crate) fn forget_doubts(&self) {
        self.segments.forget_doubts();
    }

    /// The sequence that the next segment will get: all that are written have smaller ones.
    pub fn sequence_next(&self) -> u64 {
        self.segments.sequence_next()
    }

    /// A snapshot for metrics; walks the segments.
    pub fn stats(&self) -> StoreStats {
        let census = self.segments.census(self.geometry.segment_bytes);
        let counters = &self.counters;
        let segments = u64::from(self.geometry.segments);
        let segment_bytes = u64::from(self.geometry.segment_bytes);
        StoreStats {
            capacity_bytes: segments * segment_bytes,
            used_bytes: (segments - census.free - census.held) * segment_bytes,
            live_bytes: census.live_bytes,
            segments_by_live_share: census.by_live_share,
            segments,
            segments_free: census.free - census.broken,
            segments_suspect: census.suspect,
            segments_broken: census.broken,
            segments_held: census.held,
            segments_cleaned: self.segments.cleaned.get(),
            records_written: counters.records_written.get(),
            records_read: counters.records_read.get(),
            written_bytes: counters.written_bytes.get(),
            read_bytes: counters.read_bytes.get(),
            device_reads: counters.device_reads.get(),
            discarded_bytes: counters.discarded_bytes.get(),
            write_errors: counters.write_errors.get(),
            read_errors: counters.read_errors.get(),
            checksum_errors: counters.checksum_errors.get(),
            stale_reads: counters.stale_reads.get(),
            ahead_spans: self.ahead.spans_read.get(),
            ahead_records: self.ahead.records_served.get(),
            ahead_unused_bytes: self.ahead.unused_bytes.get(),
            summary_errors: counters.summary_errors.get(),
            heads_damaged: counters.heads_damaged.get(),
            discard_errors: counters.discard_errors.get(),
        }
    }

    /// Walks all segments and panics on a broken invariant. For tests, while no call is under way.
    pub fn check(&self) {
        self.segments.check();
    }
}
