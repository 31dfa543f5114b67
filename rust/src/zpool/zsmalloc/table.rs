//! The size classes of zsmalloc: which slots there are, and in which chains.
//!
//! By the original's rules:
//! 1. Sizes of slots lie in equal steps from 32 bytes to a frame.
//! 2. Each has the chain that wastes least.
//! 3. Sizes whose chains have as many frames and as many slots are one class, the largest of them.
//!    One slot in one frame is the class of huge objects, which have a frame of their own.
//!
//! In steps of 1/256 of a frame and with chains of up to 8 this gives the original's 255 sizes and
//! 119 classes at 4 KiB. Our slots lose 8 bytes a frame to side words and win 2 an object, since a
//! tag is shorter than a handle, so that table is not as dense here as the original's is in zram.
//! Two additions make up for it:
//! * There are as many sizes between the original's.
//! * A class that saves less than its part-filled zspages cost is merged into the next larger one.
//!
//! Bytes of pool a byte stored, 768 MiB of compressed pages of real programs (lz4, then lzo), the same
//! writes for all, filled / overwritten twice / compacted:
//!
//! ```text
//! zram, 119 classes                      1.0217 / 1.0367 / 1.0218    1.0207 / 1.0348 / 1.0210
//! the original's rules, 119 classes      1.0229 / 1.0376 / 1.0229    1.0217 / 1.0373 / 1.0225
//! costly classes merged, 94 classes      1.0228 / 1.0366 / 1.0227    1.0222 / 1.0367 / 1.0225
//! and the sizes between, 100 classes     1.0216 / 1.0359 / 1.0217    1.0202 / 1.0357 / 1.0205
//! and free slots are borrowed (`debts`)  1.0216 / 1.0329 / 1.0209    1.0202 / 1.0316 / 1.0199
//! ```
//!
//! Locking: none, plain values. The next process must find the same table: it knows a zspage by
//! the number of its class. Whoever changes the table changes the version of the arena's header.

use super::{SLOT_BYTES_MIN, TAG_BYTES};
use crate::zpool::slotted::Shape;

/// Steps from one size to the next in a frame; the original has [`ORIGINAL_STEPS`].
const STEPS: u32 = 2 * ORIGINAL_STEPS;

/// The original's steps in a frame.
const ORIGINAL_STEPS: u32 = 256;

/// How many objects of a pool of 4 KiB pages lie between one of the original's sizes and the next:
/// as in a store of 600 MiB if they were spread evenly. From 560 to 700 a freshly filled pool is as dense as zram in
/// stores of 16, 96 and 768 MiB; at 500 it is not in the largest one, at 1000 in that of 96 MiB.
const OBJECTS_A_STEP: f64 = 600.0;

/// All classes of a pool, smallest objects first.
pub fn table(frame_bytes: usize, chain_frames_max: u32) -> Vec<Shape> {
    let frame_bytes = frame_bytes as u32;
    merge_costly(classes(frame_bytes, chain_frames_max, STEPS), frame_bytes)
}

/// The sizes of slots, ascending; the last one is a frame.
fn sizes(frame_bytes: u32, steps: u32) -> impl DoubleEndedIterator<Item = u32> {
    let step = (frame_bytes / steps) as usize;
    (SLOT_BYTES_MIN..frame_bytes)
        .step_by(step)
        .chain([frame_bytes])
}

/// Slots of a size in the chain that wastes least; in the shortest of those that waste the same.
fn least_waste(frame_bytes: u32, chain_frames_max: u32, size: u32) -> Shape {
    let frames = (1..=chain_frames_max)
        .min_by_key(|frames| frames * frame_bytes % size)
        .expect("a chain has at least one frame");
    Shape {
        object_bytes_max: size - TAG_BYTES,
        frames,
        slots: frames * frame_bytes / size,
        objects_at: TAG_BYTES,
        stride: size,
    }
}

/// A class for every size whose chain the next larger size has not got.
fn classes(frame_bytes: u32, chain_frames_max: u32, steps: u32) -> Vec<Shape> {
    let mut classes = vec![Shape::whole(frame_bytes as usize)];
    for size in sizes(frame_bytes, steps).rev() {
        let shape = least_waste(frame_bytes, chain_frames_max, size);
        let larger = &classes[classes.len() - 1];
        if (shape.frames, shape.slots) != (larger.frames, larger.slots) {
            classes.push(shape);
        }
    }
    classes.reverse();
    classes
}

/// Merges classes into the next larger one, always the one that loses most, until each saves what
/// it costs.
fn merge_costly(mut classes: Vec<Shape>, frame_bytes: u32) -> Vec<Shape> {
    loop {
        let gain = |class: &usize| gain_bytes(&classes, *class, frame_bytes);
        let worst = (0..classes.len() - 1).min_by(|a, b| gain(a).total_cmp(&gain(b)));
        match worst {
            Some(class) if gain(&class) < 0.0 => _ = classes.remove(class),
            _ => return classes,
        }
    }
}

/// Bytes that a class saves its objects, which would lie in the next larger one, less the half of a
/// zspage that is free in it on average.
fn gain_bytes(classes: &[Shape], class: usize, frame_bytes: u32) -> f64 {
    let (shape, larger) = (&classes[class], &classes[class + 1]);
    let below = match class {
        0 => 0,
        _ => classes[class - 1].object_bytes_max,
    };
    let steps = f64::from(shape.object_bytes_max - below) * f64::from(ORIGINAL_STEPS)
        / f64::from(frame_bytes);
    // Pools of larger pages have fewer objects, in proportion; but pages of 4 KiB lie in larger
    // frames, too. The power 3/4 lies between. Nothing here rounds otherwise on another machine.
    let share = 4096.0 / f64::from(frame_bytes);
    let objects = steps * OBJECTS_A_STEP * (share * share.sqrt()).sqrt();
    let saved = larger.bytes_per_slot(frame_bytes) - shape.bytes_per_slot(frame_bytes);
    objects * saved - f64::from(shape.frames * frame_bytes) / 2.0
}

#[cfg(test)]
mod tests;
