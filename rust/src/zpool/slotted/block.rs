//! What a block is made of, whoever lays it out: a head, tags, and slots of one size.
//!
//! Locking: none here. The head and the tags of free slots change under the lock of the block's
//! class; the tag of a live slot belongs to the holder of its handle.

use std::sync::atomic::{AtomicU16, AtomicU32};

use crate::zpool::groups::Links;
use crate::zpool::{Arena, HANDLE_LOW_BITS, ZpoolKind};

// head of a block, at the start of its first frame, in the machine's byte order:
//   0  next      u32   block after this one in its list of partly used blocks
//   4  previous  u32   block before it
//   8  free      u16   first slot of the chain of freed slots, or NO_SLOT
//  10  fresh     u16   slots from here on were never used and have no tag yet
//  12  used      u16   slots in use
//  14  reserved  u16
/// Bytes of the head.
pub const HEAD_BYTES: u32 = 16;

/// The end of a chain of free slots.
pub const NO_SLOT: u16 = u16::MAX;

/// The owner of a free slot; its stamp is then the next slot of the chain.
pub const NO_OWNER: u32 = u32::MAX;

/// Slots of a block at most: the pool's bits of a handle.
pub const SLOTS_MAX: u32 = 1 << HANDLE_LOW_BITS;

/// A size class: what its blocks look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Largest object, bytes; a multiple of 8.
    pub object_bytes_max: u32,
    /// Frames of a block.
    pub frames: u32,
    /// Slots of a block.
    pub slots: u32,
    /// Offset of the first object in the block.
    pub objects_at: u32,
    /// Bytes from object to object; 0 in the class of objects that are a whole frame.
    pub stride: u32,
}

impl Shape {
    /// The class of objects that have a frame of their own, with their tag in its side word.
    pub fn whole(frame_bytes: usize) -> Self {
        Self {
            object_bytes_max: frame_bytes as u32,
            frames: 1,
            slots: 1,
            objects_at: 0,
            stride: 0,
        }
    }

    /// Whether an object of this class is a whole frame.
    pub fn is_whole(&self) -> bool {
        self.stride == 0
    }

    /// Bytes that an object costs in full blocks, plus `frame_charge_bytes` for each frame of a
    /// block: a class has about half a block that is part-filled, whatever the size of the pool.
    pub fn cost_bytes(&self, frame_bytes: u32, frame_charge_bytes: f64) -> f64 {
        let frames = f64::from(self.frames);
        frames * f64::from(frame_bytes) / f64::from(self.slots) + frames * frame_charge_bytes
    }

    /// Offset of the object in `slot`.
    pub fn object_at(&self, slot: u32) -> usize {
        (self.objects_at + slot * self.stride) as usize
    }
}

/// How a pool cuts blocks out of frames. Offsets count from the start of the block.
pub trait Layout: Send + Sync + 'static {
    /// Which pool it is.
    const KIND: ZpoolKind;

    /// All classes, smallest objects first; the last one is [`Shape::whole`].
    fn shapes(frame_bytes: usize) -> Vec<Shape>;

    /// Takes frames for a block and writes their side words. Returns its first frame.
    fn build(arena: &Arena, shape: &Shape, class: u8) -> Option<u32>;

    /// Gives the frames of a block back and clears their side words.
    fn release(arena: &Arena, shape: &Shape, head: u32);

    /// Takes over the frames of a predecessor's block if they are whole and nobody else's.
    fn claim(arena: &Arena, shape: &Shape, head: u32) -> bool;

    /// Panics when side words and frames of a block disagree.
    fn check(arena: &Arena, shape: &Shape, head: u32);

    /// Place in the mapping of the byte at `offset`.
    fn place(arena: &Arena, head: u32, offset: usize) -> usize;

    /// Bytes from `offset` on that lie in one piece.
    fn contiguous_bytes(arena: &Arena, offset: usize) -> usize;

    /// Offset of the owner word of `slot`.
    fn owner_at(shape: &Shape, slot: u32) -> usize;

    /// Offset of the stamp of `slot`.
    fn stamp_at(shape: &Shape, slot: u32) -> usize;
}

/// The head of one block.
pub struct Head<'a> {
    arena: &'a Arena,
    at: usize,
}

impl<'a> Head<'a> {
    /// The head of the block that begins with frame `head`.
    pub fn of(arena: &'a Arena, head: u32) -> Self {
        Self {
            arena,
            at: arena.frame_at(head),
        }
    }

    /// First slot of the free chain.
    pub fn free(&self) -> &'a AtomicU16 {
        self.arena.word_u16(self.at + 8)
    }

    /// First slot that was never used.
    pub fn fresh(&self) -> &'a AtomicU16 {
        self.arena.word_u16(self.at + 10)
    }

    /// Slots in use.
    pub fn used(&self) -> &'a AtomicU16 {
        self.arena.word_u16(self.at + 12)
    }
}

impl Links for Arena {
    fn next(&self, block: u32) -> &AtomicU32 {
        self.word_u32(self.frame_at(block))
    }

    fn previous(&self, block: u32) -> &AtomicU32 {
        self.word_u32(self.frame_at(block) + 4)
    }
}
