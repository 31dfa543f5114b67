//! zsmalloc: chains of single frames, wherever they are, cut into slots of one size.
//!
//! An object may cross from one frame of the chain into the next, and is then loaded by copy. In
//! return any free frame serves, however scattered, and sizes lie close together. After the kernel's
//! allocator of that name: its chains of up to 8 frames (4 to 16 by configuration), its fullness
//! groups, huge objects in frames of their own, and its compaction.
//!
//! Its classes are the original's by rule, with some sizes between and the costly ones merged
//! (`table`). What the original does not: a class without a free slot borrows one of a larger class before
//! it makes a zspage (`debts`). There are no descriptors and no memory for handles outside the pool. A handle is the
//! place itself, the frame that the slot begins in and the slot's number: the page table finds
//! objects, so they can move without a fixed handle. What there is to know of a zspage lies in the
//! side words of its frames and, as long as it has a free slot, in that slot.
//!
//! Not here: which zspage and slot an object gets (`slotted`, where a zspage is a block).
//! Locking: none of its own. Chains are written under the lock of the class, and only when a zspage
//! is made or given back, so whoever holds an object may follow them.

mod table;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::groups::Links;
use super::side::Side;
use super::slotted::{Head, Layout, NO_SLOT, Shape, Slotted, Spot};
use super::{Arena, ArenaOptions, Handle, ZpoolKind};

/// A pool of chains of frames.
pub type Zsmalloc = Slotted<Chained>;

/// How long the longest chain may be allowed to be, frames; the original's range.
pub const CHAIN_FRAMES_MAX_ALLOWED: RangeInclusive<u32> = 4..=16;

/// The longest chain if nothing else is said, frames; the original's.
pub const CHAIN_FRAMES_MAX_DEFAULT: u32 = 8;

/// Tag in front of an object: owner u32, stamp u16. Slots are multiples of 8 bytes, so a tag never
/// crosses the edge of a frame.
const TAG_BYTES: u32 = 6;

/// The smallest slot, bytes: a free one has room for the head.
const SLOT_BYTES_MIN: u32 = 32;

// head of a zspage with a free slot, in the one that is taken last; it may cross the edge of a
// frame between its words:
//   0  owner     u32   NO_OWNER
//   4  free      u16   the next free slot, as in every free slot
//   6  used      u16   slots in use
//   8  next      u64   place of the next head in its list
//  16  previous  u64   place of the head before it
const NEXT_AT: usize = 8;
const PREVIOUS_AT: usize = 16;

/// Lays zspages out as chains.
pub struct Chained;

impl Layout for Chained {
    const KIND: ZpoolKind = ZpoolKind::Zsmalloc;

    const GROUPS_BY_FULLNESS: bool = true;

    /// With 2 or 6 it is about as dense.
    const CLASSES_TO_BORROW_OF: usize = 4;

    type Links<'a> = ChainLinks<'a>;

    fn shapes(options: &ArenaOptions) -> Vec<Shape> {
        table::table(options.frame_bytes, options.chain_frames_max)
    }

    fn build(arena: &Arena, shape: &Shape, class: u8) -> Option<u32> {
        let mut frames = [0; *CHAIN_FRAMES_MAX_ALLOWED.end() as usize];
        let frames = &mut frames[..shape.frames as usize];
        for index in 0..frames.len() {
            let Some(frame) = arena.alloc_run(1) else {
                frames[..index]
                    .iter()
                    .for_each(|&frame| arena.free_run(frame, 1));
                return None;
            };
            frames[index] = frame;
        }
        let first = frames[0];
        for (place, &frame) in frames.iter().enumerate() {
            let next = frames.get(place + 1).copied().unwrap_or(first);
            let side = match place {
                0 => Side::Head {
                    class,
                    free: NO_SLOT,
                    next,
                },
                _ => Side::Link { first, next },
            };
            set_side(arena, frame, side);
        }
        Some(first)
    }

    fn release(arena: &Arena, shape: &Shape, block: u32) {
        let mut frame = block;
        for _ in 0..shape.frames {
            let next = next(arena, frame);
            set_side(arena, frame, Side::Free);
            arena.free_run(frame, 1);
            frame = next;
        }
    }

    fn agrees(arena: &Arena, shape: &Shape, block: u32) -> bool {
        let Side::Head { mut next, .. } = side(arena, block) else {
            return false;
        };
        let is_free = |frame| frame < arena.frames() && !arena.in_use(frame);
        for _ in 1..shape.frames {
            if !is_free(next) {
                return false;
            }
            // All later frames differ from the first one and lead to it, so none is met twice.
            match side(arena, next) {
                Side::Link { first, next: after } if first == block => next = after,
                _ => return false,
            }
        }
        is_free(block) && next == block
    }

    fn claim(arena: &Arena, shape: &Shape, block: u32) {
        let mut frame = block;
        for _ in 0..shape.frames {
            let is_new = arena.claim_run(frame, 1);
            assert!(is_new, "frame {frame} was claimed meanwhile");
            frame = next(arena, frame);
        }
        set_head_slot(arena, block, NO_SLOT);
    }

    fn check(arena: &Arena, shape: &Shape, block: u32) {
        let mut frame = next(arena, block);
        for _ in 1..shape.frames {
            assert!(
                matches!(side(arena, frame), Side::Link { first, .. } if first == block),
                "chain of zspage {block}"
            );
            frame = next(arena, frame);
        }
        assert_eq!(frame, block, "the chain of zspage {block} is too long");
    }

