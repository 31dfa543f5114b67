//! The engine on a device that fails: a read is the right page or an error, and what was acknowledged
//! stays readable.

use super::*;
use crate::testing::sim_device::{Fault, Op};

/// A run with most pages in the store and none changing any more.
pub(super) fn mostly_stored(seed: u64) -> Run {
    let mut run = Run::new(
        Setup {
            pool_bytes_max: 256 << 10,
            codec: "none",
            ..SMALL
        },
        seed,
    );
    for index in 0..PAGES {
        run.write_noise(PageId(index));
    }
    while run.step() == Work::More {}
    assert!(
        run.stored_pages() > u64::from(PAGES) * 3 / 4,
        "{} are stored",
        run.stored_pages()
    );
    run
}

impl Run {
    pub(super) fn write_noise(&mut self, page: PageId) -> bool {
        let data: Vec<u8> = (0..self.setup.page_bytes)
            .map(|_| self.random.bits() as u8)
            .collect();
        let is_written = self.patch(page, 0, &data).is_some();
        if is_written {
            self.model[page.0 as usize] = data;
        }
        is_written
    }

    pub(super) fn sim(&self) -> &SimDevice {
        self.sim_shared()
    }

    pub(super) fn sim_shared(&self) -> &Arc<SimDevice> {
        self.device.as_ref().expect("this setup has a store")
    }

    /// Every page is right or an error; how many were errors.
    pub(super) fn count_errors(&mut self) -> u64 {
        let mut errors = 0;
        for index in 0..PAGES {
            match self.read(PageId(index)) {
                Ok(found) => {
                    assert!(found == self.model[index as usize], "page {index} is wrong");
                }
                Err(_) => errors += 1,
            }
        }
        errors
    }
}

#[test]
fn a_flipped_byte_is_an_error_for_one_page_and_never_wrong_data() {
    let mut run = mostly_stored(1);
    let image = run.sim().image();
    // One flip in every 397 bytes covers all fields of many records and the bytes of all of them.
    let (mut flips, mut harmless) = (0, 0);
    for at in (0..image.len()).step_by(397).filter(|&at| image[at] != 0) {
        run.sim().flip(at, 1 << (at % 8));
        let errors = run.count_errors();
        assert!(errors <= 1, "byte {at} cost {errors} pages");
        harmless += u64::from(errors == 0);
        flips += 1;
        run.sim().flip(at, 1 << (at % 8));
    }
    assert!(
        flips > 1000 && harmless < flips / 10,
        "{harmless} of {flips} flips hit nothing"
    );
    assert_eq!(run.count_errors(), 0, "all bytes are as they were");
}

#[test]
fn a_failed_segment_write_leaves_its_pages_in_the_pool() {
    for fault in [Fault::Fail, Fault::Short(4096), Fault::Short(1)] {
        let mut run = mostly_stored(2);
        for index in 0..60 {
            run.write_noise(PageId(index));
        }
        run.sim().inject(Op::Write, 0, fault);
        for index in 60..120 {
            assert!(
                run.write_noise(PageId(index)),
                "{fault:?}: page {index} was refused"
            );
        }
        assert_eq!(run.count_errors(), 0, "{fault:?}");
        assert!(
            run.engine.snapshot().writeback.segments_failed.get() >= 1,
            "{fault:?}"
        );
        run.engine.check();
    }
}

#[test]
fn a_full_device_refuses_writes_at_once_and_keeps_every_page() {
    let mut run = mostly_stored(3);
    run.sim().set_room(0);
    let mut refused = 0;
    for index in 0..PAGES {
        refused += u64::from(!run.write_noise(PageId(index)));
    }
    assert!(refused > 0, "the pool took everything");
    assert_eq!(run.count_errors(), 0);
    assert!(run.engine.snapshot().pool.is_stuck);
    // Space that comes back is noticed without a restart.
    run.sim().heal();
    run.now += Duration::from_secs(1);
    assert_eq!(run.step(), Work::More);
    assert!(run.write_noise(PageId(0)));
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn a_place_that_cannot_be_read_costs_the_pages_that_lie_there() {
    let mut run = mostly_stored(4);
    let segment = u64::from(SEGMENT);
    run.sim().break_range(3 * segment..3 * segment + 8192);
    let errors = run.count_errors();
    assert!((1..=3).contains(&errors), "{errors} pages lie in 8 KiB");
    run.sim().heal();
    assert_eq!(run.count_errors(), 0);
}

#[test]
fn writes_that_get_lost_or_land_elsewhere_are_errors_and_never_wrong_data() {
    for fault in [Fault::Lose, Fault::Misdirect(u64::from(SEGMENT) * 2)] {
        let mut run = mostly_stored(5);
        run.sim().inject(Op::Write, 0, fault);
        for index in 0..100 {
            run.write_noise(PageId(index));
        }
        let errors = run.count_errors();
        assert!(errors > 0, "{fault:?} was not noticed");
        run.engine.check();
    }
}

#[test]
fn a_device_with_errors_everywhere_never_makes_a_wrong_page() {
    for seed in seeds(8) {
        with_seed(seed, |seed| {
            let mut run = Run::new(
                Setup {
                    codec: "none",
                    ..SMALL
                },
                seed,
            );
            for _ in 0..6 {
                run.sim().set_error_rate(50 * (seed % 5));
                for _ in 0..300 {
                    run.act_or_fail();
                }
                run.sim().heal();
                run.engine.check();
                // EIO ends with its cause: nothing was corrupted, so nothing is lost.
                assert_eq!(run.count_errors(), 0);
            }
        });
    }
}

impl Run {
    /// A random operation, some of which the device refuses.
    pub(super) fn act_or_fail(&mut self) {
        let page = PageId(self.random.below(u64::from(PAGES)) as u32);
        match self.random.below(10) {
            0..5 => {
                self.write_noise(page);
            }
            5..6 => {
                self.step();
            }
            6..7 => {
                let byte = self.random.bits() as u8;
                if self.patch(page, 100, &[byte; 50]).is_some() {
                    self.model[page.0 as usize][100..150].fill(byte);
                }
            }
            _ => {
                if let Ok(found) = self.read(page) {
                    assert!(found == self.model[page.0 as usize], "{page} is wrong");
                }
            }
        }
    }
}
