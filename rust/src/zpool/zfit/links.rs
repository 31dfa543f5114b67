//! Lists of holes that found no node: linked through the pool's memory, by their bin.
//!
//! To add or take one touches others, each a cache miss and a page walk, so this is for what is left over.
//!
//! Locking: none, the shard's lock is held.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bins::Spot;
use super::region::Grain;
use super::word::Word;
use crate::zpool::{Arena, Handle};

/// No hole.
const NONE: Spot = u64::MAX;

/// Bytes of the shortest hole that has room for links, between the words at its ends. A shorter one without
/// a node is forgotten, and found again when a slot beside it is freed.
const LINKED_BYTES_MIN: usize = 32;

/// The memory that links lie in.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// The pool's frames.
    pub arena: &'a Arena,
    /// The unit of a spot.
    pub grain: Grain,
}

/// The linked holes of a shard.
pub struct Links {
    /// The first hole of each bin.
    first: Box<[Spot]>,
    /// All of them. While there is none, nothing else here is looked at.
    holes: u64,
}

impl<'a> Memory<'a> {
    /// Place in the mapping of the word of a slot or hole.
    #[inline]
    pub fn place(self, spot: Spot) -> usize {
        let handle = Handle(spot);
        self.arena.frame_at(handle.frame()) + self.grain.bytes(handle.low())
    }

    /// Whether a hole has room for links.
    pub fn has_links(self, granules: u32) -> bool {
        self.grain.bytes(granules) >= LINKED_BYTES_MIN
    }

    /// Length of a hole.
    pub fn granules(self, spot: Spot) -> u32 {
        let word = Word(self.arena.word_u64(self.place(spot)).load(Relaxed));
        debug_assert!(word.is_hole(), "{word:?} at {spot:#x}");
        word.granules()
    }

    fn next(self, spot: Spot) -> &'a AtomicU64 {
        self.arena.word_u64(self.place(spot) + 8)
    }

    fn previous(self, spot: Spot) -> &'a AtomicU64 {
        self.arena.word_u64(self.place(spot) + 16)
    }
}

impl Links {
    /// No holes in so many bins.
    pub fn new(bins: usize) -> Self {
        Self {
            first: vec![NONE; bins].into_boxed_slice(),
            holes: 0,
        }
    }

    /// Whether a bin has none.
    #[inline]
    pub fn is_empty(&self, bin: usize) -> bool {
        self.holes == 0 || self.first[bin] == NONE
    }

    /// Adds a hole. False: it is too short.
    #[cold]
    pub fn push(&mut self, memory: Memory<'_>, bin: usize, spot: Spot, granules: u32) -> bool {
        if !memory.has_links(granules) {
            return false;
        }
        let next = std::mem::replace(&mut self.first[bin], spot);
        memory.next(spot).store(next, Relaxed);
        memory.previous(spot).store(NONE, Relaxed);
        if next != NONE {
            memory.previous(next).store(spot, Relaxed);
        }
        self.holes += 1;
        true
    }

    /// Takes the first hole of a bin out; there is one.
    #[cold]
    pub fn pop(&mut self, memory: Memory<'_>, bin: usize) -> Spot {
        let spot = self.first[bin];
        self.first[bin] = memory.next(spot).load(Relaxed);
        if self.first[bin] != NONE {
            memory.previous(self.first[bin]).store(NONE, Relaxed);
        }
        self.holes -= 1;
        spot
    }

    /// Takes a hole without a node out. False: it was forgotten.
    #[cold]
    pub fn remove(&mut self, memory: Memory<'_>, bin: usize, spot: Spot, granules: u32) -> bool {
        if !memory.has_links(granules) {
            return false;
        }
        let next = memory.next(spot).load(Relaxed);
        let previous = memory.previous(spot).load(Relaxed);
        if next != NONE {
            memory.previous(next).store(previous, Relaxed);
        }
        if previous == NONE {
            assert_eq!(self.first[bin], spot, "the first linked hole of a bin");
            self.first[bin] = next;
        } else {
            memory.next(previous).store(next, Relaxed);
        }
        self.holes -= 1;
        true
    }

    /// The holes of a bin, from the first on.
    pub fn each(&self, memory: Memory<'_>, bin: usize) -> impl Iterator<Item = Spot> {
        let some = |spot| (spot != NONE).then_some(spot);
        std::iter::successors(some(self.first[bin]), move |&spot| {
            some(memory.next(spot).load(Relaxed))
        })
    }
}
