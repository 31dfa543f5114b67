//! Pools of compressed objects: one trait, and one suite that every pool passes.
//!
//! A zpool hands out places for byte strings of 1..=page bytes inside frames of an [`Arena`], whose
//! size is the hard limit. It does not know that the bytes are compressed pages: it knows an owner
//! (a number that it gives back to whoever compacts or writes back) and an age stamp, both opaque.
//!
//! Locking: a zpool is shared by all threads and locks itself, one lock a size class. What it does
//! not lock is the *content* of an object: whoever holds a [`Handle`] out of the page table holds
//! the table's lock of that page, so nobody else reads, writes or frees that object meanwhile.
//! Lock order: page -> class -> arena. A zpool never calls out while it holds a class lock.

pub mod arena;
mod buddies;
mod frames;
mod groups;
mod kind;
pub mod mapping;
mod pace;
mod pools;
mod side;
mod slotted;
pub mod words;
pub mod z3fold;
pub mod zblock;
pub mod zbud;
pub mod zfit;
pub mod zsmalloc;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;

use std::ops::Range;

pub use arena::{Arena, ArenaOptions};
pub use kind::ZpoolKind;
pub use pace::Pace;
pub use pools::Pools;
pub use words::SharedWords;
pub use zsmalloc::{CHAIN_FRAMES_MAX_ALLOWED, CHAIN_FRAMES_MAX_DEFAULT};

use crate::error;

/// Where an object is: 40 bits, which fit the page table. The upper 28 are the number of a frame
/// whose side word says which zpool holds the object, the lower 12 are for that zpool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Bits that a handle may use: the place that the page table has for a location.
pub const HANDLE_BITS: u32 = 40;

/// Bits of a handle whose meaning the zpool alone knows.
pub const HANDLE_LOW_BITS: u32 = 12;

/// Bytes of a frame's side word, which counts as part of the frame.
const SIDE_BYTES: u64 = 8;

impl Handle {
    /// A handle for an object in `frame`.
    pub fn of(frame: u32, low: u32) -> Handle {
        debug_assert!(low >> HANDLE_LOW_BITS == 0, "{low} in a handle");
        Handle(u64::from(frame) << HANDLE_LOW_BITS | u64::from(low))
    }

    /// The frame; one that no arena has if the handle has more than 40 bits.
    pub fn frame(self) -> u32 {
        u32::try_from(self.0 >> HANDLE_LOW_BITS).unwrap_or(u32::MAX)
    }

    /// The zpool's own bits.
    pub fn low(self) -> u32 {
        self.0 as u32 & ((1 << HANDLE_LOW_BITS) - 1)
    }
}

/// Who owns an object and how old it is; kept beside the object, meaningless to the zpool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The owner's number (the page table calls it `PageId`).
    pub owner: u32,
    /// Age stamp; copied when an object moves.
    pub stamp: u16,
}

/// One live object, as a sweep reports it. By the time it is looked at it may be gone: the page
/// table, under the page's lock, is what says whether `handle` is still the owner's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Place of the object.
    pub handle: Handle,
    /// Owner and age.
    pub tag: Tag,
}

/// Where a sweep stands; starts at `Sweep::default()` and wraps to it at the end of the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The next frame to look at.
    pub frame: u32,
}

impl Sweep {
    /// Takes the next `frames` frames (at least one) of a pool of `last`, and moves on behind them,
    /// at the end back to the start. Returns them and whether the end was reached.
    fn advance(&mut self, frames: u32, last: u32) -> (Range<u32>, bool) {
        let end = self.frame.saturating_add(frames.max(1)).min(last);
        let taken = self.frame..end;
        let at_end = end == last;
        self.frame = if at_end { 0 } else { end };
        (taken, at_end)
    }
}

/// Why an object has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No frame is left and no block of a fitting class has a free slot.
    Full,
    /// Larger than [`Zpool::object_bytes_max`].
    TooLarge,
}

/// Why an object of a predecessor's pool cannot be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptError {
    /// The handle points outside the arena, or to a slot that this class does not have.
    BadHandle,
    /// Another object already has that slot or covers these frames with another class.
    Overlap,
}

/// What the pool holds, in bytes and objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZpoolStats {
    /// Objects that are stored.
    pub objects: u64,
    /// Sum of the sizes asked for.
    pub object_bytes: u64,
    /// Bytes of the slots that hold them, side data included: what would remain if every block
    /// were full.
    pub slot_bytes: u64,
    /// Bytes of all frames that blocks or zspages hold.
    pub block_bytes: u64,
    /// Bytes outside of the arena that grow with what is stored.
    pub index_bytes: u64,
}

