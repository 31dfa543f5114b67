//! Recovery of a damaged log: what a page was before its newest version is never served for it. And what
//! is foreseen of a recovery is what comes of it.

mod torn;
mod unreadable;

use super::flushing::durable_run;
use super::*;
use crate::durable::MARK_BYTES;
use crate::testing::sim_device::{Fault, Op};

const FIRST: u32 = 300;
const LAST: u32 = 320;

/// The next engine after a loss of the host, and what it told.
pub(super) fn recover(setup: Setup, image: Vec<u8>) -> (Run, OpenReport) {
    let device = Arc::new(SimDevice::from_image(image, 1));
    let mut options = options(&setup, Some(Arc::clone(&device)), None);
    options.exports[0].is_lost = true;
    options.exports[1].is_durable = true;
    options.exports[1].is_recovered = true;
    let (engine, report) = Engine::open(options).unwrap();
    let run = Run {
        lane: engine.lane(),
        reader: engine.reader_lane(),
        engine,
        device: Some(device),
        setup,
        model: vec![vec![0; setup.page_bytes]; PAGES as usize],
        random: Random::new(1),
        refused: 0,
        now: Duration::ZERO,
    };
    (run, report)
}

impl Run {
    /// Where the newest record of a page is, and how long.
    fn record(&self, page: u32) -> (usize, usize) {
        let tiers = &self.engine.tiers;
        let store = tiers.store.as_ref().unwrap();
        let (at, bytes) = match tiers.table.peek(PageId(page)).place() {
            Place::Store(object) => (object.at, object.bytes),
            _ => {
                let mark = tiers
                    .durable
                    .as_ref()
                    .and_then(|durable| durable.mark(PageId(page)));
                (mark.expect("it has a mark"), MARK_BYTES)
            }
        };
        (
            at.offset() as usize,
            store.record_bytes(bytes as u32) as usize,
        )
    }
}

/// Bytes of the list of the segment around a byte.
fn list_of(image: &[u8], at: usize) -> std::ops::Range<usize> {
    let start = at / SEGMENT as usize * SEGMENT as usize;
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let (records, records_bytes) = (word(start + 24), word(start + 28));
    let list = start + 48 + records_bytes;
    list..list + 8 * records
}

#[test]
fn a_page_whose_newest_record_is_damaged_with_its_list_is_an_error_and_not_its_older_version() {
    let mut run = durable_run(1);
    for page in FIRST..LAST {
        assert!(run.write_noise(PageId(page)));
    }
    assert_eq!(run.flush(), Ok(()));
    // One page is written again, one filled, one discarded: newer records in another segment.
    let (written, filled, discarded) = (PageId(FIRST + 3), PageId(FIRST + 5), PageId(FIRST + 7));
    assert!(run.write_noise(written));
    assert!(run.patch(filled, 0, &[7; PAGE]).is_some());
    run.model[filled.0 as usize].fill(7);
    run.engine
        .discard(&mut run.lane, discarded.0..discarded.0 + 1);
    run.model[discarded.0 as usize].fill(0);
    assert_eq!(run.flush(), Ok(()));
    // So that the log is known to be whole up to here.
    assert!(run.write_noise(PageId(LAST)));
    assert_eq!(run.flush(), Ok(()));

    let image = run.sim().image();
    for page in [written, filled, discarded] {
        let (at, bytes) = run.record(page.0);
        let list = list_of(&image, at);
        for (in_record, in_list) in [
            (bytes - 1, 0),
            (bytes / 2, 9),
            (20, 17),
            (10, list.len() - 1),
        ] {
            let mut damaged = image.clone();
            damaged[at + in_record] ^= 4;
            damaged[list.start + in_list] ^= 2;
            let (mut next, _) = recover(run.setup, damaged);
            let found = next.read(page);
            let is_padding = found
                .as_ref()
                .is_ok_and(|found| *found == run.model[page.0 as usize]);
            assert!(
                matches!(found, Err(Error::Lost | Error::Corrupt { .. })) || is_padding,
                "{page}, byte {in_record} of its record and {in_list} of the list"
            );
            for other in (FIRST..=LAST).map(PageId).filter(|other| *other != page) {
                if let Ok(found) = next.read(other) {
                    assert!(
                        found == run.model[other.0 as usize],
                        "{other} is an older one"
                    );
                }
            }
            next.engine.check();
        }
    }
}

#[test]
fn records_that_nobody_can_name_and_segments_without_a_head_are_told() {
    let mut run = durable_run(2);
    for page in FIRST..LAST {
        assert!(run.write_noise(PageId(page)));
    }
    assert_eq!(run.flush(), Ok(()));
    assert!(run.write_noise(PageId(LAST)));
    assert_eq!(run.flush(), Ok(()));
    let image = run.sim().image();
    let (_, report) = recover(run.setup, image.clone());
    assert_eq!(report.warnings, [] as [&str; 0]);

    let (at, _) = run.record(FIRST + 4);
    let list = list_of(&image, at);
    let mut unnamed = image.clone();
    // What makes an entry none of this version, wherever it is in the list.
    unnamed[at + 7] ^= 1;
    list.clone()
        .skip(7)
        .step_by(8)
        .for_each(|flags| unnamed[flags] ^= 1);
    let (_, report) = recover(run.setup, unnamed);
    let [warning] = &report.warnings[..] else {
        panic!("{report:?}");
    };
    assert!(warning.contains("0 segments and 1 records"), "{warning}");

    let mut headless = image;
    let start = at / SEGMENT as usize * SEGMENT as usize;
    let end = (list.end + 48).next_multiple_of(4096);
    headless[start + 40] ^= 1;
    headless[end - 8] ^= 2;
    let (_, report) = recover(run.setup, headless);
    let [warning] = &report.warnings[..] else {
        panic!("{report:?}");
    };
    assert!(warning.contains("1 segments and 0 records"), "{warning}");
}

