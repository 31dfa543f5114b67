//! Losses of power with room and with hardly any, in clear and encrypted, after syncs that failed and among
//! them, and with every planted bug.

use super::*;
use crate::store::HEAD_MAGIC;

/// Loses power some times while everything goes on.
fn lose_power_often(
    plan: Plan,
    seed: u64,
    losses: u64,
) -> (Scene, std::result::Result<(), String>) {
    let mut scene = Scene::new(plan, seed);
    while scene.losses < losses {
        for _ in 0..60 + scene.random.below(900) {
            if plan.syncs_fail && scene.random.below(60) == 0 {
                scene.device.fail_sync(1);
            }
            scene.act();
        }
        if scene.random.below(3) == 0 {
            match scene.random.below(2) {
                0 => scene.kill(),
                _ => scene.kill_in_sync(),
            }
            for _ in 0..scene.random.below(200) {
                scene.act();
            }
        }
        scene.engine.check();
        if let Err(why) = scene.lose_power() {
            return (scene, Err(why));
        }
    }
    (scene, Ok(()))
}

fn survives(plan: Plan, seed: u64) {
    let (scene, found) = lose_power_often(plan, seed, 12);
    assert_eq!(found, Ok(()), "after {} losses", scene.losses);
    let snapshot = scene.engine.snapshot();
    println!(
        "seed {seed}: {} flushes, {} versions after the flushed ones, {:?}",
        scene.flushes, scene.found_new, snapshot.writeback.checkpoints
    );
    assert!(scene.flushes > 20, "{} flushes", scene.flushes);
}

/// Loses power after so many operations of the device in a load with flushes, checkpoints, marks and cleaning, and looks
/// at several of the images that may be left. None: the load was over before.
fn lose_power_after(operations: u64, bug: Bug) -> Option<std::result::Result<(), String>> {
    let tight = Plan {
        bug,
        store_bytes: 704 << 10,
        ..TIGHT
    };
    let mut scene = Scene::new(tight, 7);
    for _ in 0..900 {
        scene.act();
    }
    assert!(scene.flush());
    scene.device.die_after(operations);
    for _ in 0..200 {
        if scene.device.is_dead() {
            break;
        }
        scene.act();
    }
    if !scene.device.is_dead() {
        let snapshot = scene.engine.snapshot();
        let cleaned = snapshot.store.unwrap().segments_cleaned;
        let checkpoints = snapshot.writeback.checkpoints.done.get();
        let did = [scene.flushes, cleaned, checkpoints];
        assert!(did.iter().all(|count| *count > 2), "{did:?}");
        return None;
    }
    let (device, versions) = (Arc::clone(&scene.device), scene.versions.clone());
    for image in 0..4 {
        scene.device = Arc::new(device.fork(image));
        scene.versions.clone_from(&versions);
        if let Err(why) = scene.lose_power() {
            return Some(Err(format!("after {operations} operations: {why}")));
        }
    }
    Some(Ok(()))
}

#[test]
fn after_whatever_operation_of_the_device_power_is_lost_everything_flushed_is_there() {
    let losses = (0..).map_while(|operations| lose_power_after(operations, Bug::None));
    let losses: Vec<_> = losses.collect();
    println!("lost power after each of {} operations", losses.len());
    assert!(losses.len() > 50, "{} operations", losses.len());
    for loss in losses {
        assert_eq!(loss, Ok(()));
    }
    let is_found = |operations| matches!(lose_power_after(operations, Bug::NoMarks), Some(Err(_)));
    assert!((0..200).step_by(5).any(is_found), "the test is blind");
}

/// Heads that were written where the head of a former use was on the medium, in some lives of a server.
fn heads_written_over_heads(plan: Plan, seed: u64) -> usize {
    let mut scene = Scene::new(plan, seed);
    let mut count = 0;
    for life in 0..6 {
        for _ in 0..600 {
            if scene.random.below(60) == 0 {
                scene.device.fail_sync(1);
            }
            scene.act();
        }
        match life % 3 {
            0 => scene.kill(),
            1 => scene.kill_in_sync(),
            _ => {
                count += scene.device.repeated(HEAD_MAGIC);
                if scene.lose_power().is_err() {
                    break;
                }
            }
        }
    }
    count
}

