//! What a pool writes into the side word of a frame: what the frame is part of.
//!
//! Side words lie in the shared file, so the next process reads from them how blocks were laid out;
//! it trusts none of them without an object in the page table that leads there.
//!
//! Locking: none, plain values. The word of a block's frames changes under the lock of its class.

use super::{Tag, ZpoolKind};

// bits  0..4    kind: 0 free, 1 head, 2 tail, 3 whole, 8 link
//       4..8    number of the zpool that holds the frame
// head: 8..16   class          16..32  first free slot, or NO_SLOT
//                              32..64  next frame of the chain, or NONE
// tail: 8..16   place in block
// link: 8..36   first frame    36..64  next frame of the chain
// whole:16..32  stamp          32..64  owner
const HEAD: u64 = 1;
const TAIL: u64 = 2;
const WHOLE: u64 = 3;
const LINK: u64 = 8;

/// A frame's number: 28 bits.
const FRAME_MASK: u64 = (1 << 28) - 1;

const POOL_SHIFT: u32 = 4;

/// The pool that holds a frame with this word, if one does.
pub fn owner_of(word: u64) -> Option<ZpoolKind> {
    let bits = (word >> POOL_SHIFT & 0xf) as u8;
    ZpoolKind::from_bits(bits).filter(|_| word & 0xf != 0)
}

/// The `next` of a word that is known to be a head's.
#[inline]
pub fn head_next(word: u64) -> u32 {
    (word >> 32) as u32
}

/// A head's word with another `next`.
#[inline]
pub fn with_head_next(word: u64, next: u32) -> u64 {
    word & u64::from(u32::MAX) | u64::from(next) << 32
}

/// The `free` of a word that is known to be a head's.
#[inline]
pub fn head_free(word: u64) -> u16 {
    (word >> 16) as u16
}

/// A head's word with another `free`.
#[inline]
pub fn with_head_free(word: u64, free: u16) -> u64 {
    word & !(0xffff << 16) | u64::from(free) << 16
}

/// No frame.
pub const NONE: u32 = u32::MAX;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Part of nothing, or nothing that can be read.
    Free,
    /// First frame of a block of this class.
    Head {
        /// Size class of the block.
        class: u8,
        /// The slot that the head of a chain lies in.
        free: u16,
        /// The frame that follows where frames are chained.
        next: u32,
    },
    /// Later frame of a block of neighbours.
    Tail {
        /// Its place in the block, from 1.
        place: u8,
    },
    /// Later frame of a chain.
    Link {
        /// The first frame.
        first: u32,
        /// The frame that follows; after the last one, the first.
        next: u32,
    },
    /// A frame that is one object.
    Whole(Tag),
}

impl Side {
    /// The word for it in a frame of `pool`.
    pub fn encode(self, pool: ZpoolKind) -> u64 {
        let pool = (pool as u64) << POOL_SHIFT;
        match self {
            Side::Free => 0,
            Side::Head { class, free, next } => {
                let class = u64::from(class) << 8;
                pool | HEAD | class | u64::from(free) << 16 | u64::from(next) << 32
            }
            Side::Tail { place } => pool | TAIL | u64::from(place) << 8,
            Side::Link { first, next } => {
                pool | LINK | u64::from(first) << 8 | u64::from(next) << 36
            }
            Side::Whole(tag) => {
                pool | WHOLE | u64::from(tag.stamp) << 16 | u64::from(tag.owner) << 32
            }
        }
    }

    /// What a word says to `pool`: a word of another pool, or that no pool writes, is a free frame.
    #[inline]
    pub fn decode(word: u64, pool: ZpoolKind) -> Self {
        if word >> POOL_SHIFT & 0xf != pool as u64 {
            return Side::Free;
        }
        let (small, high) = ((word >> 8) as u8, (word >> 32) as u32);
        match word & 0xf {
            HEAD => Side::Head {
                class: small,
                free: (word >> 16) as u16,
                next: high,
            },
            TAIL if word >> 16 == 0 => Side::Tail { place: small },
            LINK => Side::Link {
                first: (word >> 8 & FRAME_MASK) as u32,
                next: (word >> 36) as u32,
            },
            WHOLE if small == 0 => Side::Whole(Tag {
                owner: high,
                stamp: (word >> 16) as u16,
            }),
            _ => Side::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_encoded_and_only_to_its_pool() {
        let tag = Tag {
            owner: u32::MAX,
            stamp: 0xabcd,
        };
        let frame = (1 << 28) - 1;
        let sides = [
            Side::Head {
                class: 255,
                free: 0x1234,
                next: frame,
            },
            Side::Tail { place: 15 },
            Side::Link {
                first: 0x0edc_ba98,
                next: frame,
            },
            Side::Whole(tag),
            Side::Free,
        ];
        for side in sides {
            let word = side.encode(ZpoolKind::Zsmalloc);
            assert_eq!(Side::decode(word, ZpoolKind::Zsmalloc), side);
            assert_eq!(Side::decode(word, ZpoolKind::Zblock), Side::Free);
        }
    }

    #[test]
    fn words_that_no_pool_writes_are_free_frames() {
        for side in [
            Side::Tail { place: 1 },
            Side::Whole(Tag { owner: 1, stamp: 1 }),
        ] {
            let word = side.encode(ZpoolKind::Zblock);
            // Bits 8..16 of a whole frame and those from 16 on of a tail mean nothing.
            let spoilt = word | 1 << 9 | 1 << 60;
            assert_eq!(Side::decode(spoilt, ZpoolKind::Zblock), Side::Free);
        }
        assert_eq!(Side::decode(0x7, ZpoolKind::Zblock), Side::Free);
    }
}
