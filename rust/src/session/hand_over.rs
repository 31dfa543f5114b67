//! Giving a connection up in the middle of transmission, so that another session goes on with it:
//! one of the next process, or of this one if there is no next.
//!
//! What is handed over has the protocol's own form, so that no version has to know another one's
//! sessions: bytes that were received and not handled, and replies that were not sent. A request
//! that changes pages and was carried out in part becomes a request for the rest under the same
//! cookie, in front of these bytes; its client gets one reply, from whoever did the rest.
//!
//! A request that is waited for elsewhere, at the readers or in the send buffer, is finished first.
//! Not here: the socket (`worker`). Locking: none.

use super::change::Change;
use super::desk::Desk;
use super::end::End;
use super::metrics::Op;
use super::pages::Pages;
use super::slab::Rest;
use super::{Current, Negotiated, Session};
use crate::engine::ExportId;
use crate::wire::*;

/// What another session needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Bytes from the client that were not handled: at most [`RECEIVED_BYTES_MAX`].
    pub received: Vec<u8>,
    /// Replies that were not sent, the first one perhaps in part: at most
    /// [`OUTPUT_BYTES`](super::OUTPUT_BYTES).
    pub unsent: Vec<u8>,
}

/// What a session takes at its beginning: a full receive buffer behind the header of a request for
/// the rest of one.
pub const RECEIVED_BYTES_MAX: usize = super::INPUT_BYTES + REQUEST_BYTES;

impl Session {
    /// Begins no further request and ends with [`End::HandedOver`] as soon as nothing is under way
    /// that another session could not go on with.
    pub fn begin_hand_over(&mut self) {
        self.leave(End::HandedOver);
    }

    /// Takes [`begin_hand_over`](Self::begin_hand_over) back, unless the session has ended.
    pub fn stay(&mut self) {
        self.leaving.take_if(|end| *end == End::HandedOver);
    }

    /// True if it has ended and another session can go on.
    pub fn is_handed_over(&self) -> bool {
        self.end == Some(End::HandedOver)
    }

    /// True if only its client keeps it from its end: replies are not read, or the payload of a
    /// write that has failed already is not sent.
    pub fn waits_for_client(&self) -> bool {
        let unsent = !self.output.filled().is_empty();
        let failed = matches!(&self.current, Current::Payload(change) if change.error.is_some());
        let waits_for_us = |place| {
            let entry = &self.waiting[place];
            entry.outstanding > 0 || matches!(entry.rest, Rest::Flush { .. })
        };
        (unsent || failed) && !self.waiting.used().any(waits_for_us)
    }

    /// The export, and what was agreed on with the client.
    pub fn agreed(&self) -> (ExportId, Negotiated) {
        (self.area.id, self.negotiated)
    }

    /// What is left to do. The session was handed over and is of no more use.
    pub fn take_unfinished<P: Pages>(&mut self, desk: &mut Desk<P>) -> Unfinished {
        assert!(self.is_handed_over(), "it ended with {:?}", self.end);
        let mut received = Vec::with_capacity(REQUEST_BYTES + self.input.len());
        if let Current::Payload(change) | Current::Span(change) = &self.current {
            received.extend_from_slice(&rest_of(change).encode());
        }
        received.extend_from_slice(self.input.filled());
        let unsent = self.output.filled().to_vec();
        // Its place, if the current request had one, and its claim on boxes.
        self.abandon(desk, End::HandedOver);
        Unfinished { received, unsent }
    }

    /// Is nothing under way that another session could not go on with?
    pub(super) fn can_be_handed_over(&self) -> bool {
        match &self.current {
            Current::Idle => self.waiting.is_empty(),
            Current::Stream => false,
            Current::Payload(change) | Current::Span(change) => {
                let is_settled = |place| {
                    let entry = &self.waiting[place];
                    entry.outstanding == 0 && entry.held.is_empty() && entry.error.is_none()
                };
                // One that is done only has to be answered.
                change.cursor < change.end
                    && change.error.is_none()
                    && self.waiting.len() == usize::from(change.place.is_some())
                    && change.place.is_none_or(is_settled)
            }
        }
    }
}

/// The part of a request that is still to do, as a request.
fn rest_of(change: &Change) -> Request {
    let command = match change.op {
        Op::Write => CMD_WRITE,
        Op::Trim => CMD_TRIM,
        Op::Cache => CMD_CACHE,
        Op::WriteZeroes => CMD_WRITE_ZEROES,
        Op::Read | Op::Flush | Op::BlockStatus => {
            panic!("{} changes nothing", change.op.name())
        }
    };
    let no_hole = if change.no_hole { FLAG_NO_HOLE } else { 0 };
    let fua = if change.fua { FLAG_FUA } else { 0 };
    Request {
        flags: no_hole | fua,
        command,
        cookie: change.cookie,
        offset: change.cursor,
        length: (change.end - change.cursor) as u32,
    }
}
