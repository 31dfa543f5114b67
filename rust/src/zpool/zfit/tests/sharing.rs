//! Shards that come into use when threads meet, and regions that they take from others.

use std::sync::Barrier;

use super::*;

/// A pool of so many shards, of which the first alone is in use, and frames of 4 KiB.
fn pool_of(frames: u64, shards: u64) -> Zfit {
    let arena = Arena::create(options(4096, frames)).expect("memory for a test");
    let pool = Zfit::with_shards(Arc::new(arena), shards);
    pool.in_use.store(1, Relaxed);
    pool
}

/// Frames of the regions of each shard.
fn frames_of(pool: &Zfit) -> Vec<u64> {
    let shards = 0..pool.shards.len();
    shards.map(|index| pool.lock(index).frames).collect()
}

/// Fills most of a pool from its first shard.
fn filled<'a>(pool: &'a Zfit, seed: u64) -> Model<'a> {
    turn::begin();
    let mut model = Model::new(pool, Random::new(seed));
    while pool.arena().used_frames() < pool.arena().frames() * 3 / 4 {
        model.alloc_random().expect("room");
    }
    model
}

#[test]
fn one_thread_has_one_shard() {
    let pool = pool_of(2048, 3);
    let mut model = filled(&pool, 1);
    for _ in 0..10_000 {
        model.free_random();
        model.alloc_random().expect("room");
    }
    assert_eq!(pool.in_use.load(Relaxed), 1);
    assert_eq!(frames_of(&pool)[1..], [0, 0]);
    model.free_all();
}

#[test]
fn who_finds_all_shards_busy_too_often_has_one_more() {
    let pool = pool_of(64, 2);
    turn::begin();
    assert_eq!(pool.lock_met(0, 1).0, 0, "once is not too often");
    assert!((0..1000).any(|_| pool.lock(0).meet()));
    let index = pool.lock_met(0, 1).0;
    assert_eq!((index, pool.in_use.load(Relaxed)), (1, 2));
    // There is no third one: it waits for its own.
    let index = pool.lock_met(0, 2).0;
    assert_eq!((index, pool.in_use.load(Relaxed)), (0, 2));
}

#[test]
fn a_shard_that_comes_into_use_takes_its_share_of_the_regions() {
    for seed in seeds(4) {
        let pool = pool_of(4096, 2);
        let mut model = filled(&pool, seed);
        let (before, stats) = (frames_of(&pool), pool.stats());
        pool.in_use.store(2, Relaxed);
        for round in 0..1000 {
            turn::take(1, 2);
            model.alloc(50 + round % 3900).expect("room");
            turn::take(0, 2);
            model.free_random();
        }
        pool.check();
        model.verify();
        let after = frames_of(&pool);
        assert_eq!(before[1], 0);
        assert!(after[1] * 4 >= after[0] * 3, "{before:?} {after:?}");
        assert!(after[0] * 4 >= after[1] * 3, "not to and fro: {after:?}");
        let now = pool.stats();
        assert_eq!(now.objects, stats.objects);
        assert!(now.block_bytes <= stats.block_bytes + stats.block_bytes / 16);
        model.free_all();
        assert_eq!(pool.stats().objects + pool.stats().object_bytes, 0);
        assert_eq!(pool.arena().used_frames(), 0);
    }
}

#[test]
fn a_slot_that_is_freed_while_its_region_moves_is_freed_where_it_goes() {
    let pool = pool_of(4096, 2);
    let mut model = filled(&pool, 7);
    let object = model.objects.swap_remove(0);
    let handle = object.handle;
    pool.in_use.store(2, Relaxed);
    // Who frees it read this, and waits.
    let read = pool.shard_of(handle);
    turn::take(1, 2);
    while pool.shard_of(handle) == read {
        model
            .alloc(3900)
            .expect("its region moves before all are used up");
    }
    let is_here = || pool.shard_of(handle) == read;
    let freed = (handle.0, object.bytes);
    assert!(!pool.shards[read].free(&pool.arena, freed, is_here));
    assert!(!pool.shards[read].free_later(&pool.arena, freed, is_here));
    pool.free(handle, object.bytes);
    pool.check();
    model.free_all();
}

#[test]
fn the_region_out_of_allocation_is_left_where_it_is() {
    let pool = pool_of(4096, 2);
    let mut model = filled(&pool, 3);
    model.free_some(model.len() / 3);
    // Those between short holes are left where they are.
    while pool.lock(0).isolated.is_none() {
        assert!(pool.isolate(&mut |_| ()));
    }
    let isolated = pool.lock(0).isolated;
    pool.in_use.store(2, Relaxed);
    turn::take(1, 2);
    for _ in 0..1000 {
        model.alloc(3900).expect("room");
        model.free_random();
        turn::take(1, 2);
    }
    assert!(frames_of(&pool)[1] > 0);
    let region = Region::around(&pool.arena, isolated.frame());
    assert_eq!(region.map(|it| it.shard), Some(0));
    pool.check();
    pool.settle();
    pool.check();
    model.free_all();
}

#[test]
fn three_threads_that_meet_in_a_full_pool_disturb_nothing() {
    for seed in seeds(2) {
        let pool = pool_of(8192, 3);
        // Of one thread and in one shard, and the others' threads free and move them.
        let mut models: Vec<_> = (0..3)
            .map(|thread| {
                turn::begin();
                let random = Random::new(seed + thread);
                let mut model = Model::new(&pool, random).owners_from(thread << 24);
                model.alloc_some(6000);
                model
            })
            .collect();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for model in &mut models {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for step in 0..40_000 {
                        model.free_random();
                        let _ = model.alloc_random();
                        if step % 10_000 == 0 {
                            model.verify();
                        }
                    }
                });
            }
            start.wait();
            // Whatever thread is where, as many shards come into use as there are.
            pool.in_use.store(3, Relaxed);
            while frames_of(&pool)[1..].contains(&0) {
                std::thread::yield_now();
            }
            (0..50).for_each(|_| assert!(pool.stats().objects <= 18_003));
        });
        pool.check();
        for model in &mut models {
            model.verify();
            model.free_each();
        }
        assert_eq!(pool.stats().objects + pool.stats().object_bytes, 0);
        assert_eq!(pool.arena().used_frames(), 0);
    }
}
