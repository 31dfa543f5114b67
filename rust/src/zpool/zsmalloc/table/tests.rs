//! The original's published figures, and what the pool's table adds to them.

use super::*;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::CHAIN_FRAMES_MAX_ALLOWED;
use crate::zpool::slotted::NO_SLOT;

/// Every frame size with every chain, and the table for them.
fn each_table(mut visit: impl FnMut(u32, u32, &[Shape])) {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        for chain_frames_max in CHAIN_FRAMES_MAX_ALLOWED {
            let shapes = table(frame_bytes, chain_frames_max);
            visit(frame_bytes as u32, chain_frames_max, &shapes);
        }
    }
}

#[test]
fn the_rules_give_the_originals_sizes_classes_and_huge_objects() {
    // Sizes, then for chains of 4, 8 and 16: classes, and the largest slot that is not huge.
    for (frame_bytes, sizes_wanted, wanted) in [
        (4096, 255, [(69, 3264), (119, 3632), (192, 3840)]),
        (16384, 257, [(70, 13_088), (121, 14_560), (192, 15_392)]),
        (65536, 257, [(72, 52_256), (123, 58_144), (191, 61_472)]),
    ] {
        assert_eq!(sizes(frame_bytes, ORIGINAL_STEPS).count(), sizes_wanted);
        for (chain_frames_max, wanted) in [4, 8, 16].into_iter().zip(wanted) {
            let classes = classes(frame_bytes, chain_frames_max, ORIGINAL_STEPS);
            let largest = classes[classes.len() - 2].stride;
            let found = (classes.len(), largest);
            assert_eq!(found, wanted, "{frame_bytes}, {chain_frames_max}");
        }
    }
}

#[test]
fn the_pool_has_the_originals_sizes_and_as_many_between() {
    for frame_bytes in PAGE_BYTES_ALLOWED.map(|bytes| bytes as u32) {
        let ours: Vec<u32> = sizes(frame_bytes, STEPS).collect();
        let originals: Vec<u32> = sizes(frame_bytes, ORIGINAL_STEPS).collect();
        let every_other: Vec<u32> = ours.iter().step_by(2).copied().collect();
        assert_eq!(
            every_other[..originals.len() - 1],
            originals[..originals.len() - 1]
        );
        assert_eq!(ours.last(), originals.last());
    }
}

#[test]
fn every_class_is_a_size_in_its_chain_of_least_waste() {
    each_table(|frame_bytes, chain_frames_max, shapes| {
        for shape in &shapes[..shapes.len() - 1] {
            assert!(sizes(frame_bytes, STEPS).any(|size| size == shape.stride));
            let wanted = least_waste(frame_bytes, chain_frames_max, shape.stride);
            assert_eq!(*shape, wanted);
        }
    });
}

#[test]
fn every_class_saves_what_it_costs() {
    each_table(|frame_bytes, _, shapes| {
        for class in 0..shapes.len() - 1 {
            let gain = gain_bytes(shapes, class, frame_bytes);
            assert!(gain >= 0.0, "{:?} costs {}", shapes[class], -gain);
        }
    });
    let counts = PAGE_BYTES_ALLOWED.map(|frame_bytes| table(frame_bytes, 8).len());
    assert_eq!(counts, [100, 74, 58]);
}

#[test]
fn the_table_covers_every_size_within_a_frame() {
    each_table(|frame_bytes, chain_frames_max, shapes| {
        assert_eq!(shapes.last(), Some(&Shape::whole(frame_bytes as usize)));
        assert!(shapes.is_sorted_by(|a, b| a.object_bytes_max < b.object_bytes_max));
        for shape in &shapes[..shapes.len() - 1] {
            assert!(shape.frames <= chain_frames_max, "{shape:?}");
            assert!(shape.slots * shape.stride <= shape.frames * frame_bytes);
            assert!(shape.stride.is_multiple_of(8), "{shape:?}");
            assert!(shape.slots < NO_SLOT.into(), "{shape:?}");
        }
    });
}
