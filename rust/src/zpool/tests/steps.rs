//! Any steps, in every zpool with every size of frames: the pool is sound after each, and its objects
//! are what was put in. What fails is made small.

use proptest::prelude::*;

use super::pools;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::conformance::{Model, Random};
use crate::zpool::{Pools, Zpool, ZpoolKind};

/// Of each zpool with each size of frames.
const CASES: u32 = 48;
const FRAMES: u64 = 40;

/// What may be done to a pool.
#[derive(Clone, Debug)]
enum Step {
    /// An object of so many 4096ths of a frame.
    Alloc(usize),
    Free,
    Compact,
    Settle,
    Release(u32),
    Switch(ZpoolKind),
    Retire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..=4096).prop_map(Step::Alloc),
        6 => Just(Step::Free),
        1 => Just(Step::Compact),
        1 => Just(Step::Settle),
        1 => (0u32..40).prop_map(Step::Release),
        1 => prop::sample::select(&ZpoolKind::ALL[..]).prop_map(Step::Switch),
        1 => Just(Step::Retire),
    ]
}

fn take(step: Step, pool: &Pools, model: &mut Model, frame_bytes: usize) {
    match step {
        Step::Alloc(share) => _ = model.alloc(share * frame_bytes / 4096),
        Step::Free => model.free_some(1),
        Step::Compact => _ = model.compact(),
        Step::Settle => pool.settle(),
        Step::Release(frames_kept) => pool.arena().release_free(frames_kept),
        Step::Switch(zpool) => pool.set_current(zpool),
        Step::Retire => pool.retire(),
    }
}

fn any_steps_leave_sound(zpool: ZpoolKind) {
    for frame_bytes in PAGE_BYTES_ALLOWED {
        proptest!(ProptestConfig::with_cases(CASES), |(
            // Alone so that a failure says which it was.
            frame_bytes in Just(frame_bytes),
            steps in prop::collection::vec(step(), 1..150),
        )| {
            let pool = pools(zpool, frame_bytes, FRAMES);
            let mut model = Model::new(&pool, Random::new(1));
            for step in steps {
                take(step, &pool, &mut model, frame_bytes);
                pool.check();
            }
            model.verify();
            model.free_all();
        });
    }
}

#[test]
fn any_steps_leave_zblock_sound() {
    any_steps_leave_sound(ZpoolKind::Zblock);
}

#[test]
fn any_steps_leave_zsmalloc_sound() {
    any_steps_leave_sound(ZpoolKind::Zsmalloc);
}

#[test]
fn any_steps_leave_zbud_sound() {
    any_steps_leave_sound(ZpoolKind::Zbud);
}

#[test]
fn any_steps_leave_z3fold_sound() {
    any_steps_leave_sound(ZpoolKind::Z3fold);
}

#[test]
fn any_steps_leave_zfit_sound() {
    any_steps_leave_sound(ZpoolKind::Zfit);
}
