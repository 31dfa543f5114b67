//! Pages and their numbers: the client's unit of memory.
//!
//! Not here: where a page lives (`table`), how it is compressed (`codec`).
//! Locking: none, plain values.

use std::fmt;

/// Bytes of the smallest page and the default: what every x86-64 client swaps.
pub const PAGE_BYTES_DEFAULT: usize = 4096;

/// Page sizes that an export may have, in bytes.
pub const PAGE_BYTES_ALLOWED: [usize; 3] = [4096, 16384, 65536];

/// Number of a page inside its export, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u32);

/// Number of a page in the table of the whole server: the first number of its export plus its
/// `PageIndex`. This is what the pool and the store know as the owner of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// The word that fills all of `page`, if one does.
///
/// `page` is a whole number of 8-byte words, in the machine's byte order. Compares the page with
/// itself shifted by one word, as zram and zswap do, so a page that differs early costs little.
pub fn repeated_word(page: &[u8]) -> Option<u64> {
    assert!(
        page.len() >= 16 && page.len().is_multiple_of(8),
        "a page of {} bytes",
        page.len()
    );
    // The last word is compared first: memory that is zero at both ends is common in real pages,
    // memory that is not is told apart by one comparison.
    if page[..8] != page[page.len() - 8..] || page[8..] != page[..page.len() - 8] {
        return None;
    }
    let mut word = [0; 8];
    word.copy_from_slice(&page[..8]);
    Some(u64::from_ne_bytes(word))
}

/// The 32 bits that `word` repeats, if it does: a page filled with them needs no object, they fit
/// into its table entry.
pub fn pattern_of(word: u64) -> Option<u32> {
    let pattern = word as u32;
    (u64::from(pattern) << 32 | u64::from(pattern) == word).then_some(pattern)
}

/// Fills `page` with `word`: the inverse of [`repeated_word`].
pub fn fill_word(page: &mut [u8], word: u64) {
    if word == 0 {
        page.fill(0);
        return;
    }
    for chunk in page.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_one_word_is_found_and_made_again() {
        for word in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut page = [0xee; PAGE_BYTES_DEFAULT];
            fill_word(&mut page, word);
            assert_eq!(repeated_word(&page), Some(word));
        }
    }

    #[test]
    fn a_pattern_is_two_equal_halves() {
        assert_eq!(pattern_of(0x89ab_cdef_89ab_cdef), Some(0x89ab_cdef));
        assert_eq!(pattern_of(0), Some(0));
        assert_eq!(pattern_of(1), None);
    }

    #[test]
    fn one_different_byte_anywhere_is_noticed() {
        for at in 0..PAGE_BYTES_DEFAULT {
            let mut page = [7; PAGE_BYTES_DEFAULT];
            page[at] = 8;
            assert_eq!(repeated_word(&page), None, "byte {at}");
        }
    }
}
