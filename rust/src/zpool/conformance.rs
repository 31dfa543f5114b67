//! What every zpool must do, at every frame size: one suite for all of them.
//!
//! [`conformance`] panics on the first thing that is wrong. Random parts print their seed on
//! failure; the environment variable `SEED` replays one.
//!
//! Not here: tests of a single pool's tables (beside the pool), shrinking property tests (`tests`).

mod adoption;
mod model;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use model::{Model, Object, Random, seeds, typical_object_bytes};

use super::mapping::{SYSTEM_PAGE_BYTES, unit_bytes_in};
use super::{
    AllocError, Arena, ArenaOptions, CHAIN_FRAMES_MAX_DEFAULT, Pools, Sweep, Tag, Zpool, ZpoolKind,
};
use crate::page::PAGE_BYTES_ALLOWED;

/// Makes the pool under test in an arena.
pub type Make<'a> = &'a dyn Fn(Arena) -> Pools;

/// Memory as from hugetlbfs, by several frames at once, and small enough for a test.
const LARGE_UNIT_BYTES: usize = 64 << 10;

/// Runs the whole suite over pools that `make` makes, of which `zpool` is the current one.
pub fn conformance(zpool: ZpoolKind, make: impl Fn(Arena) -> Pools) {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        Suite::new(zpool, &make, frame_bytes).run();
    }
    for frame_bytes in [4096, 16 << 10] {
        let suite = Suite::new(zpool, &make, frame_bytes);
        Suite {
            unit_bytes: LARGE_UNIT_BYTES,
            ..suite
        }
        .run();
    }
}

/// Runs the whole suite over zsmalloc with chains of at most so many frames.
pub fn conformance_of_chains(chain_frames_max: u32) {
    let make = |arena| Pools::new(arena, ZpoolKind::Zsmalloc);
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let suite = Suite::new(ZpoolKind::Zsmalloc, &make, frame_bytes);
        Suite {
            chain_frames_max,
            ..suite
        }
        .run();
    }
}

/// Runs what concerns memory files in a directory, where memory may come by whole huge pages.
pub fn conformance_in(dir: &Path, zpool: ZpoolKind, make: impl Fn(Arena) -> Pools) {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let suite = Suite {
            unit_bytes: unit_bytes_in(Some(dir)).expect("a directory for memory files"),
            parent: dir.to_owned(),
            ..Suite::new(zpool, &make, frame_bytes)
        };
        suite.memory_held_is_what_the_system_counts();
        suite.a_successor_finds_every_object();
        suite.a_successor_refuses_what_cannot_be();
        suite.a_successor_survives_garbage();
    }
}

/// A long churn at every frame size: as many steps as `CHURN_STEPS` says, else a million at 4 KiB
/// and fewer where an object is larger, so that it takes seconds.
pub fn long_churn(zpool: ZpoolKind, make: impl Fn(Arena) -> Pools) {
    let steps_asked = std::env::var("CHURN_STEPS").ok();
    let steps_asked = steps_asked.map(|steps| steps.parse().expect("CHURN_STEPS is a number"));
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let suite = Suite::new(zpool, &make, frame_bytes);
        let steps = steps_asked.unwrap_or(1_000_000 / (frame_bytes as u32 / 4096));
        for seed in seeds(1) {
            suite.churn(seed, steps, 2000);
        }
    }
}

/// One pool at one frame size.
pub struct Suite<'a> {
    /// The current pool.
    pub zpool: ZpoolKind,
    /// Makes it.
    pub make: Make<'a>,
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Longest chain of zsmalloc.
    chain_frames_max: u32,
    /// Memory comes and goes by so much.
    unit_bytes: usize,
    /// Where directories for memory files are made.
    parent: PathBuf,
}

impl<'a> Suite<'a> {
    /// A suite over memory as usual.
    pub fn new(zpool: ZpoolKind, make: Make<'a>, frame_bytes: usize) -> Self {
        Self {
            zpool,
            make,
            frame_bytes,
            chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
            unit_bytes: SYSTEM_PAGE_BYTES,
            parent: memory_parent(),
        }
    }

