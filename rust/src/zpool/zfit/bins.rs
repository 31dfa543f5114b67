//! Holes by length: one bin for every length that an object can need, and a few for longer ones.
//!
//! Links lie in the holes. A bitmap of bins that are not empty, and one of its words that are not
//! zero, find the smallest hole that is long enough without a search.
//!
//! Not here: where holes come from and what becomes of their rest (`shard`).
//! Locking: none, the shard's lock is held.

use std::sync::atomic::Ordering::Relaxed;

use crate::zpool::Arena;

/// Where a hole is: a handle's bits, so that it needs no region to be found.
pub type Spot = u64;

/// No hole.
const NONE: Spot = u64::MAX;

/// Bytes of the shortest hole that is kept in a bin: two words at its ends and two links.
pub const HOLE_BYTES_MIN: usize = 32;

/// Lengths are counted in so many bands of equal width.
pub const BANDS: usize = 32;

/// Bins for holes that are longer than any object, each for twice the length of the one before.
const LONG_BINS: u32 = 8;

const WORD_BITS: u32 = u64::BITS;

/// The holes of a shard.
pub struct Bins {
    heads: Box<[Spot]>,
    /// Bit b: bin b is not empty.
    filled: Box<[u64]>,
    /// Bit w: word w of `filled` is not zero.
    filled_words: u128,
    /// The longest length with a bin of its own, granules.
    exact_max: u32,
    /// Sum of the lengths in granules, by band of lengths; the last is for the long ones.
    bands: [u64; BANDS + 1],
    holes: u64,
}

/// Gives the place in the mapping of a spot.
pub trait Links {
    /// Place of the word in front of the hole.
    fn place(&self, spot: Spot) -> usize;
    /// The memory.
    fn arena(&self) -> &Arena;
}

impl Bins {
    /// No holes; objects need `exact_max` granules at most.
    pub fn new(exact_max: u32) -> Self {
        let bins = exact_max + 1 + LONG_BINS;
        let words = bins.div_ceil(WORD_BITS);
        assert!(words <= u128::BITS, "{bins} bins");
        Self {
            heads: vec![NONE; bins as usize].into_boxed_slice(),
            filled: vec![0; words as usize].into_boxed_slice(),
            filled_words: 0,
            exact_max,
            bands: [0; BANDS + 1],
            holes: 0,
        }
    }

    /// Sum of the lengths, granules.
    pub fn granules(&self) -> u64 {
        self.bands.iter().sum()
    }

    /// Sum of the lengths of holes of at least `granules`, which an object may need, near enough:
    /// where one of the band is long enough, the others of its band count too.
    pub fn granules_from(&self, granules: u32) -> u64 {
        let band = self.band(granules);
        let longer: u64 = self.bands[band + 1..].iter().sum();
        match self.find_bin(granules) {
            Some(bin) if self.band(bin) == band => longer + self.bands[band],
            _ => longer,
        }
    }

    /// The band of a length.
    pub fn band(&self, granules: u32) -> usize {
        (granules as usize * BANDS / (self.exact_max as usize + 1)).min(BANDS)
    }

    /// Holes.
    pub fn holes(&self) -> u64 {
        self.holes
    }

    fn bin(&self, granules: u32) -> u32 {
        if granules <= self.exact_max {
            return granules;
        }
        let doublings = (granules / (self.exact_max + 1)).ilog2();
        self.exact_max + 1 + doublings.min(LONG_BINS - 1)
    }

    /// Puts a hole into its bin.
    pub fn push(&mut self, links: &impl Links, spot: Spot, granules: u32) {
        let bin = self.bin(granules);
        let head = std::mem::replace(&mut self.heads[bin as usize], spot);
        set_next(links, spot, head);
        set_previous(links, spot, NONE);
        if head == NONE {
            self.filled[(bin / WORD_BITS) as usize] |= 1 << (bin % WORD_BITS);
            self.filled_words |= 1 << (bin / WORD_BITS);
        } else {
            set_previous(links, head, spot);
        }
        self.bands[self.band(granules)] += u64::from(granules);
        self.holes += 1;
    }

    /// Takes a hole out of its bin.
    pub fn remove(&mut self, links: &impl Links, spot: Spot, granules: u32) {
        let (next, previous) = (next(links, spot), previous(links, spot));
        if next != NONE {
            set_previous(links, next, previous);
        }
        if previous == NONE {
            let bin = self.bin(granules);
            assert_eq!(
                self.heads[bin as usize], spot,
                "the first hole of bin {bin}"
            );
            self.heads[bin as usize] = next;
            if next == NONE {
                self.empty(bin);
            }
        } else {
            set_next(links, previous, next);
        }
        self.bands[self.band(granules)] -= u64::from(granules);
        self.holes -= 1;
    }

    /// The shortest hole of at least `granules`, which an object may need. It stays in its bin.
    pub fn find(&self, granules: u32) -> Option<Spot> {
        let bin = self.find_bin(granules)?;
        Some(self.heads[bin as usize])
    }

    fn find_bin(&self, granules: u32) -> Option<u32> {
        debug_assert!(granules <= self.exact_max);
        let (word, bit) = (granules / WORD_BITS, granules % WORD_BITS);
        let here = self.filled[word as usize] >> bit << bit;
        let (word, bits) = if here != 0 {
            (word, here)
        } else {
            let later = self.filled_words.checked_shr(word + 1)?;
            if later == 0 {
                return None;
            }
            let word = word + 1 + later.trailing_zeros();
            (word, self.filled[word as usize])
        };
        Some(word * WORD_BITS + bits.trailing_zeros())
    }

    fn empty(&mut self, bin: u32) {
        let word = (bin / WORD_BITS) as usize;
        self.filled[word] &= !(1 << (bin % WORD_BITS));
        if self.filled[word] == 0 {
            self.filled_words &= !(1 << word);
        }
    }

    /// Visits every hole with the bin that it is in and whether that is the right one for a length.
    pub fn each(&self, links: &impl Links, mut visit: impl FnMut(Spot, &dyn Fn(u32) -> bool)) {
        for (bin, &head) in self.heads.iter().enumerate() {
            let (word, bit) = (bin as u32 / WORD_BITS, bin as u32 % WORD_BITS);
            let is_filled = self.filled[word as usize] >> bit & 1 == 1;
            assert_eq!(is_filled, head != NONE, "bit of bin {bin}");
            assert!(
                !is_filled || self.filled_words >> word & 1 == 1,
                "word of bin {bin}"
            );
            let mut spot = head;
            while spot != NONE {
                visit(spot, &|granules| self.bin(granules) as usize == bin);
                spot = next(links, spot);
            }
        }
    }
}

fn next(links: &impl Links, spot: Spot) -> Spot {
    links.arena().word_u64(links.place(spot) + 8).load(Relaxed)
}

fn set_next(links: &impl Links, spot: Spot, next: Spot) {
    links
        .arena()
        .word_u64(links.place(spot) + 8)
        .store(next, Relaxed);
}

fn previous(links: &impl Links, spot: Spot) -> Spot {
    links.arena().word_u64(links.place(spot) + 16).load(Relaxed)
}

fn set_previous(links: &impl Links, spot: Spot, previous: Spot) {
    links
        .arena()
        .word_u64(links.place(spot) + 16)
        .store(previous, Relaxed);
}
