//! Requests of one connection that could not be answered at once: a fixed number, made with the
//! connection, so that waiting asks for no memory.
//!
//! Most requests are never here: a hit is answered while it is parsed.
//! Locking: none, it belongs to one connection.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use super::boxes::{Boxes, FetchBox};
use super::metrics::Op;
use super::patience::Patience;
use crate::engine::{Fetch, Flush, Tier};
use crate::wire::Errno;

/// Requests that may wait on one connection: what the kernel's client queues, so that a disk which
/// hangs never keeps it from reaching pages in memory.
pub const WAITING_MAX: usize = 128;

/// Place of a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u16);

/// What is left to do for a request.
#[derive(Clone, Copy, Debug)]
pub enum Rest {
    /// Bytes `cursor..end` of the export are to be sent.
    Read {
        cursor: u64,
        end: u64,
        /// One header for all data, which then has the connection for itself.
        stream: bool,
        header_sent: bool,
    },
    /// Parts of pages are to be written over what is fetched.
    Change {
        /// All of the request was looked at; only fetches are missing.
        complete: bool,
        /// Times that space had been announced when the pool was found full.
        stalled_at: Option<u64>,
        /// It is answered when it would survive loss of the host.
        fua: bool,
    },
    /// All is done, and is to survive loss of the host before it is answered.
    Flush { flush: Flush },
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Names the request; fetches that bear another serial come too late and are not its own.
    pub serial: u64,
    pub op: Op,
    pub cookie: u64,
    pub length: u32,
    pub begun: Instant,
    pub patience: Patience,
    pub rest: Rest,
    /// Bytes of the send buffer that are kept free for the next part of the reply.
    pub promise: usize,
    /// Fetches that are with the readers.
    pub outstanding: usize,
    /// Fetches that came back and are needed until the whole piece is there.
    pub held: Vec<FetchBox>,
    /// Boxes that it waits for; 0 if it does not.
    pub boxes_wanted: usize,
    pub error: Option<Errno>,
    pub tier: Option<Tier>,
}

impl Waiting {
    /// Does it wait for the store, for a flush, for boxes or for space? One that waits for its client, to
    /// send payload or to read replies, may take any time.
    pub fn waits(&self) -> bool {
        self.outstanding > 0
            || self.boxes_wanted > 0
            || !self.held.is_empty()
            || matches!(self.rest, Rest::Flush { .. })
    }
}

/// The waiting requests of a connection.
#[derive(Debug)]
pub struct Slab {
    entries: Box<[Waiting]>,
    used: u128,
    ready: u128,
}

impl Slab {
    /// Room for [`WAITING_MAX`] requests, each of which may hold `held_max` fetches.
    pub fn new(held_max: usize, now: Instant) -> Self {
        let idle = || Waiting {
            serial: 0,
            op: Op::Read,
            cookie: 0,
            length: 0,
            begun: now,
            patience: Patience::new(Duration::ZERO),
            rest: Rest::Change {
                complete: false,
                stalled_at: None,
                fua: false,
            },
            promise: 0,
            outstanding: 0,
            held: Vec::with_capacity(held_max),
            boxes_wanted: 0,
            error: None,
            tier: None,
        };
        Slab {
            entries: (0..WAITING_MAX).map(|_| idle()).collect(),
            used: 0,
            ready: 0,
        }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.used.count_ones() as usize
    }

    /// True if no request waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// True if no other request can wait.
    pub fn is_full(&self) -> bool {
        self.used == u128::MAX
    }

    /// A free place, which the caller fills in; its list of fetches is empty. There is one.
    pub fn take(&mut self) -> Place {
        assert!(!self.is_full(), "all {WAITING_MAX} places are in use");
        let at = self.used.trailing_ones() as u16;
        self.used |= 1 << at;
        let entry = &mut self.entries[usize::from(at)];
        entry.outstanding = 0;
        entry.boxes_wanted = 0;
        entry.error = None;
        entry.tier = None;
        assert!(entry.held.is_empty(), "place {at} still holds fetches");
        Place(at)
    }

    /// The request is answered.
    pub fn free(&mut self, place: Place) {
        assert!(
            self.used & bit(place) != 0,
            "place {} is free already",
            place.0
        );
        self.used &= !bit(place);
        self.ready &= !bit(place);
        self[place].serial = 0;
    }

    /// Says whether a request can go on.
    pub fn set_ready(&mut self, place: Place, ready: bool) {
        if ready {
            self.ready |= bit(place);
        } else {
            self.ready &= !bit(place);
        }
    }

    /// Requests that can go on, as they are now.
    pub fn ready(&self) -> Places {
        Places(self.ready)
    }

    /// All that wait, as they are now.
    pub fn used(&self) -> Places {
        Places(self.used)
    }

    /// The place of the request that a fetch belongs to; None if it came too late.
    pub fn owner(&self, fetch: &Fetch) -> Option<Place> {
        let place = Place(fetch.ticket.request);
        let known = self.used & bit(place) != 0 && self[place].serial == fetch.ticket.serial;
        known.then_some(place)
    }

    /// Gives back the fetches that a request holds and what it waits for.
    pub fn release(&mut self, place: Place, boxes: &mut Boxes) {
        let entry = &mut self[place];
        boxes.withdraw(entry.serial);
        entry.boxes_wanted = 0;
        for fetch in entry.held.drain(..) {
            boxes.give_back(fetch);
        }
    }
}

fn bit(place: Place) -> u128 {
    1 << place.0
}

impl Index<Place> for Slab {
    type Output = Waiting;

    fn index(&self, place: Place) -> &Waiting {
        &self.entries[usize::from(place.0)]
    }
}

impl IndexMut<Place> for Slab {
    fn index_mut(&mut self, place: Place) -> &mut Waiting {
        &mut self.entries[usize::from(place.0)]
    }
}

/// Some places of a slab.
#[derive(Clone, Copy, Debug)]
pub struct Places(u128);

impl Iterator for Places {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        if self.0 == 0 {
            return None;
        }
        let at = self.0.trailing_zeros() as u16;
        self.0 &= self.0 - 1;
        Some(Place(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_given_once_and_again_after_it_is_free() {
        let mut slab = Slab::new(1, Instant::now());
        for want in 0..WAITING_MAX {
            assert_eq!(usize::from(slab.take().0), want);
        }
        assert!(slab.is_full());
        slab.free(Place(77));
        assert_eq!(slab.len(), WAITING_MAX - 1);
        assert_eq!(slab.take(), Place(77));
    }

    #[test]
    #[should_panic(expected = "place 3 is free already")]
    fn freeing_twice_is_our_bug() {
        Slab::new(1, Instant::now()).free(Place(3));
    }

    #[test]
    fn only_requests_that_are_ready_are_visited() {
        let mut slab = Slab::new(1, Instant::now());
        for _ in 0..WAITING_MAX {
            slab.take();
        }
        slab.set_ready(Place(0), true);
        slab.set_ready(Place(127), true);
        slab.set_ready(Place(64), true);
        slab.free(Place(64));
        let ready: Vec<u16> = slab.ready().map(|place| place.0).collect();
        assert_eq!(ready, [0, 127]);
    }
}
