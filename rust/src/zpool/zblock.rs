//! zblock: blocks of 1 to 16 neighbouring frames, cut into slots of one size.
//!
//! Objects never cross anything: a place is one addition, a load never copies. Tags lie in arrays
//! after the head, 6 bytes a slot, so that a sweep reads few cache lines.
//!
//! The idea of zblock (V. Wool and A. Badmaev): many block shapes that fit their sizes well, and no
//! other cleverness: one list of active blocks a class, of which the first is filled. The shapes are
//! computed here, for any frame size. What the original has not is that a sparse block is emptied.
//!
//! Not here: which block and slot an object gets (`slotted`).
//! Locking: none of its own.

use std::sync::atomic::Ordering::Relaxed;

use super::arena::RUN_FRAMES_MAX;
use super::side::{NONE, Side};
use super::slotted::{Head, Layout, NO_SLOT, SLOTS_MAX, Shape, Slotted, Spot};
use super::{Arena, ArenaOptions, Handle, ZpoolKind};

/// A pool of blocks of neighbouring frames.
pub type Zblock = Slotted<Neighbours>;

/// The smallest slot, bytes: tag and share of the head already cost a third of it.
const SLOT_BYTES_MIN: u32 = 32;

/// Bytes of a block's head: the links, 4 unused, and what [`Head`] says.
const HEAD_BYTES: u32 = 16;

/// A tag in a block: owner u32 and stamp u16, in two arrays.
const TAG_BYTES: u32 = 6;

/// Lays blocks out as neighbouring frames.
pub struct Neighbours;

// A block of n slots, offsets in bytes:
//   0            head          16
//   16           owners        u32 x n
//   16 + 4n      stamps        u16 x n
//   ...          padding       to a multiple of 8
//   objects_at   slots         stride x n
impl Layout for Neighbours {
    const KIND: ZpoolKind = ZpoolKind::Zblock;

    const GROUPS_BY_FULLNESS: bool = false;

    const CLASSES_TO_BORROW_OF: usize = 0;

    type Links<'a> = &'a Arena;

    fn shapes(options: &ArenaOptions) -> Vec<Shape> {
        table(options.frame_bytes)
    }

    fn build(arena: &Arena, shape: &Shape, class: u8) -> Option<u32> {
        let block = arena.alloc_run(shape.frames)?;
        let head = Side::Head {
            class,
            free: NO_SLOT,
            next: NONE,
        };
        arena.side(block).store(head.encode(Self::KIND), Relaxed);
        for place in 1..shape.frames {
            arena
                .side(block + place)
                .store(tail(place).encode(Self::KIND), Relaxed);
        }
        fill(arena, shape, block);
        Some(block)
    }

    fn release(arena: &Arena, shape: &Shape, block: u32) {
        for place in 0..shape.frames {
            arena
                .side(block + place)
                .store(Side::Free.encode(Self::KIND), Relaxed);
        }
        arena.free_run(block, shape.frames);
    }

    fn agrees(arena: &Arena, shape: &Shape, block: u32) -> bool {
        shape.frames <= arena.frames() - block
            && (1..shape.frames).all(|place| side(arena, block + place) == tail(place))
            && (0..shape.frames).all(|place| !arena.in_use(block + place))
    }

    fn claim(arena: &Arena, shape: &Shape, block: u32) {
        let is_new = arena.claim_run(block, shape.frames);
        assert!(is_new, "block {block} was claimed meanwhile");
        fill(arena, shape, block);
    }

    fn check(arena: &Arena, shape: &Shape, block: u32) {
        for place in 1..shape.frames {
            assert_eq!(
                side(arena, block + place),
                tail(place),
                "side word of block {block}"
            );
        }
    }

    fn links(arena: &Arena) -> &Arena {
        arena
    }

    fn head<'a>(arena: &'a Arena, _: &Shape, block: u32) -> Option<Head<'a>> {
        Some(head(arena, block))
    }

    fn head_of(arena: &Arena, link: u64) -> Head<'_> {
        head(arena, link as u32)
    }

    fn head_slot(_: &Arena, _: u32) -> Option<u16> {
        None
    }

    fn block_of(_: &Arena, link: u64) -> u32 {
        link as u32
    }

    fn open<'a>(arena: &'a Arena, _: &Shape, block: u32, slot: u16) -> Head<'a> {
        let head = head(arena, block);
        head.free().store(slot, Relaxed);
        head
    }

    fn close(_: &Arena, _: &Shape, block: u32) -> u16 {
        panic!("a listed block {block} without a free slot");
    }

    fn find(arena: &Arena, shape: &Shape, block: u32, slot: u32) -> Spot {
        Spot {
            block,
            slot,
            object_at: arena.frame_at(block) + shape.object_at(slot),
        }
    }

    fn first(_: &Arena, frame: u32) -> Option<u32> {
        Some(frame)
    }

    fn spot(arena: &Arena, shape: &Shape, block: u32, handle: Handle) -> Spot {
        Self::find(arena, shape, block, handle.low())
    }

    fn handle(_: &Arena, spot: &Spot) -> Handle {
        Handle::of(spot.block, spot.slot)
    }

    fn contiguous_bytes(_: &Arena, _: &Spot) -> usize {
        usize::MAX
    }

    fn rest_at(_: &Arena, spot: &Spot) -> usize {
        panic!("an object of block {} crosses something", spot.block);
    }

    fn tag_at(arena: &Arena, shape: &Shape, spot: &Spot) -> (usize, usize) {
        let tags_at = arena.frame_at(spot.block) + HEAD_BYTES as usize;
        let (slots, slot) = (shape.slots as usize, spot.slot as usize);
        (tags_at + 4 * slot, tags_at + 4 * slots + 2 * slot)
    }
}

