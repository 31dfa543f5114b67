//! zsmalloc: chains of 1 to 8 single frames, wherever they are, cut into slots of one size.
//!
//! An object may cross from one frame of the chain into the next, and is then loaded by copy. In
//! return any free frame serves, however scattered, and sizes lie close together: one class for
//! every 1/256 of a frame. Each object has 8 bytes in front, with its tag.
//!
//! After the kernel's allocator of that name. Unlike it, a zspage carries its own head (16 bytes),
//! and a handle is the place itself: the page table is what finds objects, so they can move
//! without one.
//!
//! Not here: which zspage and slot an object gets (`slotted`, where a zspage is a block).
//! Locking: none of its own. Chains are written under the lock of the class, and only when a zspage
//! is made or given back, so whoever holds an object may follow them.

use std::sync::atomic::Ordering::Relaxed;

use super::side::{NONE, Side};
use super::slotted::{HEAD_BYTES, Layout, SLOTS_MAX, Shape, Slotted};
use super::{Arena, ZpoolKind};

/// A pool of chains of frames.
pub type Zsmalloc = Slotted<Chained>;

/// Longest chain, frames.
const CHAIN_FRAMES_MAX: u32 = 8;

/// Tag in front of an object: owner u32, stamp u16, 2 bytes unused. Slots are multiples of 16 bytes
/// and begin after a head of 16, so a tag never crosses the edge of a frame.
const TAG_BYTES: u32 = 8;

/// The smallest slot, bytes, tag included.
const SLOT_BYTES_MIN: u32 = 32;

/// Lays zspages out as chains.
pub struct Chained;

impl Layout for Chained {
    const KIND: ZpoolKind = ZpoolKind::Zsmalloc;

    fn shapes(frame_bytes: usize) -> Vec<Shape> {
        let frame_bytes = frame_bytes as u32;
        let step = frame_bytes / 256;
        // Smaller slots would make a chain of more slots than a handle can number.
        let smallest = SLOT_BYTES_MIN.max(CHAIN_FRAMES_MAX * frame_bytes / SLOTS_MAX);
        let mut shapes = vec![Shape::whole(frame_bytes as usize)];
        let mut stride = frame_bytes;
        while stride >= smallest {
            let shape = chain(frame_bytes, stride);
            let last = &shapes[shapes.len() - 1];
            // As many slots in as many frames: the larger class serves both sizes. A chain that has
            // no more slots than frames is no better than a whole frame each.
            let same = (last.frames, last.slots) == (shape.frames, shape.slots);
            if !same && shape.slots > shape.frames {
                shapes.push(shape);
            }
            stride -= step;
        }
        shapes.reverse();
        shapes
    }

    fn build(arena: &Arena, shape: &Shape, class: u8) -> Option<u32> {
        let mut frames = [NONE; CHAIN_FRAMES_MAX as usize + 1];
        for index in 0..shape.frames as usize {
            let Some(frame) = arena.alloc_run(1) else {
                frames[..index]
                    .iter()
                    .for_each(|&frame| arena.free_run(frame, 1));
                return None;
            };
            frames[index] = frame;
        }
        for place in 0..shape.frames as usize {
            let next = frames[place + 1];
            let side = match place {
                0 => Side::Head { class, next },
                _ => Side::Tail {
                    place: place as u8,
                    next,
                },
            };
            arena
                .side(frames[place])
                .store(side.encode(Self::KIND), Relaxed);
        }
        Some(frames[0])
    }

    fn release(arena: &Arena, shape: &Shape, head: u32) {
        let mut frame = head;
        for _ in 0..shape.frames {
            let next = next(arena, frame);
            arena
                .side(frame)
                .store(Side::Free.encode(Self::KIND), Relaxed);
            arena.free_run(frame, 1);
            frame = next;
        }
    }

