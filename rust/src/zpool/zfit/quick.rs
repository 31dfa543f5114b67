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

/// Slots of one length that can wait: with their number they fill a cache line.
const PER_LENGTH: usize = 7;

/// Most granules that a slot may be longer than is wanted: lengths are looked at 64 at a time.
pub const SLACK_MAX: u32 = 63;

/// The freed slots of a shard.
pub struct Quick {
    lengths: Box<[Length]>,
    /// Bit l: some slot of length l waits.
    filled: Box<[u64]>,
    slots: u64,
    /// The length that is next to give one up.
    hand: usize,
}

/// Slots of one length, the oldest first.
#[derive(Clone)]
#[repr(align(64))]
struct Length {
    spots: [Spot; PER_LENGTH],
    count: usize,
}

impl Length {
    fn take_oldest(&mut self) -> Spot {
        let oldest = self.spots[0];
        self.spots.copy_within(1..self.count, 0);
        self.count -= 1;
        oldest
    }
}

impl Quick {
    /// No slots; they have up to `granules_max`.
    pub fn new(granules_max: u32) -> Self {
        let nothing = Length {
            spots: [0; PER_LENGTH],
            count: 0,
        };
        Self {
            lengths: vec![nothing; granules_max as usize + 1].into_boxed_slice(),
            // One word more, so that there always is a next one.
            filled: vec![0; granules_max as usize / 64 + 2].into_boxed_slice(),
            slots: 0,
            hand: 0,
        }
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
        let length = &mut self.lengths[index];
        length.count -= 1;
        let spot = length.spots[length.count];
        if length.count == 0 {
            self.filled[index / 64] &= !(1 << (index % 64));
        }
        self.slots -= 1;
        Some(spot)
    }

    /// Adds a slot. Returns the oldest of its length if they are too many, and one itself that is longer
    /// than any object needs: a damaged word may have said so to the next process.
    #[inline]
    pub fn put(&mut self, granules: u32, spot: Spot) -> Option<Spot> {
        let Some(length) = self.lengths.get_mut(granules as usize) else {
            return Some(spot);
        };
        let displaced = (length.count == PER_LENGTH).then(|| length.take_oldest());
        length.spots[length.count] = spot;
        length.count += 1;
        self.filled[granules as usize / 64] |= 1 << (granules % 64);
        self.slots += u64::from(displaced.is_none());
        displaced
    }

    /// Takes the oldest slot of some length, of each length in turn, and says of which.
    pub fn give_up(&mut self) -> Option<(u32, Spot)> {
        if self.slots == 0 {
            return None;
        }
        let index = self.next_filled(self.hand);
        let length = &mut self.lengths[index];
        let given_up = (index as u32, length.take_oldest());
        if length.count == 0 {
            self.filled[index / 64] &= !(1 << (index % 64));
        }
        self.hand = index + 1;
        self.slots -= 1;
        Some(given_up)
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
        let lengths = self.lengths.iter().enumerate();
        lengths.flat_map(|(granules, length)| {
            let spots = &length.spots[..length.count];
            spots.iter().map(move |&spot| (granules as u32, spot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_that_was_freed_last_is_taken_first_and_the_oldest_makes_room() {
        let mut quick = Quick::new(20);
        for spot in 0..PER_LENGTH as u64 {
            assert_eq!(quick.put(3, spot), None);
        }
        assert_eq!(quick.put(3, 100), Some(0));
        assert_eq!(quick.put(5, 200), None);
        assert_eq!(quick.slots(), 8);
        assert_eq!(quick.take(3, 0), Some(100));
        assert_eq!((quick.take(4, 0), quick.take(4, 1)), (None, Some(200)));
        assert_eq!(quick.give_up(), Some((3, 1)));
        assert_eq!(quick.slots(), 5);
        assert_eq!(quick.each().count(), 5);
        while quick.give_up().is_some() {}
        assert_eq!((quick.slots(), quick.take(3, 0)), (0, None));
    }
}
