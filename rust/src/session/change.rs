//! A request that changes pages, as far as it got: what WRITE, WRITE_ZEROES and TRIM share.
//!
//! Part of a page goes over what the page holds; if that is in the store, the bytes wait in the
//! fetch's own payload, and the client's next request is looked at meanwhile.
//!
//! When the pool is full and write-back is under way, the connection stops here until space is
//! announced or the request's deadline passes. Changes after that one do not wait before space is announced.

use std::time::{Duration, Instant};

use super::Waits;
use super::desk::Desk;
use super::export::{Area, Part};
use super::metrics::Op;
use super::pages::Pages;
use super::patience::Patience;
use super::reply::errno_of;
use super::slab::{Place, Rest, Slab};
use crate::engine::{StorePlace, Ticket, Tier, Write};
use crate::wire::{Errno, FLAG_FUA, Request};

/// A request that changes pages and is being carried out.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) op: Op,
    pub(super) cookie: u64,
    pub(super) length: u32,
    pub(super) begun: Instant,
    /// The part that is still to do.
    pub(super) cursor: u64,
    pub(super) end: u64,
    /// WRITE_ZEROES: zeros are to be written, not pages to be discarded.
    pub(super) no_hole: bool,
    /// It is answered when it would survive loss of the host.
    pub(super) fua: bool,
    /// The first error; what is left of the payload is read away.
    pub(super) error: Option<Errno>,
    pub(super) tier: Option<Tier>,
    /// Where its fetches are awaited, if it has any.
    pub(super) place: Option<Place>,
    pub(super) patience: Patience,
    blocked: Option<Blocked>,
}

/// Since when a change cannot go on.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    /// Times that space had been announced when the pool was found full; None if it is not for
    /// space.
    stalled_at: Option<u64>,
}

/// Where the fetches of a session's changes are awaited.
pub(super) struct Yard<'a> {
    pub(super) area: &'a Area,
    pub(super) waiting: &'a mut Slab,
    pub(super) connection: u32,
    /// Times that space had been announced when a change here waited for it in vain.
    pub(super) in_vain_at: Option<u64>,
}

impl Change {
    /// `request`, of which nothing is done yet.
    pub(super) fn new(op: Op, request: &Request, now: Instant, timeout: Duration) -> Self {
        Change {
            op,
            cookie: request.cookie,
            length: request.length,
            begun: now,
            cursor: request.offset,
            end: request.offset.saturating_add(u64::from(request.length)),
            no_hole: false,
            fua: request.flags & FLAG_FUA != 0,
            error: None,
            tier: None,
            place: None,
            patience: Patience::new(timeout),
            blocked: None,
        }
    }

    /// The same, but its payload is only to be read away. Its offset may be any.
    pub(super) fn refused(mut self, errno: Errno) -> Self {
        self.cursor = 0;
        self.end = u64::from(self.length);
        self.error = Some(errno);
        self
    }

    /// Can it not go on?
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Fails it if its deadline has passed; true if it did.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_over = (self.patience.deadline()).is_some_and(|deadline| deadline <= now);
        let Some(blocked) = self.blocked.take_if(|_| is_over) else {
            return false;
        };
        let errno = if blocked.stalled_at.is_some() {
            Errno::NoSpace
        } else {
            Errno::Io
        };
        self.error.get_or_insert(errno);
        true
    }

    /// True if it waits for space and none was announced since.
    pub(super) fn stalled(&self, space_epoch: u64) -> bool {
        self.blocked
            .is_some_and(|blocked| blocked.stalled_at == Some(space_epoch))
    }

    /// Writes `data` to `part` of a page. Err: nothing was done, and what has to come first.
    pub(super) fn apply<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        yard: &mut Yard<'_>,
        part: Part,
        data: &[u8],
    ) -> Result<(), Waits> {
        let outcome = if part.bytes == yard.area.page_bytes() {
            desk.pages.write(&mut desk.lane, part.page, data)
        } else {
            desk.pages
                .patch(&mut desk.lane, part.page, part.start, data)
        };
        let waits = match outcome {
            Ok(Write::Done(tier)) => {
                self.tier = self.tier.max(Some(tier));
                Ok(())
            }
            Ok(Write::Fetch(at)) => self.lend(desk, yard, (part, at), data),
            // Others were sent after one that waited in vain: they are not to wait as long again, each
            // after the other.
            Ok(Write::Stall) if yard.in_vain_at == Some(desk.space_epoch) => {
                self.error = Some(Errno::NoSpace);
                Ok(())
            }
            Ok(Write::Stall) => Err(Waits {
                space: true,
                ..Waits::default()
            }),
            Err(error) => {
                self.error = Some(errno_of(&error));
                Ok(())
            }
        };
        match waits {
            Ok(()) => self.blocked = None,
            Err(waits) => {
                let stalled_at = waits.space.then_some(desk.space_epoch);
                self.blocked = Some(Blocked { stalled_at });
            }
        }
        waits
    }

    /// Lets `data` wait, in a box, for the rest of its page, which is in the store.
    fn lend<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        yard: &mut Yard<'_>,
        (part, at): (Part, StorePlace),
        data: &[u8],
    ) -> Result<(), Waits> {
        if self.place.is_none() && yard.waiting.is_full() {
            return Err(Waits::default());
        }
        let place = *self.place.get_or_insert_with(|| yard.waiting.take());
        let entry = &mut yard.waiting[place];
        if entry.serial == 0 {
            entry.serial = desk.boxes.serial();
            entry.op = self.op;
            entry.cookie = self.cookie;
            entry.length = self.length;
            entry.begun = self.begun;
            entry.promise = 0;
            entry.patience = self.patience;
            entry.rest = Rest::Change {
                complete: false,
                stalled_at: None,
                fua: self.fua,
            };
        }
        if !desk.boxes.claim(entry.serial, 1) {
            return Err(Waits {
                boxes: true,
                ..Waits::default()
            });
        }
        entry.outstanding += 1;
        let ticket = Ticket {
            worker: 0,
            request: place.0,
            connection: yard.connection,
            serial: entry.serial,
        };
        let fetch = desk.boxes.lend(part.page, at, ticket);
        fetch.payload[..data.len()].copy_from_slice(data);
        fetch.payload_offset = part.start as u32;
        fetch.payload_len = data.len() as u32;
        Ok(())
    }
}
