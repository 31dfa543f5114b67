//! FLUSH, and the end of requests with FUA: the answer waits until what was done survives loss of the host,
//! where the export promises that. Elsewhere it is given at once: what was acknowledged is in the pool or
//! the store, where every connection sees it and where it survives this process.
//!
//! A flush covers what was answered before it on any connection. Locking: none.

use std::time::Instant;

use super::desk::Desk;
use super::metrics::Op;
use super::pages::Pages;
use super::patience::Patience;
use super::slab::{Place, Rest};
use super::{REPLY_BYTES_MAX, Session, Step};
use crate::engine::{Flush, FlushError, Tier};
use crate::wire::{Errno, REQUEST_BYTES, Request};

impl Session {
    /// Begins a FLUSH, for whose reply room was found.
    pub(super) fn flush<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        if self.waiting.is_full() {
            return Step::Wait;
        }
        self.input.consume(REQUEST_BYTES);
        let Some(flush) = desk.pages.flush(self.area.id) else {
            self.reply_done(request.cookie, None);
            self.answered(desk, Op::Flush, None, desk.now, Ok(0));
            return Step::Done;
        };
        self.promised += REPLY_BYTES_MAX;
        let patience = Patience::new(self.request_timeout);
        let times = (desk.now, patience);
        self.park(desk, (Op::Flush, request.cookie, 0), None, times, flush);
        Step::Done
    }

    /// Lets a request wait for a flush, as long as it has patience left; there is a place, and room for its reply is
    /// promised.
    pub(super) fn park<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        (op, cookie, length): (Op, u64, u32),
        tier: Option<Tier>,
        (begun, patience): (Instant, Patience),
        flush: Flush,
    ) {
        let place = self.waiting.take();
        let entry = &mut self.waiting[place];
        entry.serial = desk.boxes.serial();
        (entry.op, entry.cookie, entry.length) = (op, cookie, length);
        (entry.begun, entry.tier) = (begun, tier);
        entry.patience = patience;
        entry.promise = REPLY_BYTES_MAX;
        entry.rest = Rest::Flush { flush };
        self.waiting.set_ready(place, true);
    }

    /// Answers a request if its flush is over, or its time. True if it did.
    pub(super) fn resume_flush<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        place: Place,
        flush: Flush,
    ) -> bool {
        let entry = &self.waiting[place];
        let errno = match (entry.error, desk.pages.flushed(flush)) {
            (Some(errno), _) => Some(errno),
            (None, Some(Ok(()))) => None,
            (None, Some(Err(FlushError::Full))) => Some(Errno::NoSpace),
            (None, Some(Err(FlushError::Failed))) => Some(Errno::Io),
            (None, None) => {
                self.waits.space = true;
                return false;
            }
        };
        let (op, cookie, tier, begun) = (entry.op, entry.cookie, entry.tier, entry.begun);
        let result = errno.map_or(Ok(u64::from(entry.length)), Err);
        self.promised -= entry.promise;
        self.waiting.free(place);
        self.reply_done(cookie, errno);
        self.answered(desk, op, tier, begun, result);
        true
    }
}
