//! Replies without data, and the counting that goes with every reply.

use std::time::Instant;

use super::desk::Desk;
use super::metrics::Op;
use super::pages::Pages;
use super::{REPLY_BYTES_MAX, Session};
use crate::engine::Tier;
use crate::error::Error;
use crate::wire::*;

/// What a client is told of an error of the engine.
pub(super) fn errno_of(error: &Error) -> Errno {
    match error {
        Error::PoolFull | Error::StoreFull => Errno::NoSpace,
        Error::Lost
        | Error::Corrupt { .. }
        | Error::Io { .. }
        | Error::Foreign { .. }
        | Error::Config(_) => Errno::Io,
    }
}

impl Session {
    /// Answers a request that has no data to send. Room for it was promised or looked for.
    pub(super) fn reply_done(&mut self, cookie: u64, error: Option<Errno>) {
        self.output.push(&simple_reply(cookie, error));
    }

    /// Answers a request with an error: where structured replies must be, with its reason.
    pub(super) fn reply_error(
        &mut self,
        op: Option<Op>,
        cookie: u64,
        errno: Errno,
        at: Option<u64>,
        why: &str,
    ) {
        let structured = self.negotiated.structured
            && (op == Some(Op::Read)
                || op == Some(Op::BlockStatus) && self.negotiated.base_allocation.is_some());
        if !structured {
            self.reply_done(cookie, Some(errno));
            return;
        }
        let kind = if at.is_some() {
            CHUNK_ERROR_OFFSET
        } else {
            CHUNK_ERROR
        };
        let payload_bytes = 6 + why.len() + if at.is_some() { 8 } else { 0 };
        assert!(
            CHUNK_BYTES + payload_bytes <= REPLY_BYTES_MAX,
            "too many words: {why}"
        );
        self.output
            .push(&chunk(CHUNK_FLAG_DONE, kind, cookie, payload_bytes as u32));
        self.output.push(&(errno as u32).to_be_bytes());
        self.output.push(&(why.len() as u16).to_be_bytes());
        self.output.push(why.as_bytes());
        if let Some(at) = at {
            self.output.push(&at.to_be_bytes());
        }
    }

    /// Counts a request that is answered.
    #[inline]
    pub(super) fn answered<P: Pages>(
        &self,
        desk: &mut Desk<P>,
        op: Op,
        tier: Option<Tier>,
        begun: Instant,
        result: Result<u64, Errno>,
    ) {
        let tier = if result.is_ok() { tier } else { None };
        desk.shard
            .answered(self.area.id, op, result.unwrap_or(0), result.err());
        if begun == desk.now {
            desk.tally.add(op, tier);
        } else {
            desk.shard.took(op, tier, desk.now.duration_since(begun), 1);
        }
    }
}
