//! Bytes of NBD's transmission phase: requests, replies and their numbers.
//!
//! Everything is big endian and as in the specification (proto.md). Nothing here decides anything:
//! which requests are valid is `session`'s. Negotiation is not here at all, it is Python's.
//! Locking: none, plain functions on bytes.

/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request before its payload.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply before its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured reply chunk before its payload.
pub const CHUNK_BYTES: usize = 20;

/// Command READ.
pub const CMD_READ: u16 = 0;
/// Command WRITE.
pub const CMD_WRITE: u16 = 1;
/// Command DISC.
pub const CMD_DISC: u16 = 2;
/// Command FLUSH.
pub const CMD_FLUSH: u16 = 3;
/// Command TRIM.
pub const CMD_TRIM: u16 = 4;
/// Command CACHE.
pub const CMD_CACHE: u16 = 5;
/// Command WRITE_ZEROES.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command BLOCK_STATUS.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Reply only when the data is on stable storage.
pub const FLAG_FUA: u16 = 1 << 0;
/// WRITE_ZEROES: do not make a hole.
pub const FLAG_NO_HOLE: u16 = 1 << 1;
/// READ: answer in one chunk.
pub const FLAG_DF: u16 = 1 << 2;
/// BLOCK_STATUS: one extent, not beyond the request.
pub const FLAG_REQ_ONE: u16 = 1 << 3;
/// WRITE_ZEROES: refuse rather than be slower than a write.
pub const FLAG_FAST_ZERO: u16 = 1 << 4;

/// The chunk is the last of its reply.
pub const CHUNK_FLAG_DONE: u16 = 1;
/// Chunk with an offset and data.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// Chunk with an offset and a length of zeros.
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// Chunk with a context id and extents.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// Chunk with an error and a message.
pub const CHUNK_ERROR: u16 = 0x8001;
/// Chunk with an error, a message and the offset where it happened.
pub const CHUNK_ERROR_OFFSET: u16 = 0x8002;

/// `base:allocation`: nothing is allocated here.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 2;

/// Errors that we send: a part of those that the specification allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// EPERM: the export is read-only.
    Perm = 1,
    /// EIO: the page is lost, corrupt or could not be read.
    Io = 5,
    /// EINVAL: the request makes no sense.
    Invalid = 22,
    /// ENOSPC: beyond the end, or pool and store are full.
    NoSpace = 28,
}

impl Errno {
    /// All of them, in the order of [`Errno::index`].
    pub const ALL: [Errno; 4] = [Errno::Perm, Errno::Io, Errno::Invalid, Errno::NoSpace];

    /// Position in [`Errno::ALL`].
    pub fn index(self) -> usize {
        match self {
            Errno::Perm => 0,
            Errno::Io => 1,
            Errno::Invalid => 2,
            Errno::NoSpace => 3,
        }
    }

    /// Name as in `errno.h`.
    pub fn name(self) -> &'static str {
        match self {
            Errno::Perm => "EPERM",
            Errno::Io => "EIO",
            Errno::Invalid => "EINVAL",
            Errno::NoSpace => "ENOSPC",
        }
    }
}

/// A request as it was sent, not yet judged.
///
/// ```text
///  0  magic    u32
///  4  flags    u16   FLAG_*
///  6  command  u16   CMD_*
///  8  cookie   u64   opaque, echoed in the reply
/// 16  offset   u64
/// 24  length   u32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// FLAG_* bits.
    pub flags: u16,
    /// CMD_* number.
    pub command: u16,
    /// The client's name for the request.
    pub cookie: u64,
    /// First byte in the export.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

impl Request {
    /// Takes a request apart. Err: the word that was found in place of [`REQUEST_MAGIC`].
    #[inline]
    pub fn decode(raw: &[u8; REQUEST_BYTES]) -> Result<Request, u32> {
        let magic = u32::from_be_bytes(part(raw, 0));
        if magic != REQUEST_MAGIC {
            return Err(magic);
        }
        Ok(Request {
            flags: u16::from_be_bytes(part(raw, 4)),
            command: u16::from_be_bytes(part(raw, 6)),
            cookie: u64::from_be_bytes(part(raw, 8)),
            offset: u64::from_be_bytes(part(raw, 16)),
            length: u32::from_be_bytes(part(raw, 24)),
        })
    }

    /// The inverse of [`Request::decode`]: what a client sends.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut raw = [0; REQUEST_BYTES];
        raw[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        raw[4..6].copy_from_slice(&self.flags.to_be_bytes());
        raw[6..8].copy_from_slice(&self.command.to_be_bytes());
        raw[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        raw[16..24].copy_from_slice(&self.offset.to_be_bytes());
        raw[24..28].copy_from_slice(&self.length.to_be_bytes());
        raw
    }
}

/// Header of a simple reply; READ's data follows it if there is no error.
#[inline]
pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut raw = [0; SIMPLE_REPLY_BYTES];
    raw[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    raw[4..8].copy_from_slice(&error.map_or(0, |errno| errno as u32).to_be_bytes());
    raw[8..16].copy_from_slice(&cookie.to_be_bytes());
    raw
}

/// Header of a structured reply chunk; `payload_bytes` follow it.
#[inline]
pub fn chunk(flags: u16, kind: u16, cookie: u64, payload_bytes: u32) -> [u8; CHUNK_BYTES] {
    let mut raw = [0; CHUNK_BYTES];
    raw[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    raw[4..6].copy_from_slice(&flags.to_be_bytes());
    raw[6..8].copy_from_slice(&kind.to_be_bytes());
    raw[8..16].copy_from_slice(&cookie.to_be_bytes());
    raw[16..20].copy_from_slice(&payload_bytes.to_be_bytes());
    raw
}

/// `N` bytes of a request from `at`.
#[inline]
fn part<const N: usize>(raw: &[u8; REQUEST_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&raw[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the specification prints it, written out by hand.
    const RAW: [u8; REQUEST_BYTES] = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0, 0x10, 0, 0,
        0, 2, 0,
    ];

    #[test]
    fn a_request_is_taken_apart_and_put_together() {
        let request = Request {
            flags: FLAG_FUA,
            command: CMD_WRITE_ZEROES,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1_0000_1000,
            length: 512,
        };
        assert_eq!(Request::decode(&RAW), Ok(request));
        assert_eq!(request.encode(), RAW);
    }

    #[test]
    fn another_magic_is_reported() {
        let mut raw = RAW;
        raw[3] = 0x14;
        assert_eq!(Request::decode(&raw), Err(0x2560_9514));
    }

    #[test]
    fn replies_are_the_specifications_bytes() {
        assert_eq!(
            simple_reply(0x0102_0304_0506_0708, Some(Errno::NoSpace)),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            chunk(CHUNK_FLAG_DONE, CHUNK_ERROR, 9, 6),
            [
                0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 6
            ]
        );
    }

    #[test]
    fn errno_positions_match_their_table() {
        for (at, errno) in Errno::ALL.into_iter().enumerate() {
            assert_eq!(errno.index(), at, "{}", errno.name());
        }
    }
}
