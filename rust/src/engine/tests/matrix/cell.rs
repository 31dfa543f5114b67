//! One trouble and one deed: how the trouble begins, what is counted of it, and what is left afterwards.

use std::ops::Range;

use super::super::recovery::recover;
use super::super::*;
use super::{Deed, Deed::*, Trouble, Trouble::*};
use crate::testing::sim_device::{Fault, Op};

/// Room for all pages and little more, so that there is something to clean.
pub(super) const SETUP: Setup = Setup {
    pool_bytes_max: 256 << 10,
    store_bytes: 4 << 20,
    ..SMALL
};

/// Pages of the export that promises to survive a kill, and of the durable one.
pub(super) const PLAIN: Range<u32> = 0..300;
pub(super) const DURABLE: Range<u32> = 300..PAGES;

/// What is written for a flush: more than a segment.
pub(super) const FLUSHED_PAGES: u32 = 8;

/// Records of two segments, some of them small: what one write can cost that is lost, or lands on another
/// one's place.
const DAMAGED_MAX: usize = 20;

pub(super) struct Cell {
    pub(super) trouble: Trouble,
    pub(super) deed: Deed,
    pub(super) run: Run,
    pub(super) dir: Directory,
    /// A stored page; damaged, if the trouble is damage.
    pub(super) page: PageId,
    /// What was flushed before the trouble.
    pub(super) flushed: Vec<Vec<u8>>,
    /// Pages that are errors since their export promises nothing after loss of the host.
    pub(super) lost: Range<u32>,
    /// The pages of one segment, as they lie there, of which the first three were read.
    pub(super) in_order: Vec<PageId>,
}

impl Cell {
    pub(super) fn new(trouble: Trouble, deed: Deed) -> Cell {
        let dir = Directory::new(&format!("matrix-{trouble:?}-{deed:?}"));
        let mut run = Run::open_with(SETUP, 1, Some(&dir), as_all_are);
        assert_eq!(run.write_all(), 0);
        while run.step() == Work::More {}
        // Twice: where the log is whole stands behind what it is said of.
        for _ in 0..2 {
            assert_eq!(run.flush(), Ok(()));
            assert!(run.write_noise(PageId(PAGES - 1)));
        }
        assert_eq!(run.flush(), Ok(()));
        let flushed = run.model.clone();
        let mut cell = Cell {
            trouble,
            deed,
            run,
            dir,
            page: PageId(0),
            flushed,
            lost: 0..0,
            in_order: Vec::new(),
        };
        let from = match deed {
            Flushing | Discard | Recovery => DURABLE.start + FLUSHED_PAGES,
            _ => PLAIN.start,
        };
        let stored = (from..PAGES)
            .map(PageId)
            .find(|page| cell.offset(*page).is_some());
        cell.page = stored.expect("most are stored");
        if deed == ReadAhead {
            cell.page = *cell.neighbours().last().expect("it is one itself");
        }
        cell
    }

    /// The cell's name for a panic.
    pub(super) fn place(&self) -> String {
        format!("{:?} x {:?}", self.trouble, self.deed)
    }

    pub(super) fn is_damage(&self) -> bool {
        matches!(self.trouble, Lost | Misdirected | Rot)
    }

    /// Pages that the trouble can cost.
    pub(super) fn damaged_max(&self) -> usize {
        match self.trouble {
            Rot => 1,
            Lost | Misdirected => DAMAGED_MAX,
            _ => 0,
        }
    }

    /// Does the deed write a batch of its own, to which the trouble can happen?
    fn writes_itself(&self) -> bool {
        let writes = matches!(
            self.deed,
            ClientWrites | Discard | Flushing | WriteBack | Compaction
        );
        writes && self.trouble != Rot
    }

    /// Pages that cannot be read, and should be.
    pub(super) fn damaged(&mut self) -> Vec<PageId> {
        let pages = (0..PAGES).filter(|page| !self.lost.contains(page));
        let pages: Vec<_> = pages.map(PageId).collect();
        let damaged = pages.into_iter().filter(|page| !self.is_right(*page));
        damaged.collect()
    }

