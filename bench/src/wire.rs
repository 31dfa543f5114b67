//! The part of NBD that a kernel client uses, as bytes: constants, requests, simple replies.
//!
//! Not here: sockets. Locking: none, plain values. All integers are big endian.

/// "NBDMAGIC", the first word of a server's greeting.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", the second word of the greeting and the first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Handshake flag: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zero bytes after EXPORT_NAME.
pub const NO_ZEROES: u16 = 2;

/// Option: take an export, answered without an option reply.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: leave.
pub const OPT_ABORT: u32 = 2;
/// Option: take an export, answered by information about it.
pub const OPT_GO: u32 = 7;
/// Option reply: the end of the answer.
pub const REP_ACK: u32 = 1;
/// Option reply: one piece of information.
pub const REP_INFO: u32 = 3;
/// Option reply: an option that the server does not know. Every error has this top bit.
pub const REP_ERR_UNSUP: u32 = 0x8000_0001;
/// Kind of information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;

/// Transmission flags of the floor: HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN.
pub const FLOOR_FLAGS: u16 = 1 | 1 << 2 | 1 << 8;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write.
pub const CMD_WRITE: u16 = 1;
/// Command: disconnect; has no reply.
pub const CMD_DISC: u16 = 2;
/// Command: flush.
pub const CMD_FLUSH: u16 = 3;

/// Error: the request is not one that the server can carry out.
pub const EINVAL: u32 = 22;

/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply without its payload.
pub const REPLY_BYTES: usize = 16;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// A request, without the payload that follows a write.
//
//   0  magic   u32   REQUEST_MAGIC
//   4  flags   u16   always 0 here
//   6  kind    u16
//   8  cookie  u64
//  16  offset  u64
//  24  length  u32
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// One of the `CMD_` constants.
    pub kind: u16,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte in the export.
    pub offset: u64,
    /// Bytes in the export.
    pub length: u32,
}

impl Request {
    /// The request as it goes over the wire.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut raw = [0; REQUEST_BYTES];
        raw[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        raw[6..8].copy_from_slice(&self.kind.to_be_bytes());
        raw[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        raw[16..24].copy_from_slice(&self.offset.to_be_bytes());
        raw[24..28].copy_from_slice(&self.length.to_be_bytes());
        raw
    }

    /// The request in the first bytes of `raw`, if they are one.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        (u32_at(raw, 0) == REQUEST_MAGIC).then(|| Self {
            kind: u16_at(raw, 6),
            cookie: u64_at(raw, 8),
            offset: u64_at(raw, 16),
            length: u32_at(raw, 24),
        })
    }
}

/// A simple reply, without the payload that follows a successful read.
//
//   0  magic   u32   SIMPLE_REPLY_MAGIC
//   4  error   u32
//   8  cookie  u64
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0, or an error number of the protocol.
    pub error: u32,
    /// The cookie of the request.
    pub cookie: u64,
}

impl Reply {
    /// The reply as it goes over the wire.
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut raw = [0; REPLY_BYTES];
        raw[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        raw[4..8].copy_from_slice(&self.error.to_be_bytes());
        raw[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        raw
    }

    /// The reply in the first bytes of `raw`, if they are one.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        (u32_at(raw, 0) == SIMPLE_REPLY_MAGIC).then(|| Self {
            error: u32_at(raw, 4),
            cookie: u64_at(raw, 8),
        })
    }
}

/// The two bytes at `at`. Panics where `raw` is too short: the caller counts first.
pub fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([raw[at], raw[at + 1]])
}

/// The four bytes at `at`.
pub fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from(u16_at(raw, at)) << 16 | u32::from(u16_at(raw, at + 2))
}

/// The eight bytes at `at`.
pub fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from(u32_at(raw, at)) << 32 | u64::from(u32_at(raw, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let request = Request {
            kind: CMD_WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 1 << 40,
            length: 9,
        };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let reply = Reply {
            error: EINVAL,
            cookie: u64::MAX - 1,
        };
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }

    #[test]
    fn bytes_with_another_magic_are_refused() {
        assert_eq!(
            Request::decode(
                &Reply {
                    error: 0,
                    cookie: 0
                }
                .encode()
                .repeat(2)
            ),
            None
        );
        assert_eq!(Reply::decode(&[0; REPLY_BYTES]), None);
    }
}
