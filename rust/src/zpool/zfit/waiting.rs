//! Slots that are being freed, or joined with the holes beside them: words are fetched from memory for
//! it, which takes longer than all that is then done with them. A slot's turn comes when some others
//! came after it.
//!
//! Locking: none, the shard's lock is held.

use super::bins::Spot;

/// So many wait: long enough for the words to arrive.
const WAITING_MAX: usize = 8;

/// No slot.
const NONE: Spot = Spot::MAX;

/// A ring of slots, each with a number that goes with it.
pub struct Waiting {
    spots: [Spot; WAITING_MAX],
    numbers: [u32; WAITING_MAX],
    oldest: usize,
}

impl Waiting {
    /// No slots.
    pub fn new() -> Self {
        Self {
            spots: [NONE; WAITING_MAX],
            numbers: [0; WAITING_MAX],
            oldest: 0,
        }
    }

    /// Lets a slot wait. Returns the one whose turn it is. Panics on one that waits already.
    #[inline]
    pub fn pass(&mut self, spot: Spot, number: u32) -> Option<(Spot, u32)> {
        assert!(
            !self.spots.contains(&spot),
            "the slot at {spot:#x} is freed twice"
        );
        let place = self.oldest % WAITING_MAX;
        let oldest = (self.spots[place], self.numbers[place]);
        self.spots[place] = spot;
        self.numbers[place] = number;
        self.oldest = place + 1;
        (oldest.0 != NONE).then_some(oldest)
    }

    /// Takes the slot that waits longest.
    pub fn take(&mut self) -> Option<(Spot, u32)> {
        for index in 0..WAITING_MAX {
            let place = (self.oldest + index) % WAITING_MAX;
            let spot = std::mem::replace(&mut self.spots[place], NONE);
            if spot != NONE {
                return Some((spot, self.numbers[place]));
            }
        }
        None
    }
}