    /// Is it what was written? Panics if it is neither that nor an error.
    pub(super) fn is_right(&mut self, page: PageId) -> bool {
        match self.run.read(page) {
            Ok(found) => {
                let is_right = found == self.run.model[page.0 as usize];
                assert!(is_right, "{}: {page} is wrong", self.place());
                true
            }
            Err(_) => false,
        }
    }

    /// Where a page is in the backing file; None: in memory.
    pub(super) fn offset(&mut self, page: PageId) -> Option<u64> {
        let mut out = vec![0; PAGE];
        match self.run.engine.read(&mut self.run.lane, page, &mut out) {
            Ok(Read::Fetch(place)) => match place.word.place() {
                Place::Store(object) => Some(object.at.offset()),
                place => unreachable!("{place:?}"),
            },
            _ => None,
        }
    }

    /// The pages of the page's segment, as they lie there.
    pub(super) fn neighbours(&mut self) -> Vec<PageId> {
        let segment = |offset: u64| offset / u64::from(SEGMENT);
        let here = segment(self.offset(self.page).expect("it is stored"));
        let mut found: Vec<_> = (0..PAGES)
            .map(PageId)
            .filter_map(|page| Some((self.offset(page)?, page)))
            .filter(|(offset, _)| segment(*offset) == here)
            .collect();
        found.sort_unstable_by_key(|(offset, _)| *offset);
        found.into_iter().map(|(_, page)| page).collect()
    }

    /// Lets the trouble begin, after all of the deed that comes before it.
    pub(super) fn begin(&mut self) {
        if self.is_damage() && !self.writes_itself() {
            self.damage();
        }
        self.prepare();
        let sim = Arc::clone(self.run.sim_shared());
        let always = |op, fault| (0..1000).for_each(|nth| sim.inject(op, nth, fault));
        match self.trouble {
            Nothing => {}
            ReadError => sim.break_range(0..u64::MAX),
            WriteError => {
                sim.break_writes(0..u64::MAX);
                always(Op::Discard, Fault::Fail);
            }
            SyncError => sim.inject(Op::Sync, 0, Fault::Fail),
            NoSpace => sim.set_room(0),
            Short => always(Op::Write, Fault::Short(8192)),
            Lost | Misdirected if self.writes_itself() => self.spoil_next_write(),
            Lost | Misdirected | Rot => {}
            Slow | Silent => {
                sim.close_gate();
                sim.close_write_gate();
            }
        }
    }

    fn spoil_next_write(&mut self) {
        // Onto a segment in which pages live.
        let at = self.offset(self.page).unwrap() / u64::from(SEGMENT) * u64::from(SEGMENT);
        let fault = match self.trouble {
            Lost => Fault::Lose,
            _ => Fault::Misdirect(at),
        };
        self.run.sim().inject(Op::Write, 0, fault);
    }

    /// Damages pages before the deed.
    fn damage(&mut self) {
        let sim = Arc::clone(self.run.sim_shared());
        match (self.trouble, self.deed) {
            (Rot, _) => sim.flip(self.offset(self.page).unwrap() as usize + 1000, 4),
            // To a write that a flush is answered for, and that is not the log's last one.
            (_, Recovery) => {
                self.spoil_next_write();
                self.change_durable_pages();
                assert_eq!(self.run.flush(), Ok(()));
                assert!(self.run.write_noise(PageId(PAGES - 1)));
                assert_eq!(self.run.flush(), Ok(()));
            }
            _ => {
                self.spoil_next_write();
                let writes = sim.counts().writes;
                for index in (0..PAGES).rev() {
                    if sim.counts().writes > writes {
                        break;
                    }
                    assert!(self.run.write_noise(PageId(index)));
                }
            }
        }
        let (damaged, place) = (self.damaged(), self.place());
        let most = self.damaged_max();
        assert!((1..=most).contains(&damaged.len()), "{place}: {damaged:?}");
        self.page = damaged[0];
    }

