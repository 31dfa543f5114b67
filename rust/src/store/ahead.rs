//! Reading ahead: records that are asked for in the order of the log are there before they are asked for.
//!
//! Write-back packs pages in the order of their numbers, so a client that swaps in what it swapped out in
//! order walks along the log, one small read at a time. [`Ahead`] watches the records that are asked for,
//! whoever asks. A *run* is [`RUN_LENGTH`] of one segment with little between each and the next; it
//! announces a *span*, the bytes of the log behind it, which whoever reads then reads into one of a fixed
//! set of buffers ([`Store::read_ahead`]), and again when half of that is used.
//!
//! What is served from a span is as true as what the device gives: a segment is written once under one
//! sequence, a span is kept under the sequence that the segment had before and after it was read, the
//! record's own checksum (or seal) is verified as ever, and bytes that do not verify are not an error but
//! read again from the device.
//!
//! Useless reading ahead ends itself: a span of which less than half is used takes trust, one of which
//! more is used gives it, and without trust one announcement in [`PROBE`] is followed.
//!
//! Locking: one mutex, a leaf, held while a record is copied out, never while the device reads: a buffer
//! that is being filled is out of the set. After open nothing allocates. Memory: [`SPANS`] times
//! [`SPAN_BYTES`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;

use super::buffer::AlignedBuffer;
use super::device::Span;
use super::geometry::Location;
use super::log::{RecordRef, Store};
use super::read::{RECORDS_PER_PASS, ReadBuffer};
use super::stats::Counter;

/// Spans that are kept.
const SPANS: usize = 16;
/// Bytes of one: 30 pages that shrank to their half. A disk reads them in little more time than one.
pub(super) const SPAN_BYTES: usize = 64 << 10;
/// Runs that are watched at the same time.
const RUNS: usize = 16;
/// Records after which a run announces.
pub(super) const RUN_LENGTH: u32 = 3;
/// Bytes between two records of a run at most.
const NEAR_BYTES: u64 = 16 << 10;
/// The most trust there is, in spans.
const TRUST_MAX: u32 = 8;
/// What a useless span costs. A useful one gives 1.
const TRUST_LOST: u32 = 2;
/// Without trust, one announcement in so many is followed.
pub(super) const PROBE: u32 = 32;

/// A part of a segment that is worth reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    sequence: u64,
    span: Span,
}

/// Records of one segment that were asked for in order.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Of the segment; 0 for none.
    sequence: u64,
    length: u32,
    /// Where the last record ends.
    at: u64,
    /// To where it was announced.
    announced_to: u64,
    /// When it grew last.
    touched: u64,
}

/// A buffer and what is in it.
struct Kept {
    /// Out while it is being filled.
    buffer: Option<AlignedBuffer>,
    /// None while nothing is in it.
    holds: Option<Announced>,
    used_bytes: u64,
    /// Its use was counted as trust.
    is_trusted: bool,
    touched: u64,
}

struct State {
    runs: [Run; RUNS],
    spans: [Kept; SPANS],
    trust: u32,
    /// Announcements since trust was lost.
    distrusted: u32,
    /// Counts what happens, so that the oldest of runs and spans is known.
    clock: u64,
}

/// The spans of a store and what it knows of those who read.
pub(super) struct Ahead {
    state: Mutex<State>,
    pub spans_read: Counter,
    pub records_served: Counter,
    pub unused_bytes: Counter,
}

