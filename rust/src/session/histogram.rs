//! Histograms that one thread writes and any thread reads.
//!
//! Of fixed size: counting never allocates. Locking: none, relaxed atomics.

use std::time::Duration;

use crate::stats::Counter;

/// Buckets that divide each doubling of the time.
const BUCKETS_PER_OCTAVE: u32 = 4;
/// Doublings from one microsecond to 16 s.
const OCTAVES: u32 = 24;
/// One more for everything below 1 us, one for everything above.
pub const BUCKETS: usize = (OCTAVES * BUCKETS_PER_OCTAVE) as usize + 2;

/// How long requests took. Each doubling of the time is divided evenly in four, so a quantile is
/// known within a quarter.
#[derive(Debug)]
pub struct Histogram {
    counts: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: std::array::from_fn(|_| Counter::default()),
            sum_ns: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts `n` requests that took `time` each.
    pub fn record(&self, time: Duration, n: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[Self::bucket(ns)].add(n);
        self.sum_ns.add(ns.saturating_mul(n));
    }

    /// Bucket 0 ends at 1 us; bucket 1 + 4 * k + q ends at 2^k * (1 + (q + 1) / 4) us.
    fn bucket(ns: u64) -> usize {
        let us = ns / 1000;
        if us == 0 {
            return 0;
        }
        let octave = us.ilog2();
        if octave >= OCTAVES {
            return BUCKETS - 1;
        }
        // In nanoseconds, so that the first octaves are divided too.
        let base_ns = 1000u64 << octave;
        let quarter = (ns - base_ns) * u64::from(BUCKETS_PER_OCTAVE) / base_ns;
        1 + (octave * BUCKETS_PER_OCTAVE) as usize + quarter as usize
    }

    /// Sum of all times.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.get()
    }

    /// Requests in each bucket.
    pub fn counts(&self) -> &[Counter; BUCKETS] {
        &self.counts
    }

    /// Upper end of a bucket in nanoseconds; None for the last, which has none.
    pub fn bound_ns(bucket: usize) -> Option<u64> {
        assert!(bucket < BUCKETS, "bucket {bucket} of {BUCKETS}");
        if bucket == BUCKETS - 1 {
            return None;
        }
        let Some(above) = bucket.checked_sub(1) else {
            return Some(1000);
        };
        let per_octave = BUCKETS_PER_OCTAVE as usize;
        let base_ns = 1000u64 << (above / per_octave);
        Some(base_ns + base_ns * (above % per_octave + 1) as u64 / per_octave as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_its_buckets_end_and_not_below_the_one_before() {
        let mut ns = 1;
        while ns < 40_000_000_000 {
            let bucket = Histogram::bucket(ns);
            if let Some(bound) = Histogram::bound_ns(bucket) {
                assert!(
                    ns < bound,
                    "{ns} ns in bucket {bucket} that ends at {bound}"
                );
            }
            if bucket > 0 {
                let below = Histogram::bound_ns(bucket - 1).expect("not the last");
                assert!(
                    ns >= below,
                    "{ns} ns in bucket {bucket} that starts at {below}"
                );
            }
            ns = ns * 17 / 16 + 1;
        }
        assert_eq!(Histogram::bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(Histogram::bound_ns(BUCKETS - 2), Some(1000 << OCTAVES));
    }
}
