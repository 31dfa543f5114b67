//! The scrub: it finds what rotted before a client does, names it, keeps to its rate, and harms nothing.

use super::*;
use crate::incident::{Fault, Finder};

const RATE: u64 = 1 << 20;
const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// A run with most pages in the store, whose engine scrubs.
fn scrubbed(seed: u64) -> Run {
    let setup = Setup {
        pool_bytes_max: 256 << 10,
        codec: "none",
        ..SMALL
    };
    let mut run = Run::open_with(setup, seed, None, |options| {
        options.store.as_mut().unwrap().scrub_bytes_per_s = RATE;
    });
    (0..PAGES).for_each(|index| assert!(run.write_noise(PageId(index))));
    while run.step() == Work::More {}
    assert!(
        run.stored_pages() > 300,
        "{} are stored",
        run.stored_pages()
    );
    run
}

impl Run {
    /// Where a page is in the backing file; None: in the pool.
    fn offset(&mut self, page: PageId) -> Option<u64> {
        let mut out = vec![0; self.setup.page_bytes];
        match self.engine.read(&mut self.lane, page, &mut out).unwrap() {
            Read::Fetch(place) => match place.word.place() {
                Place::Store(object) => Some(object.at.offset()),
                place => unreachable!("{place:?}"),
            },
            Read::Ready(_) => None,
        }
    }

    /// Scrubs as the background thread does, from `now_us` until a pass ends; when that is.
    pub(super) fn pass(&self, mut now_us: u64) -> u64 {
        let passes = || self.engine.snapshot().writeback.scrub.passes.get();
        let before = passes();
        for _ in 0..100_000 {
            let pause_us = self.engine.scrub(now_us).expect("it is on");
            if passes() > before {
                return now_us;
            }
            now_us += pause_us;
        }
        panic!("a pass that never ends");
    }
}

#[test]
fn a_pass_finds_every_damaged_page_and_names_it_before_a_client_asks() {
    let mut run = scrubbed(1);
    let damaged: Vec<_> = (0..PAGES)
        .step_by(37)
        .filter_map(|index| Some((PageId(index), run.offset(PageId(index))?)))
        .collect();
    assert!(damaged.len() > 8, "{damaged:?}");
    for (number, (_, offset)) in damaged.iter().enumerate() {
        // The header of one, the object of the next.
        run.sim().flip(*offset as usize + number % 2 * 1000, 0x10);
    }
    let began_us = 5_000_000;
    let ended_us = run.pass(began_us);
    let (mut named, unnamed) = run.engine.take_incidents();
    named.sort_by_key(|incident| incident.page);
    assert_eq!(unnamed, 0);
    for (incident, (page, offset)) in named.iter().zip(&damaged) {
        assert_eq!((incident.page, incident.offset), (*page, *offset));
        assert_eq!(
            (incident.fault, incident.finder),
            (Fault::Damaged, Finder::Scrub)
        );
    }
    let snapshot = run.engine.snapshot();
    let scrub = &snapshot.writeback.scrub;
    assert_eq!(scrub.pages_lost.get(), damaged.len() as u64);
    assert_eq!(scrub.passed_us.get(), ended_us);
    let lost: u64 = snapshot
        .exports
        .iter()
        .map(|e| e.pages[Tier::Lost as usize])
        .sum();
    assert_eq!(lost, damaged.len() as u64);
    for index in 0..PAGES {
        let page = PageId(index);
        match run.read(page) {
            Ok(found) => assert!(found == run.model[index as usize], "{page} is wrong"),
            Err(Error::Lost) => assert!(damaged.iter().any(|(known, _)| *known == page)),
            Err(error) => panic!("{page}: {error}"),
        }
    }
    run.engine.check();
    // A page that is written again is as good as any.
    assert!(run.write_noise(damaged[0].0));
    assert!(run.read(damaged[0].0).unwrap() == run.model[damaged[0].0.0 as usize]);
}