/// One size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Largest object, bytes.
    pub object_bytes_max: u32,
    /// Frames of one block or zspage; 0 where they are of different lengths.
    pub block_frames: u32,
    /// Slots of one block or zspage; 0 where they have as many as their objects leave room for.
    pub block_slots: u32,
    /// Blocks or zspages that exist.
    pub blocks: u64,
    /// Frames of all of them; those of all classes are what the pool has of the arena.
    pub frames: u64,
    /// Slots of all of them; where `block_slots` is 0 their objects and the holes between these.
    pub slots: u64,
    /// Slots in use.
    pub slots_used: u64,
    /// Frames that would be left over if the blocks in use were filled up one by one.
    pub freeable_frames: u64,
    /// Blocks by how full they are: without objects, ten equal shares, full.
    pub fullness: [u64; FULLNESS_GROUPS],
}

/// Groups of [`ClassStats::fullness`].
pub const FULLNESS_GROUPS: usize = 12;

/// A pool of objects in frames.
pub trait Zpool: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> ZpoolKind;

    /// The memory that the pool lies in; other pools may have frames of it too.
    fn arena(&self) -> &Arena;

    /// Largest object that has a place, bytes: a frame, which is at least a page.
    fn object_bytes_max(&self) -> usize {
        self.arena().frame_bytes()
    }

    /// Bytes of memory that an object of `bytes` costs when blocks are full (slot and side data).
    fn slot_bytes(&self, bytes: usize) -> usize;

    /// The largest object that takes less of the pool than one of `page_bytes`: a page that does not
    /// get smaller is better kept as it is. 0 if none does.
    fn accept_bytes_max(&self, page_bytes: usize) -> usize {
        let whole = self.slot_bytes(page_bytes);
        (1..page_bytes)
            .rev()
            .find(|&bytes| self.slot_bytes(bytes) < whole)
            .unwrap_or(0)
    }

    /// Finds a place for an object of `bytes` (1..=object_bytes_max) and tags it. The content is
    /// undefined until [`store`](Self::store). Never waits, never asks the system for memory
    /// beyond what the arena has set aside or may still grow by.
    fn alloc(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError>;

    /// Gives the place back. `bytes` is what was asked for; freeing twice panics.
    fn free(&self, handle: Handle, bytes: usize);

    /// Copies `object` into its place.
    fn store(&self, handle: Handle, object: &[u8]);

    /// The object's bytes: in place where they are contiguous, else copied into `scratch`
    /// (at least `object_bytes_max` long).
    fn load<'a>(&'a self, handle: Handle, bytes: usize, scratch: &'a mut [u8]) -> &'a [u8];

    /// Hints that an object will be loaded soon. The handle may be old: then nothing useful happens.
    fn prefetch(&self, handle: Handle, bytes: usize);

    /// Owner and stamp of an object.
    fn tag(&self, handle: Handle, bytes: usize) -> Tag;

    /// Reports the live objects of blocks that begin in the next `frames` frames (at least one),
    /// and moves `sweep` on. Returns true when the end of the pool was reached.
    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool;

    /// Picks the block with the smallest share of used slots (near enough) among those whose
    /// objects would fit into free slots of other blocks of the class, takes it out of allocation,
    /// and reports its live objects. The caller moves each (alloc, store, publish, free) and so
    /// empties and frees the block. At most one block a class is out of allocation; it returns with
    /// [`settle`](Self::settle). False when no block qualifies. A pool that cuts slots to length may
    /// instead report objects whose places become one with free space beside them.
    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool;

    /// Puts blocks that `isolate` took out, and that could not be emptied, back into allocation.
    fn settle(&self);

    /// Takes over an object that a predecessor in the same arena held at `handle`. All objects are
    /// adopted before the first `alloc`, single-threaded, then [`adopted`](Self::adopted) is
    /// called.
    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> Result<(), AdoptError>;

    /// Ends adoption: slots of the pool's frames that nobody claimed are free. Frames that nobody
    /// claimed are the arena's, whose adoption ends after that of all its pools; [`Pools`] does it,
    /// and fails when the arena is to be populated and the system has not that much memory.
    fn adopted(&self) -> error::Result<()>;

    /// Sums over the whole pool.
    fn stats(&self) -> ZpoolStats;

    /// Reports every class, smallest objects first.
    fn classes(&self, visit: &mut dyn FnMut(ClassStats));

    /// Walks the whole pool and panics on a broken invariant. For tests: slow, and takes all locks.
    fn check(&self);
}

#[cfg(test)]
mod tests;
