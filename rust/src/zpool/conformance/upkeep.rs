//! Sweeping, emptying blocks, giving memory back.

use std::collections::HashSet;

use super::{Model, Random, SYSTEM_PAGE_BYTES, Suite};
use crate::zpool::{FULLNESS_GROUPS, Sweep, Zpool, ZpoolStats};

impl Suite<'_> {
    pub(super) fn a_sweep_reports_each_object_once(&self) {
        let pool = self.pool(300);
        let mut model = Model::new(&pool, Random::new(4));
        model.alloc_some(400);
        model.free_some(150);
        for frames in [1, 7, 10_000] {
            let mut seen = HashSet::new();
            let mut sweep = Sweep::default();
            let mut calls = 0;
            loop {
                let at_end = pool.sweep(&mut sweep, frames, &mut |resident| {
                    assert!(seen.insert((resident.handle, resident.tag.owner, resident.tag.stamp)));
                });
                calls += 1;
                assert!(
                    calls <= pool.arena().frames(),
                    "a sweep that does not advance"
                );
                if at_end {
                    break;
                }
            }
            let held = model
                .objects
                .iter()
                .map(|o| (o.handle, o.tag.owner, o.tag.stamp));
            assert_eq!(seen, held.collect::<HashSet<_>>());
            assert_eq!(
                sweep,
                Sweep::default(),
                "a sweep ends where the next one starts"
            );
        }
        model.free_all();
    }

    pub(super) fn an_isolated_block_can_be_emptied(&self) {
        let pool = self.pool(600);
        let mut model = Model::new(&pool, Random::new(5));
        while model.alloc(self.frame_bytes / 5).is_ok() {}
        model.free_some(model.len() * 2 / 3);
        let before = pool.stats();
        let rounds = (0..1000).take_while(|_| model.compact().is_some()).count();
        assert!(rounds < 1000, "isolation finds blocks for ever");
        assert_eq!(pool.stats().objects, before.objects);
        pool.check();
        model.verify();
        let after = pool.stats();
        // What is left is one part-filled block, of at most a 16th of the frames here, or one of each shard: of
        // twenty seeds with three shards the most was 17.8 frames. Pools that put few objects into a frame
        // have few holes to begin with.
        let holes = |stats: ZpoolStats| stats.block_bytes - stats.slot_bytes;
        assert!(
            holes(after) < 18 * (self.frame_bytes as u64 + 8),
            "{before:?} {after:?}"
        );
        assert!(holes(after) < holes(before) / 2, "{before:?} {after:?}");
        model.free_all();
    }

    /// Where no frames are left for a block that an object would be put into, it may go where it came from.
    pub(super) fn compaction_of_a_full_pool_ends(&self) {
        for seed in 0..20 {
            let pool = self.pool(48);
            let mut model = Model::new(&pool, Random::new(seed));
            for _ in 0..10 {
                while model.alloc_random().is_ok() {}
                model.free_some(model.len() / 8);
            }
            let rounds = (0..1000).take_while(|_| {
                let moved = model.compact();
                pool.settle();
                moved.is_some_and(|moved| moved > 0)
            });
            let rounds = rounds.count();
            assert!(rounds < 1000, "seed {seed}: objects move for ever");
            pool.check();
            model.verify();
            model.free_all();
        }
    }

    pub(super) fn a_settled_block_is_allocated_from_again(&self) {
        let pool = self.pool(64);
        let bytes = self.frame_bytes / 3;
        let mut model = Model::new(&pool, Random::new(6));
        (0..100).for_each(|_| assert!(model.alloc(bytes).is_ok()));
        let frames = pool.arena().used_frames();
        assert!(
            !pool.isolate(&mut |_| ()),
            "no block to empty among full ones"
        );
        model.free_some(50);
        let mut isolated = 0;
        assert!(
            pool.isolate(&mut |_| isolated += 1),
            "half the slots are free"
        );
        assert!(isolated > 0, "an isolated block has objects");
        // Or objects are reported that could be moved before a block is.
        let is_over = (0..3).any(|_| !pool.isolate(&mut |_| ()));
        assert!(is_over, "one block of a class at a time");
        pool.check();
        pool.settle();
        pool.check();
        (0..50).for_each(|_| assert!(model.alloc(bytes).is_ok()));
        let again = pool.arena().used_frames();
        assert!(again <= frames, "{again} frames where {frames} were enough");
        model.free_all();
    }

    pub(super) fn classes_add_up_to_the_pool(&self) {
        let pool = self.pool(600);
        let mut model = Model::new(&pool, Random::new(11));
        let sums = || {
            let (mut blocks, mut used, mut frames, mut freeable) = (0, 0, 0, 0);
            pool.classes(&mut |class| {
                used += class.slots_used;
                assert_eq!(class.fullness.iter().sum::<u64>(), class.blocks);
                assert_eq!(class.fullness[0], 0, "a block without objects is kept");
                assert!(class.slots_used <= class.slots, "{class:?}");
                assert!(
                    class.freeable_frames <= class.frames - class.blocks.min(1),
                    "not all blocks are left over: {class:?}"
                );
                assert_eq!(class.block_slots == 0, class.block_frames == 0, "{class:?}");
                // Where objects of all sizes share blocks, these differ too.
                if class.block_slots > 0 {
                    assert_eq!(class.slots, class.blocks * u64::from(class.block_slots));
                    assert_eq!(class.frames, class.blocks * u64::from(class.block_frames));
                    let full = class.fullness[FULLNESS_GROUPS - 1] * u64::from(class.block_slots);
                    assert!(full <= class.slots_used, "{class:?}");
                }
                blocks += class.blocks;
                frames += class.frames;
                freeable += class.freeable_frames;
            });
            let stats = pool.stats();
            assert_eq!(used, stats.objects);
            assert_eq!(frames * (self.frame_bytes as u64 + 8), stats.block_bytes);
            assert_eq!(frames, u64::from(pool.arena().used_frames()));
            (blocks, freeable)
        };
        assert_eq!(sums(), (0, 0));
        while model.alloc_random().is_ok() {}
        sums();
        model.free_some(model.len() / 2);
        let (blocks, freeable) = sums();
        while model.compact().is_some() {}
        let (blocks_left, freeable_left) = sums();
        assert!(blocks_left <= blocks && freeable_left <= freeable);
        model.free_all();
        assert_eq!(sums(), (0, 0));
    }

    pub(super) fn free_memory_goes_back(&self) {
        let pool = self.pool(1200);
        let mut model = Model::new(&pool, Random::new(7));
        let empty = pool.arena().held_bytes();
        while model.alloc_random().is_ok() {}
        let full = pool.arena().held_bytes();
        assert!(full > empty);
        model.free_some(model.len() / 2);
        let rounds = (0..1000).take_while(|_| model.compact().is_some()).count();
        assert!(rounds < 1000, "isolation finds blocks for ever");
        pool.arena().release_free(5);
        let frame_bytes = self.frame_bytes as u64;
        let used = u64::from(pool.arena().used_frames()) * frame_bytes;
        let held = pool.arena().held_bytes();
        // In a larger unit free frames stay beside used ones.
        let is_exact = self.unit_bytes == SYSTEM_PAGE_BYTES;
        assert!(
            !is_exact || held <= used + 5 * frame_bytes + 5 * 4096,
            "{held} held, {used} used"
        );
        model.verify();
        pool.check();
        while model.alloc_random().is_ok() {}
        model.verify();
        model.free_all();
        pool.arena().release_free(0);
        assert!(
            pool.arena().held_bytes() <= empty + 4 * self.unit_bytes as u64,
            "side words alone are held"
        );
    }
}