    fn claim(arena: &Arena, shape: &Shape, head: u32) -> bool {
        // The whole chain is read before anything is claimed: a broken one leaves no trace.
        let mut frame = head;
        for place in 0..shape.frames {
            let good = frame < arena.frames()
                && !arena.in_use(frame)
                && place_of(arena, frame) == Some(place);
            if !good {
                return false;
            }
            frame = next(arena, frame);
        }
        if frame != NONE {
            return false;
        }
        let mut frame = head;
        for _ in 0..shape.frames {
            // A place in the chain occurs once, so no frame is met twice.
            assert!(
                arena.claim_run(frame, 1),
                "frame {frame} was claimed meanwhile"
            );
            frame = next(arena, frame);
        }
        true
    }

    fn check(arena: &Arena, shape: &Shape, head: u32) {
        let mut frame = head;
        for place in 0..shape.frames {
            assert_eq!(
                place_of(arena, frame),
                Some(place),
                "chain of zspage {head}"
            );
            frame = next(arena, frame);
        }
        assert_eq!(frame, NONE, "the chain of zspage {head} is too long");
    }

    fn place(arena: &Arena, head: u32, offset: usize) -> usize {
        let frame_bytes = arena.frame_bytes();
        let mut frame = head;
        for _ in 0..offset / frame_bytes {
            frame = next(arena, frame);
        }
        arena.frame_at(frame) + offset % frame_bytes
    }

    fn contiguous_bytes(arena: &Arena, offset: usize) -> usize {
        arena.frame_bytes() - offset % arena.frame_bytes()
    }

    fn owner_at(shape: &Shape, slot: u32) -> usize {
        shape.object_at(slot) - TAG_BYTES as usize
    }

    fn stamp_at(shape: &Shape, slot: u32) -> usize {
        Self::owner_at(shape, slot) + 4
    }
}

/// The chain in which slots of `stride` are cheapest. Each frame is charged with 1/512 of a frame
/// an object: with so many classes, part-filled zspages weigh more than the last byte of fit. On
/// compressed pages of real programs this needs a third fewer bytes in part-filled zspages than
/// the least waste does, for 0.001 more in full ones.
fn chain(frame_bytes: u32, stride: u32) -> Shape {
    let of_frames = |frames: u32| Shape {
        object_bytes_max: stride - TAG_BYTES,
        frames,
        slots: (frames * frame_bytes - HEAD_BYTES) / stride,
        objects_at: HEAD_BYTES + TAG_BYTES,
        stride,
    };
    let cost = |shape: &Shape| shape.cost_bytes(frame_bytes, f64::from(frame_bytes) / 512.0);
    let chains = (1..=CHAIN_FRAMES_MAX).map(of_frames);
    chains
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .expect("some chain is the cheapest")
}

fn next(arena: &Arena, frame: u32) -> u32 {
    match Side::decode(arena.side(frame).load(Relaxed), ZpoolKind::Zsmalloc) {
        Side::Head { next, .. } | Side::Tail { next, .. } => next,
        other => panic!("frame {frame} of a chain is {other:?}"),
    }
}

fn place_of(arena: &Arena, frame: u32) -> Option<u32> {
    match Side::decode(arena.side(frame).load(Relaxed), ZpoolKind::Zsmalloc) {
        Side::Head { .. } => Some(0),
        Side::Tail { place, .. } => Some(place.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_covers_every_size_within_a_frame() {
        for frame_bytes in [4096, 16384, 65536] {
            let shapes = Chained::shapes(frame_bytes);
            assert_eq!(shapes.last(), Some(&Shape::whole(frame_bytes)));
            assert!(shapes.is_sorted_by(|a, b| a.object_bytes_max < b.object_bytes_max));
            for shape in &shapes[..shapes.len() - 1] {
                assert!(shape.object_at(shape.slots) <= shape.frames as usize * frame_bytes + 8);
                assert!(shape.stride.is_multiple_of(16), "{shape:?}");
            }
        }
    }
}
