//! The first block of the backing file: whose store it is, and of which generation.
//!
//! Not here: what is done about a block that is not ours (`open`). Locking: none, plain values.

use xxhash_rust::xxh3::xxh3_64;

use super::device::BLOCK_BYTES;
use super::layout::{Key, u32_at, u64_at};

// superblock, 56 bytes of the first block, the others zero; it fits one sector, so it is never torn
//   0  magic          8 bytes  SUPERBLOCK_MAGIC
//   8  version        u32      VERSION
//  12  segment_bytes  u32
//  16  id             u64      of the server instance that owns the file
//  24  generation     u64      of its state; records of another generation are not ours
//  32  capacity       u64      bytes of the device when it was formatted
//  40  opens          u64      how often opened; the upper bits of every sequence
//  48  checksum       u64      xxh3-64 of bytes 0..48
pub const SUPERBLOCK_BYTES: usize = 56;
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"NBDSWAP\0";
pub const VERSION: u32 = 1;
const _: () = assert!(SUPERBLOCK_BYTES == 8 + 4 + 4 + 5 * 8 && SUPERBLOCK_BYTES <= 512);

/// The first block of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub key: Key,
    pub segment_bytes: u32,
    pub capacity_bytes: u64,
    pub opens: u64,
}

impl Superblock {
    /// Writes the first block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        block[..8].copy_from_slice(&SUPERBLOCK_MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[16..24].copy_from_slice(&self.key.id.to_le_bytes());
        block[24..32].copy_from_slice(&self.key.generation.to_le_bytes());
        block[32..40].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        block[40..48].copy_from_slice(&self.opens.to_le_bytes());
        let checksum = xxh3_64(&block[..48]);
        block[48..56].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the first block; the error says in words what it is instead of ours.
    pub fn decode(block: &[u8]) -> std::result::Result<Self, String> {
        assert_eq!(block.len(), BLOCK_BYTES);
        if block[..8] != SUPERBLOCK_MAGIC {
            return Err("begins with bytes that no store of nbdswap begins with".into());
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Err(format!("has format version {version}, wanted {VERSION}"));
        }
        let (wanted, found) = (xxh3_64(&block[..48]), u64_at(block, 48));
        if wanted != found {
            return Err(format!(
                "has a superblock with checksum {found:#x}, wanted {wanted:#x}"
            ));
        }
        Ok(Superblock {
            key: Key {
                id: u64_at(block, 16),
                generation: u64_at(block, 24),
            },
            segment_bytes: u32_at(block, 12),
            capacity_bytes: u64_at(block, 32),
            opens: u64_at(block, 40),
        })
    }
}

#[cfg(test)]
mod tests;
