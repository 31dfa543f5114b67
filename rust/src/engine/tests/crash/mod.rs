//! The process dies after any store to shared memory or any block written to the device, and the next
//! one takes over; it may die while it does so.
//!
//! Two passes: the first runs a script and counts the moments at which pool, table or device are
//! different from the moment before; the second runs it again and stops at them. Stopping is to copy
//! what the process would leave: an engine adopts the copy. Pages that no operation is changing must be
//! as they were acknowledged, those of the operation under way old or new, and nothing may be lost or
//! leaked. Then that engine dies as well, at one of its own stores or at each of them.
//!
//! `make test` stops at a sample, `make crashes` at every moment.
//!
//! Not here: loss of power, which forgets what was not synced.

mod heir;
mod remains;
mod scene;
mod script;

use std::ops::Range;

use super::*;
use crate::store::{Encryption, MasterKey};
use scene::{Deaths, Order, Tally, pass};
use script::Op;

/// What all processes of a run are made of.
#[derive(Clone, Copy)]
struct World {
    setup: Setup,
    is_encrypted: bool,
}

const WORLD: World = World {
    setup: Setup {
        zpool: ZpoolKind::Zblock,
        codec: "lz4",
        pool_bytes_max: 96 << 10,
        store_bytes: 352 << 10,
        page_bytes: PAGE,
        budget: None,
    },
    is_encrypted: false,
};

impl World {
    fn options(&self, device: Option<Arc<SimDevice>>, dir: Option<&Directory>) -> EngineOptions {
        let mut options = options(&self.setup, device, dir);
        let store = options.store.as_mut().expect("this setup has a store");
        store.scrub_bytes_per_s = 1 << 20;
        store.encryption = (self.is_encrypted).then(|| Encryption {
            key: MasterKey::new([7; 32]),
            salt: [3; 16],
        });
        options
    }
}

/// With CRASH_EVERYWHERE=n a process dies at every moment, and every nth heir at every one of its own.
fn exhaustive() -> Option<u64> {
    let heirs = std::env::var("CRASH_EVERYWHERE").ok()?;
    Some(heirs.parse().expect("CRASH_EVERYWHERE is a number"))
}

/// Both passes, of which the second stops at about `sample` moments, or everywhere.
fn crash(world: World, name: &str, scripts: (&[Op], &[Op]), sample: u64, seed: u64) -> Tally {
    let first = pass(world, name, scripts, Order::True, None);
    let deaths = match exhaustive() {
        Some(everywhere) => Deaths {
            every: 1,
            seed,
            everywhere,
        },
        None => Deaths {
            every: (first.moments / sample).max(1),
            seed,
            everywhere: sample / 4,
        },
    };
    let second = pass(world, name, scripts, Order::True, Some(deaths));
    assert_eq!(second.found, None, "{name}, after {} deaths", second.deaths);
    assert_eq!(
        (first.moments, first.did),
        (second.moments, second.did),
        "the passes are not alike"
    );
    assert!(second.deaths > sample / 2 && second.second_deaths > sample / 2);
    second
}

fn crash_everywhere(zpool: ZpoolKind) {
    let mut world = WORLD;
    world.setup.zpool = zpool;
    let mut runs = Vec::new();
    for seed in seeds(if exhaustive().is_some() { 4 } else { 2 }) {
        with_seed(seed, |seed| {
            world.is_encrypted = seed % 2 == 1;
            let name = format!("crash-{zpool:?}-{seed}");
            if seed < 2 {
                runs.push(crash(world, &name, (&[], &script::all_sorts()), 150, 1));
            }
            // Other operations for every zpool.
            let script = script::random(seed * 10 + zpool as u64, 120);
            let scripts = (&script::filling()[..], &script[..]);
            runs.push(crash(world, &name, scripts, 100, seed));
        });
    }
    if std::env::var_os("SEED").is_none() {
        let did_all = |index| runs.iter().any(|run| run.did.all()[index] > 0);
        assert!((0..8).all(did_all), "something never happened: {runs:?}");
    }
    let sum = |count: fn(&Tally) -> u64| runs.iter().map(count).sum::<u64>();
    println!(
        "{zpool:?}: died at {} of {} moments, and heirs {} times",
        sum(|run| run.deaths),
        sum(|run| run.moments),
        sum(|run| run.second_deaths),
    );
}

#[test]
fn zfit_loses_nothing_wherever_the_process_dies() {
    crash_everywhere(ZpoolKind::Zfit);
}

#[test]
fn zblock_loses_nothing_wherever_the_process_dies() {
    crash_everywhere(ZpoolKind::Zblock);
}

#[test]
fn zsmalloc_loses_nothing_wherever_the_process_dies() {
    crash_everywhere(ZpoolKind::Zsmalloc);
}

#[test]
fn zbud_loses_nothing_wherever_the_process_dies() {
    crash_everywhere(ZpoolKind::Zbud);
}

#[test]
fn z3fold_loses_nothing_wherever_the_process_dies() {
    crash_everywhere(ZpoolKind::Z3fold);
}

#[test]
fn planted_bugs_are_found() {
    for order in [Order::PoolLast, Order::TableLast, Order::DeviceLast] {
        for zpool in ZpoolKind::ALL {
            let mut world = WORLD;
            world.setup.zpool = zpool;
            let deaths = Deaths {
                every: 3,
                seed: 5,
                everywhere: 1000,
            };
            let name = format!("crash-{order:?}-{zpool:?}");
            let tally = pass(
                world,
                &name,
                (&[], &script::all_sorts()),
                order,
                Some(deaths),
            );
            assert!(tally.found.is_some(), "the harness is blind: {tally:?}");
        }
    }
}