/// The head, which lists know by its block.
fn head(arena: &Arena, block: u32) -> Head<'_> {
    Head::at(arena, arena.frame_at(block) + 8, block.into())
}

/// Says that a block is full.
fn fill(arena: &Arena, shape: &Shape, block: u32) {
    let head = head(arena, block);
    head.free().store(NO_SLOT, Relaxed);
    head.used().store(shape.slots as u16, Relaxed);
}

fn tail(place: u32) -> Side {
    Side::Tail { place: place as u8 }
}

fn side(arena: &Arena, frame: u32) -> Side {
    Side::decode(arena.side(frame).load(Relaxed), ZpoolKind::Zblock)
}

/// Two rules make the table. Of the shapes that a size fits, the cheapest is best. And from a
/// whole frame downwards a class exists only if it saves 1/128 of a frame an object (a quarter
/// of the cost, where objects are so small that this would be much of it): sizes of compressed
/// pages are spread evenly, so equal steps in bytes are worth the same everywhere.
///
/// Measured on compressed pages of real programs at 4 KiB: full blocks take 1.021 bytes a byte,
/// side words included, against 1.029 with blocks of at most 8 frames. Steps of 3/4 that
/// width win 0.002 and cost a third more in part-filled blocks.
fn table(frame_bytes: usize) -> Vec<Shape> {
    let cost = |shape: &Shape| cost(shape, frame_bytes as u32);
    let step = frame_bytes as f64 / 128.0;
    let mut shapes = vec![Shape::whole(frame_bytes)];
    let mut last = cost(&shapes[0]);
    for shape in best_shapes(frame_bytes as u32).into_iter().rev() {
        let saves = last - cost(&shape);
        if saves >= step.min(last / 4.0) || shape.object_bytes_max == SLOT_BYTES_MIN {
            last = cost(&shape);
            shapes.push(shape);
        }
    }
    shapes.reverse();
    shapes
}

/// Each frame of a block is charged with 1/1024 of a frame an object, which suits pools of 100 MB
/// and more.
fn cost(shape: &Shape, frame_bytes: u32) -> f64 {
    shape.cost_bytes(frame_bytes, f64::from(frame_bytes) / 1024.0)
}

/// The cheapest shape for each size of slot that some shape has, by size.
fn best_shapes(frame_bytes: u32) -> Vec<Shape> {
    let mut best: Vec<Option<Shape>> = vec![None; (frame_bytes / 8) as usize];
    for frames in 1..=RUN_FRAMES_MAX {
        for slots in 1..=SLOTS_MAX {
            let objects_at = (HEAD_BYTES + TAG_BYTES * slots).next_multiple_of(8);
            let stride = (frames * frame_bytes).saturating_sub(objects_at) / slots / 8 * 8;
            if stride < SLOT_BYTES_MIN {
                break;
            }
            if stride >= frame_bytes {
                continue;
            }
            let shape = Shape {
                object_bytes_max: stride,
                frames,
                slots,
                objects_at,
                stride,
            };
            let place = &mut best[(stride / 8) as usize];
            if place.is_none_or(|old| cost(&shape, frame_bytes) < cost(&old, frame_bytes)) {
                *place = Some(shape);
            }
        }
    }
    best.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_covers_every_size_within_a_frame() {
        for frame_bytes in [4096, 16384, 65536] {
            let shapes = table(frame_bytes);
            assert_eq!(shapes[0].object_bytes_max, SLOT_BYTES_MIN);
            assert_eq!(shapes.last(), Some(&Shape::whole(frame_bytes)));
            assert!(shapes.is_sorted_by(|a, b| a.object_bytes_max < b.object_bytes_max));
            for shape in &shapes[..shapes.len() - 1] {
                assert!(shape.object_at(shape.slots) <= shape.frames as usize * frame_bytes);
                assert!(HEAD_BYTES + TAG_BYTES * shape.slots <= shape.objects_at);
            }
        }
    }
}
