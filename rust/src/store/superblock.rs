//! The first block of the backing file: whose store it is, and of which generation.
//!
//! Not here: what is done about a block that is not ours (`open`). Locking: none, plain values; see `writer`.

mod writer;

pub use writer::SuperblockWriter;

use xxhash_rust::xxh3::xxh3_64;

use super::cipher::{CHECK_BYTES, SALT_BYTES};
use super::device::BLOCK_BYTES;
use super::layout::{Key, u32_at, u64_at};

// superblock, 96 bytes of the first block, the others zero; it fits one sector, so it is never torn
//   0  magic          8 bytes  SUPERBLOCK_MAGIC
//   8  version        u32      VERSION
//  12  segment_bytes  u32
//  16  id             u64      of the server instance that owns the file
//  24  generation     u64      of its state; records of another generation are not ours
//  32  capacity       u64      bytes of the device when it was formatted
//  40  opens          u64      how often opened; the upper bits of every sequence
//  48  cipher         u64      0: none; 1: AES-256-GCM, see `cipher`; then
//  56  salt           16 bytes drawn when the store began anew; every key depends on it
//  72  check          16 bytes derived from the key: another one gives others
//  88  checksum       u64      xxh3-64 of bytes 0..88
//
// A copy lies in the last block before the first segment. It is never older than the superblock.
pub const SUPERBLOCK_BYTES: usize = 96;
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"NBDSWAP\0";
pub const VERSION: u32 = 3;
/// The oldest one that is read: it is the same without tombstones.
const VERSION_MIN: u32 = 2;
const CHECKSUM_AT: usize = 88;
const CIPHER_AES_256_GCM: u64 = 1;
const _: () =
    assert!(SUPERBLOCK_BYTES == 8 + 4 + 4 + 5 * 8 + 16 + 16 + 8 && SUPERBLOCK_BYTES <= 512);

/// Byte of the file where the copy of the superblock is.
pub fn copy_at(segment_bytes: u32) -> u64 {
    u64::from(segment_bytes) - BLOCK_BYTES as u64
}

/// What the superblock of a store that is encrypted says of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub salt: [u8; SALT_BYTES],
    pub check: [u8; CHECK_BYTES],
}

/// The first block of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub key: Key,
    pub segment_bytes: u32,
    pub capacity_bytes: u64,
    pub opens: u64,
    /// None: the store is in clear.
    pub seal: Option<Seal>,
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
        if let Some(seal) = &self.seal {
            block[48..56].copy_from_slice(&CIPHER_AES_256_GCM.to_le_bytes());
            block[56..72].copy_from_slice(&seal.salt);
            block[72..88].copy_from_slice(&seal.check);
        }
        let checksum = xxh3_64(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..SUPERBLOCK_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Byte of the file where the copy is.
    pub fn copy_at(&self) -> u64 {
        copy_at(self.segment_bytes)
    }

    /// Reads the first block; the error says in words what it is instead of ours.
    pub fn decode(block: &[u8]) -> std::result::Result<Self, String> {
        assert_eq!(block.len(), BLOCK_BYTES);
        if block[..8] != SUPERBLOCK_MAGIC {
            return Err("begins with bytes that no store of nbdswap begins with".into());
        }
        let version = u32_at(block, 8);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(format!(
                "has format version {version}, wanted {VERSION_MIN} to {VERSION}"
            ));
        }
        let (wanted, found) = (xxh3_64(&block[..CHECKSUM_AT]), u64_at(block, CHECKSUM_AT));
        if wanted != found {
            return Err(format!(
                "has a superblock with checksum {found:#x}, wanted {wanted:#x}"
            ));
        }
        let array = |at: usize| block[at..at + 16].try_into().expect("16 bytes");
        let seal = match u64_at(block, 48) {
            0 => None,
            CIPHER_AES_256_GCM => Some(Seal {
                salt: array(56),
                check: array(72),
            }),
            other => return Err(format!("is encrypted with cipher {other}, wanted 0 or 1")),
        };
        Ok(Superblock {
            seal,
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
