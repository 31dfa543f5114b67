//! Counting and checking all segments.

use std::sync::atomic::Ordering;

use super::{CREDIT, Segments};

/// How many segments are what.
pub(in super::super) struct Census {
    pub free: u64,
    pub suspect: u64,
    pub broken: u64,
    pub held: u64,
    pub live_bytes: u64,
    /// Written segments by the tenth of a segment that lives in them.
    pub by_live_share: [u64; 10],
}

impl Segments {
    /// Counts all segments of `segment_bytes` each.
    pub fn census(&self, segment_bytes: u32) -> Census {
        let lives = || {
            self.all
                .iter()
                .map(|segment| segment.live.load(Ordering::Relaxed))
        };
        let mut by_live_share = [0; 10];
        for live in lives().filter(|live| *live != 0 && live & CREDIT == 0) {
            let tenth = u64::from(live) * 10 / u64::from(segment_bytes);
            by_live_share[tenth.min(9) as usize] += 1;
        }
        let lists = self.lists();
        let (suspect, broken) = (lists.suspect.len() as u64, lists.broken.len() as u64);
        let held = lists.waiting() as u64;
        drop(lists);
        let dead = lives().filter(|live| *live == 0).count() as u64;
        Census {
            suspect,
            broken,
            by_live_share,
            free: dead.saturating_sub(held),
            held,
            live_bytes: lives().map(|live| u64::from(live & !CREDIT)).sum(),
        }
    }

    /// Panics on a broken invariant. No call may be under way.
    pub fn check(&self) {
        let lists = self.lists();
        let mut listed = vec![false; self.all.len()];
        let waiting = (lists.held.iter().chain(&lists.buried)).map(|held| &held.number);
        let waiting = waiting.chain(lists.spent.iter().map(|spent| &spent.number));
        let distrusted = lists.suspect.iter().chain(&lists.broken);
        let free = lists.ready.iter().chain(&lists.freed).chain(distrusted);
        for number in free.chain(waiting) {
            assert!(!listed[*number as usize], "segment {number} is free twice");
            listed[*number as usize] = true;
        }
        let mut missing = 0;
        for (number, segment) in self.all.iter().enumerate() {
            let live = segment.live.load(Ordering::Acquire);
            let sequence = segment.sequence.load(Ordering::Acquire);
            let shape = segment.shape.load(Ordering::Acquire) as u32;
            if live == 0 {
                assert_eq!(sequence, 0, "segment {number} is free and readable");
                missing += u32::from(!listed[number]);
            } else {
                assert!(!listed[number], "segment {number} is free and in use");
                assert!(
                    sequence != 0 || live == CREDIT,
                    "segment {number} lives unwritten"
                );
                assert!(
                    sequence < lists.sequence_next,
                    "segment {number} is from the future"
                );
                assert!(
                    sequence == 0 || live & !CREDIT <= shape,
                    "segment {number} is overfull"
                );
            }
        }
        assert_eq!(missing, lists.away, "free segments that no list knows");
    }
}
