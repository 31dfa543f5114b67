//! One trouble and one deed: how the trouble begins, what the deed comes to, and what is left of it.

use super::super::*;
use super::{Deed, Deed::*, Trouble, Trouble::*};
use crate::testing::sim_device::{Fault, Op};

/// Room for all pages and little more, so that there is something to clean.
const SETUP: Setup = Setup {
    pool_bytes_max: 256 << 10,
    store_bytes: 3 << 20,
    ..SMALL
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Records of two segments: what one write can cost that is lost, or lands on another one's place.
const DAMAGED_MAX: usize = 16;

pub(super) struct Cell {
    trouble: Trouble,
    deed: Deed,
    run: Run,
    dir: Directory,
    /// A stored page; damaged, if the trouble is damage.
    page: PageId,
}

impl Cell {
    pub(super) fn new(trouble: Trouble, deed: Deed) -> Cell {
        let dir = Directory::new(&format!("matrix-{trouble:?}-{deed:?}"));
        let mut run = Run::open_with(SETUP, 1, Some(&dir), with_scrub);
        for index in 0..PAGES {
            assert!(run.write_noise(PageId(index)));
        }
        while run.step() == Work::More {}
        let page = PageId(0);
        Cell {
            trouble,
            deed,
            run,
            dir,
            page,
        }
    }

    fn is_damage(&self) -> bool {
        matches!(self.trouble, Lost | Misdirected | Rot)
    }

    /// Does the deed write a batch of its own, to which the trouble can happen?
    fn writes_itself(&self) -> bool {
        matches!(self.deed, ClientWrites | WriteBack) && self.trouble != Rot
    }

    /// Pages that cannot be read.
    fn damaged(&mut self) -> Vec<PageId> {
        let pages = (0..PAGES).map(PageId);
        pages.filter(|page| !self.is_right(*page)).collect()
    }

    /// Is it what was written? Panics if it is neither that nor an error.
    fn is_right(&mut self, page: PageId) -> bool {
        match self.run.read(page) {
            Ok(found) => {
                assert!(found == self.run.model[page.0 as usize], "{page} is wrong");
                true
            }
            Err(_) => false,
        }
    }

    fn offset(&mut self, page: PageId) -> Option<u64> {
        let mut out = vec![0; PAGE];
        match self.run.engine.read(&mut self.run.lane, page, &mut out) {
            Ok(Read::Fetch(place)) => match place.word.place() {
                Place::Store(object) => Some(object.at.offset()),
                place => unreachable!("{place:?}"),
            },
            _ => None,
        }
    }

    /// Lets the trouble begin.
    pub(super) fn begin(&mut self) {
        let stored = (0..PAGES)
            .map(PageId)
            .find(|page| self.offset(*page).is_some());
        self.page = stored.expect("most are stored");
        let sim = Arc::clone(self.run.sim_shared());
        match self.trouble {
            Eio => {
                sim.break_range(0..u64::MAX);
                sim.break_writes(0..u64::MAX);
            }
            NoSpace => sim.set_room(0),
            Short => (0..1000).for_each(|nth| sim.inject(Op::Write, nth, Fault::Short(8192))),
            Lost => sim.inject(Op::Write, 0, Fault::Lose),
            // Onto a segment in which pages live.
            Misdirected => {
                let at = self.offset(self.page).unwrap() / u64::from(SEGMENT) * u64::from(SEGMENT);
                sim.inject(Op::Write, 0, Fault::Misdirect(at));
            }
            Rot => sim.flip(self.offset(self.page).unwrap() as usize + 1000, 4),
            Slow => {
                sim.close_gate();
                sim.close_write_gate();
            }
        }
        if self.is_damage() && !self.writes_itself() {
            if self.trouble != Rot {
                let writes = sim.counts().writes;
                for index in (0..PAGES).rev() {
                    if sim.counts().writes > writes {
                        break;
                    }
                    assert!(self.run.write_noise(PageId(index)));
                }
            }
            let damaged = self.damaged();
            assert!((1..=DAMAGED_MAX).contains(&damaged.len()), "{damaged:?}");
            self.page = damaged[0];
        }
    }

    /// Does the deed, and says what it came to.
    pub(super) fn act(&mut self) -> &'static str {
        let (run, page) = (&mut self.run, self.page);
        match self.deed {
            ClientWrites => match run.write_all() {
                0 => "done",
                _ => "ENOSPC",
            },
            ReadStored => match self.is_right(page) {
                true => "right",
                false => "EIO",
            },
            PartialWrite => match run.patch(page, 100, &[1; 50]) {
                Some(_) => {
                    run.model[page.0 as usize][100..150].fill(1);
                    "done"
                }
                None => "EIO",
            },
            Discard => {
                run.engine.discard(&mut run.lane, page.0..page.0 + 1);
                run.model[page.0 as usize].fill(0);
                assert!(self.is_right(page));
                "done"
            }
            WriteBack => {
                let before = run.engine.snapshot().writeback.pages_written_back.get();
                self.fill_to_the_high_mark();
                while self.run.step() == Work::More {}
                let after = self
                    .run
                    .engine
                    .snapshot()
                    .writeback
                    .pages_written_back
                    .get();
                if after > before { "done" } else { "kept" }
            }
            Cleaning => self.clean(),
            Scrub => {
                run.pass(5_000_000);
                let snapshot = run.engine.snapshot();
                let scrub = &snapshot.writeback.scrub;
                match (scrub.pages_lost.get(), scrub.records_unreadable.get()) {
                    (0, 0) => "done",
                    (0, _) => "unreadable",
                    _ => "found",
                }
            }
            Compaction => self.compact(),
            Adoption => match self.adopt() {
                Ok(()) => "adopted",
                Err(_) => "refused",
            },
            Snapshot => {
                assert_eq!(run.engine.snapshot().exports[0].pages_total, 300);
                "done"
            }
        }
    }

    /// Writes new pages as far as the pool has room without write-back.
    fn fill_to_the_high_mark(&mut self) {
        for index in (0..PAGES).rev().filter(|index| *index != self.page.0) {
            if self.run.engine.tiers.is_above_high_mark() {
                return;
            }
            assert!(self.run.write_noise(PageId(index)));
        }
        panic!("the pool has room for all");
    }

    /// Discards so much that segments become sparse, also that of the page, and lets them be cleaned.
    fn clean(&mut self) -> &'static str {
        let run = &mut self.run;
        let cleaned = |run: &Run| run.engine.snapshot().writeback.pages_cleaned.get();
        let before = cleaned(run);
        for round in 0..40 {
            for index in (0..PAGES).filter(|index| index % 5 != 0 && *index != self.page.0) {
                let is_later = run.random.below(3) > 0;
                if round < 1 || is_later {
                    run.write_noise(PageId(index));
                }
            }
            if cleaned(run) > before + 20 || run.is_degraded() {
                break;
            }
        }
        let snapshot = run.engine.snapshot();
        if snapshot
            .exports
            .iter()
            .any(|export| export.pages[Tier::Lost as usize] > 0)
        {
            "found"
        } else if cleaned(run) > before {
            "done"
        } else {
            "kept"
        }
    }

    /// The server is gone and another one takes over.
    fn adopt(&mut self) -> Result<()> {
        let run = &mut self.run;
        let mut options = options(&run.setup, run.device.clone(), Some(&self.dir));
        options.adopt = true;
        with_scrub(&mut options);
        let (engine, report) = Engine::open(options)?;
        assert!(report.adopted, "{}", report.reason);
        (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
        Ok(())
    }

    /// The deed on a device that does not answer before it has been waited for.
    pub(super) fn act_slowly(&mut self) -> &'static str {
        let sim = Arc::clone(self.run.sim_shared());
        let mut observer = Observer::new(PATIENCE);
        match self.deed {
            // Somebody has to wait for the device before it is known that it does not answer.
            ClientWrites | ReadStored | PartialWrite => {
                let (engine, page) = (&self.run.engine, self.page);
                let mut word = "";
                let mut refused = 0;
                let (lane, model) = (&mut self.run.lane, &mut self.run.model);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut fetch = Fetch::new(PAGE);
                        let read = engine.read(&mut engine.lane(), page, &mut fetch.buffer);
                        let Ok(Read::Fetch(place)) = read else {
                            panic!("{read:?}")
                        };
                        (fetch.page, fetch.place) = (page, place);
                        fetch_one(engine, &mut engine.reader_lane(), fetch);
                    });
                    sim.wait_for_waiting(1);
                    assert!(!engine.observe(&mut observer, Duration::ZERO));
                    assert!(engine.observe(&mut observer, PATIENCE));
                    word = match self.deed {
                        ReadStored => match engine.read(lane, page, &mut [0; PAGE]) {
                            Err(Error::Silent) => "EIO",
                            other => panic!("{other:?}"),
                        },
                        PartialWrite => match engine.patch(lane, page, 100, &[1; 50]) {
                            Err(Error::Silent) => "EIO",
                            other => panic!("{other:?}"),
                        },
                        _ => {
                            for index in 0..PAGES {
                                match engine.write(lane, PageId(index), &[index as u8; PAGE]) {
                                    Ok(Write::Done(_)) => model[index as usize].fill(index as u8),
                                    other => panic!("one word takes no room: {other:?}"),
                                }
                            }
                            let mut noise = Random::new(1);
                            for index in 0..PAGES {
                                let data: Vec<u8> = (0..PAGE).map(|_| noise.bits() as u8).collect();
                                match engine.write(lane, PageId(index), &data) {
                                    Ok(Write::Done(_)) => model[index as usize] = data,
                                    Err(Error::PoolFull) => refused += 1,
                                    other => panic!("{other:?}"),
                                }
                            }
                            assert!(refused > PAGES / 2, "{refused}");
                            "ENOSPC"
                        }
                    };
                    sim.open_gate();
                });
                assert!(engine.observe(&mut observer, PATIENCE));
                word
            }
            WriteBack | Cleaning | Scrub | Adoption => {
                if self.deed == WriteBack {
                    self.fill_to_the_high_mark();
                }
                let looker = Arc::clone(&sim);
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        looker.wait_for_waiting(1);
                        looker.open_gate();
                    });
                    let word = self.act();
                    assert!(["done", "adopted"].contains(&word), "{word}");
                });
                "waits"
            }
            Discard | Compaction | Snapshot => {
                // Nothing of it may wait: there is nobody to open the gate.
                let before = sim.counts();
                let word = self.act();
                assert_eq!(sim.counts(), before);
                sim.open_gate();
                word
            }
        }
    }

    /// Leaves one in four small objects of as many blocks, and waits until they lie together. Pages of
    /// the pool alone: what lets go of segments has the device discard them.
    fn compact(&mut self) -> &'static str {
        let pooled: Vec<u32> = (0..PAGES)
            .filter(|index| self.offset(PageId(*index)).is_none())
            .collect();
        let run = &mut self.run;
        let compacted = |run: &Run| run.engine.snapshot().writeback.pages_compacted.get();
        let before = compacted(run);
        for index in &pooled {
            let mut data = vec![0; PAGE];
            data[..900].fill_with(|| run.random.bits() as u8);
            assert!(run.patch(PageId(*index), 0, &data).is_some());
            run.model[*index as usize] = data;
        }
        for index in pooled.iter().filter(|index| *index % 4 != 0) {
            run.engine.discard(&mut run.lane, *index..*index + 1);
            run.model[*index as usize].fill(0);
        }
        for _ in 0..100 {
            run.step();
        }
        if compacted(run) > before {
            "done"
        } else {
            "nothing"
        }
    }

    /// What was counted must name the cause, if the deed met the trouble.
    pub(super) fn check_counters(&self, word: &str) {
        let snapshot = self.run.engine.snapshot();
        let store = snapshot.store.as_ref().unwrap();
        let place = format!("{:?} x {:?}", self.trouble, self.deed);
        match (self.trouble, word) {
            (Eio, "EIO" | "unreadable") => assert!(store.read_errors > 0, "{place}"),
            (Eio | Short | NoSpace, "ENOSPC" | "kept") => {
                assert!(store.write_errors > 0, "{place}");
                assert!(snapshot.writeback.segments_failed.get() > 0, "{place}");
                let is_full = snapshot.writeback.is_out_of_space.get() != 0;
                assert_eq!(is_full, self.trouble == NoSpace, "{place}");
            }
            (Lost | Misdirected | Rot, "EIO" | "found") => {
                assert!(store.checksum_errors > 0, "{place}");
            }
            _ => {}
        }
    }

    /// The trouble is over: nothing but what was damaged is lost, and all goes on.
    pub(super) fn end(&mut self) {
        let place = format!("{:?} x {:?}", self.trouble, self.deed);
        self.run.sim().heal();
        if self.deed == Adoption && matches!(self.trouble, Eio | NoSpace | Short) {
            self.adopt().unwrap();
        }
        let damaged = self.damaged();
        let most = if self.is_damage() { DAMAGED_MAX } else { 0 };
        assert!(
            damaged.len() <= most,
            "{place}: {} pages are lost",
            damaged.len()
        );
        let checksum_errors = self.run.engine.snapshot().store.unwrap().checksum_errors;
        assert!(
            damaged.is_empty() || checksum_errors > 0,
            "{place}: {damaged:?}"
        );
        self.run.let_pass(Duration::from_secs(61));
        for page in damaged {
            assert!(
                self.run.write_noise(page),
                "{place}: {page} cannot be written anew"
            );
        }
        assert_eq!(self.run.write_all(), 0, "{place}");
        assert_eq!(self.damaged(), [], "{place}");
        assert!(!self.run.is_degraded() && !self.run.engine.snapshot().is_store_silent);
        self.run.engine.check();
    }
}

fn with_scrub(options: &mut EngineOptions) {
    options.store.as_mut().unwrap().scrub_bytes_per_s = 1 << 20;
}
