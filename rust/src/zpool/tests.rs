//! The suite over all pools, and density.

mod borrowing;
mod huge_pages;
mod hugetlbfs;
mod mounted;
mod order;
mod steps;

use std::sync::Arc;

use super::conformance::{
    Random, Suite, conformance, conformance_of_chains, long_churn, typical_object_bytes,
};
use super::slotted::Layout;
use super::zblock::{Neighbours, Zblock};
use super::*;

fn conforms(zpool: ZpoolKind) {
    conformance(zpool, |arena| Pools::new(arena, zpool));
}

#[test]
fn zblock_conforms() {
    conforms(ZpoolKind::Zblock);
}

#[test]
fn zsmalloc_conforms() {
    conforms(ZpoolKind::Zsmalloc);
}

#[test]
fn zsmalloc_conforms_with_its_shortest_chains() {
    conformance_of_chains(*CHAIN_FRAMES_MAX_ALLOWED.start());
}

#[test]
fn zsmalloc_conforms_with_its_longest_chains() {
    conformance_of_chains(*CHAIN_FRAMES_MAX_ALLOWED.end());
}

#[test]
fn zbud_conforms() {
    conforms(ZpoolKind::Zbud);
}

#[test]
fn z3fold_conforms() {
    conforms(ZpoolKind::Z3fold);
}

#[test]
fn zfit_conforms() {
    conforms(ZpoolKind::Zfit);
}

#[test]
fn every_zpool_survives_a_long_churn() {
    std::thread::scope(|scope| {
        for zpool in ZpoolKind::ALL {
            scope.spawn(move || long_churn(zpool, |arena| Pools::new(arena, zpool)));
        }
    });
}

/// The canary: a zblock whose slots overlap by 8 bytes.
fn overlapping(arena: Arc<Arena>) -> Box<dyn Zpool> {
    let mut shapes = Neighbours::shapes(arena.options());
    for shape in shapes.iter_mut().filter(|shape| shape.slots > 1) {
        shape.stride -= 8;
    }
    Box::new(Zblock::with_shapes(arena, shapes))
}

#[test]
#[should_panic(expected = "content of")]
fn the_suite_notices_slots_that_overlap() {
    conformance(ZpoolKind::Zblock, |arena| {
        Pools::of(arena, ZpoolKind::Zblock, |kind, arena| match kind {
            ZpoolKind::Zblock => overlapping(arena),
            other => other.make(arena),
        })
    });
}

fn pools(zpool: ZpoolKind, frame_bytes: usize, frames: u64) -> Pools {
    let make = |arena| Pools::new(arena, zpool);
    let suite = Suite::new(zpool, &make, frame_bytes);
    suite.pool(frames)
}

/// Fills a pool with sizes as real pages have; bytes of full blocks and of all blocks a byte
/// stored.
fn density(zpool: ZpoolKind, frame_bytes: usize) -> (f64, f64) {
    let pool = pools(zpool, frame_bytes, 16_384);
    let mut random = Random::new(9);
    let tag = Tag { owner: 0, stamp: 0 };
    while pool
        .alloc(typical_object_bytes(&mut random, frame_bytes), tag)
        .is_ok()
    {}
    ratios(&pool)
}

fn ratios(pool: &Pools) -> (f64, f64) {
    let stats = pool.stats();
    let ratio = |bytes: u64| bytes as f64 / stats.object_bytes as f64;
    (ratio(stats.slot_bytes), ratio(stats.block_bytes))
}

#[test]
fn blocks_waste_little_memory() {
    for (zpool, frame_bytes, slots_max, blocks_max) in [
        (ZpoolKind::Zblock, 4096, 1.028, 1.038),
        (ZpoolKind::Zblock, 16384, 1.022, 1.034),
        (ZpoolKind::Zsmalloc, 4096, 1.031, 1.044),
        (ZpoolKind::Zsmalloc, 16384, 1.031, 1.040),
        // Few objects a frame: what remains of it is the price of their simplicity.
        (ZpoolKind::Zbud, 4096, 1.112, 1.156),
        (ZpoolKind::Zbud, 16384, 1.112, 1.156),
        (ZpoolKind::Z3fold, 4096, 1.038, 1.077),
        (ZpoolKind::Z3fold, 16384, 1.038, 1.077),
        (ZpoolKind::Zfit, 4096, 1.009, 1.010),
        (ZpoolKind::Zfit, 16384, 1.003, 1.004),
    ] {
        let (slots, blocks) = density(zpool, frame_bytes);
        assert!(
            slots <= slots_max,
            "{zpool:?} {frame_bytes}: {slots} in full blocks"
        );
        assert!(
            blocks <= blocks_max,
            "{zpool:?} {frame_bytes}: {blocks} in all"
        );
    }
}

/// Overwrites every object twice, in random order and with other sizes; as `density`. Nothing is compacted.
fn density_overwritten(zpool: ZpoolKind, frame_bytes: usize) -> (f64, f64) {
    let pool = pools(zpool, frame_bytes, 16_384);
    let mut random = Random::new(10);
    let tag = Tag { owner: 0, stamp: 0 };
    let alloc = |random: &mut Random| {
        let bytes = typical_object_bytes(random, frame_bytes);
        (pool.alloc(bytes, tag).expect("room for holes"), bytes)
    };
    let mut objects = Vec::new();
    while pool.arena().used_frames() < pool.arena().frames() * 4 / 5 {
        objects.push(alloc(&mut random));
    }
    for _ in 0..2 * objects.len() {
        let index = random.below(objects.len() as u64) as usize;
        let new = alloc(&mut random);
        let (handle, bytes) = std::mem::replace(&mut objects[index], new);
        pool.free(handle, bytes);
    }
    ratios(&pool)
}

#[test]
fn zfit_wastes_little_memory_after_overwrites() {
    for (frame_bytes, slots_max, blocks_max) in [(4096, 1.010, 1.036), (16384, 1.008, 1.037)] {
        let (slots, blocks) = density_overwritten(ZpoolKind::Zfit, frame_bytes);
        assert!(slots <= slots_max, "{frame_bytes}: {slots} in slots");
        assert!(blocks <= blocks_max, "{frame_bytes}: {blocks} in all");
    }
}

#[test]
#[should_panic(expected = "freed")]
fn freeing_twice_panics_in_zblock() {
    free_twice(ZpoolKind::Zblock);
}

#[test]
#[should_panic(expected = "freed")]
fn freeing_twice_panics_in_zsmalloc() {
    free_twice(ZpoolKind::Zsmalloc);
}

#[test]
#[should_panic(expected = "freed")]
fn freeing_twice_panics_in_zbud() {
    free_twice(ZpoolKind::Zbud);
}

#[test]
#[should_panic(expected = "freed")]
fn freeing_twice_panics_in_z3fold() {
    free_twice(ZpoolKind::Z3fold);
}

fn free_twice(zpool: ZpoolKind) {
    let pool = pools(zpool, 4096, 32);
    let tag = Tag { owner: 0, stamp: 0 };
    let handle = pool.alloc(100, tag).unwrap();
    let _neighbour = pool.alloc(100, tag).unwrap();
    pool.free(handle, 100);
    pool.free(handle, 100);
}
