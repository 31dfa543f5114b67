//! Slots that are being freed: their words are fetched from memory, which takes longer than all that
//! is then done with them. A slot's turn comes when some others were freed after it.
//!
//! Locking: none, the shard's lock is held.

use super::bins::Spot;

/// So many wait: long enough for the words to arrive.
const WAITING_MAX: usize = 8;

/// No slot.
const NONE: Spot = Spot::MAX;

/// A ring of freed slots, each with the length of the object that it had.
pub struct Waiting {
    spots: [Spot; WAITING_MAX],
    bytes: [u32; WAITING_MAX],
    oldest: usize,
}

impl Waiting {
    /// No slots.
    pub fn new() -> Self {
        Self {
            spots: [NONE; WAITING_MAX],
            bytes: [0; WAITING_MAX],
            oldest: 0,
        }
    }

    /// Lets a slot wait. Returns the one whose turn it is. Panics on one that waits already.
    #[inline]
    pub fn pass(&mut self, spot: Spot, bytes: usize) -> Option<(Spot, usize)> {
        assert!(
            !self.spots.contains(&spot),
            "the slot at {spot:#x} is freed twice"
        );
        let place = self.oldest % WAITING_MAX;
        let (oldest, object_bytes) = (self.spots[place], self.bytes[place]);
        self.spots[place] = spot;
        self.bytes[place] = bytes as u32;
        self.oldest = place + 1;
        (oldest != NONE).then_some((oldest, object_bytes as usize))
    }

    /// Takes the slot that waits longest.
    pub fn take(&mut self) -> Option<(Spot, usize)> {
        for index in 0..WAITING_MAX {
            let place = (self.oldest + index) % WAITING_MAX;
            let spot = std::mem::replace(&mut self.spots[place], NONE);
            if spot != NONE {
                return Some((spot, self.bytes[place] as usize));
            }
        }
        None
    }
}
