//! Nanoseconds of short operations: the monotonic clock, less what reading it costs.
//!
//! A reading costs about as much as an allocation. What two readings in a row are apart is
//! measured when the stopwatch is made, and the median is taken off every time that it gives.
//!
//! Locking: none, plain values.

use std::hint::black_box;
use std::time::Instant;

/// Pairs of readings that the cost is the median of; a tenth of a millisecond or so.
const PAIRS: usize = 4001;

/// A clock whose cost is known.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    cost_ns: u64,
}

impl Stopwatch {
    /// Measures what a reading costs here and now.
    pub fn calibrated() -> Stopwatch {
        let mut apart: Vec<u64> = (0..PAIRS)
            .map(|_| black_box(nanoseconds(Instant::now())))
            .collect();
        apart.sort_unstable();
        Stopwatch {
            cost_ns: apart[PAIRS / 2],
        }
    }

    /// What `operation` returns and the nanoseconds that it takes; 0 if that is less than the clock
    /// itself needs.
    #[inline]
    pub fn time<T>(&self, operation: impl FnOnce() -> T) -> (T, u64) {
        let start = Instant::now();
        let result = black_box(operation());
        (result, nanoseconds(start).saturating_sub(self.cost_ns))
    }
}

#[inline]
fn nanoseconds(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_reading_is_taken_off() {
        let watch = Stopwatch { cost_ns: u64::MAX };
        assert_eq!(watch.time(|| 7), (7, 0));
        let free = Stopwatch { cost_ns: 0 };
        let start = Instant::now();
        let ((), spin) = free.time(|| while start.elapsed().as_nanos() < 20_000 {});
        assert!(spin > 0 && spin <= start.elapsed().as_nanos() as u64);
    }
}
