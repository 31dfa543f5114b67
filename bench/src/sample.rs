//! The sample: real memory pages that images are made of, and what lz4 makes of each.
//!
//! Locking: none, never changes after it was read.

use std::io;
use std::path::Path;

use lzzzz::lz4;

use crate::PAGE_BYTES;

/// Number of a page in the sample.
pub type SamplePage = u16;

/// Pages of real memory.
pub struct Sample {
    bytes: Vec<u8>,
    pool_bytes: Vec<u64>,
}

impl Sample {
    /// Reads a file of raw pages.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::new(std::fs::read(path)?)
    }

    /// Takes raw pages: at least two, at most as many as a `SamplePage` can number.
    pub fn new(bytes: Vec<u8>) -> io::Result<Self> {
        let count = bytes.len() / PAGE_BYTES;
        if !bytes.len().is_multiple_of(PAGE_BYTES) || !(2..=1 << 16).contains(&count) {
            let found = bytes.len();
            let wanted = "2 to 65536 whole pages of 4096 bytes";
            return Err(io::Error::other(format!(
                "a sample of {found} bytes, must be {wanted}"
            )));
        }
        let pool_bytes = bytes.chunks_exact(PAGE_BYTES).map(pool_bytes).collect();
        Ok(Self { bytes, pool_bytes })
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.pool_bytes.len()
    }

    /// The bytes of one page.
    pub fn page(&self, page: SamplePage) -> &[u8] {
        &self.bytes[usize::from(page) * PAGE_BYTES..][..PAGE_BYTES]
    }

    /// What one page has to take in a pool, see [`pool_bytes`].
    pub fn pool_bytes(&self, page: SamplePage) -> u64 {
        self.pool_bytes[usize::from(page)]
    }
}

/// What a page has to take in a pool of lz4: nothing for one repeated 32-bit word, which fits the
/// table; 8 bytes for one repeated 64-bit word; else its lz4 block, or 4096 where that is longer.
fn pool_bytes(page: &[u8]) -> u64 {
    if page[..PAGE_BYTES - 4] == page[4..] {
        return 0;
    }
    if page[..PAGE_BYTES - 8] == page[8..] {
        return 8;
    }
    let mut block = [0; lz4::max_compressed_size(PAGE_BYTES)];
    match lz4::compress(page, &mut block, lz4::ACC_LEVEL_DEFAULT) {
        Ok(length) => length.min(PAGE_BYTES) as u64,
        Err(error) => {
            panic!("lz4 refused a page although its output had the largest size: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn pages_count_as_what_a_pool_of_lz4_must_hold() {
        let word: Vec<u8> = 0xdead_beef_u32.to_le_bytes().repeat(1024);
        let long_word: Vec<u8> = 0xdead_beef_0bad_cafe_u64.to_le_bytes().repeat(512);
        let mut chance = Chance::new(5);
        let noise: Vec<u8> = (0..PAGE_BYTES).map(|_| chance.below(256) as u8).collect();
        let text = b"pages that a machine swapped out, ".repeat(121)[..PAGE_BYTES].to_vec();
        let sample = Sample::new([word, long_word, noise, text].concat()).unwrap();
        assert_eq!([0, 1, 2].map(|page| sample.pool_bytes(page)), [0, 8, 4096]);
        assert!(
            (35..150).contains(&sample.pool_bytes(3)),
            "{}",
            sample.pool_bytes(3)
        );
    }

    #[test]
    fn a_piece_of_a_page_is_refused() {
        assert!(Sample::new(vec![0; PAGE_BYTES * 2 + 1]).is_err());
        assert!(Sample::new(vec![0; PAGE_BYTES]).is_err());
    }
}