#[test]
fn what_is_foreseen_is_what_a_recovery_finds() {
    for seed in seeds(6) {
        let mut run = durable_run(seed);
        for round in 0..6 {
            for _ in 0..100 {
                run.act();
            }
            if round != 5 {
                assert_eq!(run.flush(), Ok(()));
            }
        }
        let image = run.sim().image();
        let path = std::env::temp_dir().join(format!("nbdswap-{}-foreseen", std::process::id()));
        std::fs::write(&path, &image).unwrap();
        let foreseen = foresee(&path, None, &[(300, false), (200, true)], PAGE);
        assert!(std::fs::read(&path).unwrap() == image, "it was touched");
        std::fs::remove_file(&path).unwrap();
        let (exports, survey) = foreseen.unwrap();
        assert_eq!(exports[0], None, "it promises nothing");
        let (next, report) = recover(run.setup, image);
        let pages = next.engine.snapshot().exports[1].pages;
        let found = exports[1].unwrap();
        assert_eq!(found.stored, pages[Tier::Store as usize]);
        assert_eq!(
            found.stored + found.filled + found.discarded,
            report.pages_recovered
        );
        assert_eq!(found.lost, report.pages_lost);
        assert!(found.stored > 20 && found.discarded > 0, "{found:?}");
        assert!(survey.position > 0 && survey.segments > survey.segments_unsure);
        assert_eq!((survey.lists_damaged, survey.heads_damaged), (0, 0));
    }
}

#[test]
fn what_was_flushed_is_not_owed_again_by_who_takes_the_memory_over() {
    for seed in seeds(6) {
        let dir = Directory::new(&format!("marks-{seed}"));
        let change = |options: &mut EngineOptions| options.exports[1].is_durable = true;
        let mut run = Run::open_with(SMALL, seed, Some(&dir), change);
        for _ in 0..3 {
            (0..200).for_each(|_| run.act());
            assert_eq!(run.flush(), Ok(()));
        }
        let mut options = options(&run.setup, run.device.clone(), Some(&dir));
        change(&mut options);
        run.take_over(options);
        run.engine.check();
        run.verify();
        let tiers = &run.engine.tiers;
        let durable = tiers.durable.as_ref().unwrap();
        let marks = (300..500).filter(|page| durable.mark(PageId(*page)).is_some());
        assert!(marks.count() > 5, "seed {seed}");
        assert_eq!(durable.owed.len(), 0, "seed {seed}");
        assert_eq!(tiers.store.as_ref().unwrap().segments_held(), 0);
        // What is changed from now on counts, and what was a mark before is not resurrected.
        (0..100).for_each(|_| run.act());
        assert_eq!(run.flush(), Ok(()));
        let (mut next, _) = recover(run.setup, run.sim().image());
        for page in (300..500).map(PageId) {
            let found = next.read(page).unwrap();
            assert!(found == run.model[page.0 as usize], "seed {seed}: {page:?}");
        }
    }
}

#[test]
fn a_flushed_version_outlives_a_failed_write_of_the_next_a_kill_and_a_loss_of_power() {
    let dir = Directory::new("failed-write");
    let setup = Setup {
        codec: "none",
        ..SMALL
    };
    let change = |options: &mut EngineOptions| options.exports[1].is_durable = true;
    let mut run = Run::open_with(setup, 1, Some(&dir), change);
    let pages = || (FIRST..FIRST + 5).map(PageId);
    for page in pages() {
        assert!(run.write_noise(page));
    }
    assert_eq!(run.flush(), Ok(()));
    assert!(run.write_noise(PageId(LAST)));
    assert_eq!(run.flush(), Ok(()));
    let flushed = run.model.clone();
    for page in pages() {
        assert!(run.write_noise(page));
    }
    // The head and the list of the segment land, some of its records do not.
    run.sim().inject(Op::Write, 0, Fault::Hole(4096, 8192));
    run.engine.flush(ExportId(1)).unwrap();
    while run.engine.snapshot().store.unwrap().write_errors == 0 {
        run.step();
    }
    // It is killed, and its successor's client does not flush: dead segments are free, and given back.
    let mut options = options(&run.setup, run.device.clone(), Some(&dir));
    change(&mut options);
    let report = run.take_over(options);
    assert_eq!(report.pages_lost, 0);
    for _ in 0..200 {
        run.step();
    }
    run.verify();
    let (mut next, _) = recover(run.setup, run.sim().image());
    for page in pages() {
        let (found, at) = (next.read(page).unwrap(), page.0 as usize);
        let is_right = found == flushed[at] || found == run.model[at];
        assert!(is_right, "{page} is neither of its versions");
    }
}
