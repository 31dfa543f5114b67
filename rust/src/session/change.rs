//! WRITE, and what it shares with WRITE_ZEROES: bytes into pages, as they arrive.
//!
//! A payload is never collected: each page is written as soon as all of its bytes are in the
//! receive buffer. Part of a page goes over what the page holds; if that is in the store, the
//! bytes wait in the fetch's own payload and the client's next request is looked at meanwhile.
//!
//! When the pool is full and write-back is under way, the connection stops here until space is announced or the
//! request's deadline passes.

use std::time::{Duration, Instant};

use super::desk::Desk;
use super::export::{Area, Part};
use super::metrics::Op;
use super::pages::Pages;
use super::reply::errno_of;
use super::slab::{Place, Rest, Slab};
use super::{Current, REPLY_BYTES_MAX, Session, Step, Waits};
use crate::engine::{Fetch, StorePlace, Ticket, Tier, Write};
use crate::wire::{Errno, REQUEST_BYTES, Request};

/// A request that changes pages and is being carried out.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) op: Op,
    cookie: u64,
    length: u32,
    begun: Instant,
    /// The part that is still to do.
    pub(super) cursor: u64,
    pub(super) end: u64,
    /// WRITE_ZEROES: zeros are to be written, not pages to be discarded.
    pub(super) no_hole: bool,
    /// The first error; what is left of the payload is read away.
    pub(super) error: Option<Errno>,
    pub(super) tier: Option<Tier>,
    /// Where its fetches are awaited, if it has any.
    pub(super) place: Option<Place>,
    blocked: Option<Blocked>,
}

/// Since when a change cannot go on.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    deadline: Instant,
    /// Times that space had been announced when the pool was found full; None if it is not for space.
    stalled_at: Option<u64>,
}

/// Where the fetches of a session's changes are awaited.
pub(super) struct Yard<'a> {
    pub(super) area: &'a Area,
    pub(super) waiting: &'a mut Slab,
    pub(super) connection: u32,
    pub(super) timeout: Duration,
}

impl Change {
    /// `request`, of which nothing is done yet.
    pub(super) fn new(op: Op, request: &Request, now: Instant) -> Self {
        Change {
            op,
            cookie: request.cookie,
            length: request.length,
            begun: now,
            cursor: request.offset,
            end: request.offset.saturating_add(u64::from(request.length)),
            no_hole: false,
            error: None,
            tier: None,
            place: None,
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

    /// When it fails if it still cannot go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.blocked.map(|blocked| blocked.deadline)
    }

    /// Fails it if its deadline has passed; true if it did.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let Some(blocked) = self.blocked.take_if(|blocked| blocked.deadline <= now) else {
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
                let deadline = self.deadline().unwrap_or(desk.now + yard.timeout);
                let stalled_at = waits.space.then_some(desk.space_epoch);
                self.blocked = Some(Blocked {
                    deadline,
                    stalled_at,
                });
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
            entry.rest = Rest::Change {
                complete: false,
                stalled_at: None,
            };
        }
        if !desk.boxes.claim(entry.serial, 1) {
            return Err(Waits {
                boxes: true,
                ..Waits::default()
            });
        }
        entry.deadline = desk.now + yard.timeout;
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

impl Session {
    /// Begins a WRITE.
    pub(super) fn begin_write<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        self.input.consume(REQUEST_BYTES);
        self.begin_change(Change::new(Op::Write, request, desk.now), true);
        Step::Done
    }

    /// Makes `change` the current request; room for its reply was found.
    pub(super) fn begin_change(&mut self, change: Change, payload: bool) {
        self.promised += REPLY_BYTES_MAX;
        self.current = if payload {
            Current::Payload(change)
        } else {
            Current::Span(change)
        };
    }

    /// Takes payload from the input, a page or part of one at a time.
    pub(super) fn take_payload<P: Pages>(&mut self, desk: &mut Desk<P>) -> Step {
        let Session {
            input,
            current,
            waiting,
            area,
            waits,
            ..
        } = self;
        let Current::Payload(change) = current else {
            panic!("no payload is due")
        };
        if change.stalled(desk.space_epoch) {
            waits.space = true;
            return Step::Wait;
        }
        let (connection, timeout) = (self.connection, self.request_timeout);
        let mut yard = Yard {
            area,
            waiting,
            connection,
            timeout,
        };
        while change.cursor < change.end && self.budget_pages > 0 {
            let filled = input.filled();
            let bytes = if change.error.is_some() {
                let bytes = (change.end - change.cursor).min(filled.len() as u64) as usize;
                if bytes == 0 {
                    return Step::Wait;
                }
                bytes
            } else {
                let part = area.part(change.cursor, change.end);
                if filled.len() < part.bytes {
                    return Step::Wait;
                }
                if let Err(needed) = change.apply(desk, &mut yard, part, &filled[..part.bytes]) {
                    waits.space |= needed.space;
                    waits.boxes |= needed.boxes;
                    return Step::Wait;
                }
                self.budget_pages -= 1;
                part.bytes
            };
            input.consume(bytes);
            change.cursor += bytes as u64;
        }
        if change.cursor == change.end {
            self.finish_change(desk);
        }
        Step::Done
    }

