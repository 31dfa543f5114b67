//! NBD's transmission phase of one connection: bytes in, replies out; no socket, no clock.
//!
//! Whoever owns the socket receives into [`Session::input`], calls [`Session::advance`] and sends
//! [`Session::output`]. A hit is answered while it is parsed: its page is decompressed into the
//! send buffer, no memory is allocated and nothing is remembered. Requests that need the store
//! become entries of a slab, go on when their fetches come back, and do not hold up those
//! behind them.
//!
//! Backpressure: both buffers are fixed. While a reply would not fit, requests stay unparsed in the
//! input, and when that is full they stay in the socket. Every waiting request has bytes of the
//! send buffer promised to it, so what comes back from the store can always be sent on, and a
//! client that does not read its replies keeps nothing that others need.
//!
//! Not here: sockets, threads, polling (`worker`); pages (`engine`, behind [`Pages`]).
//! Locking: none. A session belongs to one worker.

pub mod boxes;
mod buffer;
mod change;
mod desk;
mod end;
mod export;
mod flush;
mod hand_over;
mod histogram;
pub mod metrics;
mod pages;
mod patience;
mod payload;
mod piece;
mod read;
mod reply;
mod slab;
pub mod span;
mod status;
mod validate;

#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use desk::Desk;
pub use end::End;
pub use hand_over::{RECEIVED_BYTES_MAX, Unfinished};
pub use pages::Pages;
pub use validate::{DRAIN_BYTES_MAX, Negotiated, PAYLOAD_BYTES_MAX};

use crate::engine::{ExportId, Fetch};
use crate::wire::{Errno, REQUEST_BYTES, Request};
use buffer::Buffer;
use change::Change;
use export::{Area, PIECE_BYTES};
use metrics::Op;
use patience::Patience;
use slab::{Place, Rest, Slab, WAITING_MAX};
use validate::{Accepted, Refusal, validate};

/// Receive buffer: many requests, or the larger part of a burst of swapped-out pages.
pub const INPUT_BYTES: usize = 256 << 10;
/// Send buffer: a reply of one 4 KiB page to as many requests as may wait, or a few pieces.
pub const OUTPUT_BYTES: usize = WAITING_MAX * (4096 + 64) + 2 * PIECE_BYTES as usize;
/// Room that is enough for every reply but READ's data and BLOCK_STATUS.
const REPLY_BYTES_MAX: usize = 96;
/// Work of one call of [`Session::advance`], in pages, so that other connections have their turn.
const BUDGET_PAGES: i64 = 512;

/// What a session waits for; its worker calls [`Session::advance`] again when that may have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Room in the send buffer.
    pub output: bool,
    /// Fetch boxes.
    pub boxes: bool,
    /// Space in the pool, or the end of a flush, which is announced in the same way.
    pub space: bool,
}

/// What [`Session::advance`] leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its turn was over before its work; call again.
    More,
    /// Nothing to do before something comes: bytes, fetches, or what it [`Waits`] for.
    Waiting,
}

/// How a request at the head of the input went on.
enum Step {
    /// It is off the head.
    Done,
    /// Bytes are missing, or it waits for something.
    Wait,
}

/// The request whose bytes are being taken from the input, or that keeps others from being taken.
#[derive(Debug)]
enum Current {
    /// None: a header is next.
    Idle,
    /// Its payload comes next, to be written or, if it was refused, to be read away.
    Payload(Change),
    /// It goes over many pages, a slice at a time.
    Span(Change),
    /// Its data is sent under one header.
    Stream,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    area: Area,
    negotiated: Negotiated,
    /// The connection's place in its worker, for tickets.
    connection: u32,
    request_timeout: Duration,
    input: Buffer,
    output: Buffer,
    current: Current,
    waiting: Slab,
    /// Bytes of the send buffer that are promised to waiting requests and the current one.
    promised: usize,
    budget_pages: i64,
    waits: Waits,
    /// Times that space had been announced when a change waited for it in vain.
    in_vain_at: Option<u64>,
    /// No further request is begun; the session ends for this reason when all are answered.
    leaving: Option<End>,
    end: Option<End>,
}