impl Default for Ahead {
    fn default() -> Ahead {
        let kept = |_| Kept {
            buffer: Some(AlignedBuffer::new(SPAN_BYTES)),
            holds: None,
            used_bytes: 0,
            is_trusted: false,
            touched: 0,
        };
        Ahead {
            state: Mutex::new(State {
                runs: [Run::default(); RUNS],
                spans: std::array::from_fn(kept),
                trust: TRUST_MAX,
                distrusted: 0,
                clock: 0,
            }),
            spans_read: Counter::default(),
            records_served: Counter::default(),
            unused_bytes: Counter::default(),
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Copies bytes of a segment from the spans that hold them. False: some are in none.
    fn copy(&mut self, sequence: u64, start: u64, out: &mut [u8]) -> bool {
        let (mut at, end) = (start, start + out.len() as u64);
        let now = self.tick();
        while at < end {
            let found = self.spans.iter_mut().find(|kept| {
                (kept.holds).is_some_and(|held| held.sequence == sequence && held.span.holds(at))
            });
            let Some(kept) = found else {
                return false;
            };
            let (Some(held), Some(buffer)) = (kept.holds, &kept.buffer) else {
                unreachable!("a span without its bytes")
            };
            let bytes = (end.min(held.span.end) - at) as usize;
            let (from, to) = ((at - held.span.start) as usize, (at - start) as usize);
            out[to..to + bytes].copy_from_slice(&buffer[from..from + bytes]);
            kept.used_bytes += bytes as u64;
            kept.touched = now;
            if !kept.is_trusted && kept.used_bytes * 2 >= held.span.len() as u64 {
                kept.is_trusted = true;
                self.trust = (self.trust + 1).min(TRUST_MAX);
            }
            at += bytes as u64;
        }
        true
    }

    /// A record from `start` to `end` was asked for, in a segment whose records end at `records_end`.
    fn note(
        &mut self,
        sequence: u64,
        (start, end): (u64, u64),
        records_end: u64,
    ) -> Option<Announced> {
        let touched = self.tick();
        let is_next =
            |run: &&mut Run| run.sequence == sequence && start.abs_diff(run.at) <= NEAR_BYTES;
        let Some(run) = self.runs.iter_mut().find(is_next) else {
            let oldest = self.runs.iter_mut().min_by_key(|run| run.touched)?;
            *oldest = Run {
                sequence,
                length: 1,
                at: end,
                announced_to: end,
                touched,
            };
            return None;
        };
        run.touched = touched;
        if start < run.at {
            return None;
        }
        run.length += 1;
        run.at = end;
        let from = run.announced_to.max(end);
        let is_enough = from > end + SPAN_BYTES as u64 / 2;
        if run.length < RUN_LENGTH || is_enough || from >= records_end {
            return None;
        }
        let mut span = Span::around(from, records_end);
        span.end = span.end.min(span.start + SPAN_BYTES as u64);
        run.announced_to = span.end;
        if self.trust == 0 {
            self.distrusted += 1;
            if !self.distrusted.is_multiple_of(PROBE) {
                return None;
            }
        }
        Some(Announced { sequence, span })
    }

    /// Takes out the buffer that was not used for longest, and says how many of its bytes never were.
    fn take(&mut self) -> Option<(usize, AlignedBuffer, u64)> {
        let spans = self.spans.iter_mut().enumerate();
        let (index, kept) = spans
            .filter(|(_, kept)| kept.buffer.is_some())
            .min_by_key(|(_, kept)| kept.touched)?;
        let buffer = kept.buffer.take()?;
        let mut unused = 0;
        if let Some(held) = kept.holds.take() {
            unused = (held.span.len() as u64).saturating_sub(kept.used_bytes);
            if !kept.is_trusted {
                self.trust = self.trust.saturating_sub(TRUST_LOST);
            }
        }
        Some((index, buffer, unused))
    }

    fn put_back(&mut self, index: usize, buffer: AlignedBuffer, holds: Option<Announced>) {
        let touched = self.tick();
        self.spans[index] = Kept {
            buffer: Some(buffer),
            holds,
            used_bytes: 0,
            is_trusted: false,
            touched,
        };
    }
}

impl Ahead {
    fn state(&self) -> MutexGuard<'_, State> {
        // A copy that panicked half way has changed counts only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// As [`read`](Self::read), for records that somebody waits for: what was read ahead is not read
    /// again. Says what is worth being [read ahead](Self::read_ahead) once nobody waits.
    pub fn read_back(
        &self,
        buffer: &mut ReadBuffer,
        records: &[RecordRef],
        each: &mut dyn FnMut(usize, Result<&[u8]>),
    ) -> Option<Announced> {
        let _reading = self.precedence.reading();
        let mut is_left = [0u64; RECORDS_PER_PASS / 64];
        assert!(
            records.len() <= RECORDS_PER_PASS,
            "{} records",
            records.len()
        );
        for (index, record) in records.iter().enumerate() {
            match self.ahead_object(buffer, record) {
                Some(object) => each(index, Ok(object)),
                None => is_left[index / 64] |= 1 << (index % 64),
            }
        }
        let is_left = |index: usize| is_left[index / 64] >> (index % 64) & 1 == 1;
        self.read_those(buffer, records, &is_left, each);
        let order = buffer.sort(records, &|_| true);
        let mut announced = None;
        let mut ahead = self.ahead.state();
        for index in order {
            let record = &records[*index as usize];
            let segment = self.geometry.segment(record.location);
            let Some((sequence, shape)) = self.segments.shape(segment) else {
                continue;
            };
            if sequence != record.sequence {
                continue;
            }
            let start = record.location.offset();
            let end = start + u64::from(self.record_bytes(record.bytes));
            let records_end = self.geometry.start(segment).offset() + shape.summary_at() as u64;
            let worth = ahead.note(sequence, (start, end), records_end);
            announced = worth.or(announced);
        }
        announced
    }

    /// The object of a record, if it was read ahead and is what was written.
    fn ahead_object<'a>(&self, buffer: &'a mut ReadBuffer, record: &RecordRef) -> Option<&'a [u8]> {
        let ReadBuffer { bytes, plain, .. } = buffer;
        let (at, sequence) = (record.location, record.sequence);
        let raw = &mut bytes[..self.record_bytes(record.bytes) as usize];
        if !self.ahead.state().copy(sequence, at.offset(), raw) {
            return None;
        }
        let object = (self.form)
            .decode_record(raw, sequence, at, &record.entry(), plain)
            .ok()?;
        self.counters.records_read.add(1);
        self.ahead.records_served.add(1);
        Some(object)
    }

    /// Reads what was announced, unless every buffer is being filled. Blocks for the device.
    pub fn read_ahead(&self, announced: Announced) {
        let Announced { sequence, span } = announced;
        let place = Location::at_offset(span.start);
        if self.sequence(place) != sequence {
            return;
        }
        let Some((index, mut buffer, unused_bytes)) = self.ahead.state().take() else {
            return;
        };
        self.ahead.unused_bytes.add(unused_bytes);
        let is_read = self.read_span(&mut buffer, span).is_ok();
        self.ahead.spans_read.add(1);
        let is_true = is_read && self.sequence(place) == sequence;
        let holds = is_true.then_some(announced);
        self.ahead.state().put_back(index, buffer, holds);
    }
}
