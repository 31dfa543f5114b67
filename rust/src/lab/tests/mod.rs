//! Whole measurements, small: what reports say is what pools did.

mod forgetful;

use std::sync::Arc;

use self::forgetful::Forgetful;
use super::interrupt::Interrupt;
use super::pack::live;
use super::trial::Trial;
use super::*;
use crate::error::Error;
use crate::random::Random;
use crate::zpool::{Arena, ArenaOptions, ZpoolKind};

const PAGE_BYTES: usize = 4096;
const PAGES: u64 = 1500;

/// Objects of all sizes, some of them none, some whole pages.
fn objects() -> Objects {
    let mut random = Random::new(5);
    let sizes = (0..400).map(|page| match page % 20 {
        0 => 0,
        1 => 8,
        2 => PAGE_BYTES as u32,
        _ => 100 + random.below(3900) as u32,
    });
    Objects::new(PAGE_BYTES, sizes.collect())
}

fn plan(kind: ZpoolKind, frame_bytes: usize) -> Plan {
    Plan {
        zpool: kind.name().into(),
        frame_bytes,
        stored_bytes: PAGES * PAGE_BYTES as u64 + 100,
        seed: 11,
        keeps_dense: false,
    }
}

fn wanted() -> Interrupt<'static> {
    Interrupt::new(&|| true)
}

/// All but the times, which no seed repeats.
fn replayable(report: PackReport) -> impl PartialEq + std::fmt::Debug {
    (
        report.densities,
        report.timeline,
        report.objects_copied_twice,
        report.objects_moved,
    )
}

#[test]
fn densities_are_those_of_the_objects_that_were_put_in() {
    for kind in ZpoolKind::ALL {
        for frame_bytes in [4096, 16384] {
            let plan = plan(kind, frame_bytes);
            let report = pack(&objects(), &plan, wanted()).unwrap();
            assert_eq!(report.stored_bytes, PAGES * PAGE_BYTES as u64);
            let trial = Trial::new(&objects(), &plan).unwrap();
            let put_in = |page| trial.objects.of_page(page, trial.pages) as usize;
            let sizes = (0..trial.pages).map(put_in).filter(|&bytes| bytes > 0);
            let fresh = report.densities[0];
            assert_eq!(fresh.objects, sizes.clone().count() as u64);
            assert_eq!(fresh.object_bytes, sizes.sum::<usize>() as u64);
            assert_eq!(fresh.phase, "fresh");
            for density in &report.densities {
                assert!(density.object_bytes <= density.slot_bytes, "{density:?}");
                assert!(density.slot_bytes <= density.block_bytes, "{density:?}");
                assert!(density.block_bytes < density.held_bytes, "{density:?}");
                // Header, and side words by whole pages of those of the frames in between.
                let rest = density.held_bytes - density.block_bytes;
                assert!(rest <= 4096 * 40, "{density:?}");
            }
        }
    }
}

#[test]
fn phases_do_what_they_are_called() {
    for kind in ZpoolKind::ALL {
        let report = pack(&objects(), &plan(kind, 4096), wanted()).unwrap();
        let phases: Vec<&str> = report.densities.iter().map(|d| d.phase).collect();
        assert_eq!(
            phases,
            [
                "fresh",
                "overwritten",
                "discarded50",
                "refilled50",
                "discarded90",
                "refilled90",
                "worn",
                "compacted"
            ]
        );
        let of_all = |index: usize| report.densities[index].objects as f64 / PAGES as f64;
        for (index, share) in [0.95, 0.95, 0.475, 0.95, 0.095, 0.95, 0.95, 0.95]
            .iter()
            .enumerate()
        {
            assert!(
                (of_all(index) - share).abs() < 0.03,
                "{} {index}",
                kind.name()
            );
        }
        let [.., worn, compacted] = report.densities[..] else {
            panic!("phases")
        };
        assert_eq!(compacted.object_bytes, worn.object_bytes);
        assert_eq!(compacted.objects, worn.objects);
        assert!(compacted.block_bytes <= worn.block_bytes);
    }
}

#[test]
fn a_worn_pool_is_compacted() {
    let report = pack(&objects(), &plan(ZpoolKind::Zblock, 4096), wanted()).unwrap();
    let [fresh, .., worn, compacted] = report.densities[..] else {
        panic!("phases")
    };
    assert!(worn.block_bytes > fresh.block_bytes, "worn by nothing");
    assert!(compacted.block_bytes < worn.block_bytes);
    assert!(report.objects_moved > 0);
}

#[test]
fn a_pool_that_gets_no_memory_is_an_error() {
    let mut trial = Trial::new(&objects(), &plan(ZpoolKind::Zblock, 4096)).unwrap();
    let small = ArenaOptions {
        pool_bytes_max: 200 * 4096,
        ..trial.pool.arena().options().clone()
    };
    trial.pool = ZpoolKind::Zblock.make(Arc::new(Arena::create(small).unwrap()));
    let error = live(&trial, 1, wanted()).unwrap_err().to_string();
    assert!(error.contains("take memory for the pool"), "{error}");
}

