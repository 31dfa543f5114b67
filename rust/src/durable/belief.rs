//! What the next process may believe of the log: three words in the table's shared memory.
//!
//! ```text
//! promised   what flushes were answered with, or what superseded that, is in segments of smaller sequences
//!            and on the device; at least the position
//! position   all segments of smaller sequences are whole and on the device; 0: nothing is known
//! doubt      1 from before a sync until everything that it should have covered is known to be there
//! ```
//!
//! Why that has to outlive the process: a page cache whose write-back failed says so once, and may call
//! the lost pages clean from then on. The process that was told owes the pages again, but a kill makes it
//! forget that, and the next one's sync succeeds and means nothing. So a sync that is not known to have
//! succeeded has failed, for whoever comes next: what is in segments from the position on is written again.
//!
//! Loss of the host needs none of it: the log has the position too, and what is behind that is verified. Who
//! recovers from it finds more that was promised than is before the position that was written down.
//!
//! Locking: none, atomics; written by the one thread that syncs.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The three words.
#[derive(Clone, Copy)]
pub struct Belief<'a> {
    promised: &'a AtomicU64,
    position: &'a AtomicU64,
    doubt: &'a AtomicU64,
}

impl<'a> Belief<'a> {
    /// Made of the words that a predecessor left, or of zeros.
    pub fn new(words: &'a [AtomicU64]) -> Belief<'a> {
        let [promised, position, doubt] = words else {
            panic!("{} words, wanted three", words.len());
        };
        Belief {
            promised,
            position,
            doubt,
        }
    }

    /// Segments of smaller sequences are whole and on the device.
    pub fn position(self) -> u64 {
        self.position.load(SeqCst)
    }

    /// What flushes were answered with, or what superseded that, is in segments of smaller sequences. Those from
    /// the position on may be ones whose write failed.
    pub fn promised(self) -> u64 {
        self.promised.load(SeqCst).max(self.position())
    }

    /// Segments of smaller sequences were synced, and may hold what supersedes what flushes were answered with.
    pub fn promise(self, sequence: u64) {
        self.promised.store(sequence, SeqCst);
    }

    /// Is anything from the position on not to be believed?
    pub fn is_in_doubt(self) -> bool {
        self.doubt.load(SeqCst) != 0
    }

    /// A sync is about to begin, or has failed. Gives what it was before.
    pub fn doubt(self) -> bool {
        self.doubt.swap(1, SeqCst) != 0
    }

    /// That sync has succeeded, and nothing was in doubt before it.
    pub fn restore(self) {
        self.doubt.store(0, SeqCst);
    }

    /// Everything that is promised is on the device, in segments of sequences below `promised`; those below
    /// `position` are whole. `is_sure`: what is between the two is no page's newest record unless it is whole.
    pub fn settle(self, promised: u64, position: u64, is_sure: bool) {
        self.promised.store(promised, SeqCst);
        self.position.store(position, SeqCst);
        if is_sure {
            self.doubt.store(0, SeqCst);
        }
    }
}
