//! How long one kind of operation takes: every single time of some, the sum of the others.
//!
//! Reading the clock around an operation keeps the processor from overlapping it with its
//! neighbours. So pool operations are done in batches: one batch in eight is timed operation by
//! operation and gives the percentiles, the others are timed whole and give the mean, as operations
//! in a row cost. The slowest hundredth of these is left out of the mean: another program had the
//! processor. Codecs take microseconds, there every operation is timed, and the mean is of the same
//! times.
//!
//! Locking: none; a timing has one owner.

use super::Stopwatch;

/// One batch in so many is timed operation by operation.
const SINGLY_EVERY: u64 = 8;

/// One in so many batches, the slowest, says nothing of the pool.
const SLOWEST_LEFT_OUT: usize = 100;

/// Nanoseconds of an operation, the cost of reading the clock taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// Operations that were timed singly: what the percentiles are of.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half of the operations take at most so long.
    pub p50: u64,
    /// 90 per cent.
    pub p90: u64,
    /// 99 per cent.
    pub p99: u64,
    /// 99.9 per cent.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

/// The times of one kind of operation.
#[derive(Clone, Debug)]
pub struct Timing {
    watch: Stopwatch,
    singly_ns: Vec<u64>,
    batches: u64,
    /// Batches that were timed whole.
    whole: Vec<Batch>,
}

/// Operations in a row.
#[derive(Clone, Copy, Debug)]
struct Batch {
    ns: u64,
    operations: u64,
}

impl Timing {
    /// No times yet.
    pub fn new(watch: Stopwatch) -> Timing {
        Timing {
            watch,
            singly_ns: Vec::new(),
            batches: 0,
            whole: Vec::new(),
        }
    }

    /// Times one operation.
    #[inline]
    pub fn one<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let (result, ns) = self.watch.time(operation);
        self.singly_ns.push(ns);
        result
    }

    /// Times `operation` on each of `items`: singly, or all in a row.
    pub fn batch<T>(&mut self, items: &mut [T], mut operation: impl FnMut(&mut T)) {
        if self.batches.is_multiple_of(SINGLY_EVERY) {
            for item in items {
                self.one(|| operation(item));
            }
        } else {
            let operations = items.len() as u64;
            let ((), ns) = self.watch.time(|| items.iter_mut().for_each(operation));
            self.whole.push(Batch { ns, operations });
        }
        self.batches += 1;
    }

    /// What the times come to; zeros if there are none.
    pub fn percentiles(&self) -> Percentiles {
        let mut sorted = self.singly_ns.clone();
        sorted.sort_unstable();
        Percentiles {
            count: sorted.len() as u64,
            mean: self.mean(&sorted),
            p50: rank(&sorted, 500).unwrap_or(0),
            p90: rank(&sorted, 900).unwrap_or(0),
            p99: rank(&sorted, 990).unwrap_or(0),
            p999: rank(&sorted, 999).unwrap_or(0),
            max: sorted.last().copied().unwrap_or(0),
        }
    }

    fn mean(&self, singly_ns: &[u64]) -> f64 {
        let mut whole = self.whole.clone();
        whole.sort_by_key(|batch| batch.ns);
        whole.truncate(whole.len() - whole.len() / SLOWEST_LEFT_OUT);
        let operations: u64 = whole.iter().map(|batch| batch.operations).sum();
        if operations == 0 {
            return singly_ns.iter().sum::<u64>() as f64 / singly_ns.len().max(1) as f64;
        }
        whole.iter().map(|batch| batch.ns).sum::<u64>() as f64 / operations as f64
    }
}

/// The smallest of `sorted` that at least `per_mille` of them do not exceed.
pub fn rank<T: Copy>(sorted: &[T], per_mille: usize) -> Option<T> {
    assert!((1..=1000).contains(&per_mille), "{per_mille} per mille");
    let place = (sorted.len() * per_mille).div_ceil(1000);
    sorted.get(place.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_the_nearest() {
        let sorted: Vec<u64> = (1..=1000).collect();
        for per_mille in [1, 500, 990, 999, 1000] {
            assert_eq!(rank(&sorted, per_mille), Some(per_mille as u64));
        }
        assert_eq!(rank(&[7], 1), Some(7));
        assert_eq!(rank(&[3, 5], 501), Some(5));
        assert_eq!(rank::<u64>(&[], 500), None);
    }

    #[test]
    fn every_operation_is_done_once_and_one_batch_in_eight_is_timed_singly() {
        let mut timing = Timing::new(Stopwatch::calibrated());
        let mut items = [0u64; 10];
        for _ in 0..16 {
            timing.batch(&mut items, |item| *item += 1);
        }
        assert_eq!(items, [16; 10]);
        let percentiles = timing.percentiles();
        assert_eq!(percentiles.count, 20);
        assert_eq!(timing.whole.len(), 14);
        assert!(percentiles.p50 <= percentiles.p999 && percentiles.p999 <= percentiles.max);
    }

    #[test]
    fn the_slowest_hundredth_of_the_batches_is_not_in_the_mean() {
        let mut timing = Timing::new(Stopwatch::calibrated());
        let batch = |ns| Batch { ns, operations: 10 };
        timing.whole = vec![batch(500); 199];
        timing.whole.insert(7, batch(1_000_000));
        timing.whole.insert(8, batch(1_000_000));
        assert_eq!(timing.percentiles().mean, 50.0);
    }

    #[test]
    fn no_times_are_zeros() {
        let none = Timing::new(Stopwatch::calibrated()).percentiles();
        assert_eq!(none, Percentiles::default());
    }
}