    /// What was counted must name the cause, if the deed met the trouble, and nothing else.
    pub(super) fn check_counters(&self, word: &str) {
        let snapshot = self.run.engine.snapshot();
        let store = snapshot.store.as_ref().unwrap();
        let (place, writeback) = (self.place(), &snapshot.writeback);
        let syncs_failed = writeback.checkpoints.syncs_failed.get();
        match (self.trouble, word) {
            (ReadError, "EIO" | "unreadable" | "kept" | "ENOSPC") => {
                assert!(store.read_errors > 0, "{place}");
            }
            (WriteError, "unpunched") => assert!(store.discard_errors > 0, "{place}"),
            (WriteError | Short | NoSpace, "EIO" | "ENOSPC" | "kept" | "adopted") => {
                assert!(store.write_errors > 0, "{place}");
                // Where the superblock cannot be written no segment is tried.
                let failed = writeback.segments_failed.get();
                assert!(failed > 0 || word == "adopted", "{place}");
                let is_full = writeback.is_out_of_space.get() != 0;
                assert_eq!(is_full, self.trouble == NoSpace, "{place}");
            }
            (SyncError, "EIO" | "ENOSPC") => assert!(syncs_failed > 0, "{place}"),
            (Lost | Misdirected | Rot, "EIO" | "found") => {
                assert!(store.checksum_errors > 0, "{place}");
            }
            _ => {}
        }
        let is_of = |troubles: &[Trouble]| troubles.contains(&self.trouble);
        assert!(store.read_errors == 0 || is_of(&[ReadError]), "{place}");
        assert!(
            store.write_errors == 0 || is_of(&[WriteError, Short, NoSpace]),
            "{place}"
        );
        assert!(store.discard_errors == 0 || is_of(&[WriteError]), "{place}");
        assert!(syncs_failed == 0 || is_of(&[SyncError]), "{place}");
        assert!(store.checksum_errors == 0 || self.is_damage(), "{place}");
    }

    /// What a loss of the host would make of what was flushed: of pages of the durable export, how many
    /// are what they are, what was flushed before the trouble, and errors. Panics if one is anything else.
    pub(super) fn after_loss(&self) -> (usize, usize, usize) {
        let (mut next, _) = recover(SETUP, self.run.sim().image());
        next.engine.check();
        let (mut right, mut older, mut errors) = (0, 0, 0);
        for index in DURABLE {
            let (page, at) = (PageId(index), index as usize);
            match next.read(page) {
                Ok(found) if found == self.run.model[at] => right += 1,
                Ok(found) if self.is_older(at, &found) => older += 1,
                Ok(_) => panic!("{}: {page} is wrong after loss of the host", self.place()),
                Err(_) => errors += 1,
            }
        }
        (right, older, errors)
    }

    /// Is it what the page was before? Where the device has lost what superseded that, it may be gone too:
    /// zeros.
    pub(super) fn is_older(&self, page: usize, found: &[u8]) -> bool {
        let is_gone = matches!(self.trouble, Lost | Misdirected);
        found == self.flushed[page] || is_gone && found.iter().all(|byte| *byte == 0)
    }

    /// The trouble is over: nothing but what was damaged is lost, all goes on, and a flush is kept.
    pub(super) fn end(&mut self, word: &str) {
        let place = self.place();
        self.run.sim().heal();
        match (self.deed, word) {
            (Adoption, "refused") => self.adopt().unwrap(),
            (Recovery, "refused") => _ = self.recover().unwrap(),
            _ => {}
        }
        let damaged = self.damaged();
        let most = self.damaged_max();
        assert!(
            damaged.len() <= most,
            "{place}: {} pages are lost",
            damaged.len()
        );
        self.run.let_pass(Duration::from_secs(61));
        assert_eq!(self.run.flush(), Ok(()), "{place}");
        for page in damaged {
            assert!(
                self.run.write_noise(page),
                "{place}: {page} cannot be written anew"
            );
        }
        assert_eq!(self.run.write_all(), 0, "{place}");
        self.lost = 0..0;
        assert_eq!(self.damaged(), [], "{place}");
        assert!(!self.run.is_degraded() && !self.run.engine.snapshot().is_store_silent);
        assert_eq!(self.run.flush(), Ok(()), "{place}");
        assert_eq!(self.after_loss(), (DURABLE.len(), 0, 0), "{place}");
        self.run.engine.check();
    }
}

/// The second export is durable, and the store is scrubbed.
pub(super) fn as_all_are(options: &mut EngineOptions) {
    options.exports[1].is_durable = true;
    options.store.as_mut().unwrap().scrub_bytes_per_s = 1 << 20;
}