    /// The current change has been looked at to its end: answers it, or leaves it to its fetches.
    pub(super) fn finish_change<P: Pages>(&mut self, desk: &mut Desk<P>) {
        let current = std::mem::replace(&mut self.current, Current::Idle);
        let (Current::Payload(change) | Current::Span(change)) = current else {
            panic!("no change is under way");
        };
        let Some(place) = change.place else {
            self.promised -= REPLY_BYTES_MAX;
            self.reply_done(change.cookie, change.error);
            let result = change.error.map_or(Ok(u64::from(change.length)), Err);
            self.answered(desk, change.op, change.tier, change.begun, result);
            return;
        };
        let entry = &mut self.waiting[place];
        entry.promise = REPLY_BYTES_MAX;
        entry.error = entry.error.or(change.error);
        entry.tier = entry.tier.max(change.tier);
        let Rest::Change { complete, .. } = &mut entry.rest else {
            panic!("request {:#x} changes nothing", entry.cookie);
        };
        *complete = true;
        desk.boxes.withdraw(entry.serial);
        self.waiting.set_ready(place, true);
    }

    /// Writes what fetches that came back were needed for. True if the request went on.
    pub(super) fn resume_change<P: Pages>(&mut self, desk: &mut Desk<P>, place: Place) -> bool {
        let Session { waiting, waits, .. } = self;
        let entry = &mut waiting[place];
        let Rest::Change {
            complete,
            stalled_at,
        } = &mut entry.rest
        else {
            panic!("request {:#x} changes nothing", entry.cookie);
        };
        let mut resumed = false;
        while let Some(mut fetch) = entry.held.pop() {
            let stalled = *stalled_at == Some(desk.space_epoch) && entry.error.is_none();
            let outcome = if stalled {
                Ok(Write::Stall)
            } else {
                patch(desk, &mut fetch, entry.error)
            };
            *stalled_at = None;
            resumed |= !stalled;
            match outcome {
                Ok(Write::Done(tier)) => {
                    entry.tier = entry.tier.max(Some(tier));
                    desk.boxes.give_back(fetch);
                }
                Ok(Write::Fetch(at)) => {
                    entry.outstanding += 1;
                    desk.boxes.lend_again(fetch, at);
                }
                Ok(Write::Stall) => {
                    *stalled_at = Some(desk.space_epoch);
                    waits.space = true;
                    entry.held.push(fetch);
                    return resumed;
                }
                Err(errno) => {
                    entry.error.get_or_insert(errno);
                    desk.boxes.give_back(fetch);
                }
            }
        }
        if !*complete || entry.outstanding > 0 {
            self.waiting.set_ready(place, false);
            return resumed;
        }
        let result = entry.error.map_or(Ok(u64::from(entry.length)), Err);
        let (op, cookie, tier, begun) = (entry.op, entry.cookie, entry.tier, entry.begun);
        self.promised -= entry.promise;
        self.waiting.free(place);
        self.reply_done(cookie, result.err());
        self.answered(desk, op, tier, begun, result);
        true
    }
}

/// Writes the payload of a fetch that came back over its page.
fn patch<P: Pages>(
    desk: &mut Desk<P>,
    fetch: &mut Fetch,
    failed: Option<Errno>,
) -> Result<Write, Errno> {
    if let Some(errno) = failed {
        return Err(errno);
    }
    if let Err(error) = &fetch.result {
        // Bytes of a place where the page no longer is may well look corrupt.
        if desk.pages.confirm(fetch.page, fetch.place) {
            return Err(errno_of(error));
        }
    }
    let data = &fetch.payload[..fetch.payload_len as usize];
    let offset = fetch.payload_offset as usize;
    desk.pages
        .patch_fetched(
            &mut desk.lane,
            fetch.page,
            fetch.place,
            &mut fetch.buffer,
            (offset, data),
        )
        .map_err(|error| errno_of(&error))
}
