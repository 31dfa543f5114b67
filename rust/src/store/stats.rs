//! What the store counts. Each counter has one reason.
//!
//! Locking: none, relaxed atomics; a snapshot is not one instant of all of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of the store. Counters run from open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of all segments.
    pub capacity_bytes: u64,
    /// Bytes of the segments that are not free.
    pub used_bytes: u64,
    /// Bytes of the records that are alive, with their headers.
    pub live_bytes: u64,
    /// Written segments by the share of a segment that lives in them: under a tenth, under two, ...
    pub segments_by_live_share: [u64; 10],
    /// Segments in the backing file.
    pub segments: u64,
    /// Segments that may be written, the suspect ones and those in reserve for cleaning included.
    pub segments_free: u64,
    /// Free segments whose last write failed; they are tried once more when nothing else is left.
    pub segments_suspect: u64,
    /// Those that failed again: used only to clean where nothing else is left to.
    pub segments_broken: u64,
    /// Freed segments that wait until what superseded their records is on the device.
    pub segments_held: u64,
    /// Segments that became free after [`victim`](super::Store::victim) named them.
    pub segments_cleaned: u64,
    /// Records in the segments that were written.
    pub records_written: u64,
    /// Records that were read and verified.
    pub records_read: u64,
    /// Bytes that the device was given in segments, padding included.
    pub written_bytes: u64,
    /// Bytes that the device gave, neighbours and gaps included.
    pub read_bytes: u64,
    /// Reads that the device was asked for.
    pub device_reads: u64,
    /// Bytes of freed segments that the device was told to forget.
    pub discarded_bytes: u64,
    /// Segments that the device could not write.
    pub write_errors: u64,
    /// Records, summaries and heads that the device could not read.
    pub read_errors: u64,
    /// Records that were read but are not what was written.
    pub checksum_errors: u64,
    /// Records that had lost their segment before the device answered; no fault, the page moved.
    pub stale_reads: u64,
    /// Spans of the log that were read before their records were asked for.
    pub ahead_spans: u64,
    /// Records that were served from them.
    pub ahead_records: u64,
    /// Their bytes that nobody had asked for when they were given up.
    pub ahead_unused_bytes: u64,
    /// Segments whose summary did not verify, so that their records were looked for one by one.
    pub summary_errors: u64,
    /// Segments with something of this generation in them, neither of whose heads verifies.
    pub heads_damaged: u64,
    /// Freed segments that the device could not forget.
    pub discard_errors: u64,
}

/// One counter.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind [`StoreStats`], by the same names.
#[derive(Default)]
pub(super) struct Counters {
    pub records_written: Counter,
    pub records_read: Counter,
    pub written_bytes: Counter,
    pub read_bytes: Counter,
    pub device_reads: Counter,
    pub discarded_bytes: Counter,
    pub write_errors: Counter,
    pub read_errors: Counter,
    pub checksum_errors: Counter,
    pub stale_reads: Counter,
    pub summary_errors: Counter,
    pub heads_damaged: Counter,
    pub discard_errors: Counter,
}