    fn links(arena: &Arena) -> ChainLinks<'_> {
        ChainLinks(arena)
    }

    fn head<'a>(arena: &'a Arena, shape: &Shape, block: u32) -> Option<Head<'a>> {
        Self::head_slot(arena, block).map(|slot| head(arena, shape, block, slot))
    }

    fn head_of(arena: &Arena, link: u64) -> Head<'_> {
        Head::at(arena, link as usize, link)
    }

    fn head_slot(arena: &Arena, block: u32) -> Option<u16> {
        match side(arena, block) {
            Side::Head { free, .. } => (free != NO_SLOT).then_some(free),
            other => panic!("zspage {block} is {other:?}"),
        }
    }

    fn block_of(arena: &Arena, link: u64) -> u32 {
        let frame = arena.frame_of(link as usize);
        Self::first(arena, frame).expect("a head lies in a zspage")
    }

    fn open<'a>(arena: &'a Arena, shape: &Shape, block: u32, slot: u16) -> Head<'a> {
        set_head_slot(arena, block, slot);
        head(arena, shape, block, slot)
    }

    fn close(arena: &Arena, _: &Shape, block: u32) -> u16 {
        let slot = Self::head_slot(arena, block).expect("a listed zspage has a head");
        set_head_slot(arena, block, NO_SLOT);
        slot
    }

    fn find(arena: &Arena, shape: &Shape, block: u32, slot: u32) -> Spot {
        let offset = shape.object_at(slot);
        let frame_bytes = arena.frame_bytes();
        let mut frame = block;
        for _ in 0..offset >> frame_bytes.trailing_zeros() {
            frame = next(arena, frame);
        }
        Spot {
            block,
            slot,
            object_at: arena.frame_at(frame) + (offset & (frame_bytes - 1)),
        }
    }

    fn first(arena: &Arena, frame: u32) -> Option<u32> {
        match side(arena, frame) {
            Side::Head { .. } | Side::Whole(_) => Some(frame),
            Side::Link { first, .. } => Some(first),
            _ => None,
        }
    }

    /// A handle names the frame that the slot begins in: no chain is walked for it.
    fn spot(arena: &Arena, shape: &Shape, block: u32, handle: Handle) -> Spot {
        let slot = handle.low();
        let offset = shape.object_at(slot) & (arena.frame_bytes() - 1);
        Spot {
            block,
            slot,
            object_at: arena.frame_at(handle.frame()) + offset,
        }
    }

    fn handle(arena: &Arena, spot: &Spot) -> Handle {
        Handle::of(arena.frame_of(spot.object_at), spot.slot)
    }

    fn contiguous_bytes(arena: &Arena, spot: &Spot) -> usize {
        let frame = arena.frame_of(spot.object_at);
        arena.frame_at(frame) + arena.frame_bytes() - spot.object_at
    }

    fn rest_at(arena: &Arena, spot: &Spot) -> usize {
        arena.frame_at(next(arena, arena.frame_of(spot.object_at)))
    }

    fn tag_at(_: &Arena, _: &Shape, spot: &Spot) -> (usize, usize) {
        let owner_at = spot.object_at - TAG_BYTES as usize;
        (owner_at, owner_at + 4)
    }
}

/// Heads are linked by their places.
pub struct ChainLinks<'a>(&'a Arena);

impl ChainLinks<'_> {
    fn word(&self, head: u64, offset: usize) -> &AtomicU64 {
        let arena = self.0;
        let (head, at) = (head as usize, head as usize + offset);
        let frame = arena.frame_of(head);
        let end = arena.frame_at(frame) + arena.frame_bytes();
        if at < end {
            arena.word_u64(at)
        } else {
            arena.word_u64(arena.frame_at(next(arena, frame)) + (at - end))
        }
    }
}

impl Links for ChainLinks<'_> {
    fn next(&self, head: u64) -> u64 {
        self.word(head, NEXT_AT).load(Relaxed)
    }

    fn set_next(&self, head: u64, next: u64) {
        self.word(head, NEXT_AT).store(next, Relaxed);
    }

    fn previous(&self, head: u64) -> u64 {
        self.word(head, PREVIOUS_AT).load(Relaxed)
    }

    fn set_previous(&self, head: u64, previous: u64) {
        self.word(head, PREVIOUS_AT).store(previous, Relaxed);
    }
}

fn head<'a>(arena: &'a Arena, shape: &Shape, block: u32, slot: u16) -> Head<'a> {
    let spot = Chained::find(arena, shape, block, slot.into());
    let at = spot.object_at - TAG_BYTES as usize;
    Head::at(arena, at, at as u64)
}

#[inline(always)]
fn side(arena: &Arena, frame: u32) -> Side {
    Side::decode(arena.side(frame).load(Relaxed), ZpoolKind::Zsmalloc)
}

fn set_side(arena: &Arena, frame: u32, side: Side) {
    arena
        .side(frame)
        .store(side.encode(ZpoolKind::Zsmalloc), Relaxed);
}

fn set_head_slot(arena: &Arena, block: u32, free: u16) {
    let Side::Head { class, next, .. } = side(arena, block) else {
        panic!("zspage {block} is {:?}", side(arena, block));
    };
    set_side(arena, block, Side::Head { class, free, next });
}

#[inline]
fn next(arena: &Arena, frame: u32) -> u32 {
    match side(arena, frame) {
        Side::Head { next, .. } | Side::Link { next, .. } => next,
        other => panic!("frame {frame} of a chain is {other:?}"),
    }
}
