//! Pages like those of real memory: zero, repeated, compressible in all degrees, and noise.

use super::random::Random;
use crate::page::fill_word;

/// Fills `page` with content that depends on `random` alone. About a tenth each is zero, one pattern
/// of 32 bits, one word of 64 bits and noise; the rest compresses to between a tenth and nearly all.
pub fn make_page(random: &mut Random, page: &mut [u8]) {
    match random.below(10) {
        0 => page.fill(0),
        1 => {
            let pattern = random.bits() >> 32;
            fill_word(page, pattern << 32 | pattern);
        }
        2 => fill_word(page, random.bits()),
        3 => noise(random, page),
        _ => {
            let noisy = random.below(page.len() as u64 * 9 / 10) as usize / 8 * 8;
            fill_word(page, random.bits() & 0xff00_00ff_0000_ffff);
            noise(random, &mut page[..noisy]);
        }
    }
}

fn noise(random: &mut Random, bytes: &mut [u8]) {
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.bits().to_ne_bytes());
    }
}
