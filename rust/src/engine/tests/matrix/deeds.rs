//! What each deed does, and what it came to.

use super::super::*;
use super::Deed::*;
use super::Trouble::*;
use super::cell::{Cell, DURABLE, FLUSHED_PAGES, PLAIN, as_all_are};

/// What is discarded so that segments become free.
const PUNCHED_PAGES: u32 = 60;

/// What a client is told of its flush.
pub(super) fn word_of(flushed: std::result::Result<(), FlushError>) -> &'static str {
    match flushed {
        Ok(()) => "done",
        Err(FlushError::Full) => "ENOSPC",
        Err(FlushError::Failed) => "EIO",
    }
}

impl Cell {
    /// What comes before the trouble.
    pub(super) fn prepare(&mut self) {
        match self.deed {
            Flushing => self.change_durable_pages(),
            WriteBack => self.fill_to_the_high_mark(),
            Compaction => {
                self.make_holes();
                self.fill_to_the_high_mark();
            }
            ReadAhead => {
                self.in_order = self.neighbours();
                assert!(self.in_order.len() > 4, "{:?}", self.in_order);
                for number in 0..3 {
                    self.fetch_only(self.in_order[number]);
                }
            }
            Punch => {
                let run = &mut self.run;
                for first in [PLAIN.start, DURABLE.start] {
                    let gone = first..first + PUNCHED_PAGES;
                    run.engine.discard(&mut run.lane, gone.clone());
                    gone.for_each(|page| run.model[page as usize].fill(0));
                }
                let before = run.sim().counts().discards;
                assert_eq!(run.flush(), Ok(()));
                assert_eq!(run.sim().counts().discards, before, "it is yet to come");
            }
            _ => {}
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
            ReadAhead => self.read_in_order(),
            PartialWrite => match run.patch(page, 100, &[1; 50]) {
                Some(_) => {
                    run.model[page.0 as usize][100..150].fill(1);
                    "done"
                }
                None => "EIO",
            },
            Discard => {
                self.discard();
                let flushed = self.run.flush();
                self.lasting(word_of(flushed))
            }
            Flushing => {
                let flushed = run.flush();
                self.lasting(word_of(flushed))
            }
            WriteBack | Compaction => self.write_back(),
            Cleaning => self.clean(),
            Punch => {
                let before = run.engine.snapshot().store.unwrap();
                while run.step() == Work::More {}
                let after = run.engine.snapshot().store.unwrap();
                if after.discarded_bytes > before.discarded_bytes {
                    "done"
                } else {
                    "unpunched"
                }
            }
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
            Adoption => match self.adopt() {
                Ok(()) => self.serve_adopted(),
                Err(_) => "refused",
            },
            Recovery => match self.recover() {
                Ok(0) => "recovered",
                Ok(_) => "older",
                Err(_) => "refused",
            },
            Snapshot => {
                let before = run.sim().counts();
                assert_eq!(run.engine.snapshot().exports[0].pages_total, 300);
                assert_eq!(run.sim().counts(), before);
                "done"
            }
        }
    }

    /// Writes pages of the durable export, once each, which all find room in the pool.
    pub(super) fn change_durable_pages(&mut self) {
        for page in (DURABLE.start..).take(FLUSHED_PAGES as usize) {
            assert!(self.run.write_noise(PageId(page)));
        }
    }

    /// Discards stored pages of the durable export, which asks nothing of the device.
    pub(super) fn discard(&mut self) {
        let gone = self.page.0..self.page.0 + 4;
        let before = self.run.sim().counts();
        (self.run.engine).discard(&mut self.run.lane, gone.clone());
        for page in gone {
            self.run.model[page as usize].fill(0);
            assert!(self.is_right(PageId(page)));
        }
        assert_eq!(self.run.sim().counts(), before);
    }

    /// What loss of the host makes of what a flush was answered, and the word for it.
    pub(super) fn lasting(&self, word: &'static str) -> &'static str {
        let place = self.place();
        let (right, older, errors) = self.after_loss();
        if !self.is_damage() {
            assert_eq!(errors, 0, "{place}");
            assert!(older == 0 || word != "done", "{place}: {older} are older");
            return word;
        }
        let most = self.damaged_max();
        assert!(older + errors <= most, "{place}: {right} are right");
        if older > 0 { "older" } else { word }
    }

    /// Reads a page as a reader does who reads nothing ahead.
    fn fetch_only(&mut self, page: PageId) {
        let read = (self.run.engine).read(&mut self.run.lane, page, &mut [0; PAGE]);
        let Ok(Read::Fetch(place)) = read else {
            panic!("{read:?}")
        };
        let mut fetch = Fetch::new(PAGE);
        (fetch.page, fetch.place) = (page, place);
        fetch_one(&self.run.engine, &mut self.run.reader, fetch);
    }

    /// Reads ahead what three pages announced, and then the rest of their segment.
    fn read_in_order(&mut self) -> &'static str {
        let ahead = |run: &Run| run.engine.snapshot().store.unwrap().ahead_records;
        let run = &mut self.run;
        let before = ahead(run);
        run.engine.read_ahead(&mut run.reader);
        let rest = self.in_order[3..].to_vec();
        let errors = rest.iter().filter(|page| !self.is_right(**page)).count();
        match (errors, ahead(&self.run) > before) {
            (0, true) => "ahead",
            (0, false) => "right",
            _ => "EIO",
        }
    }

