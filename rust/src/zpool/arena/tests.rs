//! Limits, growth and refusals of the arena itself.

use super::*;
use crate::zpool::CHAIN_FRAMES_MAX_DEFAULT;
use crate::zpool::conformance::MemoryDir;
use crate::zpool::mapping::SYSTEM_PAGE_BYTES;

fn options(pool_bytes_max: u64) -> ArenaOptions {
    let (path, instance, frame_bytes) = (None, 1, 4096);
    ArenaOptions {
        path,
        instance,
        frame_bytes,
        pool_bytes_max,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        populate: false,
        unit_bytes: SYSTEM_PAGE_BYTES,
    }
}

#[test]
fn the_limit_covers_header_side_words_and_frames() {
    for limit in [100_000, 1 << 20, (1 << 20) + 4095, 70 << 20] {
        let arena = Arena::create(options(limit)).unwrap();
        let mut taken = 0;
        while arena.alloc_run(1).is_some() {
            taken += 1;
        }
        assert_eq!(taken, arena.frames());
        assert!(arena.held_bytes() <= limit);
        assert!(
            arena.held_bytes() + 4096 + 8 + 4096 > limit,
            "{limit} leaves a frame unused"
        );
        arena.check();
    }
    assert!(matches!(
        Arena::create(options(50_000)),
        Err(Error::Config(_))
    ));
}

#[test]
fn memory_comes_extent_by_extent() {
    let arena = Arena::create(options(64 << 20)).unwrap();
    assert_eq!(arena.held_bytes(), 4096);
    assert_eq!(arena.alloc_run(3), Some(0));
    assert_eq!(arena.held_bytes(), 4096 + 4096 + 16 * 4096);
    arena.release_free(9);
    assert_eq!(arena.held_bytes(), 4096 + 4096 + 12 * 4096);
    arena.check();
    // The extent that lacks frames is completed before the next one is begun.
    assert_eq!(arena.alloc_run(16), Some(3));
    assert_eq!(arena.held_bytes(), 4096 + 4096 + 32 * 4096);
    arena.check();
    // A larger pool asks for more at once, but never for much more than it uses.
    while arena.used_frames() < 8192 {
        arena.alloc_run(16).unwrap();
        let spare = arena.spare_frames();
        assert!(
            spare <= 16 + arena.used_frames() / 32,
            "{spare} frames to spare"
        );
    }
    assert!(arena.spare_frames() >= 64, "{}", arena.spare_frames());
    arena.check();
}

#[test]
fn released_frames_come_back_as_zeros() {
    let arena = Arena::create(options(8 << 20)).unwrap();
    let frame = arena.alloc_run(1).unwrap();
    arena.store_bytes(arena.frame_at(frame), &[9; 4096]);
    arena.free_run(frame, 1);
    arena.release_free(0);
    assert_eq!(arena.alloc_run(1), Some(frame));
    assert_eq!(arena.bytes(arena.frame_at(frame), 4096), [0; 4096]);
}

#[test]
fn every_difference_in_the_header_is_told() {
    let dir = MemoryDir::new("arena-header");
    let options = ArenaOptions {
        path: Some(dir.file("pool")),
        ..options(1 << 20)
    };
    let arena = Arena::create(options.clone()).unwrap();
    for (at, name) in [
        (0, "magic"),
        (8, "version"),
        (16, "frames"),
        (24, "instance"),
    ] {
        let old = arena.bytes(at, 1)[0];
        arena.store_bytes(at, &[old ^ 0x40]);
        match Arena::open(options.clone()) {
            // Another number of frames is another setting.
            Err(Error::Misfit { why, .. }) if name == "frames" => {
                assert!(why.starts_with(name), "{why}");
            }
            Err(Error::Foreign { why, .. }) => assert!(why.starts_with(name), "{why}"),
            _ => panic!("wanted a refusal for {name}"),
        }
        arena.store_bytes(at, &[old]);
    }
    assert!(Arena::open(options).is_ok());
}

#[test]
#[should_panic(expected = "before adoption has ended")]
fn nothing_is_handed_out_during_adoption() {
    let dir = MemoryDir::new("arena-adoption");
    let options = ArenaOptions {
        path: Some(dir.file("pool")),
        ..options(1 << 20)
    };
    drop(Arena::create(options.clone()).unwrap());
    Arena::open(options).unwrap().alloc_run(1);
}

#[test]
fn growth_leaves_frames_alone_that_are_being_given_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = MemoryDir::new("in-flight");
    let path = dir.file("pool");
    let arena = Arena::create(ArenaOptions {
        path: Some(path.clone()),
        ..options(1 << 20)
    })
    .unwrap();
    let first = arena.alloc_run(1).unwrap();
    arena.free_run(first, 1);
    arena.release_free(10);
    // As in `release_free`, with growth in the middle: five frames are out of use, their memory is
    // gone, and another thread asks for more than there is.
    let run = arena.lock().map.take_highest(5).unwrap();
    arena.mapping.punch(arena.frame_range(&run));
    for _ in 0..6 {
        arena.alloc_run(1).unwrap();
    }
    arena.lock().map.depart(run.clone());
    arena.held_bytes.fetch_sub(arena.run_bytes(&run), Relaxed);
    arena.check();
    assert_eq!(path.metadata().unwrap().blocks() * 512, arena.held_bytes());
}
