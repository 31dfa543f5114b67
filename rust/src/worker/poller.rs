//! How long a worker looks for work before it sleeps.
//!
//! Waking a sleeping CPU costs more than answering a request, so a client that sends its next
//! request within microseconds of a reply is served much faster by a worker that is still looking.
//! One that takes longer would only have CPU time burnt for it. The window follows what happens, as
//! the kernel's own halt polling does: it grows when a sleep turns out to have been so short that
//! polling would have caught its end, and goes to zero when it does not. A rule that also stopped
//! looking where other threads wanted the CPU was tried on a machine with more threads than CPUs:
//! it answered a third fewer requests.
//! Locking: none, it belongs to one worker.

use std::time::Duration;

/// The setting: whether workers look for work before they sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// As long as it pays, at most 50 us.
    Auto,
    /// Never.
    Off,
    /// Always this many microseconds.
    Fixed(u32),
}

/// Longest time that is spent looking.
const WINDOW_MAX: Duration = Duration::from_micros(50);
/// First step from zero.
const WINDOW_START: Duration = Duration::from_micros(10);

/// One worker's window.
#[derive(Debug)]
pub(super) struct Poller {
    polling: Polling,
    window: Duration,
    misses: u32,
}

impl Poller {
    pub(super) fn new(polling: Polling) -> Self {
        let window = match polling {
            Polling::Auto => WINDOW_MAX,
            Polling::Off => Duration::ZERO,
            Polling::Fixed(us) => Duration::from_micros(us.into()),
        };
        Poller {
            polling,
            window,
            misses: 0,
        }
    }

    /// How long to look before the next sleep.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Looking found work.
    pub(super) fn hit(&mut self) {
        self.misses = 0;
    }

    /// The worker looked for the whole window, then slept for `slept`.
    pub(super) fn slept(&mut self, slept: Duration) {
        if self.polling != Polling::Auto {
            return;
        }
        if slept <= WINDOW_MAX {
            // It would have been found by looking a little longer.
            self.window = (self.window * 2).clamp(WINDOW_START, WINDOW_MAX);
            self.misses = 0;
            return;
        }
        self.misses += 1;
        // One pause ends every burst; only a client that pauses before each request is not worth
        // it.
        if self.misses > 1 {
            self.window = if self.window > WINDOW_START {
                self.window / 2
            } else {
                Duration::ZERO
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_thinks_long_is_not_polled_for() {
        let mut poller = Poller::new(Polling::Auto);
        for _ in 0..8 {
            poller.slept(Duration::from_millis(1));
        }
        assert_eq!(poller.window(), Duration::ZERO);
    }

    #[test]
    fn short_sleeps_bring_the_window_back() {
        let mut poller = Poller::new(Polling::Auto);
        for _ in 0..8 {
            poller.slept(Duration::from_millis(1));
        }
        for _ in 0..4 {
            poller.slept(Duration::from_micros(20));
        }
        assert_eq!(poller.window(), WINDOW_MAX);
    }

    #[test]
    fn the_end_of_a_burst_does_not_narrow_the_window() {
        let mut poller = Poller::new(Polling::Auto);
        for _ in 0..100 {
            poller.hit();
            poller.slept(Duration::from_millis(1));
        }
        assert_eq!(poller.window(), WINDOW_MAX);
    }

    #[test]
    fn settings_are_kept() {
        for (polling, window_us) in [(Polling::Off, 0), (Polling::Fixed(7), 7)] {
            let mut poller = Poller::new(polling);
            poller.slept(Duration::from_millis(1));
            poller.slept(Duration::from_micros(1));
            assert_eq!(poller.window(), Duration::from_micros(window_us));
        }
    }
}
