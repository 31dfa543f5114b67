//! What the next process may believe of the log: eleven words in the table's shared memory.
//!
//! ```text
//! anew       4 * (from, to): what was written since a sync that failed, in segments of sequences from `from` on, is
//!            on the device up to `to`; newest last, zeros where there is none
//! promised   what flushes were answered with, or what superseded that, is in segments of smaller sequences
//!            and on the device; at least the position
//! position   all segments of smaller sequences are whole and on the device; 0: nothing is known
//! doubt      1 from before a sync until everything that it should have covered is known to be there; 2: so, and
//!            there is no room to say what was written since
//! ```
//!
//! Why that has to outlive the process: a page cache whose write-back failed says so once, and may call
//! the lost pages clean from then on. The process that was told owes the pages again, but a kill makes it
//! forget that, and the next one's sync succeeds and means nothing. So a sync that is not known to have
//! succeeded has failed, for whoever comes next: what is in segments from the position on is written again.
//!
//! Until that is done there may be no room for it but where segments are emptied that hold what was promised
//! (`writeback::relief`). What supersedes it is in segments that were begun after the failure and synced: those are
//! as good as what was promised, and the next process has to know them. One that is killed too leaves a gap: what it
//! had not synced is in doubt again.
//!
//! Loss of the host needs none of it: the log has the position too, and what is behind that is verified. Who
//! recovers from it finds more that was promised than is before the position that was written down.
//!
//! Locking: none, atomics; written by the one thread that syncs.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Words of `anew`.
const ANEW: usize = 8;
/// Not everything is known to be there.
const DOUBT: u64 = 1;
/// The same, and `anew` is full.
const DOUBT_WITHOUT_ROOM: u64 = 2;

/// The words.
#[derive(Clone, Copy)]
pub struct Belief<'a> {
    anew: &'a [AtomicU64],
    promised: &'a AtomicU64,
    position: &'a AtomicU64,
    doubt: &'a AtomicU64,
}

impl<'a> Belief<'a> {
    /// Made of the words that a predecessor left, or of zeros.
    pub fn new(words: &'a [AtomicU64]) -> Belief<'a> {
        let [anew @ .., promised, position, doubt] = words else {
            panic!("{} words, wanted more", words.len());
        };
        assert_eq!(anew.len(), ANEW);
        Belief {
            anew,
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
        store(self.promised, sequence);
    }

    /// What flushes were answered with, and what superseded that and is on the device, is in segments of smaller
    /// sequences.
    pub fn kept_up_to(self) -> u64 {
        self.ranges()
            .map(|(_, to)| to)
            .fold(self.promised(), u64::max)
    }

    /// Is what is in the segment of this sequence on the device, although something before it may not be?
    pub fn is_anew(self, sequence: u64) -> bool {
        self.ranges()
            .any(|(from, to)| (from..to).contains(&sequence))
    }

    fn ranges(self) -> impl Iterator<Item = (u64, u64)> {
        let load = |range: &[AtomicU64]| (range[0].load(SeqCst), range[1].load(SeqCst));
        self.anew.chunks_exact(2).map(load)
    }

    /// A sync has failed: only what is in segments of sequences from this one on can be told by the next ones.
    pub fn begin_anew(self, sequence: u64) {
        // The last one if nothing was told of it, or the next.
        let used = self.ranges().take_while(|(from, _)| *from > 0);
        let is_kept = |(from, to): &(u64, u64)| from < to;
        let kept = used.filter(is_kept).count();
        match self.anew.get(2 * kept..2 * kept + 2) {
            Some(range) => {
                // In this order: a range that ends before it begins is none.
                store(&range[0], sequence);
                store(&range[1], sequence);
                store(self.doubt, DOUBT);
            }
            None => store(self.doubt, DOUBT_WITHOUT_ROOM),
        }
    }

    /// Everything in segments below this sequence that was written since the last failure is on the device. False:
    /// that cannot be noted, so that nothing may rely on it.
    pub fn note_anew(self, sequence: u64) -> bool {
        let used = self.ranges().take_while(|(from, _)| *from > 0).count();
        let is_open = used > 0 && self.doubt.load(SeqCst) == DOUBT;
        if is_open {
            store(&self.anew[2 * used - 1], sequence);
        }
        is_open
    }

    /// Does [`note_anew`](Self::note_anew) note anything?
    pub fn can_note_anew(self) -> bool {
        self.doubt.load(SeqCst) == DOUBT && self.anew[0].load(SeqCst) > 0
    }

    /// Is anything from the position on not to be believed?
    pub fn is_in_doubt(self) -> bool {
        self.doubt.load(SeqCst) != 0
    }

    /// A sync is about to begin, or has failed. Gives what it was before.
    pub fn doubt(self) -> bool {
        (self.doubt)
            .compare_exchange(0, DOUBT, SeqCst, SeqCst)
            .is_err()
    }

    /// That sync has succeeded, and nothing was in doubt before it.
    pub fn restore(self) {
        store(self.doubt, 0);
    }

    /// Everything that is promised is on the device, in segments of sequences below `promised`; those below
    /// `position` are whole. `is_sure`: what is between the two is no page's newest record unless it is whole.
    pub fn settle(self, promised: u64, position: u64, is_sure: bool) {
        store(self.promised, promised);
        store(self.position, position);
        self.anew.iter().for_each(|word| store(word, 0));
        if is_sure {
            store(self.doubt, 0);
        } else {
            self.begin_anew(promised);
        }
    }
}

fn store(word: &AtomicU64, value: u64) {
    // The words were asked for once, and a process may die before each store.
    #[cfg(test)]
    crate::zpool::mapping::watch::access();
    word.store(value, SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..ANEW + 3).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn what_was_written_since_failures_is_told_apart_from_what_is_in_doubt() {
        let words = words();
        let belief = Belief::new(&words);
        assert!(!belief.doubt());
        belief.promise(10);
        belief.restore();
        assert!(!belief.doubt() && !belief.can_note_anew() && !belief.note_anew(12));
        belief.begin_anew(14);
        assert!(belief.can_note_anew() && belief.doubt());
        assert_eq!(belief.kept_up_to(), 14, "and nothing is in it");
        assert!(belief.note_anew(17));
        // The next process, with what this one had not synced, and twice in vain.
        belief.begin_anew(20);
        belief.begin_anew(22);
        assert!(belief.note_anew(24));
        let told: Vec<_> = (0..30).filter(|one| belief.is_anew(*one)).collect();
        assert_eq!(told, [14, 15, 16, 22, 23]);
        assert_eq!((belief.promised(), belief.kept_up_to()), (10, 24));
    }

    #[test]
    fn where_there_is_no_room_to_tell_nothing_is_relied_on() {
        let words = words();
        let belief = Belief::new(&words);
        belief.doubt();
        for failure in 1..=4 {
            belief.begin_anew(10 * failure);
            assert!(belief.note_anew(10 * failure + 5));
        }
        belief.begin_anew(50);
        assert!(belief.is_in_doubt() && belief.doubt());
        assert!(!belief.can_note_anew() && !belief.note_anew(55));
        assert!(belief.is_anew(44) && !belief.is_anew(45) && !belief.is_anew(52));
        belief.settle(60, 50, false);
        assert!(!belief.is_anew(44) && belief.note_anew(62) && belief.is_anew(61));
        belief.settle(70, 70, true);
        assert!(!belief.is_in_doubt() && !belief.is_anew(61));
    }
}
