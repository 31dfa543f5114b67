//! Pages for tests of sessions and workers: plain memory, stored, stalled or broken when a test
//! says so.
//!
//! Locking: one mutex a page, one for the gate that holds up fetches.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::pages::Pages;
use crate::durable::Flushes;
use crate::engine::{
    ExportId, ExportInfo, Fetch, Flush, FlushError, PageState, Read, StorePlace, Tier, Write,
};
use crate::error::{Error, Result};
use crate::page::PageId;
use crate::table::Word;

/// What a page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Hole,
    Zero,
    Data,
    /// In the store, at the place with this sequence number.
    Stored(u64),
    Lost,
    /// Reading it is a bug of ours.
    Trap,
}

#[derive(Default)]
struct Cell {
    state: State,
    bytes: Vec<u8>,
}

/// How full the pool pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fullness {
    /// Everything fits.
    #[default]
    Free,
    /// Nothing fits, and space will come.
    Stalled,
    /// Nothing fits.
    Full,
}

/// Pages in memory, with switches.
pub struct FakePages {
    exports: Vec<ExportInfo>,
    page_bytes: usize,
    cells: Vec<Mutex<Cell>>,
    sequence: AtomicU64,
    fullness: Mutex<Fullness>,
    fetches_fail: AtomicBool,
    gate_closed: Mutex<bool>,
    gate: Condvar,
    is_durable: AtomicBool,
    flushes: Flushes,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A trap panics while it holds a page: that is what it is for.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakePages {
    /// Two exports of `pages` pages each: 0 is writable, 1 read-only.
    pub fn new(page_bytes: usize, pages: u32) -> Self {
        let size_bytes = u64::from(pages) * page_bytes as u64;
        let export = |name: &str, read_only, first| ExportInfo {
            name: name.to_string(),
            size_bytes,
            read_only,
            first: PageId(first),
            pages,
            is_lost: false,
        };
        FakePages {
            exports: vec![export("swap", false, 0), export("frozen", true, pages)],
            page_bytes,
            cells: (0..2 * pages).map(|_| Mutex::default()).collect(),
            sequence: AtomicU64::new(0),
            fullness: Mutex::default(),
            fetches_fail: AtomicBool::new(false),
            gate_closed: Mutex::default(),
            gate: Condvar::new(),
            is_durable: AtomicBool::new(false),
            flushes: Flushes::default(),
        }
    }

    /// Moves a page to the store, as write-back would.
    pub fn put_in_store(&self, page: u32) {
        let mut cell = self.cell(PageId(page));
        self.touch(&mut cell);
        cell.state = State::Stored(self.sequence.fetch_add(1, SeqCst));
    }

    /// Forgets a page's bytes.
    pub fn lose(&self, page: u32) {
        self.cell(PageId(page)).state = State::Lost;
    }

    /// Makes the next read of a page panic.
    pub fn set_trap(&self, page: u32) {
        self.cell(PageId(page)).state = State::Trap;
    }

    /// Says how full the pool is.
    pub fn set_fullness(&self, fullness: Fullness) {
        *lock(&self.fullness) = fullness;
    }

    /// Makes fetches fail, or not.
    pub fn set_fetches_fail(&self, fail: bool) {
        self.fetches_fail.store(fail, SeqCst);
    }

    /// Flushes have to be waited for, until [`end_flushes`](Self::end_flushes).
    pub fn set_durable(&self) {
        self.is_durable.store(true, SeqCst);
    }

    /// Ends all flushes that were asked for; how many had waited is not told.
    pub fn end_flushes(&self, result: std::result::Result<(), FlushError>) {
        if let Some(flush) = self.flushes.waiting() {
            self.flushes.end(flush, result);
        }
    }

    /// Does a flush wait?
    pub fn has_flushes(&self) -> bool {
        self.flushes.waiting().is_some()
    }

    /// Holds up all fetches, or lets them go on.
    pub fn set_gate_closed(&self, closed: bool) {
        *lock(&self.gate_closed) = closed;
        self.gate.notify_all();
    }

    /// The bytes of a page, wherever it is.
    pub fn bytes(&self, page: u32) -> Vec<u8> {
        let cell = self.cell(PageId(page));
        if cell.bytes.is_empty() {
            vec![0; self.page_bytes]
        } else {
            cell.bytes.clone()
        }
    }

    /// Does one fetch, without gate.
    pub fn fetch_one(&self, fetch: &mut Fetch) {
        let cell = self.cell(fetch.page);
        let here = cell.state == State::Stored(fetch.place.sequence);
        fetch.result = if self.fetches_fail.load(SeqCst) || !here {
            fetch.buffer.fill(0xbd);
            Err(Error::Corrupt {
                what: "record checksum",
                at: fetch.place.word.bits(),
                wanted: 1,
                found: 2,
            })
        } else {
            fetch.buffer.copy_from_slice(&cell.bytes);
            Ok(())
        };
    }

    fn cell(&self, page: PageId) -> MutexGuard<'_, Cell> {
        lock(&self.cells[page.0 as usize])
    }

