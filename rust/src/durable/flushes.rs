//! Flushes that clients wait for: numbered in the order in which they came, answered by the number of
//! the last one that is covered.
//!
//! Locking: one mutex, held for a few instructions, a leaf.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush(pub u64);

/// Why a flush failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushError {
    /// The backing file has no room for what was to be written.
    Full,
    /// The device failed.
    Failed,
}

#[derive(Default)]
struct State {
    asked: u64,
    done: u64,
    failed: u64,
    why: Option<FlushError>,
}

/// All flushes of a server.
#[derive(Default)]
pub struct Flushes {
    state: Mutex<State>,
}

impl Flushes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a flush of everything that has changed until now.
    pub fn ask(&self) -> Flush {
        let mut state = self.state();
        state.asked += 1;
        Flush(state.asked)
    }

    /// How it went; None: it is still to come.
    pub fn outcome(&self, flush: Flush) -> Option<Result<(), FlushError>> {
        let state = self.state();
        if flush.0 <= state.done {
            return Some(Ok(()));
        }
        (flush.0 <= state.failed).then(|| Err(state.why.unwrap_or(FlushError::Failed)))
    }

    /// The last one that was asked for and is neither done nor failed.
    pub fn waiting(&self) -> Option<Flush> {
        let state = self.state();
        (state.asked > state.done.max(state.failed)).then_some(Flush(state.asked))
    }

    /// This one and all before it are done, or failed. A later success covers an earlier failure that
    /// nobody has heard of yet: then everything is on the device.
    pub fn end(&self, flush: Flush, result: Result<(), FlushError>) {
        let mut state = self.state();
        match result {
            Ok(()) => state.done = state.done.max(flush.0),
            Err(why) => {
                state.failed = state.failed.max(flush.0);
                state.why = Some(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_covers_all_that_were_asked_for_before() {
        let flushes = Flushes::default();
        assert_eq!(flushes.waiting(), None);
        let (first, second) = (flushes.ask(), flushes.ask());
        assert_eq!(flushes.waiting(), Some(second));
        let third = flushes.ask();
        flushes.end(second, Err(FlushError::Full));
        assert_eq!(flushes.outcome(first), Some(Err(FlushError::Full)));
        assert_eq!(flushes.outcome(third), None);
        assert_eq!(flushes.waiting(), Some(third));
        flushes.end(third, Ok(()));
        for flush in [first, second, third] {
            assert_eq!(flushes.outcome(flush), Some(Ok(())));
        }
        assert_eq!(flushes.waiting(), None);
    }
}
