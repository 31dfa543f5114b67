//! What objects that share a frame have to each other; the suite over both pools is in `zpool`.

use super::*;
use crate::zpool::conformance::{Model, Random, Suite, conformance};
use crate::zpool::z3fold::Three;
use crate::zpool::{Pools, Zpool};

const FRAME: usize = 4096;
const CHUNK: usize = FRAME / CHUNKS as usize;

fn pools(zpool: ZpoolKind, frame_bytes: usize, frames: u64) -> Pools {
    let make = |arena| Pools::new(arena, zpool);
    let suite = Suite {
        zpool,
        make: &make,
        frame_bytes,
    };
    suite.pool(frames)
}

/// A z3fold whose third object begins in the last chunk of the first: the canary.
struct Overlapping;

impl Rule for Overlapping {
    const KIND: ZpoolKind = ZpoolKind::Z3fold;
    const OBJECTS_MAX: usize = 3;

    fn start_in(gap: &Range<u32>, chunks: u32) -> u32 {
        let start = Three::start_in(gap, chunks);
        if start == gap.start && start > CHUNK_FIRST {
            start - 1
        } else {
            start
        }
    }
}

#[test]
// Which of the two is wrong first is chance: its content, or its tag if both begin in one chunk.
#[should_panic(expected = "of Object {")]
fn the_suite_notices_objects_that_overlap() {
    conformance(ZpoolKind::Z3fold, |arena| {
        Pools::of(arena, ZpoolKind::Z3fold, |kind, arena| match kind {
            ZpoolKind::Z3fold => Box::new(Buddies::<Overlapping>::new(arena)),
            other => other.make(arena),
        })
    });
}

#[test]
fn an_object_that_leaves_a_chunk_has_a_companion() {
    for zpool in [ZpoolKind::Zbud, ZpoolKind::Z3fold] {
        let pool = pools(zpool, FRAME, 32);
        let mut model = Model::new(&pool, Random::new(1));
        let large = model.alloc(62 * CHUNK).unwrap();
        let small = model.alloc(1).unwrap();
        assert_eq!((large.low(), small.low()), (1, 63));
        assert_eq!(large.frame(), small.frame());
        let whole = model.alloc(62 * CHUNK + 1).unwrap();
        assert_eq!(whole.low(), 0);
        assert_eq!(pool.arena().used_frames(), 2);
        assert_eq!(pool.slot_bytes(62 * CHUNK + 1), FRAME + 8);
        assert!(pool.slot_bytes(62 * CHUNK) < FRAME);
        model.verify();
        model.free_all();
    }
}

#[test]
fn objects_lie_at_both_ends_and_between() {
    let pool = pools(ZpoolKind::Z3fold, FRAME, 32);
    let mut model = Model::new(&pool, Random::new(1));
    let starts = [20, 20, 10].map(|chunks| model.alloc(chunks * CHUNK).unwrap().low());
    assert_eq!(starts, [1, 44, 21]);
    // The middle object stays where it is, and both sides of it serve.
    for object in model.objects.drain(..2) {
        pool.free(object.handle, object.bytes);
    }
    let starts = [33, 20].map(|chunks| model.alloc(chunks * CHUNK).unwrap().low());
    assert_eq!(starts, [31, 1]);
    assert_eq!(pool.arena().used_frames(), 1);
    model.verify();
    model.free_all();
}

#[test]
fn the_tightest_frame_takes_an_object() {
    let pool = pools(ZpoolKind::Zbud, FRAME, 32);
    let mut model = Model::new(&pool, Random::new(1));
    let frames = [40, 30, 50].map(|chunks| model.alloc(chunks * CHUNK).unwrap().frame());
    assert_eq!(model.alloc(20 * CHUNK).unwrap().frame(), frames[0]);
    assert_eq!(model.alloc(20 * CHUNK).unwrap().frame(), frames[1]);
    assert_eq!(model.alloc(13 * CHUNK).unwrap().frame(), frames[2]);
    model.free_all();
}

#[test]
fn frames_of_one_object_are_merged() {
    for (zpool, keep_start, frames_after) in [
        (ZpoolKind::Zbud, 1, 15),
        (ZpoolKind::Zbud, 48, 15),
        (ZpoolKind::Z3fold, 1, 10),
        // In the middle of their frames, with room on both sides.
        (ZpoolKind::Z3fold, 17, 10),
        (ZpoolKind::Z3fold, 48, 10),
    ] {
        let pool = pools(zpool, FRAME, 32);
        let mut model = Model::new(&pool, Random::new(1));
        while pool.arena().used_frames() <= 30 {
            model.alloc(16 * CHUNK).unwrap();
        }
        for object in std::mem::take(&mut model.objects) {
            if object.handle.low() == keep_start && object.handle.frame() < 30 {
                model.objects.push(object);
            } else {
                pool.free(object.handle, object.bytes);
            }
        }
        assert_eq!((model.len(), pool.arena().used_frames()), (30, 30));
        while model.compact().is_some_and(|moved| moved == 1) {
            pool.check();
        }
        assert_eq!(pool.arena().used_frames(), frames_after, "{zpool:?}");
        model.verify();
        model.free_all();
    }
}
