//! Headers of replies, replies without data, and the counting that goes with every reply.

use std::time::Instant;

use super::desk::Desk;
use super::metrics::Op;
use super::pages::Pages;
use super::{REPLY_BYTES_MAX, Session};
use crate::engine::Tier;
use crate::error::Error;
use crate::wire::*;

/// How much header comes before the data of a chunk: with the offset.
const DATA_CHUNK_BYTES: usize = CHUNK_BYTES + 8;

/// What a client is told of an error of the engine.
pub(super) fn errno_of(error: &Error) -> Errno {
    match error {
        Error::PoolFull | Error::StoreFull => Errno::NoSpace,
        Error::Lost
        | Error::Silent
        | Error::Corrupt { .. }
        | Error::Io { .. }
        | Error::Foreign { .. }
        | Error::Misfit { .. }
        | Error::NotPermitted(_)
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

    /// Bytes before the data of a reply's piece.
    pub(super) fn data_header_bytes(&self) -> usize {
        if self.negotiated.structured {
            DATA_CHUNK_BYTES
        } else {
            SIMPLE_REPLY_BYTES
        }
    }

    /// Makes a piece output that is the end of its reply and has a header of its own.
    #[inline]
    pub(super) fn commit(&mut self, cookie: u64, offset: u64, bytes: u32, tier: Option<Tier>) {
        if self.negotiated.structured {
            self.commit_chunk(
                cookie,
                offset,
                bytes,
                tier.unwrap_or(Tier::Pool),
                CHUNK_FLAG_DONE,
            );
            return;
        }
        let total = SIMPLE_REPLY_BYTES + bytes as usize;
        let out = self.output.space(total);
        out[..SIMPLE_REPLY_BYTES].copy_from_slice(&simple_reply(cookie, None));
        self.output.add(total);
    }

    /// Makes a piece a chunk; one of zeros costs only its length.
    pub(super) fn commit_chunk(
        &mut self,
        cookie: u64,
        offset: u64,
        bytes: u32,
        tier: Tier,
        flags: u16,
    ) {
        if tier == Tier::Zero {
            self.output
                .push(&chunk(flags, CHUNK_OFFSET_HOLE, cookie, 12));
            self.output.push(&offset.to_be_bytes());
            self.output.push(&bytes.to_be_bytes());
            return;
        }
        let total = DATA_CHUNK_BYTES + bytes as usize;
        let out = self.output.space(total);
        out[..CHUNK_BYTES].copy_from_slice(&chunk(flags, CHUNK_OFFSET_DATA, cookie, bytes + 8));
        out[CHUNK_BYTES..DATA_CHUNK_BYTES].copy_from_slice(&offset.to_be_bytes());
        self.output.add(total);
    }

    /// Makes the first piece of a stream output, under a header for `total` bytes.
    pub(super) fn commit_stream(&mut self, cookie: u64, offset: u64, total: u32, bytes: u32) {
        let header = self.data_header_bytes();
        let out = self.output.space(header + bytes as usize);
        if self.negotiated.structured {
            let head = chunk(CHUNK_FLAG_DONE, CHUNK_OFFSET_DATA, cookie, total + 8);
            out[..CHUNK_BYTES].copy_from_slice(&head);
            out[CHUNK_BYTES..DATA_CHUNK_BYTES].copy_from_slice(&offset.to_be_bytes());
        } else {
            out[..SIMPLE_REPLY_BYTES].copy_from_slice(&simple_reply(cookie, None));
        }
        self.output.add(header + bytes as usize);
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
