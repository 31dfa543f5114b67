//! Objects of zsmalloc in slots of the next larger classes.

use super::pools;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::{ClassStats, Handle, Pools, Tag, Zpool, ZpoolKind};

/// A class and the next larger one, whose part-used block has free slots; all blocks of the class are full.
struct Pair {
    pool: Pools,
    class: usize,
    /// Objects of the class.
    held: Vec<Handle>,
    /// Those of the larger one.
    larger: Vec<Handle>,
}

impl Pair {
    /// Two blocks of a class and one object of the next one, which it is not `has_shrunk` without.
    fn new(frame_bytes: usize) -> Pair {
        let pool = pools(ZpoolKind::Zsmalloc, frame_bytes, 256);
        // Of small objects, so that some are cheap beside a block.
        let stats = classes(&pool);
        let is_small = |class: &ClassStats| class.object_bytes_max as usize > frame_bytes / 16;
        let class = stats.iter().position(is_small).expect("small objects");
        let mut pair = Pair {
            pool,
            class,
            held: Vec::new(),
            larger: Vec::new(),
        };
        pair.larger.push(pair.alloc_in(class + 1));
        for _ in 0..2 * stats[class].block_slots {
            pair.held.push(pair.alloc_in(class));
        }
        pair
    }

    fn alloc_in(&self, class: usize) -> Handle {
        let bytes = classes(&self.pool)[class].object_bytes_max as usize;
        let tag = Tag { owner: 1, stamp: 0 };
        self.pool.alloc(bytes, tag).expect("room")
    }

    /// Has an object of the class, and says how many slots the class and the larger one have in use then.
    fn alloc(&mut self) -> (u64, u64) {
        self.held.push(self.alloc_in(self.class));
        self.used()
    }

    fn used(&self) -> (u64, u64) {
        let stats = classes(&self.pool);
        (
            stats[self.class].slots_used,
            stats[self.class + 1].slots_used,
        )
    }

    fn free(&mut self, place: usize) {
        let bytes = classes(&self.pool)[self.class].object_bytes_max as usize;
        let handle = self.held.swap_remove(place);
        self.pool.free(handle, bytes);
    }

    /// The objects come and go: one is freed, and another one takes its slot.
    fn shrink_and_grow(&mut self) {
        self.free(0);
        self.alloc();
    }

    fn free_all(mut self) {
        self.pool.check();
        while !self.held.is_empty() {
            self.free(0);
        }
        let bytes = classes(&self.pool)[self.class + 1].object_bytes_max as usize;
        for handle in std::mem::take(&mut self.larger) {
            self.pool.free(handle, bytes);
        }
        // Nothing is owed any more.
        self.pool.check();
        assert_eq!(self.pool.arena().used_frames(), 0);
    }
}

fn classes(pool: &Pools) -> Vec<ClassStats> {
    let mut found = Vec::new();
    pool.classes(&mut |class| found.push(class));
    found
}

#[test]
fn a_class_that_only_grows_borrows_nothing() {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let mut pair = Pair::new(frame_bytes);
        let (used, larger) = pair.used();
        assert_eq!(pair.alloc(), (used + 1, larger));
        pair.free_all();
    }
}

#[test]
fn a_class_whose_objects_come_and_go_borrows_a_little_before_it_builds_a_block() {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let mut pair = Pair::new(frame_bytes);
        pair.shrink_and_grow();
        let (used, larger) = pair.used();
        let frames = pair.pool.arena().used_frames();
        let stats = classes(&pair.pool);
        let [own, next] = [stats[pair.class], stats[pair.class + 1]];
        let more_bytes = next.object_bytes_max - own.object_bytes_max;
        let limit = own.block_frames * frame_bytes as u32 / 8 / more_bytes;
        let borrowed = limit.min(next.block_slots - 1);
        assert!(borrowed > 1, "nothing to see with {own:?} and {next:?}");
        for count in 1..=u64::from(borrowed) {
            assert_eq!(
                pair.alloc(),
                (used, larger + count),
                "frames of {frame_bytes}"
            );
            assert_eq!(pair.pool.arena().used_frames(), frames);
        }
        // What the next class has no room for, a still larger one may have; none of these has a block here.
        assert_eq!(pair.alloc(), (used + 1, larger + u64::from(borrowed)));
        // What was borrowed is given back.
        let last_borrowed = pair.held.len() - 2;
        pair.free(last_borrowed);
        assert_eq!(pair.used(), (used + 1, larger + u64::from(borrowed) - 1));
        pair.free_all();
    }
}

#[test]
fn a_last_block_is_emptied_into_free_slots_of_the_next_class() {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let mut pair = Pair::new(frame_bytes);
        let (used, larger) = pair.used();
        let frames = pair.pool.arena().used_frames();
        assert_eq!(pair.alloc(), (used + 1, larger), "a block for one object");
        let last = *pair.held.last().expect("one object");
        let mut found = Vec::new();
        assert!(
            pair.pool
                .isolate(&mut |resident| found.push(resident.handle))
        );
        assert_eq!(found, [last], "frames of {frame_bytes}");
        assert_eq!(pair.alloc(), (used + 1, larger + 1));
        pair.free(pair.held.len() - 2);
        pair.pool.settle();
        assert_eq!(pair.pool.arena().used_frames(), frames);
        assert!(
            !pair.pool.isolate(&mut |_| ()),
            "all blocks but one are full"
        );
        pair.free_all();
    }
}