#[test]
fn no_segment_is_written_while_the_head_of_its_last_use_is_on_the_medium() {
    for seed in seeds(6) {
        for plan in [PLAN, TIGHT] {
            with_seed(seed, |seed| {
                assert_eq!(heads_written_over_heads(plan, seed), 0);
            });
        }
    }
    let plan = Plan {
        bug: Bug::NoTombstones,
        ..TIGHT
    };
    assert!(
        heads_written_over_heads(plan, 0) > 10,
        "nothing is written over"
    );
}

#[test]
fn after_loss_of_power_every_durable_page_is_the_flushed_version_or_a_later_one() {
    for seed in seeds(6) {
        with_seed(seed, |seed| survives(PLAN, seed));
    }
}

#[test]
fn the_same_with_an_encrypted_store() {
    for seed in seeds(3) {
        let plan = Plan {
            is_encrypted: true,
            ..PLAN
        };
        with_seed(seed, |seed| survives(plan, seed));
    }
}

#[test]
fn the_same_with_hardly_room_for_all_pages() {
    for seed in seeds(6) {
        with_seed(seed, |seed| survives(TIGHT, seed));
    }
}

#[test]
fn the_same_while_syncs_fail() {
    for seed in seeds(12) {
        for (plan, is_encrypted) in [(PLAN, false), (PLAN, true), (TIGHT, false), (TIGHT, true)] {
            let plan = Plan {
                syncs_fail: true,
                is_encrypted,
                ..plan
            };
            with_seed(seed, |seed| survives(plan, seed));
        }
    }
}

/// Does the harness find a wrong page with the bug that is in this plan?
fn finds(plan: Plan) -> bool {
    (0..200).any(|seed| lose_power_often(plan, seed, 12).1.is_err())
}

fn is_found(bug: Bug) -> bool {
    finds(Plan { bug, ..TIGHT })
}

fn is_found_while_syncs_fail(bug: Bug) -> bool {
    finds(Plan {
        bug,
        syncs_fail: true,
        ..PLAN
    })
}

#[test]
fn a_flush_that_is_answered_before_the_sync_is_found() {
    assert!(is_found(Bug::NoSync));
}

#[test]
fn segments_that_are_reused_too_early_are_found() {
    assert!(is_found(Bug::NoQuarantine));
}

#[test]
fn discards_that_leave_no_mark_are_found() {
    assert!(is_found(Bug::NoMarks));
}

#[test]
fn torn_records_that_are_believed_later_are_found() {
    assert!(is_found(Bug::ForgetsTorn));
}

#[test]
fn segments_that_are_written_over_while_their_heads_stand_are_found() {
    assert!(is_found_while_syncs_fail(Bug::NoTombstones));
}

#[test]
fn a_log_that_is_called_whole_where_a_sync_failed_is_found() {
    assert!(is_found_while_syncs_fail(Bug::CallsWhole));
}

#[test]
fn who_takes_over_in_doubt_has_room_to_write_everything_again() {
    // All segments in which nothing lived were kept, so that there was none to write into, and every flush and
    // write failed from then on.
    // With 1157 what was left to write took two of the segments that are kept for cleaning, and none was given.
    for seed in seeds(12).into_iter().chain([1157]) {
        with_seed(seed, |seed| {
            let mut scene = Scene::new(TIGHT, seed);
            for _ in 0..3 {
                for _ in 0..300 {
                    scene.act();
                }
                scene.kill_in_sync();
                assert!(scene.flush());
            }
            assert_eq!(scene.lose_power(), Ok(()));
        });
    }
}

#[test]
fn what_a_failed_sync_should_have_covered_is_written_again() {
    for seed in seeds(8) {
        with_seed(seed, |seed| {
            let mut scene = Scene::new(PLAN, seed);
            for _ in 0..300 {
                scene.act();
            }
            scene.write(PLAIN, 0, &[1; PAGE / 2]);
            scene.device.fail_sync(1 + seed % 3);
            let failed = (0..5).take_while(|_| !scene.flush()).count() as u64;
            assert!(failed >= 1, "a flush succeeded without its sync");
            assert_eq!(scene.lose_power(), Ok(()));
        });
    }
}

