//! What objects that share a frame have to each other; the suite over both pools is in `zpool`.

use super::*;
use crate::zpool::conformance::{Model, Random, Suite, conformance};
use crate::zpool::z3fold::Three;
use crate::zpool::{Pools, Zpool};

const FRAME: usize = 4096;
const CHUNK: usize = FRAME / CHUNKS as usize;

fn pools(zpool: ZpoolKind, frame_bytes: usize, frames: u64) -> Pools {
    let make = |arena| Pools::new(arena, zpool);
    let suite = Suite::new(zpool, &make, frame_bytes);
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

fn freeable_frames(pool: &Pools) -> u64 {
    let mut sum = 0;
    pool.classes(&mut |class| sum += class.freeable_frames);
    sum
}

#[test]
fn compaction_frees_what_can_be_freed() {
    // A middle object that is alone counts as larger than it is, so z3fold promises less.
    for (zpool, kept_share) in [(ZpoolKind::Zbud, 1.0), (ZpoolKind::Z3fold, 0.8)] {
        let pool = pools(zpool, FRAME, 2000);
        let mut model = Model::new(&pool, Random::new(1));
        while model.alloc_random().is_ok() {}
        model.free_some(model.len() / 2);
        let (promised, before) = (freeable_frames(&pool), pool.arena().used_frames());
        while model.compact() == Some(1) {}
        let freed = u64::from(before - pool.arena().used_frames());
        assert!(freed > 300, "{zpool:?}: {freed} frames freed");
        assert!(promised <= freed, "{zpool:?}: {promised} of {freed}");
        assert!(
            promised as f64 >= kept_share * freed as f64,
            "{zpool:?}: {promised} of {freed}"
        );
        assert_eq!(freeable_frames(&pool), 0, "{zpool:?}");
        model.verify();
        model.free_all();
    }
}

#[test]
fn classes_say_what_frames_hold() {
    let pool = pools(ZpoolKind::Z3fold, FRAME, 64);
    let mut model = Model::new(&pool, Random::new(1));
    for chunks in [21, 21, 21, 31, 32, 50, 64, 64] {
        model.alloc(chunks * CHUNK).unwrap();
    }
    let mut classes = Vec::new();
    pool.classes(&mut |class| classes.push(class));
    let sizes = classes
        .iter()
        .map(|class| class.object_bytes_max as usize / CHUNK);
    assert_eq!(sizes.collect::<Vec<_>>(), [21, 31, 62, 64]);
    let uses = classes
        .iter()
        .map(|class| (class.blocks, class.slots, class.slots_used));
    assert_eq!(
        uses.collect::<Vec<_>>(),
        [(1, 3, 3), (1, 3, 2), (1, 3, 1), (2, 2, 2)]
    );
    let groups = |of: usize| classes[of].fullness.iter().rposition(|&frames| frames > 0);
    assert_eq!([0, 1, 2, 3].map(groups), [11, 11, 8, 11].map(Some));
    model.free_all();
}

#[test]
fn frames_of_one_object_are_merged() {
    for (zpool, keep_start, frames_after, freeable) in [
        (ZpoolKind::Zbud, 1, 15, 15),
        (ZpoolKind::Zbud, 48, 15, 15),
        (ZpoolKind::Z3fold, 1, 10, 20),
        // In the middle of their frames, with room on both sides: more is freed than promised.
        (ZpoolKind::Z3fold, 17, 10, 0),
        (ZpoolKind::Z3fold, 48, 10, 20),
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
        assert_eq!(freeable_frames(&pool), freeable, "{zpool:?}");
        while model.compact().is_some_and(|moved| moved == 1) {
            pool.check();
        }
        assert_eq!(pool.arena().used_frames(), frames_after, "{zpool:?}");
        model.verify();
        model.free_all();
    }
}