impl Session {
    /// A connection to export `id` that negotiation handed over.
    pub fn new<P: Pages>(
        pages: &P,
        id: ExportId,
        negotiated: Negotiated,
        request_timeout: Duration,
        now: Instant,
    ) -> Self {
        let area = Area::new(pages, id);
        Session {
            area,
            negotiated,
            connection: 0,
            request_timeout,
            input: Buffer::new(RECEIVED_BYTES_MAX),
            output: Buffer::new(OUTPUT_BYTES),
            current: Current::Idle,
            waiting: Slab::new(area.piece_pages(), now),
            promised: 0,
            budget_pages: 0,
            waits: Waits::default(),
            in_vain_at: None,
            leaving: None,
            end: None,
        }
    }

    /// The connection has place `connection` in its worker: fetches bear it in their tickets.
    pub fn set_connection(&mut self, connection: u32) {
        assert!(
            self.waiting.is_empty(),
            "a connection moves before its first fetch"
        );
        self.connection = connection;
    }

    /// What came before: bytes that were received, behind the handshake or by another session, and
    /// replies that the other one owes.
    pub fn preload(&mut self, received: &[u8], unsent: &[u8]) {
        self.input.push(received);
        self.output.push(unsent);
    }

    /// Memory to receive into, followed by [`received`](Self::received); None while the session
    /// wants no more input.
    pub fn input(&mut self) -> Option<&mut [u8]> {
        let wanted = self.end.is_none()
            && (self.leaving.is_none() || matches!(self.current, Current::Payload(_)));
        // Less than this is not worth a system call, and moving what waits to the front for
        // every few bytes would cost more than it brings.
        let least = INPUT_BYTES / 4;
        // The buffer is larger, for what another session may begin with.
        let room = INPUT_BYTES.saturating_sub(self.input.len());
        (wanted && room >= least).then(|| {
            let space = self.input.space(least);
            let most = room.min(space.len());
            &mut space[..most]
        })
    }

    /// `bytes` were received.
    pub fn received(&mut self, bytes: usize) {
        self.input.add(bytes);
    }

    /// Bytes to send, followed by [`sent`](Self::sent).
    pub fn output(&self) -> &[u8] {
        self.output.filled()
    }

