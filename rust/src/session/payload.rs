//! WRITE: bytes into pages, as they arrive; and the end of every request that changes pages.
//!
//! A payload is never collected: each page is written as soon as all of its bytes are in the
//! receive buffer.

use super::change::{Change, Yard};
use super::desk::Desk;
use super::metrics::Op;
use super::pages::Pages;
use super::reply::errno_of;
use super::slab::{Place, Rest};
use super::{Current, REPLY_BYTES_MAX, Session, Step};
use crate::engine::{Fetch, Write};
use crate::wire::{Errno, REQUEST_BYTES, Request};

impl Session {
    /// Begins a WRITE.
    pub(super) fn begin_write<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        self.input.consume(REQUEST_BYTES);
        self.begin_change(
            Change::new(Op::Write, request, desk.now, self.request_timeout),
            true,
        );
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
        let connection = self.connection;
        let mut yard = Yard {
            area,
            waiting,
            connection,
            in_vain_at: self.in_vain_at,
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
            return self.finish_change(desk);
        }
        Step::Done
    }

    /// The current change has been looked at to its end: answers it, or leaves it to its fetches or to
    /// a flush, once there is a place for it to wait.
    pub(super) fn finish_change<P: Pages>(&mut self, desk: &mut Desk<P>) -> Step {
        if self.waiting.is_full()
            && let Current::Payload(change) | Current::Span(change) = &self.current
            && (change.place.is_none() && change.fua && change.error.is_none())
        {
            return Step::Wait;
        }
        let current = std::mem::replace(&mut self.current, Current::Idle);
        let (Current::Payload(change) | Current::Span(change)) = current else {
            panic!("no change is under way");
        };
        let Some(place) = change.place else {
            if change.fua
                && change.error.is_none()
                && let Some(flush) = desk.pages.flush(self.area.id)
            {
                let Change {
                    op,
                    cookie,
                    length,
                    tier,
                    begun,
                    patience,
                    ..
                } = change;
                self.park(desk, (op, cookie, length), tier, (begun, patience), flush);
                return Step::Done;
            }
            self.promised -= REPLY_BYTES_MAX;
            self.reply_done(change.cookie, change.error);
            let result = change.error.map_or(Ok(u64::from(change.length)), Err);
            self.answered(desk, change.op, change.tier, change.begun, result);
            return Step::Done;
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
        Step::Done
    }

    /// Writes what fetches that came back were needed for. True if the request went on.
    pub(super) fn resume_change<P: Pages>(&mut self, desk: &mut Desk<P>, place: Place) -> bool {
        let Session { waiting, waits, .. } = self;
        let entry = &mut waiting[place];
        let Rest::Change {
            complete,
            stalled_at,
            fua,
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
        if *fua
            && entry.error.is_none()
            && let Some(flush) = desk.pages.flush(self.area.id)
        {
            entry.rest = Rest::Flush { flush };
            return true;
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