    fn run(&self) {
        self.every_size_round_trips();
        self.objects_have_distinct_places();
        self.a_full_pool_keeps_its_limit_and_takes_objects_again();
        self.without_a_frame_a_larger_slot_serves();
        self.objects_that_do_not_fit_are_refused();
        self.a_populated_pool_holds_its_memory();
        self.two_threads_do_not_disturb_each_other();
        self.a_sweep_reports_each_object_once();
        self.an_isolated_block_can_be_emptied();
        self.compaction_of_a_full_pool_ends();
        self.a_settled_block_is_allocated_from_again();
        self.free_memory_goes_back();
        self.classes_add_up_to_the_pool();
        self.memory_held_is_what_the_system_counts();
        self.a_successor_finds_every_object();
        self.a_successor_refuses_what_cannot_be();
        self.a_successor_survives_garbage();
        for seed in seeds(4) {
            self.churn(seed, 3000, 100);
        }
    }

    /// Options for a small pool in nameless memory.
    pub fn options(&self, frames: u64) -> ArenaOptions {
        let in_units = |bytes: u64| bytes.next_multiple_of(self.unit_bytes as u64);
        let side_bytes = in_units(4096 + frames * 8);
        ArenaOptions {
            path: None,
            instance: 7,
            frame_bytes: self.frame_bytes,
            pool_bytes_max: side_bytes + in_units(frames * self.frame_bytes as u64),
            chain_frames_max: self.chain_frames_max,
            populate: false,
            unit_bytes: self.unit_bytes,
        }
    }

    /// A small pool in nameless memory.
    pub fn pool(&self, frames: u64) -> Pools {
        (self.make)(Arena::create(self.options(frames)).expect("memory for a test"))
    }

    fn every_size_round_trips(&self) {
        let pool = self.pool(256);
        let mut model = Model::new(&pool, Random::new(1));
        assert_eq!(pool.kind(), self.zpool);
        assert!(pool.object_bytes_max() >= self.frame_bytes);
        let step = self.frame_bytes / 4096;
        for bytes in (1..=64)
            .chain((65..=self.frame_bytes).step_by(step))
            .chain([self.frame_bytes])
        {
            model.alloc(bytes).expect("an empty pool has room");
            assert!(pool.slot_bytes(bytes) >= bytes, "a slot of {bytes}");
            model.free_random();
        }
        assert_eq!(pool.stats(), Default::default());
    }

    fn objects_have_distinct_places(&self) {
        let pool = self.pool(600);
        let mut model = Model::new(&pool, Random::new(2));
        while model.alloc_random().is_ok() {}
        model.verify();
        // Longer blocks, of which each class has a part-filled one, leave room for fewer.
        let least = 300 * CHAIN_FRAMES_MAX_DEFAULT / self.chain_frames_max.max(8);
        assert!(
            model.len() > least as usize,
            "only {} objects fit",
            model.len()
        );
        model.free_all();
    }

    fn a_full_pool_keeps_its_limit_and_takes_objects_again(&self) {
        let pool = self.pool(300);
        let limit = pool.arena().options().pool_bytes_max;
        let mut model = Model::new(&pool, Random::new(3));
        for _ in 0..20 {
            while model.alloc_random().is_ok() {
                assert!(pool.arena().held_bytes() <= limit);
            }
            assert!(pool.stats().block_bytes <= limit);
            let bytes = model.free_random();
            assert!(
                model.alloc(bytes).is_ok(),
                "a place of {bytes} bytes was free"
            );
            model.free_some(40);
            pool.check();
        }
        model.free_all();
    }

    fn without_a_frame_a_larger_slot_serves(&self) {
        let pool = self.pool(40);
        let mut model = Model::new(&pool, Random::new(10));
        model
            .alloc(self.frame_bytes / 3)
            .expect("an empty pool has room");
        while model.alloc(self.frame_bytes).is_ok() {}
        assert_eq!(pool.arena().used_frames(), pool.arena().frames());
        // Smaller objects have no block of their own and get none; they share the first one's.
        let mut shared = 0;
        while model.alloc(1 + shared % 64).is_ok() {
            shared += 1;
        }
        assert!(shared > 0, "the first block had free slots");
        while model.alloc(1).is_ok() {}
        for bytes in [
            1,
            64,
            self.frame_bytes / 3,
            self.frame_bytes / 2,
            self.frame_bytes,
        ] {
            assert_eq!(model.alloc(bytes), Err(AllocError::Full), "{bytes} bytes");
        }
        model.free_all();
    }

