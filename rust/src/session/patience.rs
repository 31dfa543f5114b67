//! How long a request may wait, in all: for the store, for a flush, for space or for boxes.
//!
//! Its time is one, however many of these it waits for, one after the other: a client sets its own timeout by
//! it. While its client keeps it waiting, for payload or by not reading replies, its time stands still.
//!
//! Not here: what a request waits for (`slab`, `change`). Locking: none.

use std::time::{Duration, Instant};

/// What is left of a request's time.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    left: Duration,
    /// Since when it waits; None: it does not, as far as was seen.
    since: Option<Instant>,
}

impl Patience {
    /// Of a request that may wait for so long.
    pub fn new(timeout: Duration) -> Self {
        Patience {
            left: timeout,
            since: None,
        }
    }

    /// At `now` it waits, or goes on.
    pub fn see(&mut self, waits: bool, now: Instant) {
        if waits {
            self.since.get_or_insert(now);
        } else if let Some(since) = self.since.take() {
            self.left = self
                .left
                .saturating_sub(now.saturating_duration_since(since));
        }
    }

    /// When it fails if it still waits then; None: it does not wait.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_between_two_waits_and_is_not_given_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(10));
        assert_eq!(patience.deadline(), None);
        patience.see(true, at(5));
        patience.see(true, at(7));
        assert_eq!(patience.deadline(), Some(at(15)));
        patience.see(false, at(9));
        assert_eq!(patience.deadline(), None);
        patience.see(true, at(100));
        assert_eq!(patience.deadline(), Some(at(106)));
        patience.see(false, at(200));
        patience.see(true, at(300));
        assert_eq!(patience.deadline(), Some(at(300)), "nothing is left");
    }
}
