//! READ: pages into the send buffer, at once or when their fetches have come back.
//!
//! A reply is made in pieces. A piece is filled into free memory of the send buffer and becomes
//! part of the output only when all of it is there; until then an error can still be told.
//!
//! Simple replies of more than one piece, and structured ones that must not be fragmented, have one
//! header for all data: from then on nothing else may be sent in between, and an error ends the
//! connection.

use super::desk::Desk;
use super::end::End;
use super::metrics::Op;
use super::pages::Pages;
use super::patience::Patience;
use super::piece::{Piece, fill};
use super::slab::{Place, Rest};
use super::{Current, REPLY_BYTES_MAX, Session, Step};
use crate::engine::{Ticket, Tier};
use crate::wire::*;

impl Session {
    /// Answers a READ from memory, or lets it wait for the store.
    #[inline]
    pub(super) fn begin_read<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        let end = request.offset + u64::from(request.length);
        if self.area.piece_end(request.offset, end) != end {
            return self.begin_long_read(desk, request);
        }
        let header = self.data_header_bytes();
        let bytes = header + request.length as usize;
        if !self.fits(bytes) {
            return Step::Wait;
        }
        self.prefetch_next(desk);
        let out = &mut self.output.space(bytes)[..bytes];
        let piece = fill(
            desk,
            &self.area,
            (request.offset, end),
            &[],
            &mut out[header..],
        );
        self.budget_pages -= 1 + i64::from(request.length) / self.area.page_bytes() as i64;
        match piece {
            Piece::Whole(tier) => {
                self.input.consume(REQUEST_BYTES);
                self.commit(request.cookie, request.offset, request.length, Some(tier));
                self.answered(
                    desk,
                    Op::Read,
                    Some(tier),
                    desk.now,
                    Ok(request.length.into()),
                );
            }
            Piece::Missing => {
                if self.waiting.is_full() {
                    return Step::Wait;
                }
                self.input.consume(REQUEST_BYTES);
                let place = self.wait_for_data(desk, request, false, bytes);
                self.lend_missing(desk, place);
            }
            Piece::Failed { at, errno } => {
                self.input.consume(REQUEST_BYTES);
                self.reply_error(
                    Some(Op::Read),
                    request.cookie,
                    errno,
                    Some(at),
                    "unreadable page",
                );
                self.answered(desk, Op::Read, None, desk.now, Err(errno));
            }
        }
        Step::Done
    }

    /// If another READ follows in the input, its first page arrives in the cache while this one is
    /// answered.
    #[inline]
    fn prefetch_next<P: Pages>(&self, desk: &Desk<P>) {
        let next = self.input.filled().get(REQUEST_BYTES..);
        let Some(raw) = next.and_then(|rest| rest.first_chunk::<REQUEST_BYTES>()) else {
            return;
        };
        if let Ok(request) = Request::decode(raw)
            && request.command == CMD_READ
            && request.offset < self.area.size_bytes
        {
            desk.pages
                .prefetch(self.area.part(request.offset, self.area.size_bytes).page);
        }
    }

    /// Begins a READ of more than one piece.
    fn begin_long_read<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        if self.waiting.is_full() {
            return Step::Wait;
        }
        self.input.consume(REQUEST_BYTES);
        let stream = !self.negotiated.structured || request.flags & FLAG_DF != 0;
        let place = self.wait_for_data(desk, request, stream, REPLY_BYTES_MAX);
        self.waiting.set_ready(place, true);
        if stream {
            self.current = Current::Stream;
        }
        Step::Done
    }

    fn wait_for_data<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        request: &Request,
        stream: bool,
        promise: usize,
    ) -> Place {
        let place = self.waiting.take();
        // An error must fit too, whatever the length of the data.
        let promise = promise.max(REPLY_BYTES_MAX);
        self.promised += promise;
        let entry = &mut self.waiting[place];
        entry.serial = desk.boxes.serial();
        entry.op = Op::Read;
        entry.cookie = request.cookie;
        entry.length = request.length;
        entry.begun = desk.now;
        entry.patience = Patience::new(self.request_timeout);
        entry.promise = promise;
        entry.rest = Rest::Read {
            cursor: request.offset,
            end: request.offset + u64::from(request.length),
            stream,
            header_sent: false,
        };
        place
    }

    /// Sends the next piece of a waiting READ, if it can be had. True if the request went on.
    pub(super) fn resume_read<P: Pages>(&mut self, desk: &mut Desk<P>, place: Place) -> bool {
        let entry = &self.waiting[place];
        let Rest::Read {
            cursor,
            end,
            stream,
            header_sent,
        } = entry.rest
        else {
            panic!("request {:#x} is no read", entry.cookie);
        };
        if let Some(errno) = entry.error {
            self.fail_read(desk, place, cursor, errno);
            return true;
        }
        // Once its header is out a stream keeps all others waiting, so those that wait already go
        // first.
        if stream && !header_sent && self.waiting.len() > 1 {
            return false;
        }
        let piece_end = self.area.piece_end(cursor, end);
        let piece_bytes = (piece_end - cursor) as usize;
        let header = if header_sent && stream {
            0
        } else {
            self.data_header_bytes()
        };
        // Between two pieces room for an error stays promised, on top of what this piece takes.
        let spare = if piece_end == end { 0 } else { REPLY_BYTES_MAX };
        if !self.promise(place, header + piece_bytes + spare) {
            // Boxes are not claimed by a request that could not use them.
            desk.boxes.withdraw(self.waiting[place].serial);
            return false;
        }
        let Session {
            waiting,
            area,
            output,
            ..
        } = self;
        let entry = &mut waiting[place];
        if entry.boxes_wanted > 0 && !desk.boxes.claim(entry.serial, entry.boxes_wanted) {
            self.waits.boxes = true;
            return false;
        }
        entry.boxes_wanted = 0;
        let out = &mut output.space(header + piece_bytes)[header..header + piece_bytes];
        let piece = fill(desk, area, (cursor, piece_end), &entry.held, out);
        self.budget_pages -= 1 + (piece_bytes / area.page_bytes()) as i64;
        match piece {
            Piece::Whole(tier) => self.send_piece(desk, place, piece_end, tier),
            Piece::Missing => self.lend_missing(desk, place),
            Piece::Failed { at, errno } => self.fail_read(desk, place, at, errno),
        }
        true
    }

    /// The piece up to `piece_end` is in the free memory of the send buffer: makes it output.
    fn send_piece<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        place: Place,
        piece_end: u64,
        tier: Tier,
    ) {
        self.waiting.release(place, &mut desk.boxes);
        let entry = &mut self.waiting[place];
        let Rest::Read {
            cursor,
            end,
            stream,
            header_sent,
        } = &mut entry.rest
        else {
            panic!("request {:#x} is no read", entry.cookie);
        };
        let (from, bytes, done) = (*cursor, (piece_end - *cursor) as u32, piece_end == *end);
        let headless = *stream && *header_sent;
        let total = if *stream { entry.length } else { bytes };
        let (cookie, stream) = (entry.cookie, *stream);
        *cursor = piece_end;
        *header_sent = true;
        entry.tier = entry.tier.max(Some(tier));
        self.promised -= entry.promise - REPLY_BYTES_MAX;
        entry.promise = REPLY_BYTES_MAX;
        if headless {
            self.output.add(bytes as usize);
        } else if stream {
            self.commit_stream(cookie, from, total, bytes);
        } else if done {
            self.commit(cookie, from, bytes, Some(tier));
        } else {
            self.commit_chunk(cookie, from, bytes, tier, 0);
        }
        if done {
            let entry = &self.waiting[place];
            let (tier, begun, length) = (entry.tier, entry.begun, entry.length);
            self.end_read(place, stream);
            self.answered(desk, Op::Read, tier, begun, Ok(length.into()));
        }
    }

    /// A waiting READ cannot be finished: says so, or, if its data has begun, ends the connection.
    fn fail_read<P: Pages>(&mut self, desk: &mut Desk<P>, place: Place, at: u64, errno: Errno) {
        self.waiting.release(place, &mut desk.boxes);
        let entry = &self.waiting[place];
        let Rest::Read {
            stream,
            header_sent,
            ..
        } = entry.rest
        else {
            panic!("request {:#x} is no read", entry.cookie);
        };
        let (cookie, begun) = (entry.cookie, entry.begun);
        self.end_read(place, stream);
        if stream && header_sent {
            self.end = Some(End::ReadFailed { offset: at });
        } else {
            self.reply_error(Some(Op::Read), cookie, errno, Some(at), "unreadable page");
        }
        self.answered(desk, Op::Read, None, begun, Err(errno));
    }

    fn end_read(&mut self, place: Place, stream: bool) {
        self.promised -= self.waiting[place].promise;
        self.waiting.free(place);
        if stream {
            self.current = Current::Idle;
        }
    }

    /// Sends the pages in `desk.missing` to the readers, or lets the request wait for boxes.
    fn lend_missing<P: Pages>(&mut self, desk: &mut Desk<P>, place: Place) {
        let entry = &mut self.waiting[place];
        let wanted = desk.missing.len();
        if !desk.boxes.claim(entry.serial, wanted) {
            // A request that waits for boxes holds none: two that each held a part would wait
            // forever.
            let wanted = wanted + entry.held.len();
            self.waiting.release(place, &mut desk.boxes);
            let entry = &mut self.waiting[place];
            entry.boxes_wanted = wanted;
            self.waits.boxes |= !desk.boxes.claim(entry.serial, wanted);
            self.waiting.set_ready(place, true);
            return;
        }
        let ticket = Ticket {
            worker: 0,
            request: place.0,
            connection: self.connection,
            serial: entry.serial,
        };
        // Fetches of places where a page no longer is are of no use.
        for at in (0..entry.held.len()).rev() {
            if desk
                .missing
                .iter()
                .any(|(page, _)| *page == entry.held[at].page)
            {
                desk.boxes.give_back(entry.held.swap_remove(at));
            }
        }
        for (page, at) in desk.missing.drain(..) {
            desk.boxes.lend(page, at, ticket);
        }
        entry.outstanding = wanted;
        self.waiting.set_ready(place, false);
    }
}