    fn objects_that_do_not_fit_are_refused(&self) {
        let pool = self.pool(32);
        let tag = Tag { owner: 1, stamp: 1 };
        let bytes = pool.object_bytes_max();
        assert_eq!(pool.alloc(bytes + 1, tag), Err(AllocError::TooLarge));
        let mut held = Vec::new();
        while let Ok(handle) = pool.alloc(bytes, tag) {
            held.push(handle);
        }
        assert_eq!(
            held.len(),
            pool.arena().frames() as usize,
            "whole frames waste none"
        );
        assert_eq!(pool.alloc(bytes, tag), Err(AllocError::Full));
        held.into_iter().for_each(|handle| pool.free(handle, bytes));
        pool.check();
    }

    fn a_populated_pool_holds_its_memory(&self) {
        let options = ArenaOptions {
            populate: true,
            ..self.options(40)
        };
        let limit = options.pool_bytes_max;
        let pool = (self.make)(Arena::create(options).expect("memory for a test"));
        let held = pool.arena().held_bytes();
        assert!(
            held <= limit && held + (self.frame_bytes + self.unit_bytes) as u64 > limit,
            "{held} of {limit}"
        );
        pool.arena().release_free(0);
        assert_eq!(pool.arena().held_bytes(), held);
        pool.check();
    }

    fn two_threads_do_not_disturb_each_other(&self) {
        let pool = self.pool(600);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.sweep(&mut Sweep::default(), u32::MAX, &mut |_| ());
                    pool.isolate(&mut |_| ());
                    pool.arena().release_free(100);
                    pool.settle();
                }
            });
            for thread in 0..2 {
                let pool = &pool;
                scope.spawn(move || {
                    let mut model = Model::new(pool, Random::new(thread)).owners_from(thread << 24);
                    for _ in 0..4000 {
                        match model.random().below(100) {
                            0..55 => model.alloc_some(1),
                            _ => model.free_some(1),
                        }
                    }
                    model.verify();
                    model.free_each();
                });
            }
        });
        pool.check();
        assert_eq!(pool.stats(), Default::default());
    }

    /// Random operations against the model, all of it checked every `steps_unchecked` ones.
    pub fn churn(&self, seed: u64, steps: u32, steps_unchecked: u32) {
        let pool = self.pool(200);
        let mut model = Model::new(&pool, Random::new(seed));
        let mut random = Random::new(!seed);
        // Swarm: each seed leans towards its own mix, so that full and empty pools both occur.
        let alloc_percent = 35 + random.below(30);
        for step in 0..steps {
            match random.below(100) {
                n if n < alloc_percent => model.alloc_some(1),
                n if n < 93 => model.free_some(1),
                93..98 => _ = model.compact(),
                98 => pool.settle(),
                _ => pool.arena().release_free(random.below(64) as u32),
            }
            if step % steps_unchecked == 0 {
                model.verify();
                pool.check();
            }
        }
        model.free_all();
    }
}

/// A directory for memory files, removed with its content.
pub struct MemoryDir(PathBuf);

impl MemoryDir {
    /// A new one. `name` says what for, should it be left behind.
    pub fn new(name: &str) -> Self {
        Self::within(&memory_parent(), name)
    }

    /// The same in another directory.
    pub fn within(parent: &Path, name: &str) -> Self {
        // Suites over the same zpool run side by side.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Relaxed));
        let path = parent.join(format!("nbdswap-test-{process}-{number}-{name}"));
        std::fs::create_dir_all(&path).expect("a writable memory directory");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn memory_parent() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

impl Drop for MemoryDir {
    fn drop(&mut self) {
        // A directory that cannot be removed is litter, not a failed test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