    /// Writes new versions of stored pages as far as the pool has room without write-back.
    fn fill_to_the_high_mark(&mut self) {
        for page in (0..PAGES).rev().map(PageId) {
            if self.run.engine.tiers.is_above_high_mark() {
                return;
            }
            if page != self.page && self.offset(page).is_some() {
                assert!(self.run.write_noise(page));
            }
        }
        panic!("the pool has room for all");
    }

    /// Empties the pool of pages of the other export, and leaves one in four of as many small objects.
    fn make_holes(&mut self) {
        let pooled: Vec<u32> = PLAIN
            .filter(|index| self.offset(PageId(*index)).is_none())
            .collect();
        let small = PLAIN.filter(|index| *index != self.page.0).take(48);
        let small: Vec<u32> = small.collect();
        let run = &mut self.run;
        let discard = |run: &mut Run, index: u32| {
            run.engine.discard(&mut run.lane, index..index + 1);
            run.model[index as usize].fill(0);
        };
        pooled.iter().for_each(|index| discard(run, *index));
        for index in &small {
            let mut data = vec![0; PAGE];
            data[..900].fill_with(|| run.random.bits() as u8);
            assert!(run.patch(PageId(*index), 0, &data).is_some());
            run.model[*index as usize] = data;
        }
        let gone = small.iter().filter(|index| *index % 4 != 0);
        gone.for_each(|index| discard(run, *index));
    }

    /// Steps until there is nothing to do.
    fn write_back(&mut self) -> &'static str {
        let before = self.moved();
        while self.run.step() == Work::More {}
        let after = self.moved();
        if self.deed == Compaction {
            assert!(after.1 > before.1, "{}: nothing moved", self.place());
        }
        if after.0 > before.0 { "done" } else { "kept" }
    }

    /// Pages that were written back, and that were moved together in the pool.
    pub(super) fn moved(&self) -> (u64, u64) {
        let writeback = self.run.engine.snapshot().writeback;
        (
            writeback.pages_written_back.get(),
            writeback.pages_compacted.get(),
        )
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
            if cleaned(run) > before + 60 || run.is_degraded() {
                break;
            }
        }
        let snapshot = run.engine.snapshot();
        let mut lost = (snapshot.exports.iter()).map(|export| export.pages[Tier::Lost as usize]);
        if lost.any(|pages| pages > 0) {
            "found"
        } else if cleaned(run) > before {
            "done"
        } else {
            "kept"
        }
    }

    /// The server is gone and another one takes over.
    pub(super) fn adopt(&mut self) -> Result<()> {
        let report = self.open_next(|options| options.adopt = true)?;
        assert!(report.adopted, "{}", report.reason);
        Ok(())
    }

    /// Whatever the device refuses, what was there is served, and no flush is answered for nothing.
    fn serve_adopted(&mut self) -> &'static str {
        let is_refused = matches!(self.trouble, WriteError | NoSpace | Short);
        let store_of = |cell: &Cell| cell.run.engine.snapshot().store.unwrap();
        assert_eq!(self.run.is_degraded(), is_refused, "{}", self.place());
        assert_eq!(store_of(self).write_errors > 0, is_refused);
        if is_refused || self.trouble == SyncError {
            assert_eq!(self.damaged(), [], "{}", self.place());
            let written_bytes = store_of(self).written_bytes;
            let flushed = self.run.flush();
            self.lasting(word_of(flushed));
            assert!(self.run.write_noise(PageId(DURABLE.start)));
            let flushed = word_of(self.run.flush());
            let wanted = match self.trouble {
                NoSpace => "ENOSPC",
                SyncError => "done",
                _ => "EIO",
            };
            assert_eq!(flushed, wanted, "{}", self.place());
            self.lasting(flushed);
            assert_eq!(store_of(self).written_bytes > written_bytes, !is_refused);
        }
        "adopted"
    }

    /// The host is gone with all memory and another server starts. How many pages are what was flushed
    /// before the trouble, although something newer was flushed too.
    pub(super) fn recover(&mut self) -> Result<usize> {
        let report = self.open_next(|options| {
            options.exports[0].is_lost = true;
            options.exports[1].is_recovered = true;
        })?;
        assert!(report.recovered);
        self.lost = PLAIN;
        for page in PLAIN.map(PageId) {
            let read = self.run.read(page);
            assert!(matches!(read, Err(Error::Lost)), "{page} promises nothing");
        }
        let mut older = 0;
        for at in DURABLE.map(|page| page as usize) {
            if let Ok(found) = self.run.read(PageId(at as u32))
                && found != self.run.model[at]
                && self.is_older(at, &found)
            {
                older += 1;
                self.run.model[at] = found;
            }
        }
        Ok(older)
    }

    fn open_next(&mut self, change: impl FnOnce(&mut EngineOptions)) -> Result<OpenReport> {
        let run = &mut self.run;
        let mut options = options(&run.setup, run.device.clone(), Some(&self.dir));
        as_all_are(&mut options);
        change(&mut options);
        let (engine, report) = Engine::open(options)?;
        (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
        Ok(report)
    }
}
