//! What workers count: requests, bytes and errors of each export, and how long requests took.
//!
//! Each worker writes a shard of its own and nobody else does, so counting is a load and a store;
//! whoever takes a snapshot reads all shards and adds them up. Everything has a fixed size:
//! counting never allocates.
//! Not here: what pages are and where they live, the engine counts that.

use std::time::Duration;

pub use super::histogram::{BUCKETS, Histogram};
use crate::engine::{ExportId, Tier};
use crate::stats::Counter;
use crate::wire::Errno;

/// A command that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim,
    /// CACHE.
    Cache,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// BLOCK_STATUS.
    BlockStatus,
}

impl Op {
    /// All of them, in the order of their counters.
    pub const ALL: [Op; OPS] = [
        Op::Read,
        Op::Write,
        Op::Flush,
        Op::Trim,
        Op::Cache,
        Op::WriteZeroes,
        Op::BlockStatus,
    ];

    /// Name in snapshots.
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Trim => "trim",
            Op::Cache => "cache",
            Op::WriteZeroes => "write_zeroes",
            Op::BlockStatus => "block_status",
        }
    }
}

const OPS: usize = 7;
const ERRNOS: usize = Errno::ALL.len();

/// Tiers in the order of their histograms; the last is for requests that touched no page.
pub const TIER_NAMES: [&str; TIERS] = ["zero", "same_filled", "pool", "raw", "store", "none"];
const TIERS: usize = 6;

fn tier_index(tier: Option<Tier>) -> usize {
    tier.map_or(TIERS - 1, |tier| tier as usize)
}

#[derive(Debug, Default)]
struct OpCounts {
    requests: Counter,
    bytes: Counter,
    errors: [Counter; ERRNOS],
}

/// What one worker counts.
#[derive(Debug)]
pub struct Shard {
    exports: Box<[[OpCounts; OPS]]>,
    latency: Box<[[Histogram; TIERS]; OPS]>,
    /// Requests answered.
    pub requests: Counter,
    /// Times that the worker looked for work instead of sleeping.
    pub polls: Counter,
    /// Of these, how many found some.
    pub poll_hits: Counter,
    /// Times that the worker slept.
    pub sleeps: Counter,
}

impl Shard {
    /// All zero, for `exports` exports.
    pub fn new(exports: usize) -> Self {
        Shard {
            exports: (0..exports).map(|_| Default::default()).collect(),
            latency: Box::default(),
            requests: Counter::default(),
            polls: Counter::default(),
            poll_hits: Counter::default(),
            sleeps: Counter::default(),
        }
    }

    /// Counts a request that was answered: `bytes` is its length, 0 if it failed.
    #[inline]
    pub fn answered(&self, export: ExportId, op: Op, bytes: u64, error: Option<Errno>) {
        let counts = &self.exports[usize::from(export.0)][op as usize];
        counts.requests.add(1);
        match error {
            None => counts.bytes.add(bytes),
            Some(errno) => counts.errors[errno.index()].add(1),
        }
        self.requests.add(1);
    }

    /// Counts how long `n` requests took.
    pub fn took(&self, op: Op, tier: Option<Tier>, time: Duration, n: u64) {
        self.latency[op as usize][tier_index(tier)].record(time, n);
    }
}

/// Requests that were answered as soon as they were seen, until the time is known that they took.
///
/// Reading the clock once for all requests of a receive is cheaper, and truer: their replies leave
/// together.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [[u32; TIERS]; OPS],
    any: bool,
}

impl Tally {
    /// One more request.
    #[inline]
    pub fn add(&mut self, op: Op, tier: Option<Tier>) {
        self.counts[op as usize][tier_index(tier)] += 1;
        self.any = true;
    }

    /// All of them took `time`.
    pub fn settle(&mut self, shard: &Shard, time: Duration) {
        if !self.any {
            return;
        }
        for (op, tiers) in self.counts.iter_mut().enumerate() {
            for (tier, n) in tiers.iter_mut().enumerate().filter(|(_, n)| **n > 0) {
                shard.latency[op][tier].record(time, u64::from(*n));
                *n = 0;
            }
        }
        self.any = false;
    }
}

/// Counts of one command on one export, of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Requests answered.
    pub requests: u64,
    /// Sum of the lengths of those that succeeded.
    pub bytes: u64,
    /// Those that failed, in the order of [`Errno::ALL`].
    pub errors: [u64; ERRNOS],
}

/// How long one command took when one tier answered, all workers.
#[derive(Clone, Debug)]
pub struct LatencySnapshot {
    /// The command.
    pub op: Op,
    /// Name of the tier, of [`TIER_NAMES`].
    pub tier: &'static str,
    /// Requests in each bucket; [`Histogram::bound_ns`] has the buckets' ends.
    pub counts: [u64; BUCKETS],
    /// Sum of all times.
    pub sum_ns: u64,
}

/// Sum over `shards` of what was counted for `export` and `op`.
pub fn sum_op<'a>(shards: impl Iterator<Item = &'a Shard>, export: ExportId, op: Op) -> OpSnapshot {
    let mut sum = OpSnapshot::default();
    for shard in shards {
        let counts = &shard.exports[usize::from(export.0)][op as usize];
        sum.requests += counts.requests.get();
        sum.bytes += counts.bytes.get();
        for (sum, counter) in sum.errors.iter_mut().zip(&counts.errors) {
            *sum += counter.get();
        }
    }
    sum
}

/// Sum over `shards` of the histograms that are not empty.
pub fn sum_latency<'a>(shards: impl Iterator<Item = &'a Shard> + Clone) -> Vec<LatencySnapshot> {
    let mut snapshots = Vec::new();
    for op in Op::ALL {
        for (index, tier) in TIER_NAMES.into_iter().enumerate() {
            let mut sum = LatencySnapshot {
                op,
                tier,
                counts: [0; BUCKETS],
                sum_ns: 0,
            };
            for shard in shards.clone() {
                let histogram = &shard.latency[op as usize][index];
                sum.sum_ns += histogram.sum_ns();
                for (sum, counter) in sum.counts.iter_mut().zip(histogram.counts()) {
                    *sum += counter.get();
                }
            }
            if sum.counts.iter().any(|n| *n > 0) {
                snapshots.push(sum);
            }
        }
    }
    snapshots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_adds_up_the_shards() {
        let shards = [Shard::new(2), Shard::new(2)];
        shards[0].answered(ExportId(1), Op::Read, 4096, None);
        shards[1].answered(ExportId(1), Op::Read, 512, None);
        shards[1].answered(ExportId(1), Op::Read, 0, Some(Errno::Io));
        let sum = sum_op(shards.iter(), ExportId(1), Op::Read);
        assert_eq!(
            sum,
            OpSnapshot {
                requests: 3,
                bytes: 4608,
                errors: [0, 1, 0, 0]
            }
        );
        assert_eq!(
            sum_op(shards.iter(), ExportId(0), Op::Read),
            OpSnapshot::default()
        );
    }

    #[test]
    fn a_settled_tally_is_in_the_histogram_once() {
        let shard = Shard::new(1);
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.add(Op::Read, Some(Tier::Pool));
        }
        tally.settle(&shard, Duration::from_micros(10));
        tally.settle(&shard, Duration::from_micros(10));
        let latency = sum_latency([shard].iter());
        assert_eq!(latency.len(), 1);
        assert_eq!((latency[0].op, latency[0].tier), (Op::Read, "pool"));
        assert_eq!(latency[0].counts.iter().sum::<u64>(), 3);
        assert_eq!(latency[0].sum_ns, 30_000);
    }
}