    /// Gives a cell memory on its first use and never again.
    fn touch(&self, cell: &mut Cell) {
        if cell.bytes.is_empty() {
            cell.bytes = vec![0; self.page_bytes];
        }
    }

    fn fill(&self, cell: &mut Cell, offset: usize, data: &[u8]) -> Result<Write> {
        match *lock(&self.fullness) {
            Fullness::Free => {}
            Fullness::Stalled => return Ok(Write::Stall),
            Fullness::Full => return Err(Error::PoolFull),
        }
        self.touch(cell);
        cell.bytes[offset..offset + data.len()].copy_from_slice(data);
        cell.state = State::Data;
        Ok(Write::Done(Tier::Pool))
    }
}

impl Pages for FakePages {
    type Lane = ();
    type ReaderLane = ();

    fn lane(&self) {}

    fn reader_lane(&self) {}

    fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    fn exports(&self) -> usize {
        self.exports.len()
    }

    fn export(&self, id: ExportId) -> &ExportInfo {
        &self.exports[usize::from(id.0)]
    }

    fn read(&self, (): &mut (), page: PageId, out: &mut [u8]) -> Result<Read> {
        assert_eq!(out.len(), self.page_bytes, "a read is of whole pages");
        let cell = self.cell(page);
        match cell.state {
            State::Hole | State::Zero => {
                out.fill(0);
                Ok(Read::Ready(Tier::Zero))
            }
            State::Data => {
                out.copy_from_slice(&cell.bytes);
                Ok(Read::Ready(Tier::Pool))
            }
            State::Stored(sequence) => Ok(Read::Fetch(StorePlace {
                word: Word::from_bits(u64::from(page.0)),
                sequence,
            })),
            State::Lost => Err(Error::Lost),
            State::Trap => panic!("a trap in {page}"),
        }
    }

    fn prefetch(&self, _: PageId) {}

    fn write(&self, (): &mut (), page: PageId, data: &[u8]) -> Result<Write> {
        assert_eq!(data.len(), self.page_bytes, "a write is of whole pages");
        self.fill(&mut self.cell(page), 0, data)
    }

    fn patch(&self, (): &mut (), page: PageId, offset: usize, data: &[u8]) -> Result<Write> {
        assert!(data.len() < self.page_bytes, "a patch is of a part");
        let mut cell = self.cell(page);
        match cell.state {
            State::Stored(sequence) => Ok(Write::Fetch(StorePlace {
                word: Word::from_bits(u64::from(page.0)),
                sequence,
            })),
            State::Lost => Err(Error::Lost),
            State::Hole | State::Zero => {
                self.touch(&mut cell);
                cell.bytes.fill(0);
                self.fill(&mut cell, offset, data)
            }
            State::Data | State::Trap => self.fill(&mut cell, offset, data),
        }
    }

    fn patch_fetched(
        &self,
        lane: &mut (),
        page: PageId,
        place: StorePlace,
        base: &mut [u8],
        (offset, data): (usize, &[u8]),
    ) -> Result<Write> {
        let mut cell = self.cell(page);
        if cell.state != State::Stored(place.sequence) {
            drop(cell);
            return self.patch(lane, page, offset, data);
        }
        base[offset..offset + data.len()].copy_from_slice(data);
        self.fill(&mut cell, 0, base)
    }

    fn confirm(&self, page: PageId, place: StorePlace) -> bool {
        self.cell(page).state == State::Stored(place.sequence)
    }

    fn discard(&self, (): &mut (), pages: Range<u32>) {
        assert!(
            pages.len() <= super::span::SLICE_PAGES as usize,
            "{} pages",
            pages.len()
        );
        for page in pages {
            let mut cell = self.cell(PageId(page));
            cell.bytes.fill(0);
            cell.state = State::Hole;
        }
    }

    fn zero(&self, (): &mut (), page: PageId) -> Result<()> {
        let mut cell = self.cell(page);
        cell.bytes.fill(0);
        cell.state = State::Zero;
        Ok(())
    }

    fn flush(&self, _id: ExportId) -> Option<Flush> {
        self.is_durable.load(SeqCst).then(|| self.flushes.ask())
    }

    fn flushed(&self, flush: Flush) -> Option<std::result::Result<(), FlushError>> {
        self.flushes.outcome(flush)
    }

    fn page_state(&self, page: PageId) -> PageState {
        match self.cell(page).state {
            State::Hole => PageState::Hole,
            State::Zero => PageState::Zero,
            State::Data | State::Stored(_) | State::Lost | State::Trap => PageState::Data,
        }
    }

    fn fetch(&self, (): &mut (), batch: &mut Vec<Box<Fetch>>, done: &mut dyn FnMut(Box<Fetch>)) {
        let closed = lock(&self.gate_closed);
        drop(
            self.gate
                .wait_while(closed, |closed| *closed)
                .unwrap_or_else(PoisonError::into_inner),
        );
        for mut fetch in batch.drain(..) {
            self.fetch_one(&mut fetch);
            done(fetch);
        }
    }

    fn read_ahead(&self, (): &mut ()) {}
}
