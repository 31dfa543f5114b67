//! The fixed number of fetches that one worker may have in flight, and who gets the next ones.
//!
//! A fetch is a box with room for a page. It is lent to a reader thread and comes back through the
//! worker, so there are never more than were made at start: when none is left, requests wait. A
//! request takes all the boxes that it needs or none, so requests never wait for each other's
//! boxes; the first that finds too few claims the next ones, so a large request is not passed over
//! forever by small ones.
//! Locking: none, it belongs to one worker.

use crate::engine::{Fetch, StorePlace, Ticket};
use crate::page::PageId;

/// A fetch on its way. A pointer is moved from hand to hand, and its memory stays where it was
/// made.
pub type FetchBox = Box<Fetch>;

/// A request that waits for boxes, and how many.
#[derive(Clone, Copy, Debug)]
struct Claim {
    serial: u64,
    wanted: usize,
}

/// Fetches of one worker: those that are free, and those on their way to the readers.
#[derive(Debug)]
pub struct Boxes {
    free: Vec<FetchBox>,
    outgoing: Vec<FetchBox>,
    claim: Option<Claim>,
    worker: u16,
    last_serial: u64,
    freed: bool,
}

impl Boxes {
    /// `count` boxes for pages of `page_bytes`, of worker number `worker`.
    pub fn new(worker: u16, count: usize, page_bytes: usize) -> Self {
        Boxes {
            free: (0..count).map(|_| Fetch::new(page_bytes)).collect(),
            outgoing: Vec::with_capacity(count),
            claim: None,
            worker,
            last_serial: 0,
            freed: false,
        }
    }

    /// A number that this worker has not used before, to name a request.
    pub fn serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// True if request `serial` may take `wanted` boxes now; else it is remembered as the next in
    /// line, unless another one is already.
    pub fn claim(&mut self, serial: u64, wanted: usize) -> bool {
        if self.claim.is_some_and(|claim| claim.serial != serial) {
            return false;
        }
        let granted = self.free.len() >= wanted;
        self.claim = (!granted).then_some(Claim { serial, wanted });
        granted
    }

    /// Request `serial` does not wait for boxes any more.
    pub fn withdraw(&mut self, serial: u64) {
        if self.claim.is_some_and(|claim| claim.serial == serial) {
            self.claim = None;
            self.freed = true;
        }
    }

    /// Sends a box to the readers, for a page at `place`. A claim was granted.
    pub fn lend(&mut self, page: PageId, place: StorePlace, ticket: Ticket) -> &mut Fetch {
        let mut fetch = self.free.pop().expect("a claim was granted");
        fetch.page = page;
        fetch.place = place;
        fetch.result = Ok(());
        fetch.ticket = Ticket {
            worker: self.worker,
            ..ticket
        };
        fetch.payload_offset = 0;
        fetch.payload_len = 0;
        self.outgoing.push(fetch);
        self.outgoing.last_mut().expect("it was just pushed")
    }

    /// Sends a box that came back to the readers again: its page has moved to `place`.
    pub fn lend_again(&mut self, mut fetch: Box<Fetch>, place: StorePlace) {
        fetch.place = place;
        fetch.result = Ok(());
        self.outgoing.push(fetch);
    }

    /// Takes a box back.
    pub fn give_back(&mut self, fetch: Box<Fetch>) {
        self.free.push(fetch);
        self.freed = true;
    }

    /// Boxes on their way to the readers; whoever drains it owes them to the readers.
    pub fn outgoing(&mut self) -> &mut Vec<FetchBox> {
        &mut self.outgoing
    }

    /// True once after requests that wait for boxes may try again.
    pub fn take_freed(&mut self) -> bool {
        let claimable = self
            .claim
            .is_none_or(|claim| claim.wanted <= self.free.len());
        std::mem::take(&mut self.freed) && claimable
    }

    /// True if [`take_freed`](Self::take_freed) is worth asking.
    pub fn has_freed(&self) -> bool {
        self.freed
    }

    /// How many boxes are free.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Word;

    const PLACE: StorePlace = StorePlace {
        word: Word::from_bits(1),
        sequence: 1,
    };

    fn lend(boxes: &mut Boxes) -> Box<Fetch> {
        boxes.lend(PageId(0), PLACE, Ticket::default());
        boxes.outgoing().pop().expect("one was lent")
    }

    #[test]
    fn a_claim_keeps_others_from_taking_what_it_waits_for() {
        let mut boxes = Boxes::new(0, 2, 4096);
        assert!(boxes.claim(1, 1));
        let first = lend(&mut boxes);
        assert!(!boxes.claim(2, 2), "one of two is free");
        assert!(!boxes.claim(3, 1), "request 2 is next");
        boxes.give_back(first);
        assert!(boxes.take_freed());
        assert!(!boxes.claim(3, 1), "request 2 is still next");
        assert!(boxes.claim(2, 2));
        assert!(boxes.claim(3, 1), "request 2 has what it wanted");
    }

    #[test]
    fn a_withdrawn_claim_lets_the_others_on() {
        let mut boxes = Boxes::new(0, 1, 4096);
        assert!(!boxes.claim(1, 2));
        boxes.withdraw(7);
        assert!(!boxes.claim(2, 1), "request 1 still waits");
        boxes.withdraw(1);
        assert!(boxes.take_freed());
        assert!(boxes.claim(2, 1));
    }
}
