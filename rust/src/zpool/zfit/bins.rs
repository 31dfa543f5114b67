//! Holes by length: one bin for every length that an object can need, and a few for longer ones.
//!
//! A bin is a list of nodes outside of the pool's memory (`nodes`), so that taking and adding a hole
//! touches no other one, which would be a cache miss and a page walk. Nodes are limited: holes that find none
//! are linked through the pool's memory (`links`). A bitmap of bins that are not empty, and one of its words that are
//! not zero, find the smallest hole that is long enough without a search.
//!
//! Measured against six holes remembered a bin and links for the others, on 360 MiB of lz4 objects: of pages of
//! 16 KiB 44 of 100 holes were linked and unlinked, and a random overwrite took a tenth more. Where short holes
//! took nodes like others, which are half of all holes and one in 200 of those that objects go to, 58 of 100 holes were linked
//! of pages of 4 KiB.
//!
//! Not here: where holes come from and what becomes of their rest (`shard`).
//! Locking: none, the shard's lock is held.

use super::links::{Links, Memory};
use super::nodes::{self, Nodes, Number};
use super::word::Word;

/// Where a hole is: a handle's bits.
pub type Spot = u64;

/// Bins for holes that are longer than any object, each for twice the length of the one before.
const LONG_BINS: u32 = 8;

const WORD_BITS: u32 = u64::BITS;

/// The holes of a shard.
pub struct Bins {
    /// The first hole with a node of each bin: those of one length, or of about one if they are long.
    first: Box<[Number]>,
    nodes: Nodes,
    /// The holes without a node.
    links: Links,
    /// Bit b: bin b is not empty.
    filled: Box<[u64]>,
    /// Bit w: word w of `filled` is not zero.
    filled_words: u128,
    /// The longest length with a bin of its own, granules.
    exact_max: u32,
    holes: u64,
    /// Sum of the lengths.
    granules: u64,
    /// Sum of their squares.
    squares: u64,
}

impl Bins {
    /// No holes; objects need `exact_max` granules at most, and so many holes have nodes.
    pub fn new(exact_max: u32, nodes: usize) -> Self {
        let bins = exact_max + 1 + LONG_BINS;
        let words = bins.div_ceil(WORD_BITS);
        assert!(words <= u128::BITS, "{bins} bins");
        Self {
            first: vec![nodes::NONE; bins as usize].into_boxed_slice(),
            filled: vec![0; words as usize].into_boxed_slice(),
            filled_words: 0,
            nodes: Nodes::new(nodes),
            links: Links::new(bins as usize),
            exact_max,
            holes: 0,
            granules: 0,
            squares: 0,
        }
    }

    /// Lets so many holes have nodes.
    pub fn allow_nodes(&mut self, nodes: usize) {
        self.nodes.allow(nodes);
    }

    /// Bytes that grew with what is stored.
    pub fn index_bytes(&self) -> u64 {
        self.nodes.bytes()
    }

    /// Sum of the lengths, granules.
    pub fn granules(&self) -> u64 {
        self.granules
    }

    /// Sum of the squares of the lengths: of as many granules, the more the fewer holes they are in.
    pub fn squares(&self) -> u64 {
        self.squares
    }

