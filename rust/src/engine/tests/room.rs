//! A pool or a store with little room: what is refused, and what is no reason to.

use super::*;

/// A write asks for room, discards empty the pool, and only then does write-back look.
#[test]
fn a_late_call_for_room_does_not_make_an_empty_pool_stuck() {
    let mut run = Run::new(SMALL, 1);
    run.engine.bell().ask();
    assert_eq!(run.step(), Work::Idle);
    assert!(!run.engine.snapshot().pool.is_stuck);
}

#[test]
fn a_full_pool_without_a_store_refuses_and_keeps_what_it_has() {
    let mut run = Run::new(
        Setup {
            store_bytes: 0,
            codec: "none",
            ..SMALL
        },
        1,
    );
    let mut noise = Random::new(5);
    for index in 0..PAGES {
        let data: Vec<u8> = (0..PAGE).map(|_| noise.bits() as u8).collect();
        if run.patch(PageId(index), 0, &data).is_some() {
            run.model[index as usize] = data;
        } else {
            run.refused += 1;
        }
    }
    assert!(
        run.refused > 300,
        "{} of 500 raw pages fit into 128",
        PAGES as u64 - run.refused
    );
    run.verify();
    // Room that a discard makes can be used at once.
    let held = (0..PAGES)
        .find(|&p| run.engine.page_state(PageId(p)) == PageState::Data)
        .unwrap();
    run.engine.discard(&mut run.lane, held..held + 1);
    assert!(run.patch(PageId(499), 0, &vec![3; PAGE]).is_some());
}

#[test]
fn victims_that_were_all_rewritten_do_not_look_like_an_empty_pool() {
    let setup = Setup {
        pool_bytes_max: 2 << 20,
        store_bytes: 8 << 20,
        codec: "none",
        ..SMALL
    };
    let mut run = Run::new(setup, 3);
    let mut noise = Random::new(9);
    let mut write = |run: &mut Run, index: u32| {
        let data: Vec<u8> = (0..PAGE).map(|_| noise.bits() as u8).collect();
        assert!(
            run.patch(PageId(index), 0, &data).is_some(),
            "page {index} was refused"
        );
        run.model[index as usize] = data;
    };
    (0..480).for_each(|index| write(&mut run, index));
    assert_eq!(run.step(), Work::More);
    assert!(run.stored_pages() > 0);
    // What the first step collected and did not write yet is rewritten.
    (0..300).for_each(|index| write(&mut run, index));
    assert_eq!(run.step(), Work::More, "the pool is as full as before");
    run.verify();
    run.engine.check();
}

#[test]
fn a_request_for_room_that_was_met_does_not_make_an_empty_pool_stuck() {
    let mut run = Run::new(SMALL, 4);
    let mut data = vec![0; PAGE];
    let first_stall = (0..PAGES).find(|&index| {
        data.fill_with(|| run.random.bits() as u8);
        let written = run.engine.write(&mut run.lane, PageId(index), &data);
        written.unwrap() == Write::Stall
    });
    assert!(first_stall.is_some(), "the pool took everything");
    run.engine.discard(&mut run.lane, 0..PAGES);
    // Now there is nothing to write back, because all is free. It said Blocked, and for a second
    // every write that found no place at once was refused, with the whole store free.
    assert_ne!(run.step(), Work::Blocked);
    assert!(!run.engine.snapshot().pool.is_stuck);
}

#[test]
fn a_store_that_is_nearly_all_alive_still_takes_rewrites() {
    let setup = Setup {
        pool_bytes_max: 256 << 10,
        store_bytes: 2 << 20,
        codec: "none",
        ..SMALL
    };
    let mut run = Run::new(setup, 6);
    let mut least_live = f64::INFINITY;
    for step in 0..3000u32 {
        let page = PageId(if step < 480 {
            step
        } else {
            run.random.below(480) as u32
        });
        assert!(run.write_noise(page), "step {step}: {page} was refused");
        if step >= 480 {
            let store = run.engine.snapshot().store.expect("this setup has one");
            least_live = least_live.min(store.live_bytes as f64 / store.capacity_bytes as f64);
        }
    }
    assert!(least_live > 0.8, "only {least_live:.2} of the store lived");
    run.verify();
    run.engine.check();
}

impl Run {
    /// Writes pages as other clients do meanwhile, as far as they find room at once.
    fn let_others_write(&mut self) {
        for _ in 0..self.random.below(4) {
            let page = self.random.below(u64::from(PAGES)) as u32;
            let mut data = vec![0; PAGE];
            data.fill_with(|| self.random.bits() as u8);
            let written = self.engine.write(&mut self.lane, PageId(page), &data);
            if let Ok(Write::Done(_)) = written {
                self.model[page as usize] = data;
            }
        }
    }

    /// Writes a batch that is under way, perhaps, as another thread does.
    fn let_device_write(&mut self) {
        if self.random.below(2) == 0 {
            self.engine.dispatch().write_next(&self.engine.tiers);
        }
    }

    /// A flush that others do not wait for.
    fn flush_among_others(&mut self) -> std::result::Result<(), FlushError> {
        let flush = self.engine.flush(ExportId(1)).expect("it is durable");
        for _ in 0..10_000 {
            if let Some(outcome) = self.engine.flushed(flush) {
                return outcome;
            }
            self.step();
            self.let_others_write();
            self.let_device_write();
        }
        panic!("a flush that never ends");
    }
}

/// Each owed page keeps a segment waiting for a checkpoint, and with many of them all segments wait. What was
/// cleaned then gave no room, the last segment was spent on it, and no flush and no write succeeded any more, with
/// half of the store dead.
#[test]
fn a_store_that_is_not_full_always_has_a_segment_to_write_into() {
    for seed in seeds(12) {
        with_seed(seed, |seed| {
            let dir = Directory::new(&format!("room-{seed}"));
            // All pages fill seven eighths of it.
            let setup = Setup {
                store_bytes: (82 + seed % 20) * u64::from(SEGMENT),
                codec: "none",
                ..SMALL
            };
            let durable = |options: &mut EngineOptions| {
                (options.exports.iter_mut()).for_each(|export| export.is_durable = true);
            };
            let mut run = Run::open_with(setup, seed, Some(&dir), durable);
            run.engine.dispatch().open();
            for index in 0..PAGES {
                assert!(run.write_noise(PageId(index)), "page {index}");
            }
            for step in 0..3000 {
                match run.random.below(1000) {
                    0..2 => assert_eq!(run.flush_among_others(), Ok(()), "step {step}"),
                    2..6 => {
                        let mut options = options(&setup, run.device.clone(), Some(&dir));
                        durable(&mut options);
                        if run.random.below(2) == 0 {
                            // It is killed in the middle of a sync.
                            run.engine.tiers.belief().doubt();
                        }
                        run.take_over(options);
                        run.engine.dispatch().open();
                    }
                    6..600 => {
                        run.step();
                        run.let_others_write();
                        run.let_device_write();
                    }
                    _ => {
                        let page = PageId(run.random.below(u64::from(PAGES)) as u32);
                        assert!(run.write_noise(page), "step {step}: {page} was refused");
                    }
                }
            }
            assert_eq!(run.flush(), Ok(()));
            run.verify();
            run.engine.check();
        });
    }
}
