//! What the suite over all zpools does not reach: more shards than one, extremes, and when compaction
//! ends.

mod crash;
mod frames;
mod merging;
mod sharing;

use super::*;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::conformance::{MemoryDir, Model, Random, Suite, conformance, long_churn, seeds};
use crate::zpool::{AdoptError, AllocError, ArenaOptions, Pools, Zpool};

/// A zfit of so many shards among other pools.
fn pools_of(arena: Arena, shards: u64) -> Pools {
    Pools::of(arena, ZpoolKind::Zfit, |kind, arena| match kind {
        ZpoolKind::Zfit => Box::new(Zfit::with_shards(arena, shards)),
        other => other.make(arena),
    })
}

fn options(frame_bytes: usize, frames: u64) -> ArenaOptions {
    let suite = Suite::new(ZpoolKind::Zfit, &|arena| pools_of(arena, 1), frame_bytes);
    suite.options(frames)
}

fn pools(frame_bytes: usize, frames: u64, shards: u64) -> Pools {
    let arena = Arena::create(options(frame_bytes, frames)).expect("memory for a test");
    pools_of(arena, shards)
}

const TAG: Tag = Tag { owner: 0, stamp: 0 };

#[test]
fn three_shards_conform() {
    conformance(ZpoolKind::Zfit, |arena| pools_of(arena, 3));
}

#[test]
fn three_shards_survive_a_long_churn() {
    long_churn(ZpoolKind::Zfit, |arena| pools_of(arena, 3));
}

#[test]
fn a_predecessor_with_more_shards_is_refused_where_they_lack() {
    let dir = MemoryDir::new("zfit-shards");
    let options = ArenaOptions {
        path: Some(dir.file("pool")),
        ..options(4096, 64)
    };
    let first = pools_of(Arena::create(options.clone()).unwrap(), 3);
    let tags = [0, 1, 2].map(|owner| Tag { owner, stamp: 9 });
    // So long that the region of a shard has no room for those of others.
    let handles = [0, 1, 2].map(|shard| {
        turn::take(shard, 3);
        let handle = first.alloc(4080, tags[shard]).unwrap();
        (0..3).for_each(|_| _ = first.alloc(4080, tags[shard]).unwrap());
        handle
    });
    let second = pools_of(Arena::open(options).unwrap(), 2);
    let outcomes = [0, 1, 2].map(|index| second.adopt(handles[index], 4080, tags[index]));
    assert_eq!(outcomes, [Ok(()), Ok(()), Err(AdoptError::BadHandle)]);
    second.adopted().unwrap();
    second.check();
    assert_eq!(second.stats().objects, 2);
}

/// Takes all frames but every other one.
fn scatter(pool: &Pools) {
    let arena = pool.arena();
    let mut frames = Vec::new();
    while let Some(frame) = arena.alloc_run(1) {
        frames.push(frame);
    }
    let others = frames.into_iter().step_by(2);
    others.for_each(|frame| arena.free_run(frame, 1));
}

#[test]
fn every_frame_serves_where_free_ones_lie_scattered() {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        // Of all these some fit into a slot of a lone frame, some not, some have no slot at all.
        for bytes in frame_bytes - 40..=frame_bytes {
            let pool = pools(frame_bytes, 40, 1);
            scatter(&pool);
            let free = (0..40).filter(|&frame| !pool.arena().in_use(frame)).count();
            let found = (0..100).take_while(|_| pool.alloc(bytes, TAG).is_ok());
            assert_eq!(found.count(), free, "objects of {bytes}");
            assert_eq!(pool.arena().used_frames(), pool.arena().frames());
        }
    }
}

#[test]
fn a_page_finds_the_frame_of_a_slot_that_was_freed_just_now() {
    let pool = pools(4096, 40, 1);
    scatter(&pool);
    let slot = pool.alloc(2000, TAG).unwrap();
    while pool.alloc(4096, TAG).is_ok() {}
    pool.free(slot, 2000);
    assert_ne!(pool.alloc(4096, TAG), Err(AllocError::Full));
}

#[test]
fn what_is_freed_while_its_shard_is_busy_is_freed_by_who_has_it_next() {
    let arena = Arena::create(options(4096, 16)).expect("memory for a test");
    let pool = Zfit::with_shards(Arc::new(arena), 1);
    let handles: Vec<_> = (0..20).map(|_| pool.alloc(1000, TAG).unwrap()).collect();
    let busy = pool.lock(0);
    // None of these waits for the lock: this thread has it.
    handles[..16].iter().for_each(|&slot| pool.free(slot, 1000));
    drop(busy);
    assert_eq!(pool.stats().objects, 4);
    pool.check();
    handles[16..].iter().for_each(|&slot| pool.free(slot, 1000));
    assert_eq!(pool.stats().objects, 0);
}

#[test]
fn short_holes_leave_half_of_the_nodes_to_longer_ones() {
    let arena = Arena::create(options(4096, 64)).expect("memory for a test");
    let grain = Grain::of(4096);
    let memory = links::Memory {
        arena: &arena,
        grain,
    };
    let mut bins = bins::Bins::new(513, 4);
    let spot = |place: u32| Handle::of(0, place * 20).0;
    let mut pushed = |place, granules| bins.push(memory, spot(place), granules) != nodes::NONE;
    let short = [0, 1, 2].map(|place| pushed(place, 3));
    assert_eq!(short, [true, true, false]);
    let longer = [3, 4, 5].map(|place| pushed(place, 4));
    assert_eq!(longer, [true, true, false], "the last is linked");
    assert_eq!(bins.holes(), 5);
    assert_eq!(bins.take(memory, 3), Some((spot(1), 3)));
    assert!((0..4).all(|_| bins.take(memory, 3).is_some()));
    assert_eq!(bins.take(memory, 3), None, "one was forgotten");
}

