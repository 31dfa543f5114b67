//! Cleaning while everything changes, the batches that are open meanwhile, and the budget.

use super::*;

/// A store with little more room than the pages need.
const TIGHT: Setup = Setup {
    pool_bytes_max: 256 << 10,
    store_bytes: 2500 << 10,
    codec: "none",
    ..SMALL
};

#[test]
fn pages_that_change_while_their_records_are_moved_are_never_stale() {
    let (mut cleaned, mut overtaken) = (0, 0);
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            let zpool = ZpoolKind::ALL[seed as usize % ZpoolKind::ALL.len()];
            let codec = ["none", "lz4"][seed as usize % 2];
            let store_bytes = [2 << 20, 768 << 10][seed as usize % 2];
            let mut run = Run::new(
                Setup {
                    zpool,
                    codec,
                    store_bytes,
                    ..TIGHT
                },
                seed,
            );
            for step in 0..6000 {
                run.act();
                if step % 50 == 0 {
                    run.engine.check();
                }
            }
            run.verify();
            run.engine.check();
            let snapshot = run.engine.snapshot();
            cleaned += snapshot.writeback.pages_cleaned.get();
            overtaken += snapshot.writeback.pages_overtaken.get();
        });
    }
    println!("{cleaned} pages were cleaned, {overtaken} overtaken");
    assert!(cleaned > 1000 && overtaken > 50, "{cleaned}, {overtaken}");
}

#[test]
fn cleaning_goes_on_when_a_batch_cannot_be_written() {
    use crate::testing::sim_device::{Fault, Op};
    let mut run = Run::new(TIGHT, 4);
    (0..PAGES).for_each(|index| assert!(run.write_noise(PageId(index))));
    let mut refused = 0;
    for round in 0..3000 {
        if round % 40 == 0 {
            run.device
                .as_ref()
                .unwrap()
                .inject(Op::Write, 0, Fault::Fail);
        }
        let page = PageId(run.random.below(u64::from(PAGES)) as u32);
        refused += u64::from(!run.write_noise(page));
    }
    run.device.as_ref().unwrap().heal();
    while run.step() == Work::More {}
    run.verify();
    run.engine.check();
    let snapshot = run.engine.snapshot();
    assert!(snapshot.writeback.segments_failed.get() > 20);
    assert!(snapshot.writeback.pages_cleaned.get() > 1000);
    assert!(refused < 300, "{refused} writes were refused");
}

#[test]
fn free_segments_are_made_ahead_of_need_and_in_shares() {
    let mut run = Run::new(TIGHT, 5);
    (0..PAGES).for_each(|index| assert!(run.write_noise(PageId(index))));
    for _ in 0..500 {
        let page = PageId(run.random.below(u64::from(PAGES)) as u32);
        assert!(run.write_noise(page));
    }
    // Every other page goes: sparse segments everywhere, nobody writes.
    (0..PAGES / 2).for_each(|half| run.engine.discard(&mut run.lane, half * 2..half * 2 + 1));
    (0..PAGES / 2).for_each(|half| run.model[half as usize * 2].fill(0));
    let mut pauses = 0;
    for _ in 0..10_000 {
        match run.step() {
            Work::Idle => break,
            Work::Later => {
                pauses += 1;
                run.now += Duration::from_millis(100);
            }
            _ => {}
        }
    }
    let store = run.engine.snapshot().store.unwrap();
    println!("{store:?}, {pauses} pauses");
    assert!(store.segments_free >= 4, "{store:?}");
    run.verify();
    run.engine.check();
}

#[test]
fn a_used_up_budget_stops_write_back_and_time_brings_it_back() {
    const SECOND_BYTES: u64 = 64 << 10;
    let budget = WriteBudget {
        bytes_per_day_max: SECOND_BYTES * 24 * 60 * 60,
        burst_bytes: 8 * u64::from(SEGMENT),
    };
    let mut run = Run::new(
        Setup {
            store_bytes: 4 << 20,
            budget: Some(budget),
            ..TIGHT
        },
        6,
    );
    let written = |run: &Run| run.engine.snapshot().store.unwrap().written_bytes;
    for index in 0..PAGES {
        run.refused += u64::from(!run.write_noise(PageId(index)));
    }
    assert!(run.refused > 100, "{} writes were refused", run.refused);
    // Time went by with the steps, and brought some bytes.
    let allowed =
        |run: &Run| budget.burst_bytes + SECOND_BYTES * run.now.as_micros() as u64 / 1_000_000;
    assert!(written(&run) <= allowed(&run), "{} bytes", written(&run));
    assert!(written(&run) > budget.burst_bytes / 2);
    run.verify();
    assert_eq!(run.step(), Work::Blocked, "nobody rings when time goes by");
    let stats = |run: &Run| {
        let writeback = run.engine.snapshot().writeback;
        (
            writeback.is_over_budget.get(),
            writeback.budget_left_bytes.get(),
        )
    };
    let (is_over, left_bytes) = stats(&run);
    assert!(
        is_over == 1 && left_bytes < u64::from(SEGMENT),
        "{left_bytes}"
    );

    run.now += Duration::from_secs(1);
    let before = written(&run);
    assert_eq!(run.step(), Work::More);
    while run.step() == Work::More {}
    assert!(written(&run) > before && written(&run) <= allowed(&run));
    assert!(run.write_noise(PageId(0)));
    // A long rest brings one burst and no more; below the mark nobody waits for it.
    run.engine.discard(&mut run.lane, 0..300);
    run.engine.discard(&mut run.lane, 300..500);
    run.model.iter_mut().for_each(|page| page.fill(0));
    run.now += Duration::from_secs(7 * 24 * 60 * 60);
    while run.step() == Work::More {}
    assert_eq!(stats(&run), (0, budget.burst_bytes));
    run.verify();
    run.engine.check();
}

#[test]
fn a_used_up_budget_neither_refuses_nor_delays_a_flush() {
    let budget = WriteBudget {
        bytes_per_day_max: 1,
        burst_bytes: 2 * u64::from(SEGMENT),
    };
    let setup = Setup {
        budget: Some(budget),
        ..TIGHT
    };
    let mut run = Run::open_with(setup, 6, None, |options| {
        options.exports[1].is_durable = true;
    });
    // The export that promises nothing uses it up.
    let refused = (0..300)
        .filter(|&page| !run.write_noise(PageId(page)))
        .count();
    assert!(refused > 100, "{refused} writes were refused");
    assert_eq!(run.step(), Work::Blocked);
    let written = |run: &Run| run.engine.snapshot().store.unwrap().written_bytes;
    let spent_bytes = written(&run);
    assert!(spent_bytes <= budget.burst_bytes);
    run.engine.discard(&mut run.lane, 0..30);
    run.model[..30].iter_mut().for_each(|page| page.fill(0));

    for _ in 0..40 {
        let now = run.now;
        // Room comes from what was flushed before, which is in the store now.
        for page in (300..500).step_by(40) {
            let page = PageId(page + run.random.below(40) as u32);
            assert!(run.write_noise(page), "no room for {page}");
        }
        assert_eq!(run.flush(), Ok(()));
        assert!(
            run.now < now + Duration::from_millis(100),
            "{:?}",
            run.now - now
        );
    }
    // It is counted, though.
    let left_bytes = run.engine.snapshot().writeback.budget_left_bytes.get();
    assert!(left_bytes < u64::from(SEGMENT), "{left_bytes}");
    let flushed_bytes = written(&run) - spent_bytes;
    assert!(
        flushed_bytes > 10 * budget.burst_bytes,
        "{flushed_bytes} bytes"
    );
    run.verify();
    run.engine.check();
}
