//! What a client's flush is answered, on a device that is full or fails, and what it asks of it.

use super::*;
use crate::table::Place;
use crate::testing::sim_device::{Fault, Op};

/// An engine whose second export is durable, its pages as long in the store as they are.
pub(super) fn durable_run(seed: u64) -> Run {
    let setup = Setup {
        codec: "none",
        ..SMALL
    };
    Run::open_with(setup, seed, None, |options| {
        options.exports[1].is_durable = true;
    })
}

impl Run {
    pub(super) fn flush(&mut self) -> std::result::Result<(), FlushError> {
        let flush = self.engine.flush(ExportId(1)).expect("it is durable");
        for _ in 0..10_000 {
            if let Some(outcome) = self.engine.flushed(flush) {
                return outcome;
            }
            self.step();
        }
        panic!("a flush that never ends");
    }
}

#[test]
fn a_flush_says_whether_the_device_is_full_or_fails_and_works_again_afterwards() {
    let mut run = durable_run(1);
    for index in 300..340 {
        assert!(run.write_noise(PageId(index)));
    }
    run.sim().set_room(0);
    assert_eq!(run.flush(), Err(FlushError::Full));
    assert_eq!(run.flush(), Err(FlushError::Full), "at once, the next too");
    run.sim().heal();
    run.now += Duration::from_secs(2);
    assert_eq!(run.flush(), Ok(()));
    for index in 340..380 {
        assert!(run.write_noise(PageId(index)));
    }
    run.sim().set_error_rate(1000);
    assert_eq!(run.flush(), Err(FlushError::Failed));
    run.sim().heal();
    run.now += Duration::from_secs(120);
    assert_eq!(run.flush(), Ok(()));
    run.verify();
    run.engine.check();
}

#[test]
fn a_flush_that_finds_no_segment_fails_and_a_discard_helps() {
    let setup = Setup {
        codec: "none",
        store_bytes: 12 * SEGMENT as usize as u64,
        ..SMALL
    };
    let mut run = Run::open_with(setup, 1, None, |options| {
        options.exports[1].is_durable = true;
    });
    // 11 segments of 7 pages, of which two are kept for cleaning.
    let mut written = 0;
    let failed = (300..450).find(|&index| {
        if !run.write_noise(PageId(index)) {
            return true;
        }
        written += 1;
        written % 7 == 0 && run.flush().is_err()
    });
    assert!(
        failed.is_some() && written > 40,
        "{written} pages found room"
    );
    assert_eq!(run.flush(), Err(FlushError::Full));
    run.engine.discard(&mut run.lane, 300..340);
    (300..340).for_each(|page| run.model[page].fill(0));
    run.now += Duration::from_secs(2);
    assert_eq!(run.flush(), Ok(()));
    run.verify();
    run.engine.check();
}

/// A client that flushes after every page fills a segment with each. They were all moved together before any was
/// taken again, and when that took too long the flush failed, although most of the store was free.
#[test]
fn a_flush_after_every_page_finds_room_as_long_as_there_is_any() {
    let setup = Setup {
        store_bytes: 320 * u64::from(SEGMENT),
        ..SMALL
    };
    let mut run = Run::open_with(setup, 1, None, |options| {
        (options.exports.iter_mut()).for_each(|export| export.is_durable = true);
    });
    for index in 0..1500 {
        let page = index % PAGES;
        // Short records: hundreds of segments are emptied before a batch of them is full.
        let data = [index.to_le_bytes(), [1, 2, 3, 4]].concat();
        assert!(run.patch(PageId(page), 0, &data).is_some());
        run.model[page as usize][..8].copy_from_slice(&data);
        assert_eq!(run.flush(), Ok(()), "flush {index}");
        run.step();
    }
    run.verify();
    run.engine.check();
}

/// After a sync that failed everything is read and written again. One page that the device does not give made every
/// flush fail from then on.
#[test]
fn one_page_that_cannot_be_read_again_does_not_fail_the_flushes_of_all_others_for_ever() {
    let mut run = durable_run(3);
    for index in 300..340 {
        assert!(run.write_noise(PageId(index)));
    }
    run.sim().inject(Op::Sync, 0, Fault::Fail);
    assert_eq!(run.flush(), Err(FlushError::Failed));
    let word = run.engine.tiers.table.peek(PageId(310));
    let Place::Store(object) = word.place() else {
        panic!("it is {word:?}");
    };
    let at = object.at.offset();
    run.sim().break_range(at..at + 1);
    run.now += Duration::from_secs(2);
    assert_eq!(run.flush(), Err(FlushError::Failed));
    run.now += Duration::from_secs(31);
    assert_eq!(run.flush(), Ok(()));
    run.sim().heal();
    // Its neighbour may have bytes in the same block.
    let lost: Vec<_> = (300..340)
        .filter(|page| matches!(run.read(PageId(*page)), Err(Error::Lost)))
        .collect();
    assert!(lost.contains(&310) && lost.len() <= 2, "{lost:?}");
    for page in lost {
        assert!(run.write_noise(PageId(page)));
    }
    run.verify();
    run.engine.check();
}