#[test]
fn it_keeps_to_its_rate_and_rests_until_the_next_day() {
    let run = scrubbed(2);
    let read_before = run.engine.snapshot().store.unwrap().read_bytes;
    let ended_us = run.pass(0);
    let read_bytes = run.engine.snapshot().store.unwrap().read_bytes - read_before;
    assert!(
        read_bytes > 300 * PAGE as u64,
        "{read_bytes} bytes are no pass"
    );
    let paced_us = read_bytes * 1_000_000 / RATE;
    assert!(
        (paced_us * 9 / 10..=paced_us).contains(&ended_us),
        "{read_bytes} bytes in {ended_us} us, wanted {paced_us}"
    );
    // Nothing was late, so nothing is made up for.
    assert_eq!(run.engine.scrub(ended_us), Some(DAY_US - ended_us));
    let reads = run.sim().counts().reads;
    assert_eq!(run.engine.scrub(DAY_US - 1), Some(1));
    assert_eq!(run.sim().counts().reads, reads);
    let pause_us = run.engine.scrub(DAY_US + 7_000_000).unwrap();
    assert!((1..100_000).contains(&pause_us), "{pause_us}");
    assert_eq!(run.engine.snapshot().store.unwrap().checksum_errors, 0);
}

#[test]
fn what_the_device_does_not_give_is_named_and_not_given_up() {
    let mut run = scrubbed(3);
    let (page, offset) = (0..PAGES)
        .find_map(|index| Some((PageId(index), run.offset(PageId(index))?)))
        .unwrap();
    run.sim().break_range(offset..offset + 8);
    run.pass(0);
    let (named, _) = run.engine.take_incidents();
    assert!(named.iter().any(|i| i.page == page && i.offset == offset));
    assert!(named.iter().all(|i| i.fault == Fault::Unreadable));
    let snapshot = run.engine.snapshot();
    let scrub = &snapshot.writeback.scrub;
    assert_eq!(
        (scrub.pages_lost.get(), scrub.records_unreadable.get()),
        (0, named.len() as u64)
    );
    run.sim().heal();
    run.verify();
}

#[test]
fn it_goes_on_beside_everything_else_and_changes_no_page() {
    for seed in seeds(4) {
        with_seed(seed, |seed| {
            let mut run = scrubbed(seed);
            let mut now_us = 0;
            for _ in 0..2000 {
                run.act();
                now_us += run.engine.scrub(now_us).unwrap();
            }
            let snapshot = run.engine.snapshot();
            assert!(
                snapshot.writeback.scrub.bytes.get() > 0,
                "nothing was verified"
            );
            assert_eq!(snapshot.writeback.scrub.pages_lost.get(), 0);
            assert_eq!(run.engine.take_incidents(), (Vec::new(), 0));
            run.engine.check();
            run.verify();
        });
    }
}

#[test]
fn a_page_that_a_client_could_not_read_is_named_each_time_it_is_asked_for() {
    let mut run = scrubbed(4);
    let page = PageId(301);
    let offset = run.offset(page).expect("it is stored");
    run.sim().flip(offset as usize + 100, 1);
    (0..3).for_each(|_| assert!(run.read(page).is_err()));
    let (named, _) = run.engine.take_incidents();
    assert_eq!((named.len(), named[0].times), (1, 3));
    assert_eq!(
        (named[0].fault, named[0].finder),
        (Fault::Damaged, Finder::Read)
    );
    let (export, index) = run.engine.whose(page);
    assert_eq!((export.name.as_str(), index), ("second", PageIndex(1)));
}

#[test]
fn without_a_rate_or_a_store_there_is_no_scrub() {
    assert_eq!(Run::new(SMALL, 1).engine.scrub(1), None);
    let setup = Setup {
        store_bytes: 0,
        ..SMALL
    };
    assert_eq!(Run::new(setup, 1).engine.scrub(1), None);
}
