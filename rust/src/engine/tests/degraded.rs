//! The rule for a device that cannot be written: how often it is tried, what is answered meanwhile, and
//! that it ends by itself.

use super::faults::mostly_stored;
use super::*;
use crate::testing::sim_device::{Fault, Op};

impl Run {
    /// Lets background work go on for so long with nobody asking for anything, as the thread would.
    pub(super) fn let_pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if self.step() != Work::More {
                self.now += Duration::from_secs(1);
            }
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.engine.snapshot().writeback.is_degraded.get() != 0
    }

    fn writes(&self) -> u64 {
        self.sim().counts().writes
    }

    /// Writes to all pages; how many were refused.
    pub(super) fn write_all(&mut self) -> u32 {
        let refused = (0..PAGES).filter(|page| !self.write_noise(PageId(*page)));
        refused.count() as u32
    }
}

#[test]
fn a_device_that_fails_is_tried_ever_less_often_and_used_again_when_it_works() {
    let mut run = mostly_stored(1);
    run.sim().set_error_rate(1000);
    let before = run.writes();
    assert!(run.write_all() > PAGES / 4, "the pool took everything");
    assert!(run.is_degraded() && run.engine.snapshot().pool.is_stuck);
    assert_eq!(run.writes() - before, 3, "three places were tried");
    // The pages are there as soon as they can be read.
    run.sim().set_error_rate(0);
    run.sim().break_writes(0..u64::MAX);
    assert_eq!(run.count_errors(), 0);

    let before = run.writes();
    run.let_pass(Duration::from_secs(3600));
    // After 1, 2, 4, 8, 16 and 32 s, and then every minute.
    let tried = run.writes() - before;
    assert!((60..=67).contains(&tried), "tried {tried} times in an hour");
    assert!(run.is_degraded());
    let stats = run.engine.snapshot().store.unwrap();
    assert_eq!(
        stats.segments_broken, 0,
        "the device was in doubt, not its places"
    );

    run.sim().heal();
    run.let_pass(Duration::from_secs(61));
    assert!(!run.is_degraded(), "nobody wrote, and it was noticed");
    assert_eq!(run.count_errors(), 0);
    assert_eq!(run.write_all(), 0);
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn a_full_device_is_tried_once_and_then_every_second() {
    let mut run = mostly_stored(2);
    run.sim().set_room(0);
    let before = run.writes();
    assert!(run.write_all() > PAGES / 4);
    assert_eq!(run.writes() - before, 1);
    assert_ne!(run.engine.snapshot().writeback.is_out_of_space.get(), 0);
    assert_eq!(run.count_errors(), 0);

    let before = run.writes();
    run.let_pass(Duration::from_secs(100));
    let tried = run.writes() - before;
    assert!((90..=100).contains(&tried), "tried {tried} times");
    let stats = run.engine.snapshot().store.unwrap();
    assert_eq!((stats.segments_suspect, stats.segments_broken), (0, 0));

    run.sim().heal();
    run.let_pass(Duration::from_secs(2));
    assert!(!run.is_degraded());
    assert_eq!(run.engine.snapshot().writeback.is_out_of_space.get(), 0);
    assert_eq!(run.write_all(), 0);
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn a_device_that_fails_now_and_then_is_used_and_nothing_is_refused() {
    for seed in seeds(8) {
        with_seed(seed, |seed| {
            let mut run = mostly_stored(seed);
            for round in 0..40 {
                run.sim().inject(Op::Write, round % 3, Fault::Fail);
                for _ in 0..PAGES / 4 {
                    let page = PageId(run.random.below(u64::from(PAGES)) as u32);
                    assert!(run.write_noise(page), "{page} was refused");
                }
            }
            let snapshot = run.engine.snapshot();
            assert!(snapshot.writeback.segments_failed.get() > 20);
            assert!(!run.is_degraded());
            run.sim().heal();
            assert_eq!(run.count_errors(), 0);
            run.engine.check();
        });
    }
}

#[test]
fn a_region_that_cannot_be_written_is_left_alone_and_the_rest_is_used() {
    let mut run = mostly_stored(3);
    let segment = u64::from(SEGMENT);
    // A quarter of the segments. All of them would be taken in turn.
    run.sim().break_writes(16 * segment..48 * segment);
    for _ in 0..12 {
        for index in 0..PAGES {
            if !run.write_noise(PageId(index)) {
                run.let_pass(Duration::from_secs(2));
            }
        }
    }
    assert_eq!(run.count_errors(), 0);
    let stats = run.engine.snapshot().store.unwrap();
    assert!(stats.segments_suspect + stats.segments_broken > 0);
    assert!(
        stats.write_errors <= 64,
        "{} writes failed",
        stats.write_errors
    );
    run.engine.check();
}

#[test]
fn segments_that_could_not_be_read_are_cleaned_when_they_can_be() {
    // They were set aside for good, and a store without free segments refused all writes from then on.
    let mut run = Run::new(
        Setup {
            pool_bytes_max: 256 << 10,
            store_bytes: 2500 << 10,
            codec: "none",
            ..SMALL
        },
        5,
    );
    assert_eq!(run.write_all(), 0);
    run.sim().break_range(0..u64::MAX);
    let mut refused = 0;
    for _ in 0..5000 {
        let page = PageId(run.random.below(u64::from(PAGES)) as u32);
        refused += u32::from(!run.write_noise(page));
        if refused == 100 {
            break;
        }
    }
    assert_eq!(refused, 100, "there was no need to clean");
    run.let_pass(Duration::from_secs(10));
    run.sim().heal();
    run.let_pass(Duration::from_secs(61));
    // Whoever finds no room is refused until the next look, and asks for it.
    let _ = run.write_all();
    run.let_pass(Duration::from_secs(1));
    assert_eq!(run.write_all(), 0);
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn whatever_the_device_does_pages_are_right_or_errors_and_it_is_used_again() {
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            let mut run = mostly_stored(seed);
            for _ in 0..12 {
                let segment = run.random.below(100) * u64::from(SEGMENT);
                let (number, pause_s) = (run.random.below(1000), run.random.below(300));
                match run.random.below(6) {
                    0 => run.sim().set_error_rate(number),
                    1 => run.sim().set_room((number % 400) << 10),
                    2 => run.sim().break_writes(segment..segment + (1 << 20)),
                    3 => run.sim().break_range(segment..segment + (1 << 20)),
                    4 => {
                        (0..9).for_each(|nth| run.sim().inject(Op::Write, nth, Fault::Short(4096)))
                    }
                    _ => run.sim().heal(),
                }
                for _ in 0..200 {
                    run.act_or_fail();
                }
                if run.random.below(2) == 0 {
                    run.let_pass(Duration::from_secs(pause_s));
                }
                run.count_errors();
                run.engine.check();
            }
            run.sim().heal();
            assert_eq!(run.count_errors(), 0, "nothing was damaged");
            run.let_pass(Duration::from_secs(61));
            assert!(!run.is_degraded());
            assert_eq!(run.write_all(), 0);
            assert_eq!(run.count_errors(), 0);
            run.engine.check();
        });
    }
}

#[test]
fn a_device_in_doubt_is_tried_below_the_marks_too_and_costs_no_page() {
    let mut run = mostly_stored(4);
    run.sim().break_writes(0..u64::MAX);
    run.write_all();
    assert!(run.is_degraded());
    // Most of the pool goes: nothing has to be written back any more.
    for index in 0..PAGES {
        if !run.random.below(10).is_multiple_of(10) {
            run.engine.discard(&mut run.lane, index..index + 1);
            run.model[index as usize].fill(0);
        }
    }
    let before = run.writes();
    run.let_pass(Duration::from_secs(30));
    assert!(run.writes() - before >= 4);
    assert!(run.is_degraded());
    assert_eq!(run.count_errors(), 0);
    run.sim().heal();
    run.let_pass(Duration::from_secs(61));
    assert!(!run.is_degraded());
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}
