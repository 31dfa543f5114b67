//! Whether the device may be written: the rule for one that fails or is full.
//!
//! * After a write that failed its place is not used again while there is another (`store`), its pages
//!   are where they were, and the next write goes elsewhere.
//! * After [`FAILURES_MAX`] failures in a row, each at another place, or one for want of space, the
//!   device is degraded: nothing is written any more, and writes of clients that find no room in the
//!   pool are refused. Stored pages are read as before. A device that refuses the superblock, when a server
//!   takes over, is degraded from the start.
//! * Then one write at a time tries whether the device works again: after a second, and after each
//!   further failure twice as long, up to a minute; for want of space always after a second, since
//!   asking costs a full device nothing. The first that succeeds ends it.
//!
//! Locking: none, it belongs to write-back. The time is the caller's.

use std::time::Duration;

/// So many failures in a row, each at another place, are the device's fault and not the places'.
pub(super) const FAILURES_MAX: u32 = 3;

/// How long after the failure that degraded it a device is tried again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long after a failure at most.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Since when and how a device may not be written.
#[derive(Clone, Copy, Debug)]
struct Degraded {
    is_out_of_space: bool,
    pause: Duration,
    probe_at: Duration,
}

/// What is known of the device.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Writes in a row that failed.
    failures: u32,
    degraded: Option<Degraded>,
}

impl Health {
    /// A write succeeded.
    pub(super) fn wrote(&mut self) {
        *self = Health::default();
    }

    /// A write failed. `is_out_of_space`: for want of space.
    pub(super) fn failed(&mut self, now: Duration, is_out_of_space: bool) {
        self.failures += 1;
        let pause = match self.degraded {
            Some(before) if !is_out_of_space => (before.pause * 2).min(PAUSE_MAX),
            Some(_) => PAUSE_MIN,
            None if is_out_of_space || self.failures >= FAILURES_MAX => PAUSE_MIN,
            None => return,
        };
        self.degraded = Some(Degraded {
            is_out_of_space,
            pause,
            probe_at: now + pause,
        });
    }

    /// What has to be written before anything else was refused: no other place could do.
    pub(super) fn failed_everywhere(&mut self, now: Duration, is_out_of_space: bool) {
        self.failures = self.failures.max(FAILURES_MAX - 1);
        self.failed(now, is_out_of_space);
    }

    /// Did the last write fail?
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Is nothing written but to see whether the device works again?
    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.is_some()
    }

    /// Is it degraded for want of space?
    pub(super) fn is_out_of_space(&self) -> bool {
        self.degraded.is_some_and(|state| state.is_out_of_space)
    }

    /// May something be written now?
    pub(super) fn allows(&self, now: Duration) -> bool {
        self.degraded.is_none_or(|state| now >= state.probe_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a degraded device is tried again, in seconds after the failure before.
    fn pause_s(health: &Health, now: Duration) -> u64 {
        (0..1000)
            .find(|s| health.allows(now + Duration::from_secs(*s)))
            .expect("some time")
    }

    #[test]
    fn single_failures_are_forgotten_and_three_in_a_row_are_not() {
        let mut health = Health::default();
        let now = Duration::from_secs(100);
        for _ in 0..5 {
            health.failed(now, false);
            health.failed(now, false);
            assert!(health.has_failed() && !health.is_degraded() && health.allows(now));
            health.wrote();
            assert!(!health.has_failed());
        }
        for _ in 0..FAILURES_MAX {
            health.failed(now, false);
        }
        assert!(health.is_degraded() && !health.is_out_of_space());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push(pause_s(&health, now));
            health.failed(now, false);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        health.wrote();
        assert!(!health.is_degraded() && health.allows(now));
    }

    #[test]
    fn what_no_other_place_could_take_counts_for_all() {
        let (mut health, now) = (Health::default(), Duration::from_secs(100));
        health.failed_everywhere(now, false);
        assert!(health.is_degraded() && !health.is_out_of_space());
        assert_eq!(pause_s(&health, now), 1);
        health.failed(now, false);
        assert_eq!(pause_s(&health, now), 2);
    }

    #[test]
    fn a_full_device_is_degraded_at_once_and_tried_every_second() {
        let mut health = Health::default();
        let now = Duration::from_secs(100);
        for _ in 0..5 {
            health.failed(now, true);
            assert!(health.is_degraded() && health.is_out_of_space());
            assert_eq!(pause_s(&health, now), 1);
        }
        // What fails otherwise meanwhile is worse than full.
        health.failed(now, false);
        assert!(!health.is_out_of_space());
        assert_eq!(pause_s(&health, now), 2);
    }
}
