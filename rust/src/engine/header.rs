//! The header of the table's file.
//!
//! It says whose the words are:
//!
//! ```text
//!   0  magic        8 bytes  "NBDSWAPT"
//!   8  version      u32      1
//!  12  page_bytes   u32
//!  16  instance     u64      names the files of one life of the state directory
//!  24  generation   u64      of the store that the words point into
//!  32  exports      u64      xxh3 of names and sizes
//!  40  lost         128 bytes, one bit an export: unwritten pages are lost
//! 168  checksum     u64      xxh3 of bytes 0..168
//! 4008 notes        11 * u64 not part of it: what the next process may believe (`durable::Belief`)
//! ```
//!
//! Locking: none, plain bytes.

use xxhash_rust::xxh3::xxh3_64;

use super::{EngineOptions, ExportInfo};
use crate::zpool::words::HEADER_BYTES;

const MAGIC: [u8; 8] = *b"NBDSWAPT";
const VERSION: u32 = 1;
/// Bytes of the bits that say which exports are lost.
pub const LOST_BYTES: usize = 128;
const LOST_AT: usize = 40;
const CHECKSUM_AT: usize = LOST_AT + LOST_BYTES;

/// Does a header say that unwritten pages of this export are lost?
pub fn was_lost(header: &[u8; HEADER_BYTES], export: usize) -> bool {
    header[LOST_AT + export / 8] & 1 << (export % 8) != 0
}

/// The header that these options make.
pub fn encode_header(options: &EngineOptions, exports: &[ExportInfo]) -> [u8; HEADER_BYTES] {
    let mut names = Vec::new();
    let mut lost = [0u8; LOST_BYTES];
    for (index, export) in exports.iter().enumerate() {
        names.extend_from_slice(export.name.as_bytes());
        names.push(0);
        names.extend_from_slice(&export.size_bytes.to_le_bytes());
        lost[index / 8] |= u8::from(export.is_lost) << (index % 8);
    }
    let mut header = [0; HEADER_BYTES];
    header[0..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(options.page_bytes as u32).to_le_bytes());
    header[16..24].copy_from_slice(&options.instance.to_le_bytes());
    header[24..32].copy_from_slice(&options.generation.to_le_bytes());
    header[32..40].copy_from_slice(&xxh3_64(&names).to_le_bytes());
    header[LOST_AT..CHECKSUM_AT].copy_from_slice(&lost);
    let checksum = xxh3_64(&header[..CHECKSUM_AT]);
    header[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    header
}
