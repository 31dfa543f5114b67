//! Slots that are being freed, or joined with the holes beside them, some together: their words are fetched from
//! memory for it, which takes longer than all that is then done with them. Those that came before are done
//! meanwhile.
//!
//! To fetch one word is to wait until the processor knows its page, if another thread's lock is next. It looks several
//! pages up at once.
//!
//! Locking: none, the shard's lock is held.

use super::bins::Spot;

/// So many are fetched together: a few more than processors look up pages at once, few enough not to keep who frees
/// the last of them for long.
pub const TOGETHER: usize = 8;

/// No slot.
const NONE: Spot = Spot::MAX;

/// Slots, each with a number that goes with it.
#[derive(Clone, Copy)]
pub struct Batch {
    spots: [Spot; TOGETHER],
    numbers: [u32; TOGETHER],
    count: usize,
}

/// The slots that came last, and those before, which were fetched.
pub struct Waiting {
    last: Batch,
    fetched: Batch,
}

impl Batch {
    const EMPTY: Batch = Batch {
        spots: [NONE; TOGETHER],
        numbers: [0; TOGETHER],
        count: 0,
    };

    /// The slots with their numbers, in the order in which they came.
    pub fn each(&self) -> impl Iterator<Item = (Spot, u32)> {
        (0..self.count).map(|index| (self.spots[index], self.numbers[index]))
    }
}

impl Waiting {
    /// No slots.
    pub fn new() -> Self {
        Self {
            last: Batch::EMPTY,
            fetched: Batch::EMPTY,
        }
    }

    /// Lets a slot wait. True: no other one may come before a `turn`. Panics on one that waits already.
    #[inline]
    pub fn push(&mut self, spot: Spot, number: u32) -> bool {
        assert!(
            !self.last.spots.contains(&spot) && !self.fetched.spots.contains(&spot),
            "the slot at {spot:#x} is freed twice"
        );
        self.push_new(spot, number)
    }

    /// The same of a slot that is known not to wait.
    #[inline]
    pub fn push_new(&mut self, spot: Spot, number: u32) -> bool {
        let place = self.last.count;
        self.last.spots[place] = spot;
        self.last.numbers[place] = number;
        self.last.count = place + 1;
        place + 1 == TOGETHER
    }

    /// Whether no slot waits.
    pub fn is_empty(&self) -> bool {
        self.last.count + self.fetched.count == 0
    }

    /// Those that are to be fetched, and those whose turn it is, which wait no more.
    #[inline]
    pub fn turn(&mut self) -> (Batch, Batch) {
        let last = std::mem::replace(&mut self.last, Batch::EMPTY);
        (last, std::mem::replace(&mut self.fetched, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_leave_in_the_order_in_which_they_came_after_one_turn_of_waiting() {
        let mut waiting = Waiting::new();
        let spots = |batch: &Batch| batch.each().collect::<Vec<_>>();
        let few = [(70, 7), (80, 8)];
        let many: Vec<_> = (0..TOGETHER as Spot).map(|spot| (spot, 1)).collect();
        assert!(
            few.iter()
                .all(|&(spot, number)| !waiting.push(spot, number))
        );
        let (next, done) = waiting.turn();
        assert_eq!((spots(&next), spots(&done)), (few.to_vec(), vec![]));
        let full: Vec<_> = many
            .iter()
            .map(|&(spot, one)| waiting.push(spot, one))
            .collect();
        assert_eq!(full.iter().position(|&is_full| is_full), Some(TOGETHER - 1));
        let (next, done) = waiting.turn();
        assert_eq!((spots(&next), spots(&done)), (many, few.to_vec()));
        assert!(!waiting.is_empty());
        waiting.turn();
        assert!(waiting.is_empty());
    }

    #[test]
    #[should_panic(expected = "the slot at 0x7 is freed twice")]
    fn a_slot_that_was_fetched_still_waits() {
        let mut waiting = Waiting::new();
        waiting.push(7, 0);
        waiting.turn();
        waiting.push(7, 0);
    }
}
