//! What a block is made of, whoever lays it out: a head, tags, and slots of one size.
//!
//! Locking: none here. The head and the tags of free slots change under the lock of the block's
//! class; the tag of a live slot belongs to the holder of its handle.

use std::sync::atomic::AtomicU16;

use crate::zpool::groups::Links;
use crate::zpool::{Arena, ArenaOptions, HANDLE_LOW_BITS, Handle, ZpoolKind};

/// The end of a chain of free slots.
pub const NO_SLOT: u16 = u16::MAX;

/// The owner of a free slot; its stamp is then the next slot of the chain.
pub const NO_OWNER: u32 = u32::MAX;

/// Slots of a block at most: the pool's bits of a handle.
pub const SLOTS_MAX: u32 = 1 << HANDLE_LOW_BITS;

/// A size class: what its blocks look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Largest object, bytes; even.
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

    /// Bytes that an object costs in full blocks.
    pub fn bytes_per_slot(&self, frame_bytes: u32) -> f64 {
        f64::from(self.frames) * f64::from(frame_bytes) / f64::from(self.slots)
    }

    /// [`bytes_per_slot`](Self::bytes_per_slot), plus `frame_charge_bytes` for each frame of a
    /// block: a class has about half a block that is part-filled, whatever the size of the pool.
    pub fn cost_bytes(&self, frame_bytes: u32, frame_charge_bytes: f64) -> f64 {
        self.bytes_per_slot(frame_bytes) + f64::from(self.frames) * frame_charge_bytes
    }

    /// Offset of the object in `slot`.
    pub fn object_at(&self, slot: u32) -> usize {
        (self.objects_at + slot * self.stride) as usize
    }
}

/// One slot, found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// First frame of its block.
    pub block: u32,
    /// Its number in the block.
    pub slot: u32,
    /// Place in the mapping where its object begins.
    pub object_at: usize,
}

/// How a pool cuts blocks out of frames. Places count from the start of the mapping.
pub trait Layout: Send + Sync + 'static {
    /// Which pool it is.
    const KIND: ZpoolKind;

    /// Part-used blocks are in lists by fullness, of which the fullest is filled first; else in one.
    const GROUPS_BY_FULLNESS: bool;

    /// A class without a free slot looks for one in so many larger classes before it makes a block.
    const CLASSES_TO_BORROW_OF: usize;

    /// How the lists of part-used blocks are linked.
    type Links<'a>: Links;

    /// All classes, smallest objects first; the last one is [`Shape::whole`].
    fn shapes(options: &ArenaOptions) -> Vec<Shape>;

    /// Takes frames for a block, which is full as long as nothing else is said, and writes their
    /// side words. Returns its first frame.
    fn build(arena: &Arena, shape: &Shape, class: u8) -> Option<u32>;

    /// Gives the frames of a block back and clears their side words.
    fn release(arena: &Arena, shape: &Shape, block: u32);

    /// Whether a predecessor's side words make this a block of frames that nobody has claimed.
    fn agrees(arena: &Arena, shape: &Shape, block: u32) -> bool;

    /// Takes over the frames of a predecessor's block that [`agrees`](Self::agrees). It is full as
    /// long as nothing else is said.
    fn claim(arena: &Arena, shape: &Shape, block: u32);

    /// Panics when side words and frames of a block disagree.
    fn check(arena: &Arena, shape: &Shape, block: u32);

    /// The links between heads.
    fn links(arena: &Arena) -> Self::Links<'_>;

    /// The head of a block. Lasts until it has no free slot; whether a full block has one is the
    /// layout's choice.
    fn head<'a>(arena: &'a Arena, shape: &Shape, block: u32) -> Option<Head<'a>>;

    /// The head that lists call `link`.
    fn head_of(arena: &Arena, link: u64) -> Head<'_>;

    /// The free slot that the head lies in, if it lies in one.
    fn head_slot(arena: &Arena, block: u32) -> Option<u16>;

    /// The block whose head this is.
    fn block_of(arena: &Arena, link: u64) -> u32;

    /// Makes `slot` the first free slot of a block that has none, and gives the block a head if it
    /// has none. The stamp of the slot says which is the next.
    fn open<'a>(arena: &'a Arena, shape: &Shape, block: u32, slot: u16) -> Head<'a>;

    /// Takes the last free slot, in which the head lies.
    fn close(arena: &Arena, shape: &Shape, block: u32) -> u16;

    /// Finds a slot.
    fn find(arena: &Arena, shape: &Shape, block: u32, slot: u32) -> Spot;

    /// First frame of the block that `frame` is part of, when a handle names it.
    fn first(arena: &Arena, frame: u32) -> Option<u32>;

    /// The slot that a handle in `block` names.
    fn spot(arena: &Arena, shape: &Shape, block: u32, handle: Handle) -> Spot;

    /// The handle of a slot.
    fn handle(arena: &Arena, spot: &Spot) -> Handle;

    /// Bytes from the object's start that lie in one piece.
    fn contiguous_bytes(arena: &Arena, spot: &Spot) -> usize;

    /// Where the bytes of the object that do not lie in one piece go on.
    fn rest_at(arena: &Arena, spot: &Spot) -> usize;

    /// Places of the owner and the stamp of a slot.
    fn tag_at(arena: &Arena, shape: &Shape, spot: &Spot) -> (usize, usize);
}

/// The head of a block with a free slot: 8 bytes, of which the first 4 are not the head's.
///
/// ```text
/// 4  free  u16   first slot of the chain of free slots, or NO_SLOT
/// 6  used  u16   slots in use
/// ```
pub struct Head<'a> {
    arena: &'a Arena,
    at: usize,
    /// What lists call it.
    pub link: u64,
}

impl<'a> Head<'a> {
    /// The head at a place, which is a multiple of 8.
    pub fn at(arena: &'a Arena, at: usize, link: u64) -> Self {
        Self { arena, at, link }
    }

    /// First slot of the free chain.
    pub fn free(&self) -> &'a AtomicU16 {
        self.arena.word_u16(self.at + 4)
    }

    /// Slots in use.
    pub fn used(&self) -> &'a AtomicU16 {
        self.arena.word_u16(self.at + 6)
    }
}