#[test]
fn the_timeline_covers_the_run_in_order() {
    let report = pack(&objects(), &plan(ZpoolKind::Zblock, 4096), wanted()).unwrap();
    let timeline = &report.timeline;
    assert!((100..=220).contains(&timeline.len()), "{}", timeline.len());
    assert!(timeline.is_sorted_by(|a, b| a.operations < b.operations));
    let last = timeline.last().unwrap();
    let compacted = report.densities.last().unwrap();
    assert_eq!(last.object_bytes, compacted.object_bytes);
    assert_eq!(last.block_bytes, compacted.block_bytes);
    // Every page but those that need no object: a fill, eight of four overwrites, two times 1/2 and
    // 9/10.
    let operations = PAGES as f64 * 0.95 * 11.8;
    assert!(
        (last.operations as f64 / operations - 1.0).abs() < 0.05,
        "{last:?}"
    );
}

#[test]
fn a_seed_repeats_everything_but_the_times() {
    for kind in ZpoolKind::ALL {
        let run = |seed| {
            let plan = Plan {
                seed,
                ..plan(kind, 4096)
            };
            replayable(pack(&objects(), &plan, wanted()).unwrap())
        };
        assert_eq!(run(1), run(1), "{}", kind.name());
        assert_ne!(run(1), run(2), "{}", kind.name());
    }
}

#[test]
fn a_pool_that_is_kept_dense_is_denser_for_a_few_moves() {
    let pack = |keeps_dense| {
        let plan = Plan {
            keeps_dense,
            ..plan(ZpoolKind::Zfit, 4096)
        };
        pack(&objects(), &plan, wanted()).unwrap()
    };
    let (loose, dense) = (pack(false), pack(true));
    assert_eq!(loose.objects_moved_meanwhile, 0);
    assert_eq!(loose.objects_written, dense.objects_written);
    let moved = dense.objects_moved_meanwhile;
    assert!(moved > 0 && moved <= 2 * dense.objects_written, "{moved}");
    let worn = |report: &PackReport| {
        let worn = report.densities.iter().find(|it| it.phase == "worn");
        worn.unwrap().block_bytes
    };
    assert!(worn(&dense) < worn(&loose), "{dense:?} {loose:?}");
}

#[test]
fn every_operation_was_timed() {
    let report = pack(&objects(), &plan(ZpoolKind::Zsmalloc, 4096), wanted()).unwrap();
    for times in [
        report.alloc_ns,
        report.store_ns,
        report.load_ns,
        report.free_ns,
    ] {
        assert!(times.count >= PAGES / 10, "{times:?}");
        assert!(times.mean > 0.0 && times.max > 0, "{times:?}");
    }
}

#[test]
fn objects_that_straddle_are_counted_where_there_are_any() {
    let copied = |kind| {
        let report = pack(&objects(), &plan(kind, 4096), wanted()).unwrap();
        (report.objects_copied_twice, report.bytes_copied_twice)
    };
    assert_eq!(copied(ZpoolKind::Zblock), (0, 0));
    let (objects, bytes) = copied(ZpoolKind::Zsmalloc);
    assert!(
        objects > PAGES / 20 && bytes > objects * 100,
        "{objects} {bytes}"
    );
}

#[test]
fn pages_that_need_no_object_can_be_packed() {
    let report = pack(
        &Objects::new(PAGE_BYTES, vec![0; 3]),
        &plan(ZpoolKind::Zblock, 4096),
        wanted(),
    );
    let report = report.unwrap();
    assert!(
        report
            .densities
            .iter()
            .all(|density| density.block_bytes == 0)
    );
    assert_eq!(report.alloc_ns, Percentiles::default());
}

#[test]
fn measurements_can_be_interrupted() {
    let plan = plan(ZpoolKind::Zblock, 4096);
    let stop = || Interrupt::new(&|| false);
    assert!(matches!(
        pack(&objects(), &plan, stop()),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        speed(&objects(), &plan, 2, 10, stop()),
        Err(Error::Io { .. })
    ));
}

#[test]
fn threads_share_the_cycles_and_leave_a_sound_pool() {
    for kind in ZpoolKind::ALL {
        for threads in [1, 3] {
            let report = speed(&objects(), &plan(kind, 4096), threads, 20_001, wanted()).unwrap();
            assert_eq!((report.threads, report.cycles), (threads, 20_001));
            let ns = report.seconds * 1e9 * threads as f64 / 20_001.0;
            assert!(report.seconds > 0.0 && (ns - report.ns_per_cycle).abs() < 1e-6 * ns);
        }
    }
}

#[test]
fn speed_that_cannot_be_measured_is_refused() {
    let plan = plan(ZpoolKind::Zblock, 4096);
    let refusal = |objects: &Objects, threads, cycles| {
        let refused = speed(objects, &plan, threads, cycles, wanted());
        refused.expect_err("a refusal").to_string()
    };
    assert!(refusal(&objects(), 0, 10).contains("threads are 0, wanted 1 to 64"));
    assert!(refusal(&objects(), 65, 10).contains("threads are 65"));
    assert!(refusal(&objects(), 1, 0).contains("cycles are 0"));
    assert!(refusal(&Objects::new(PAGE_BYTES, vec![0]), 1, 1).contains("no page needs"));
}

#[test]
#[should_panic(expected = "owner 700")]
fn a_wrong_byte_in_one_object_is_noticed() {
    let mut trial = Trial::new(&objects(), &plan(ZpoolKind::Zblock, 4096)).unwrap();
    trial.pool = Box::new(Forgetful(trial.pool));
    let _ = live(&trial, 1, wanted());
}
