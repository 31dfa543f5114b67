//! The word in front of a slot or hole.
//!
//! A hole ends with a copy of its word, so that the slot behind it finds where it begins; that slot
//! is marked. Words are atomics because who holds an object reads its word while a neighbour's
//! freeing marks it.
//!
//! Locking: words change under the lock of the shard. The holder of an object may read its own.

use super::nodes::Number;
use crate::zpool::Tag;

/// Bytes of the word.
pub const BYTES: usize = 8;

// bit   0       1: a hole
// bit   1       the hole before this slot is whole: it ends here
// slot: 2..16   granules   16..32 stamp   32..64 owner, or NO_OWNER in a freed slot
// hole: 2..32   granules   32..64 number of its node, or NONE
const HOLE: u64 = 1;
const AFTER_HOLE: u64 = 2;
const GRANULES_SHIFT: u32 = 2;
const SLOT_GRANULES_MASK: u64 = (1 << 14) - 1;
const HOLE_GRANULES_MASK: u64 = (1 << 30) - 1;

/// Owns what is free, and nothing else.
pub const NO_OWNER: u32 = u32::MAX;

/// A decoded word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// A slot of `granules` with a live object.
    pub fn slot(granules: u32, tag: Tag, after_hole: bool) -> Word {
        debug_assert!(u64::from(granules) <= SLOT_GRANULES_MASK, "{granules}");
        Word(
            u64::from(granules) << GRANULES_SHIFT
                | u64::from(tag.stamp) << 16
                | u64::from(tag.owner) << 32
                | if after_hole { AFTER_HOLE } else { 0 },
        )
    }

    /// A hole of `granules` with a node in a list, or NONE; never behind another one.
    pub fn hole(granules: u32, node: Number) -> Word {
        Word(u64::from(granules) << GRANULES_SHIFT | u64::from(node) << 32 | HOLE)
    }

    /// Whether it is a hole.
    pub fn is_hole(self) -> bool {
        self.0 & HOLE != 0
    }

    /// Whether it is a slot with an object.
    pub fn is_live(self) -> bool {
        !self.is_hole() && self.tag().owner != NO_OWNER
    }

    /// Whether it is a slot without an object.
    pub fn is_free(self) -> bool {
        !self.is_hole() && self.tag().owner == NO_OWNER
    }

    /// The same slot without its object.
    pub fn freed(self) -> Word {
        Word(self.0 | u64::from(NO_OWNER) << 32)
    }

    /// Whether the granules before belong to a hole.
    pub fn is_after_hole(self) -> bool {
        self.0 & AFTER_HOLE != 0
    }

    /// The same slot, behind a hole or not.
    pub fn with_after_hole(self, after_hole: bool) -> Word {
        if after_hole {
            Word(self.0 | AFTER_HOLE)
        } else {
            Word(self.0 & !AFTER_HOLE)
        }
    }

    /// Length in granules, the word included.
    pub fn granules(self) -> u32 {
        let mask = if self.is_hole() {
            HOLE_GRANULES_MASK
        } else {
            SLOT_GRANULES_MASK
        };
        (self.0 >> GRANULES_SHIFT & mask) as u32
    }

    /// The node of a hole, or NONE.
    pub fn node(self) -> Number {
        debug_assert!(self.is_hole(), "{self:?}");
        (self.0 >> 32) as Number
    }

    /// Whose object it is.
    pub fn tag(self) -> Tag {
        Tag {
            owner: (self.0 >> 32) as u32,
            stamp: (self.0 >> 16) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        let tag = Tag {
            owner: 0xdead_beef,
            stamp: 0xfffe,
        };
        let slot = Word::slot(4098, tag, true);
        assert!(!slot.is_hole() && slot.is_after_hole());
        assert_eq!((slot.granules(), slot.tag()), (4098, tag));
        assert_eq!(slot.with_after_hole(false), Word::slot(4098, tag, false));
        assert!(slot.is_live() && !slot.is_free());
        let freed = slot.freed();
        assert!(freed.is_free() && !freed.is_live() && freed.is_after_hole());
        assert_eq!(freed.granules(), 4098);
        let hole = Word::hole(65_535, 0xfeed_beef);
        assert!(!hole.is_live() && !hole.is_free());
        assert!(hole.is_hole() && !hole.is_after_hole());
        assert_eq!((hole.granules(), hole.node()), (65_535, 0xfeed_beef));
    }
}
