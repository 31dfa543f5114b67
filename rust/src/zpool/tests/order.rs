//! Which block of equal slots an object goes to, and which one is emptied.

use std::collections::HashSet;

use super::pools;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::{Handle, Pools, Tag, Zpool, ZpoolKind};

/// Blocks of one class, each with a share of its slots in use.
struct Blocks<'a> {
    pool: &'a Pools,
    object_bytes: usize,
    /// Of each block the objects that are left.
    held: Vec<HashSet<Handle>>,
    /// Of each block the places that were freed.
    freed: Vec<HashSet<Handle>>,
}

impl<'a> Blocks<'a> {
    /// A block for each of `percents`, filled one after the other and then freed down to that.
    fn filled_to(pool: &'a Pools, object_bytes: usize, percents: &[usize]) -> Self {
        let slots = slots_of_block(pool, object_bytes);
        assert!(slots >= 16, "{slots} slots a block tell little");
        let block = |_| (0..slots).map(|_| alloc(pool, object_bytes)).collect();
        let mut blocks = Blocks {
            pool,
            object_bytes,
            held: percents.iter().map(block).collect(),
            freed: vec![HashSet::new(); percents.len()],
        };
        for (block, percent) in percents.iter().enumerate() {
            let places: Vec<Handle> = blocks.held[block].iter().copied().collect();
            for &place in &places[slots * percent / 100..] {
                blocks.free(block, place);
            }
        }
        blocks
    }

    fn free(&mut self, block: usize, place: Handle) {
        self.pool.free(place, self.object_bytes);
        assert!(self.held[block].remove(&place) && self.freed[block].insert(place));
    }

    /// Allocates one object, and says which block it went to.
    fn alloc(&mut self) -> usize {
        let place = alloc(self.pool, self.object_bytes);
        let took = |freed: &mut HashSet<Handle>| freed.remove(&place);
        let block = self.freed.iter_mut().position(took);
        let block = block.expect("a free slot of these blocks");
        self.held[block].insert(place);
        block
    }

    /// The block that `isolate` takes out, all of whose objects then move. None: it takes none.
    fn empty_one(&mut self) -> Option<usize> {
        let mut found = HashSet::new();
        if !self.pool.isolate(&mut |it| _ = found.insert(it.handle)) {
            return None;
        }
        let block = self.held.iter().position(|held| *held == found);
        let block = block.expect("the objects of one of these blocks, all of them");
        // Nothing goes there any more.
        self.freed[block].clear();
        for place in found {
            self.alloc();
            self.free(block, place);
        }
        self.freed[block].clear();
        Some(block)
    }
}

fn alloc(pool: &Pools, object_bytes: usize) -> Handle {
    let tag = Tag { owner: 1, stamp: 0 };
    pool.alloc(object_bytes, tag).expect("room")
}

/// Slots of a block for objects of that size.
fn slots_of_block(pool: &Pools, object_bytes: usize) -> usize {
    let mut slots = None;
    pool.classes(&mut |class| {
        if slots.is_none() && object_bytes <= class.object_bytes_max as usize {
            slots = Some(class.block_slots as usize);
        }
    });
    slots.expect("a class for every size")
}

/// Runs a test for a zpool at all sizes of frames.
fn in_each_size(zpool: ZpoolKind, test: impl Fn(&Pools, usize)) {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        let pool = pools(zpool, frame_bytes, 256);
        test(&pool, frame_bytes);
        pool.check();
    }
}

/// Runs a test for the zpools with blocks of equal slots, at all sizes of frames.
fn in_each(test: impl Fn(&Pools, usize)) {
    in_each_size(ZpoolKind::Zblock, &test);
    in_each_size(ZpoolKind::Zsmalloc, &test);
}

#[test]
fn objects_of_zblock_go_to_the_block_that_has_had_room_for_longest() {
    in_each_size(ZpoolKind::Zblock, |pool, frame_bytes| {
        let mut blocks = Blocks::filled_to(pool, frame_bytes / 20, &[10, 70, 30, 90, 50]);
        for block in 0..5 {
            for _ in 0..blocks.freed[block].len() {
                assert_eq!(blocks.alloc(), block);
            }
        }
        // One that was full goes to the end of the list, however empty it is by then.
        for block in [3, 0, 2] {
            let places: Vec<Handle> = blocks.held[block].iter().copied().collect();
            for &place in &places[places.len() * block / 4..] {
                blocks.free(block, place);
            }
        }
        for block in [3, 2] {
            for _ in 0..blocks.freed[block].len() {
                assert_eq!(blocks.alloc(), block);
            }
        }
    });
}

#[test]
fn objects_of_zsmalloc_go_to_the_fullest_block_that_has_room() {
    in_each_size(ZpoolKind::Zsmalloc, |pool, frame_bytes| {
        let mut blocks = Blocks::filled_to(pool, frame_bytes / 20, &[10, 70, 30, 90, 50]);
        for block in [3, 1, 4, 2, 0] {
            for _ in 0..blocks.freed[block].len() {
                assert_eq!(blocks.alloc(), block);
            }
        }
    });
}

#[test]
fn a_block_of_zsmalloc_that_is_freed_from_falls_behind_fuller_ones() {
    in_each_size(ZpoolKind::Zsmalloc, |pool, frame_bytes| {
        let mut blocks = Blocks::filled_to(pool, frame_bytes / 20, &[90, 60]);
        let places: Vec<Handle> = blocks.held[0].iter().copied().collect();
        for &place in &places[places.len() / 3..] {
            blocks.free(0, place);
        }
        assert_eq!(blocks.alloc(), 1);
    });
}

#[test]
fn the_emptiest_block_is_emptied_first() {
    in_each(|pool, frame_bytes| {
        // The first two are in one list, where the emptier one is the last.
        let percents = [21, 28, 100, 70, 50, 40];
        let mut blocks = Blocks::filled_to(pool, frame_bytes / 20, &percents);
        let mut emptied = Vec::new();
        while let Some(block) = blocks.empty_one() {
            emptied.push(block);
        }
        assert_eq!(emptied[0], 0);
        if pool.kind() == ZpoolKind::Zsmalloc {
            // What was in it filled the fullest of the others.
            assert_eq!(emptied[1], 1);
        }
        assert!(
            !emptied.contains(&2) && !emptied.contains(&3),
            "{emptied:?}"
        );
    });
}

#[test]
fn of_all_classes_the_emptiest_block_is_emptied_first() {
    in_each(|pool, frame_bytes| {
        let _short = Blocks::filled_to(pool, frame_bytes / 40, &[50, 40, 50]);
        let mut long = Blocks::filled_to(pool, frame_bytes / 20, &[60, 15, 60]);
        assert_eq!(long.empty_one(), Some(1));
    });
}