    /// The longest length that an object can need.
    pub fn exact_max(&self) -> u32 {
        self.exact_max
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

    /// Puts a hole into its bin and returns its node. Without one it is linked, or forgotten if it is
    /// short. Most holes are short and few objects are, so that these do without first.
    pub fn push(&mut self, memory: Memory<'_>, spot: Spot, granules: u32) -> Number {
        let index = self.bin(granules);
        let bin = index as usize;
        let node = match memory.has_links(granules) || self.nodes.are_plenty() {
            true => self.nodes.push(&mut self.first[bin], spot),
            false => nodes::NONE,
        };
        if node == nodes::NONE && !self.links.push(memory, bin, spot, granules) {
            return nodes::NONE;
        }
        self.filled[(index / WORD_BITS) as usize] |= 1 << (index % WORD_BITS);
        self.filled_words |= 1 << (index / WORD_BITS);
        self.granules += u64::from(granules);
        self.squares += u64::from(granules).pow(2);
        self.holes += 1;
        node
    }

    /// Takes a hole out of its bin, if it is there.
    pub fn remove(&mut self, memory: Memory<'_>, spot: Spot, hole: Word) {
        let granules = hole.granules();
        let index = self.bin(granules);
        let bin = index as usize;
        if hole.node() != nodes::NONE {
            self.nodes.remove(&mut self.first[bin], hole.node(), spot);
        } else if !self.links.remove(memory, bin, spot, granules) {
            return;
        }
        self.removed(index, granules);
    }

    /// Takes the shortest hole of at least `granules`, which an object may need, and says how long it is.
    #[inline]
    pub fn take(&mut self, memory: Memory<'_>, granules: u32) -> Option<(Spot, u32)> {
        let index = self.find_bin(granules)?;
        let first = &mut self.first[index as usize];
        let spot = match *first {
            nodes::NONE => self.links.pop(memory, index as usize),
            _ => self.nodes.pop(first),
        };
        // The hole itself is not looked at if its bin says how long it is: that would be to wait.
        let length = match index <= self.exact_max {
            true => index,
            false => memory.granules(spot),
        };
        self.removed(index, length);
        Some((spot, length))
    }

    /// Whether there is a hole of just so many granules, which an object may need.
    pub fn has(&self, granules: u32) -> bool {
        granules <= self.exact_max
            && self.filled[(granules / WORD_BITS) as usize] >> (granules % WORD_BITS) & 1 == 1
    }

    fn is_empty(&self, bin: usize) -> bool {
        self.first[bin] == nodes::NONE && self.links.is_empty(bin)
    }

    fn removed(&mut self, index: u32, granules: u32) {
        if self.is_empty(index as usize) {
            let word = (index / WORD_BITS) as usize;
            self.filled[word] &= !(1 << (index % WORD_BITS));
            if self.filled[word] == 0 {
                self.filled_words &= !(1 << word);
            }
        }
        self.granules -= u64::from(granules);
        self.squares -= u64::from(granules).pow(2);
        self.holes -= 1;
    }

    fn find_bin(&self, granules: u32) -> Option<u32> {
        debug_assert!(granules <= self.exact_max);
        let (word, bit) = (granules / WORD_BITS, granules % WORD_BITS);
        let here = self.filled[word as usize] >> bit << bit;
        if here != 0 {
            return Some(word * WORD_BITS + here.trailing_zeros());
        }
        let later = self.filled_words.checked_shr(word + 1)?;
        if later == 0 {
            return None;
        }
        let word = word + 1 + later.trailing_zeros();
        Some(word * WORD_BITS + self.filled[word as usize].trailing_zeros())
    }

    /// Visits every hole, with a function that says whether its bin is the right one for a length.
    pub fn each(
        &self,
        memory: Memory<'_>,
        mut visit: impl FnMut(Spot, Number, &dyn Fn(u32) -> bool),
    ) {
        for (index, &first) in self.first.iter().enumerate() {
            let (word, bit) = (index as u32 / WORD_BITS, index as u32 % WORD_BITS);
            let is_filled = self.filled[word as usize] >> bit & 1 == 1;
            assert_eq!(is_filled, !self.is_empty(index), "bit of bin {index}");
            assert!(
                !is_filled || self.filled_words >> word & 1 == 1,
                "word of bin {index}"
            );
            let linked = self.links.each(memory, index);
            let linked = linked.map(|spot| (nodes::NONE, spot));
            for (node, spot) in self.nodes.each(first).chain(linked) {
                visit(spot, node, &|granules| self.bin(granules) as usize == index);
            }
        }
    }
}