#[test]
fn what_is_freed_in_another_threads_shard_is_missed_by_nobody() {
    let arena = Arena::create(options(4096, 64)).expect("memory for a test");
    let pool = Zfit::with_shards(Arc::new(arena), 2);
    let alloc = |_| pool.alloc(1000, TAG).unwrap();
    turn::take(1, 2);
    let handles: Vec<_> = (0..40).map(alloc).collect();
    turn::take(0, 2);
    let objects = || pool.shards[1].try_lock(&pool.arena).unwrap().objects;
    handles[..7].iter().for_each(|&slot| pool.free(slot, 1000));
    assert_eq!(objects(), 40, "a few are left in the inbox");
    handles[7..24]
        .iter()
        .for_each(|&slot| pool.free(slot, 1000));
    assert!(
        objects() < 40,
        "who is at work there takes what has become much"
    );
    handles[24..36]
        .iter()
        .for_each(|&slot| pool.free(slot, 1000));
    assert_eq!(pool.stats().objects, 4);
    handles[36..].iter().for_each(|&slot| pool.free(slot, 1000));
    turn::take(1, 2);
    pool.free(alloc(0), 1000);
    pool.check();
    assert_eq!(pool.stats().objects, 0);
}

#[test]
#[should_panic(expected = "freed twice")]
fn a_slot_that_is_freed_twice_while_its_shard_is_busy_is_noticed() {
    let arena = Arena::create(options(4096, 16)).expect("memory for a test");
    let pool = Zfit::with_shards(Arc::new(arena), 1);
    let slot = pool.alloc(1000, TAG).unwrap();
    let busy = pool.lock(0);
    (0..2).for_each(|_| pool.free(slot, 1000));
    drop(busy);
    pool.stats();
}

/// Compacts as write-back does when nobody writes, and says how often it did something.
fn compactions(pool: &Pools, model: &mut Model<'_>, most: usize) -> usize {
    let round = |_: &usize| {
        let moved = model.compact();
        pool.settle();
        moved.is_some_and(|moved| moved > 0)
    };
    (0..most).take_while(round).count()
}

#[test]
fn compaction_ends_after_random_discards() {
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let (frames, shards) = (40 + random.below(1000), 1 + random.below(4));
        let pool = pools(4096, frames, shards);
        let mut model = Model::new(&pool, Random::new(seed));
        let most_used = 1 + random.below(frames) as u32;
        while pool.arena().used_frames() < most_used && model.alloc_random().is_ok() {}
        for _ in 0..4 {
            model.free_some(random.below(1 + model.len() as u64) as usize);
            let most = pool.arena().used_frames() as usize + 100;
            let rounds = compactions(&pool, &mut model, most);
            assert!(rounds < most, "seed {seed}: {rounds} regions emptied");
            pool.check();
            // Nothing has changed, so there is still nothing to do, but for what was given up once.
            let again = compactions(&pool, &mut model, 100);
            assert!(again <= 8, "seed {seed}: {again} regions emptied again");
            model.alloc_some(random.below(200) as usize);
        }
        model.verify();
        model.free_all();
    }
}

#[test]
fn compaction_of_a_full_pool_ends() {
    for seed in seeds(20) {
        let pool = pools(4096, 100 + 20 * seed, 1 + seed % 3);
        let mut model = Model::new(&pool, Random::new(seed));
        for _ in 0..10 {
            while model.alloc_random().is_ok() {}
            model.free_some(1 + seed as usize * 3);
            let rounds = compactions(&pool, &mut model, 2000);
            assert!(rounds < 2000, "seed {seed}: {rounds} regions");
        }
        model.free_all();
    }
}

/// Objects that all have lengths out of a range, freed and made again at random.
fn churn_lengths(frame_bytes: usize, frames: u64, lengths: std::ops::Range<usize>) {
    let pool = pools(frame_bytes, frames, 1);
    let mut random = Random::new(3);
    let mut held = Vec::new();
    let length = |random: &mut Random| {
        lengths.start + random.below((lengths.end - lengths.start) as u64) as usize
    };
    loop {
        let bytes = length(&mut random);
        match pool.alloc(bytes, TAG) {
            Ok(handle) => held.push((handle, bytes)),
            Err(_) => break,
        }
    }
    let full = held.len();
    let mut refused = 0;
    for _ in 0..full.max(20_000) {
        let index = random.below(held.len() as u64) as usize;
        let (handle, bytes) = held.swap_remove(index);
        pool.free(handle, bytes);
        let bytes = length(&mut random);
        match pool.alloc(bytes, TAG) {
            Ok(handle) => held.push((handle, bytes)),
            Err(_) => refused += 1,
        }
    }
    pool.check();
    let is_tight = lengths.end == lengths.start + 1;
    assert!(
        !is_tight || refused == 0,
        "{refused} of equal length refused"
    );
    assert!(held.len() * 10 > full * 8, "{} of {full}", held.len());
    held.drain(..)
        .for_each(|(handle, bytes)| pool.free(handle, bytes));
    pool.check();
    assert_eq!(pool.arena().used_frames(), 0);
}

#[test]
fn objects_of_one_kind_churn_as_well_as_mixed_ones() {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        churn_lengths(frame_bytes, 400, 8..9);
        churn_lengths(frame_bytes, 400, 1..24);
        churn_lengths(frame_bytes, 400, frame_bytes - 23..frame_bytes);
        churn_lengths(frame_bytes, 400, frame_bytes..frame_bytes + 1);
    }
}