/// A sync fails, the process that was told is killed, and the next one's succeeds.
fn lose_what_a_failed_sync_left_out(bug: Bug, seed: u64) -> std::result::Result<(), String> {
    let mut scene = Scene::new(Plan { bug, ..PLAN }, seed);
    for _ in 0..300 {
        scene.act();
    }
    scene.flush();
    for _ in 0..100 {
        scene.act();
    }
    scene.write(PLAIN, 0, &[1; PAGE / 2]);
    scene.device.fail_sync(1);
    while scene.flush() {}
    for _ in 0..=seed % 2 {
        scene.kill();
    }
    assert!(scene.flush());
    scene.lose_power()
}

#[test]
fn what_a_failed_sync_should_have_covered_the_next_process_writes_again() {
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            let found = lose_what_a_failed_sync_left_out(Bug::None, seed);
            assert_eq!(found, Ok(()));
        });
    }
}

#[test]
fn a_failed_sync_that_the_next_process_knows_nothing_of_is_found() {
    let is_found = |seed| lose_what_a_failed_sync_left_out(Bug::ForgetsDoubt, seed).is_err();
    assert!((0..12).any(is_found));
}

/// Syncs fail, the process that was told is killed, the next one reuses segments and the host loses power.
fn lose_what_was_written_over(bug: Bug, seed: u64) -> std::result::Result<(), String> {
    let mut scene = Scene::new(Plan { bug, ..TIGHT }, seed);
    for _ in 0..8 {
        for _ in 0..300 {
            scene.act();
        }
        scene.write(PLAIN, 0, &[1; PAGE / 2]);
        scene.device.fail_sync(1);
        scene.flush();
        scene.kill();
        for _ in 0..scene.random.below(100) {
            scene.act();
        }
        scene.lose_power()?;
    }
    Ok(())
}

#[test]
fn what_was_flushed_before_a_failed_sync_is_kept_by_the_next_process() {
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            assert_eq!(lose_what_was_written_over(Bug::None, seed), Ok(()));
        });
    }
}

#[test]
fn what_was_flushed_before_a_failed_sync_and_is_not_kept_is_found() {
    let is_found = |seed| lose_what_was_written_over(Bug::ForgetsPromise, seed).is_err();
    assert!((0..60).any(is_found));
}

#[test]
fn a_start_writes_nothing_again_that_a_sync_has_covered() {
    let mut scene = Scene::new(PLAN, 3);
    for page in PLAIN..ALL {
        scene.write(page, 0, &[page as u8; PAGE / 2]);
    }
    assert!(scene.flush());
    scene.write(PLAIN, 0, &[1; PAGE / 2]);
    scene.device.fail_sync(1);
    while scene.flush() {}
    scene.kill();
    let owed = |scene: &Scene| scene.engine.tiers.durable.as_ref().unwrap().owed.len();
    assert_eq!(owed(&scene), 1, "the page that was not covered");
    assert!(scene.flush());
    scene.kill();
    assert_eq!(owed(&scene), 0);
}

#[test]
fn a_flush_without_a_change_asks_nothing_of_the_device() {
    let mut scene = Scene::new(PLAN, 1);
    scene.write(PLAIN, 0, &[1; PAGE / 2]);
    assert!(scene.flush());
    let syncs = scene.device.syncs();
    assert!(scene.flush() && scene.flush());
    assert_eq!(scene.device.syncs(), syncs);
    assert_eq!(scene.engine.flush(ExportId(0)), None, "it promises nothing");
}

#[test]
fn a_sync_that_fails_while_the_next_process_opens_is_a_sync_that_failed() {
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            let mut scene = Scene::new(PLAN, seed);
            for _ in 0..300 {
                scene.act();
            }
            assert!(scene.flush());
            for _ in 0..100 {
                scene.act();
            }
            // That of the superblock, the one of what was found, and that of the superblock again.
            scene.device.fail_sync(1 + seed % 3);
            scene.kill();
            if seed % 2 == 0 {
                // The next one was told nothing.
                scene.kill();
            }
            scene.now += Duration::from_secs(60);
            assert!(scene.flush());
            assert_eq!(scene.lose_power(), Ok(()));
        });
    }
}