    /// The first `bytes` of the output were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.output.consume(bytes);
    }

    /// What it waits for, since the last [`advance`](Self::advance).
    pub fn waits(&self) -> Waits {
        self.waits
    }

    /// Why the session is over, if it is; what is still in the output is to be sent all the same,
    /// unless the end is an abrupt one.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// True from the client's DISC to the end.
    pub fn is_disconnecting(&self) -> bool {
        matches!(self.leaving, Some(End::Disconnected))
    }

    /// Does all that can be done now: requests that waited, then those in the input.
    pub fn advance<P: Pages>(&mut self, desk: &mut Desk<P>) -> Progress {
        self.waits = Waits::default();
        self.budget_pages = BUDGET_PAGES;
        let progress = self.go_on(desk);
        self.look_at_patience(desk.now);
        progress
    }

    fn go_on<P: Pages>(&mut self, desk: &mut Desk<P>) -> Progress {
        loop {
            let resumed = self.resume_all(desk);
            let taken = self.take_input(desk);
            if self.end.is_some() {
                return Progress::Waiting;
            }
            if self.budget_pages <= 0 {
                return Progress::More;
            }
            if !resumed && !taken {
                break;
            }
        }
        let is_over = match self.leaving {
            Some(End::HandedOver) => self.can_be_handed_over(),
            _ => matches!(self.current, Current::Idle) && self.waiting.is_empty(),
        };
        if let Some(end) = self.leaving.take_if(|_| is_over) {
            self.end = Some(end);
        }
        Progress::Waiting
    }

    /// A fetch came back. Call [`advance`](Self::advance) afterwards.
    pub fn fetched<P: Pages>(&mut self, desk: &mut Desk<P>, fetch: Box<Fetch>) {
        let Some(place) = self.waiting.owner(&fetch) else {
            // Its request was given up at the deadline.
            desk.boxes.give_back(fetch);
            return;
        };
        let entry = &mut self.waiting[place];
        assert!(
            entry.outstanding > 0,
            "a fetch too many for request {:#x}",
            entry.cookie
        );
        entry.outstanding -= 1;
        entry.held.push(fetch);
        let change = matches!(entry.rest, Rest::Change { .. });
        let ready = change || entry.outstanding == 0;
        self.waiting.set_ready(place, ready);
    }

    /// Begins no further request; those that are begun are finished, then the session ends.
    pub fn leave(&mut self, end: End) {
        // Being handed over is not the client's wish and gives way to any other reason.
        let leaves = !matches!(self.leaving, None | Some(End::HandedOver));
        if !leaves && self.end.is_none() {
            self.leaving = Some(end);
        }
    }

    /// The client is gone: what waits is dropped. A write that was not answered must not land
    /// later, when the client may have sent it again, and a newer one after it, on another
    /// connection.
    pub fn abandon<P: Pages>(&mut self, desk: &mut Desk<P>, end: End) {
        for place in self.waiting.used() {
            self.waiting.release(place, &mut desk.boxes);
            self.waiting.free(place);
        }
        self.current = Current::Idle;
        self.promised = 0;
        self.input.clear();
        self.output.clear();
        self.end.get_or_insert(end);
    }

    /// The next time at which [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let current = match &self.current {
            Current::Payload(change) | Current::Span(change) => change.patience.deadline(),
            Current::Idle | Current::Stream => None,
        };
        self.waiting
            .used()
            .filter_map(|place| self.waiting[place].patience.deadline())
            .chain(current)
            .min()
    }

    /// Sees who waits and who goes on.
    fn look_at_patience(&mut self, now: Instant) {
        for place in self.waiting.used() {
            let entry = &mut self.waiting[place];
            entry.patience.see(entry.waits(), now);
        }
        if let Current::Payload(change) | Current::Span(change) = &mut self.current {
            change.patience.see(change.is_blocked(), now);
        }
    }

    /// Gives up requests whose deadline has passed. Call [`advance`](Self::advance) afterwards.
    pub fn expire<P: Pages>(&mut self, desk: &mut Desk<P>) {
        for place in self.waiting.used() {
            let deadline = self.waiting[place].patience.deadline();
            if deadline.is_none_or(|deadline| deadline > desk.now) {
                continue;
            }
            self.waiting.release(place, &mut desk.boxes);
            let entry = &mut self.waiting[place];
            let errno = match entry.rest {
                Rest::Change {
                    stalled_at: Some(_),
                    ..
                } => Errno::NoSpace,
                _ => Errno::Io,
            };
            entry.error.get_or_insert(errno);
            // Fetches that come back for the old serial are not this request's any more.
            entry.serial = desk.boxes.serial();
            entry.outstanding = 0;
            // It has failed; if its payload is still to come, that is the client's time.
            entry.patience = Patience::new(self.request_timeout);
            self.waiting.set_ready(place, true);
        }
        if let Current::Payload(change) | Current::Span(change) = &mut self.current
            && change.expire(desk.now)
        {
            if change.error == Some(Errno::NoSpace) {
                self.in_vain_at = Some(desk.space_epoch);
            }
            if let Some(place) = change.place {
                // A claim that nobody will use would keep others waiting.
                desk.boxes.withdraw(self.waiting[place].serial);
            }
        }
    }

    /// Goes on with every request that can. True if one of them did.
    fn resume_all<P: Pages>(&mut self, desk: &mut Desk<P>) -> bool {
        let mut resumed = false;
        for place in self.waiting.ready() {
            if self.budget_pages <= 0 || self.end.is_some() {
                break;
            }
            resumed |= match self.waiting[place].rest {
                Rest::Read { .. } => self.resume_read(desk, place),
                Rest::Change { .. } => self.resume_change(desk, place),
                Rest::Flush { flush } => self.resume_flush(desk, place, flush),
            };
        }
        resumed
    }

    /// Takes requests and their payload from the input. True if any was.
    fn take_input<P: Pages>(&mut self, desk: &mut Desk<P>) -> bool {
        let mut taken = false;
        while self.budget_pages > 0 && self.end.is_none() {
            let step = match self.current {
                Current::Idle => self.next_request(desk),
                Current::Payload(_) => self.take_payload(desk),
                Current::Span(_) => self.next_slice(desk),
                Current::Stream => Step::Wait,
            };
            if matches!(step, Step::Wait) {
                break;
            }
            taken = true;
        }
        taken
    }

    /// Takes the next request, if all of its header is there and a reply would fit.
    fn next_request<P: Pages>(&mut self, desk: &mut Desk<P>) -> Step {
        let Some(raw) = self.input.filled().first_chunk::<REQUEST_BYTES>() else {
            return Step::Wait;
        };
        if self.leaving.is_some() {
            return Step::Wait;
        }
        let request = match Request::decode(raw) {
            Ok(request) => request,
            Err(found) => {
                self.end = Some(End::BadMagic { found });
                return Step::Wait;
            }
        };
        if !self.fits(REPLY_BYTES_MAX) {
            return Step::Wait;
        }
        match validate(&request, &self.area, &self.negotiated) {
            Err(refusal) => self.refuse(desk, &request, refusal),
            Ok(Accepted::Disconnect) => {
                self.input.clear();
                self.leaving = Some(End::Disconnected);
                Step::Done
            }
            Ok(Accepted::Op(op)) => match op {
                Op::Read => self.begin_read(desk, &request),
                Op::BlockStatus => self.block_status(desk, &request),
                Op::Flush => self.flush(desk, &request),
                Op::Write => self.begin_write(desk, &request),
                Op::Trim | Op::Cache | Op::WriteZeroes => self.begin_span(desk, op, &request),
            },
        }
    }

    /// Answers a request that makes no sense; the payload of a WRITE is read away first.
    fn refuse<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        request: &Request,
        refusal: Refusal,
    ) -> Step {
        self.input.consume(REQUEST_BYTES);
        if refusal.op == Some(Op::Write) && request.length > 0 {
            if request.length > DRAIN_BYTES_MAX {
                self.end = Some(End::WriteTooLong {
                    bytes: request.length,
                });
                return Step::Wait;
            }
            let change = Change::new(Op::Write, request, desk.now, self.request_timeout)
                .refused(refusal.errno);
            self.begin_change(change, true);
            return Step::Done;
        }
        if let Some(op) = refusal.op {
            desk.shard
                .answered(self.area.id, op, 0, Some(refusal.errno));
            desk.tally.add(op, None);
        }
        self.reply_error(refusal.op, request.cookie, refusal.errno, None, refusal.why);
        Step::Done
    }

    /// True if `bytes` more can be sent without taking what is promised; else waits for room.
    #[inline]
    fn fits(&mut self, bytes: usize) -> bool {
        let room = self.output.room();
        let free = room.checked_sub(self.promised);
        let free = free.unwrap_or_else(|| panic!("{} bytes of {room} promised", self.promised));
        let fits = free >= bytes;
        self.waits.output |= !fits;
        fits
    }

    /// Keeps room for the next part of a waiting request's reply: `bytes` in all. False if there is
    /// none yet.
    fn promise(&mut self, place: Place, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.waiting[place].promise);
        if more > 0 && !self.fits(more) {
            return false;
        }
        self.waiting[place].promise += more;
        self.promised += more;
        true
    }
}
