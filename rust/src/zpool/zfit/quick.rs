//! Freed slots that wait to be taken again as they are, by length.
//!
//! Whoever needs a slot of that length, or one a little shorter, gets one without a look at its neighbours, at its region
//! or at any list: that is what makes an overwrite cheap. Only the slots that nobody took in time
//! are joined with the holes beside them. (The idea is that of the quick lists of C. Weinstock, used
//! in many allocators since.)
//!
//! Not here: how many slots may wait, and what joining them does (`shard`).
//! Locking: none, the shard's lock is held.

use super::bins::Spot;
use super::nodes::{self, Nodes, Number};

/// Slots that can wait, at most.
const SLOTS_MAX: usize = 4096;

/// Most granules that a slot may be longer than is wanted: lengths are looked at 64 at a time.
pub const SLACK_MAX: u32 = 63;

/// The freed slots of a shard.
pub struct Quick {
    /// The slot of each length that was freed last.
    first: Box<[Number]>,
    nodes: Nodes,
    /// Bit l: some slot of length l waits.
    filled: Box<[u64]>,
    slots: u64,
    /// The length that is next to give one up.
    hand: usize,
}

impl Quick {
    /// No slots; they have up to `granules_max`.
    pub fn new(granules_max: u32) -> Self {
        Self {
            first: vec![nodes::NONE; granules_max as usize + 1].into_boxed_slice(),
            nodes: Nodes::new(SLOTS_MAX),
            // One word more, so that there always is a next one.
            filled: vec![0; granules_max as usize / 64 + 2].into_boxed_slice(),
            slots: 0,
            hand: 0,
        }
    }

    /// Bytes that grew with what is stored.
    pub fn index_bytes(&self) -> u64 {
        self.nodes.bytes()
    }

    /// Slots that wait.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// The shortest slot of at least `granules` and at most `slack` more; of its length,
    /// the one that was freed last.
    #[inline]
    pub fn take(&mut self, granules: u32, slack: u32) -> Option<Spot> {
        let (word, bit) = (granules as usize / 64, granules % 64);
        let here = u128::from(self.filled[word]) | u128::from(self.filled[word + 1]) << 64;
        let near = (here >> bit) as u64 & (u64::MAX >> (SLACK_MAX - slack));
        if near == 0 {
            return None;
        }
        let index = (granules + near.trailing_zeros()) as usize;
        Some(self.pop(index))
    }

    /// Has the slots of at least `granules` given up first.
    pub fn give_up_from(&mut self, granules: u32) {
        self.hand = granules as usize;
    }

    /// Takes the slot of a length that was freed last; there is one.
    #[inline]
    fn pop(&mut self, length: usize) -> Spot {
        let first = &mut self.first[length];
        let spot = self.nodes.pop(first);
        if *first == nodes::NONE {
            self.filled[length / 64] &= !(1 << (length % 64));
        }
        self.slots -= 1;
        spot
    }

    /// Adds a slot. False: too many wait, or it is longer than any object needs, as a damaged word may
    /// have said to the next process.
    #[inline]
    pub fn put(&mut self, granules: u32, spot: Spot) -> bool {
        let Some(first) = self.first.get_mut(granules as usize) else {
            return false;
        };
        if self.nodes.push(first, spot) == nodes::NONE {
            return false;
        }
        self.filled[granules as usize / 64] |= 1 << (granules % 64);
        self.slots += 1;
        true
    }

    /// Takes a slot of some length, of each length in turn, and says of which.
    pub fn give_up(&mut self) -> Option<(u32, Spot)> {
        if self.slots == 0 {
            return None;
        }
        let length = self.next_filled(self.hand);
        self.hand = length + 1;
        Some((length as u32, self.pop(length)))
    }

    /// The first length from `from` on, or else from the start, of which slots wait.
    fn next_filled(&self, from: usize) -> usize {
        let (word, bit) = (from / 64, from % 64);
        let words = self.filled.len();
        let first = self.filled[word % words] >> bit << bit;
        let mut filled = first;
        let mut at = word % words;
        while filled == 0 {
            at = (at + 1) % words;
            filled = self.filled[at];
        }
        at * 64 + filled.trailing_zeros() as usize
    }

    /// Every slot with its length.
    pub fn each(&self) -> impl Iterator<Item = (u32, Spot)> {
        let lengths = self.first.iter().enumerate();
        lengths.flat_map(|(granules, &first)| {
            let spots = self.nodes.each(first);
            spots.map(move |(_, spot)| (granules as u32, spot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_that_was_freed_last_is_taken_first() {
        let mut quick = Quick::new(20);
        assert!(!quick.put(21, 7), "longer than any");
        for (length, spot) in [(3, 100), (3, 101), (3, 102), (5, 200)] {
            assert!(quick.put(length, spot));
        }
        assert_eq!(quick.slots(), 4);
        assert_eq!(quick.take(3, 0), Some(102));
        assert_eq!((quick.take(4, 0), quick.take(4, 1)), (None, Some(200)));
        assert!(quick.put(20, 300));
        assert_eq!(quick.give_up(), Some((3, 101)));
        assert_eq!(quick.give_up(), Some((20, 300)), "of each length in turn");
        assert_eq!(quick.each().collect::<Vec<_>>(), [(3, 100)]);
        assert_eq!(quick.give_up(), Some((3, 100)));
        assert_eq!((quick.slots(), quick.take(3, 0)), (0, None));
    }

    #[test]
    fn a_slot_that_is_one_too_many_is_not_kept() {
        let mut quick = Quick::new(20);
        assert!((0..SLOTS_MAX as u64).all(|spot| quick.put(spot as u32 % 21, spot)));
        assert!(!quick.put(3, Spot::MAX));
        assert_eq!(quick.slots(), SLOTS_MAX as u64);
    }
}
