//! Which requests are refused, with which error: all refusals of the protocol are in this file, so
//! that whoever carries a request out may take it for granted that it makes sense.
//!
//! Locking: none, plain functions.

use super::export::Area;
use super::metrics::Op;
use crate::wire::*;

/// Largest READ and WRITE that is carried out. Also what negotiation advertises.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 20;
/// Largest WRITE that is refused politely, by reading its payload away; beyond, the client is cut
/// off.
pub const DRAIN_BYTES_MAX: u32 = 128 << 20;

/// What negotiation agreed on for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Structured replies, and with them DF.
    pub structured: bool,
    /// Context id of `base:allocation`, if the client selected it.
    pub base_allocation: Option<u32>,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub errno: Errno,
    /// Which command it was, if we know it.
    pub op: Option<Op>,
    /// The reason in words, for structured replies.
    pub why: &'static str,
}

/// A request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A command that is answered.
    Op(Op),
    /// The client leaves.
    Disconnect,
}

/// Judges a request to `area` on a connection that agreed on `negotiated`.
pub fn validate(
    request: &Request,
    area: &Area,
    negotiated: &Negotiated,
) -> Result<Accepted, Refusal> {
    let op = match request.command {
        CMD_READ => Op::Read,
        CMD_WRITE => Op::Write,
        CMD_FLUSH => Op::Flush,
        CMD_TRIM => Op::Trim,
        CMD_CACHE => Op::Cache,
        CMD_WRITE_ZEROES => Op::WriteZeroes,
        CMD_BLOCK_STATUS => Op::BlockStatus,
        CMD_DISC => return Ok(Accepted::Disconnect),
        _ => {
            return Err(Refusal {
                errno: Errno::Invalid,
                op: None,
                why: "unknown command",
            });
        }
    };
    let refuse = |errno, why| {
        Err(Refusal {
            errno,
            op: Some(op),
            why,
        })
    };
    if request.flags & !flags_of(op, negotiated) != 0 {
        return refuse(Errno::Invalid, "flag not valid for this command");
    }
    if op == Op::Flush {
        // Offset and length mean nothing here; clients that set them are as old as the protocol.
        return Ok(Accepted::Op(op));
    }
    if op == Op::BlockStatus && negotiated.base_allocation.is_none() {
        return refuse(Errno::Invalid, "no metadata context was negotiated");
    }
    let changes = matches!(op, Op::Write | Op::Trim | Op::WriteZeroes);
    if changes && area.read_only {
        return refuse(Errno::Perm, "the export is read-only");
    }
    if request.length == 0 {
        return refuse(Errno::Invalid, "length is zero");
    }
    if matches!(op, Op::Read | Op::Write) && request.length > PAYLOAD_BYTES_MAX {
        return refuse(Errno::Invalid, "longer than 64 MiB");
    }
    // Never the sum of offset and length: it may not fit.
    let size = area.size_bytes;
    if request.offset > size || u64::from(request.length) > size - request.offset {
        let errno = match op {
            Op::Write | Op::WriteZeroes => Errno::NoSpace,
            _ => Errno::Invalid,
        };
        return refuse(errno, "beyond the end of the export");
    }
    Ok(Accepted::Op(op))
}

/// Flags that a command may bear. FUA is offered, so it is valid on every one of them.
fn flags_of(op: Op, negotiated: &Negotiated) -> u16 {
    match op {
        Op::Read if negotiated.structured => FLAG_FUA | FLAG_DF,
        Op::WriteZeroes => FLAG_FUA | FLAG_NO_HOLE | FLAG_FAST_ZERO,
        Op::BlockStatus => FLAG_FUA | FLAG_REQ_ONE,
        _ => FLAG_FUA,
    }
}
