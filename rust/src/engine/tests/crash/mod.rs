//! The process dies after any store to shared memory or any block written to the device, and the next
//! one takes over; it may die while it does so.
//!
//! Two passes: the first runs a script and counts the moments at which pool, table or device are
//! different from the moment before; the second runs it again and stops at them. Stopping is to copy
//! what the process would leave: an engine adopts the copy. Pages that no operation is changing must be
//! as they were acknowledged, those of the operation under way old or new, and nothing may be lost or
//! leaked. Then that engine dies as well, at one of its own stores or at each of them.
//!
//! Of a durable export what was flushed, or something newer that was written, must be there when the host is lost
//! too: with the process, after the next one's opening, after its work, and after its flush, which leaves nothing
//! else. The device then forgets what was not synced, or some of it.
//!
//! `make test` stops at a sample, `make crashes` at every moment.
//!
//! Not here: loss of the host under random load (`power`).

mod heir;
mod model;
mod remains;
mod scene;
mod script;

use std::ops::Range;

use super::*;
use crate::store::{Encryption, MasterKey};
use crate::testing::power_device::PowerDevice;
use scene::{Bug, Deaths, Tally, pass};
use script::Op;

/// The first page of the second export, which may be a durable one.
const SECOND: u32 = 40;
/// Pages that are compared: some that nobody changes, too.
const LOOKED_AT: u32 = script::CHANGED + 9;

/// What all processes of a run are made of.
#[derive(Clone, Copy)]
struct World {
    setup: Setup,
    is_encrypted: bool,
    /// The second export is.
    is_durable: bool,
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
    is_durable: false,
};

/// Room for what a flush writes beside what was flushed before, and little enough that there is cleaning.
const DURABLE_WORLD: World = World {
    setup: Setup {
        store_bytes: 576 << 10,
        ..WORLD.setup
    },
    is_durable: true,
    ..WORLD
};

impl World {
    fn options(&self, device: &Arc<PowerDevice>, dir: Option<&Directory>) -> EngineOptions {
        let mut options = options(&self.setup, None, dir);
        options.exports[0].size_bytes = u64::from(SECOND) * PAGE as u64;
        options.exports[1].is_durable = self.is_durable;
        options.store = Some(StoreSource {
            backing: Backing::Device(Box::new(Arc::clone(device)) as Box<dyn Device>),
            segment_bytes: SEGMENT,
            punch: true,
            budget: self.setup.budget,
            scrub_bytes_per_s: 1 << 20,
            encryption: self.is_encrypted.then(|| Encryption {
                key: MasterKey::new([7; 32]),
                salt: [3; 16],
            }),
        });
        options
    }

    fn open(&self, options: EngineOptions) -> Result<(Run, OpenReport)> {
        let (engine, report) = Engine::open(options)?;
        let run = Run {
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            device: None,
            setup: self.setup,
            model: Vec::new(),
            random: Random::new(0),
            refused: 0,
            now: Duration::ZERO,
        };
        Ok((run, report))
    }
}

/// With CRASH_EVERYWHERE=n a process dies at every moment, and every nth heir at every one of its own.
fn exhaustive() -> Option<u64> {
    let heirs = std::env::var("CRASH_EVERYWHERE").ok()?;
    Some(heirs.parse().expect("CRASH_EVERYWHERE is a number"))
}

/// Both passes, of which the second stops at about `sample` moments, or everywhere.
fn crash(world: World, name: &str, scripts: (&[Op], &[Op]), sample: u64, seed: u64) -> Tally {
    let first = pass(world, name, scripts, Bug::None, None);
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
    let second = pass(world, name, scripts, Bug::None, Some(deaths));
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
            let script = script::random(seed * 10 + zpool as u64, 120, false);
            let scripts = (&script::filling()[..], &script[..]);
            runs.push(crash(world, &name, scripts, 100, seed));
        });
    }
    tell(world, &runs);
}

fn tell(world: World, runs: &[Tally]) {
    if std::env::var_os("SEED").is_none() {
        let did: Vec<_> = runs
            .iter()
            .map(|run| run.did.all(world.is_durable))
            .collect();
        let did_all = (0..did[0].len()).all(|what| did.iter().any(|run| run[what] > 0));
        assert!(did_all, "something never happened: {runs:?}");
    }
    let sum = |count: fn(&Tally) -> u64| runs.iter().map(count).sum::<u64>();
    println!(
        "{}: died at {} of {} moments, and heirs {} times; the host was lost {} times",
        if world.is_durable {
            "durable".into()
        } else {
            format!("{:?}", world.setup.zpool)
        },
        sum(|run| run.deaths),
        sum(|run| run.moments),
        sum(|run| run.second_deaths),
        sum(|run| run.losses),
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
fn what_was_flushed_outlives_the_process_and_then_the_host_wherever_they_die() {
    let mut runs = Vec::new();
    for seed in seeds(if exhaustive().is_some() { 8 } else { 2 }) {
        with_seed(seed, |seed| {
            let mut world = DURABLE_WORLD;
            world.setup.zpool = ZpoolKind::ALL[seed as usize % ZpoolKind::ALL.len()];
            world.is_encrypted = seed % 2 == 1;
            let name = format!("crash-durable-{seed}");
            let filling = script::filling();
            if seed == 0 || seed == 1 && exhaustive().is_some() {
                runs.push(crash(world, &name, (&filling, &script::flushes()), 60, 1));
            }
            let script = script::random(seed + 100, 90, true);
            runs.push(crash(world, &name, (&filling, &script), 50, seed));
        });
    }
    assert_eq!(runs.iter().map(|run| run.refused).sum::<u64>(), 0);
    tell(DURABLE_WORLD, &runs);
}

#[test]
fn bugs_that_lose_what_was_flushed_are_found() {
    for bug in [
        Bug::None,
        Bug::NoSync,
        Bug::ForgetsDoubt,
        Bug::ForgetsPromise,
    ] {
        let mut world = DURABLE_WORLD;
        // So tight that heirs write over segments at once. They have no room for every flush.
        world.setup.store_bytes = 448 << 10;
        let deaths = Deaths {
            every: 15,
            seed: 0,
            everywhere: 1000,
        };
        let name = format!("crash-{bug:?}");
        let scripts = (&script::filling()[..], &script::flushes()[..]);
        let tally = pass(world, &name, scripts, bug, Some(deaths));
        let is_right = bug == Bug::None;
        assert_eq!(tally.found.is_none(), is_right, "{bug:?}: {tally:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::PoolLast, Bug::TableLast, Bug::DeviceLast] {
        for zpool in ZpoolKind::ALL {
            let mut world = WORLD;
            world.setup.zpool = zpool;
            let deaths = Deaths {
                every: 3,
                seed: 5,
                everywhere: 1000,
            };
            let name = format!("crash-{bug:?}-{zpool:?}");
            let tally = pass(world, &name, (&[], &script::all_sorts()), bug, Some(deaths));
            assert!(tally.found.is_some(), "the harness is blind: {tally:?}");
        }
    }
}
