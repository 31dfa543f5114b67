//! What the device may be made to write: so many bytes a day, and a burst.
//!
//! A bucket of `burst_bytes` that fills evenly with the day's bytes and is full at first. All that the
//! store writes is taken out of it, cleaning too. A write begins while it holds a whole segment; when
//! it does not, nothing is written back and nothing cleaned, the pool keeps its pages, and a full pool
//! refuses writes as without a store. Everything stays readable. So in any day of one process at most
//! the day's bytes and one burst are written.
//!
//! Checkpoints do not ask: what a flush promises is not for a budget to break. What they write is taken
//! out, down to nothing, and what goes beyond it is not owed: a client that flushes much would otherwise
//! keep everybody's pages in the pool for days.
//!
//! Which pages leave does not depend on the budget. What counts is room in the pool, and a byte
//! written makes a byte of room whether it is of a page that shrank well or of one that did not shrink
//! at all: to prefer the smaller objects would move more pages with the same bytes, that is, leave
//! fewer of them in memory for the same room. Objects of one repeated word are the exception: a
//! record of 8 bytes takes 32 on the device, so they stay (`victims`).
//!
//! The level is not kept over a restart, where the bucket is full again: whoever restarts once an hour
//! allows a burst an hour.
//!
//! Locking: none, the owner's.

use std::time::Duration;

const DAY_US: u128 = 24 * 60 * 60 * 1_000_000;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBudget {
    /// Bytes a day; more than 0.
    pub bytes_per_day_max: u64,
    /// Bytes that may be written at once when little was written before.
    pub burst_bytes: u64,
}

/// The bucket.
pub(super) struct Budget {
    limits: Option<WriteBudget>,
    left_bytes: u64,
    /// Until when `left_bytes` was filled up.
    filled: Duration,
}

impl Budget {
    /// A full bucket; None: no limit.
    pub(super) fn new(limits: Option<WriteBudget>) -> Budget {
        Budget {
            limits,
            left_bytes: limits.map_or(u64::MAX, |limits| limits.burst_bytes),
            filled: Duration::ZERO,
        }
    }

    /// Lets time go on.
    pub(super) fn fill(&mut self, now: Duration) {
        let Some(limits) = self.limits else { return };
        let per_day = u128::from(limits.bytes_per_day_max);
        let passed_us = now.saturating_sub(self.filled).as_micros();
        let bytes = passed_us * per_day / DAY_US;
        if u128::from(self.left_bytes) + bytes >= u128::from(limits.burst_bytes) {
            (self.left_bytes, self.filled) = (limits.burst_bytes, now);
        } else if bytes > 0 {
            self.left_bytes += bytes as u64;
            // Not `now`: the part of a byte that is over counts the next time.
            let taken_us = (bytes * DAY_US).div_ceil(per_day);
            self.filled += Duration::from_micros(taken_us as u64);
        }
    }

    /// May so many bytes be written?
    pub(super) fn allows(&self, bytes: u64) -> bool {
        self.left_bytes >= bytes
    }

    /// Is more than half of the burst left? What can wait does so below that.
    pub(super) fn is_ample(&self) -> bool {
        let half = self.limits.map_or(0, |limits| limits.burst_bytes / 2);
        self.left_bytes > half
    }

    /// So many bytes were written, or may have been.
    pub(super) fn spend(&mut self, bytes: u64) {
        if self.limits.is_some() {
            self.left_bytes = self.left_bytes.saturating_sub(bytes);
        }
    }

    /// What is left, bytes. None: no limit.
    pub(super) fn left_bytes(&self) -> Option<u64> {
        self.limits.map(|_| self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn budget(bytes_per_day_max: u64, burst_bytes: u64) -> Budget {
        Budget::new(Some(WriteBudget {
            bytes_per_day_max,
            burst_bytes,
        }))
    }

    #[test]
    fn a_day_and_a_burst_is_the_most_whatever_the_steps() {
        for step_us in [1, 999, 86_413, 10_000_000, 3_600_000_000] {
            let mut budget = budget(1_000_000, 5_000);
            let (mut now, mut spent) = (Duration::ZERO, 0);
            // A tenth of a day, spent as soon as it is there.
            let end = if step_us < 1000 {
                DAY / 86_400
            } else {
                DAY / 10
            };
            while now < end {
                budget.fill(now);
                let bytes = budget.left_bytes().unwrap();
                budget.spend(bytes);
                spent += bytes;
                now += Duration::from_micros(step_us);
            }
            let allowed = 5_000 + (1_000_000 * end.as_micros() / DAY.as_micros()) as u64;
            assert!(
                spent <= allowed,
                "{spent} of {allowed} in steps of {step_us}"
            );
            // Nothing is lost to rounding either, as long as the bucket is not full.
            let lost = 1 + 1_000_000 * step_us / DAY.as_micros() as u64;
            assert!(
                step_us > 60_000_000 || spent + lost >= allowed,
                "{spent} of {allowed}"
            );
        }
    }

    #[test]
    fn a_rest_fills_the_bucket_and_no_more() {
        let mut budget = budget(1_000, 100);
        budget.spend(100);
        assert!(!budget.allows(1));
        budget.fill(DAY);
        assert_eq!(budget.left_bytes(), Some(100));
        assert!(budget.is_ample() && !budget.allows(101));
        budget.fill(DAY / 2);
        assert_eq!(
            budget.left_bytes(),
            Some(100),
            "time that goes back changes nothing"
        );
    }

    #[test]
    fn without_limits_everything_is_allowed() {
        let mut budget = Budget::new(None);
        budget.spend(u64::MAX);
        assert!(budget.allows(u64::MAX) && budget.is_ample());
        assert_eq!(budget.left_bytes(), None);
    }
}
