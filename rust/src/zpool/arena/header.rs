//! The first page of an arena's file: whose it is and how it is laid out.
//!
//! Locking: none, plain bytes.

use std::ops::Range;

use super::ArenaOptions;
use crate::zpool::CHAIN_FRAMES_MAX_ALLOWED;
use crate::zpool::mapping::SYSTEM_PAGE_BYTES;

// The file, all numbers little endian:
//
//   0        header, one page
//   4096     side words, u64 x frames, padded to whole pages
//   ...      frames
//
// Header, the rest of its page is zero:
//   0  magic        [u8; 8]
//   8  version      u32
//  12  frame_bytes  u32
//  16  frames       u32
//  20  chain        u32   longest chain of frames
//  24  instance     u64   whose pool this is
const MAGIC: [u8; 8] = *b"nbdswapP";
const CHAIN_AT: Range<usize> = 20..24;
const VERSION: u32 = 4;
/// Bytes of the header page that mean something.
pub const HEADER_USED_BYTES: usize = 32;
/// Where the side words begin.
pub const SIDE_AT: usize = SYSTEM_PAGE_BYTES;

/// The longest chain of frames that a header says, if it can be one.
pub fn chain_frames_max(found: &[u8]) -> Option<u32> {
    let word = found[CHAIN_AT].try_into().expect("4 bytes");
    Some(u32::from_le_bytes(word)).filter(|max| CHAIN_FRAMES_MAX_ALLOWED.contains(max))
}

/// The header of an arena of `frames` frames.
pub fn header(options: &ArenaOptions, frames: u32) -> [u8; HEADER_USED_BYTES] {
    let mut header = [0; HEADER_USED_BYTES];
    header[0..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(options.frame_bytes as u32).to_le_bytes());
    header[16..20].copy_from_slice(&frames.to_le_bytes());
    header[CHAIN_AT].copy_from_slice(&options.chain_frames_max.to_le_bytes());
    header[24..32].copy_from_slice(&options.instance.to_le_bytes());
    header
}

/// The first field in which a header is not the wanted one: its name, and what is wrong in words.
pub fn difference(
    found: &[u8],
    wanted: &[u8; HEADER_USED_BYTES],
) -> Option<(&'static str, String)> {
    let fields = [
        ("magic", 0..8),
        ("version", 8..12),
        ("frame_bytes", 12..16),
        ("frames", 16..20),
        ("chain_frames_max", CHAIN_AT),
        ("instance", 24..32),
    ];
    let (name, at) = fields
        .into_iter()
        .find(|(_, at)| found[at.clone()] != wanted[at.clone()])?;
    let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let (found, wanted) = (show(&found[at.clone()]), show(&wanted[at]));
    Some((name, format!("{name} is {found}, wanted {wanted}")))
}
