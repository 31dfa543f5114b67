//! The page engine: what a read, write or discard of a page does to table, pool and store.
//!
//! The engine has no thread, no clock and no socket. Requests come from sessions, background work is
//! [`Engine::step`], and whoever has a thread to spare waits at the [`Bell`].
//!
//! All decisions on where a page may go are in [`Engine::place`]; the change itself is
//! `Tiers::replace`. Compression happens before the page is locked, decompression under its lock.
//! Locking: page -> zpool class -> arena; see `table`. The lock of write-back is never taken by requests.

mod bell;
mod fetch;
mod foresight;
mod header;
mod lane;
mod open;
mod recovery;
mod silence;
mod snapshot;
mod switch;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use bell::{Bell, Heard};
pub use fetch::{FETCH_BATCH_MAX, Fetch, ReaderLane, StorePlace, Ticket};
pub use foresight::{Foreseen, foresee};
pub use lane::Lane;
pub use open::{Backing, EngineOptions, ExportOptions, OpenReport, StoreSource};
pub use recovery::LogSurvey;
pub use silence::Observer;
pub use snapshot::{ExportSnapshot, PoolSnapshot, Snapshot};
use switch::CodecSwitch;

use crate::codec::CodecId;
pub use crate::durable::{Flush, FlushError};
use crate::error::{Error, Result};
use crate::incident::{Incident, Incidents};
use crate::page::{PageId, PageIndex, fill_word, pattern_of, repeated_word};
pub use crate::stats::Tier;

use crate::stats::LaneStats;
use crate::table::{ObjectAt, PageGuard, Place, Word};
use crate::tiers::{Pressure, Tiers};
pub use crate::writeback::WriteBudget;
use crate::writeback::{Context, Dispatch, Work, Writeback, WritebackStats};
use crate::zpool::{AllocError, Tag, Zpool};

/// Number of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExportId(pub u16);

/// An export, as sessions see it.
#[derive(Clone, Debug)]
pub struct ExportInfo {
    /// The name that clients ask for.
    pub name: String,
    /// Size in bytes; the last page may be cut.
    pub size_bytes: u64,
    /// Writes, discards and zeroes are refused.
    pub read_only: bool,
    /// The first page.
    pub first: PageId,
    /// Number of pages.
    pub pages: u32,
    /// Pages that this table never saw written were written in an older life: they answer EIO.
    pub is_lost: bool,
}

impl ExportInfo {
    /// The page of that number.
    pub fn page(&self, index: PageIndex) -> PageId {
        debug_assert!(index.0 < self.pages, "page {} of {}", index.0, self.pages);
        PageId(self.first.0 + index.0)
    }
}

/// How a read went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The page is in the output.
    Ready(Tier),
    /// The page is in the store: fetch it from there.
    Fetch(StorePlace),
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The page is there, in this tier.
    Done(Tier),
    /// The pool is full and write-back is making room: try again when the bell for space rings.
    Stall,
    /// The rest of the page is in the store: fetch it, then call [`Engine::patch_fetched`].
    Fetch(StorePlace),
}

/// What BLOCK_STATUS says of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Not allocated, reads as zeros.
    Hole,
    /// Written as zeros, or with a repeated zero word.
    Zero,
    /// Anything else.
    Data,
}

/// What a page shrank to.
enum Shrunk<'a> {
    Pattern(u32),
    Object(CodecId, &'a [u8]),
}

/// The engine of one server.
pub struct Engine {
    tiers: Tiers,
    exports: Box<[ExportInfo]>,
    codec: CodecSwitch,
    /// An object larger than this takes as much of the current zpool as the page itself.
    accept_bytes_max: AtomicUsize,
    /// Held while the zpool is changed.
    zpool_switch: Mutex<()>,
    writeback: Mutex<Writeback>,
    dispatch: Arc<Dispatch>,
    writeback_stats: WritebackStats,
    writeback_lane: Arc<LaneStats>,
    incidents: Incidents,
    lanes: Mutex<Vec<Arc<LaneStats>>>,
    bell: Bell,
}

impl Engine {
    /// The export of that name.
    pub fn export_named(&self, name: &str) -> Option<ExportId> {
        let index = self.exports.iter().position(|export| export.name == name)?;
        Some(ExportId(index as u16))
    }

    /// How many exports there are.
    pub fn exports(&self) -> usize {
        self.exports.len()
    }

    /// An export.
    pub fn export(&self, id: ExportId) -> &ExportInfo {
        &self.exports[usize::from(id.0)]
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.tiers.page_bytes
    }

    /// The bell that rings when [`step`](Self::step) has work.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Equipment for one more thread.
    pub fn lane(&self) -> Lane {
        let stats = Arc::new(LaneStats::new(self.exports.len()));
        self.lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&stats));
        Lane::new(self, stats)
    }

    /// Reads a page into `out`, which is as long as a page.
    ///
    /// # Errors
    /// [`Error::Lost`] for a page of an older life, [`Error::Corrupt`] where memory was damaged,
    /// [`Error::Silent`] for a stored page while the device does not answer.
    pub fn read(&self, lane: &mut Lane, page: PageId, out: &mut [u8]) -> Result<Read> {
        let guard = self.tiers.table.lock(page);
        let read = self.load(lane, &guard, out)?;
        if matches!(read, Read::Ready(Tier::Pool | Tier::Raw)) && !guard.word().is_read() {
            guard.publish(guard.word().with_read());
        }
        Ok(read)
    }

    /// Hints that a page will be read soon. Looks without a lock and promises nothing.
    #[inline]
    pub fn prefetch(&self, page: PageId) {
        if let Place::Pool(object) = self.tiers.table.peek(page).place() {
            self.tiers.pool.prefetch(object.at, object.bytes);
        }
    }

    /// Brings a locked page into `out`, if it is in memory.
    fn load(&self, lane: &mut Lane, guard: &PageGuard<'_>, out: &mut [u8]) -> Result<Read> {
        let word = guard.word();
        let tier = match word.place() {
            Place::Unwritten if self.is_lost(guard.page()) => return Err(Error::Lost),
            Place::Lost => return Err(Error::Lost),
            Place::Unwritten | Place::Hole | Place::Same(0) => {
                out.fill(0);
                Tier::Zero
            }
            Place::Same(pattern) => {
                fill_word(out, u64::from(pattern) << 32 | u64::from(pattern));
                Tier::Same
            }
            Place::Pool(object) => {
                let bytes = self
                    .tiers
                    .pool
                    .load(object.at, object.bytes, &mut lane.object);
                if !lane.decompressor.decompress(object.codec, bytes, out) {
                    lane.stats.decompress_fail.add(1);
                    return Err(Error::Corrupt {
                        what: "decompressed length of an object in the pool",
                        at: object.at.0,
                        wanted: out.len() as u64,
                        found: 0,
                    });
                }
                Tier::of(word).expect("it is in the pool")
            }
            // Behind those who wait for it there is nothing to be had but one more who waits.
            Place::Store(_) if self.tiers.are_reads_silent() => return Err(Error::Silent),
            Place::Store(_) => {
                return Ok(Read::Fetch(
                    self.store_place(word).expect("it is in the store"),
                ));
            }
        };
        Ok(Read::Ready(tier))
    }

    /// Writes a whole page.
    ///
    /// # Errors
    /// [`Error::PoolFull`], [`Error::StoreFull`]: no place and no hope of one; the page is unchanged.
    pub fn write(&self, lane: &mut Lane, page: PageId, data: &[u8]) -> Result<Write> {
        assert_eq!(data.len(), self.page_bytes(), "a whole page");
        self.tiers.table.reserve(page)?;
        lane.tick(self);
        lane.take_new_compressor();
        let shrunk = self.shrink(&mut lane.compressor, &lane.stats, data);
        let guard = self.tiers.table.lock(page);
        self.place(&guard, &lane.stats, &shrunk)
    }

    /// Writes `data` at `offset` inside a page and leaves the rest as it is.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Error::Lost`] and [`Error::Corrupt`] where the rest of the page
    /// is not to be had.
    pub fn patch(
        &self,
        lane: &mut Lane,
        page: PageId,
        offset: usize,
        data: &[u8],
    ) -> Result<Write> {
        self.tiers.table.reserve(page)?;
        lane.take_new_compressor();
        let guard = self.tiers.table.lock(page);
        let mut whole = std::mem::take(&mut lane.page);
        let result = self
            .load(lane, &guard, &mut whole)
            .and_then(|read| match read {
                Read::Fetch(place) => Ok(Write::Fetch(place)),
                Read::Ready(_) => {
                    whole[offset..offset + data.len()].copy_from_slice(data);
                    let shrunk = self.shrink(&mut lane.compressor, &lane.stats, &whole);
                    self.place(&guard, &lane.stats, &shrunk)
                }
            });
        drop(guard);
        lane.page = whole;
        lane.tick(self);
        result
    }

    /// As [`patch`](Self::patch), with `base` the page as it was fetched from `place`. If the page
    /// is not there any more, the base is not used.
    ///
    /// # Errors
    /// As [`patch`](Self::patch).
    pub fn patch_fetched(
        &self,
        lane: &mut Lane,
        page: PageId,
        place: StorePlace,
        base: &mut [u8],
        (offset, data): (usize, &[u8]),
    ) -> Result<Write> {
        let guard = self.tiers.table.lock(page);
        if !self.is_at(guard.word(), place) {
            lane.stats.fetch_races.add(1);
            drop(guard);
            return self.patch(lane, page, offset, data);
        }
        base[offset..offset + data.len()].copy_from_slice(data);
        lane.take_new_compressor();
        let shrunk = self.shrink(&mut lane.compressor, &lane.stats, base);
        self.place(&guard, &lane.stats, &shrunk)
    }

    /// Writes zeros to a whole page.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no memory for the page's table entry.
    pub fn zero(&self, lane: &mut Lane, page: PageId) -> Result<()> {
        self.tiers.table.reserve(page)?;
        let guard = self.tiers.table.lock(page);
        self.tiers
            .change(&guard, Word::of(Place::Same(0)), &lane.stats);
        Ok(())
    }

    /// Forgets pages: they read as zeros from now on.
    pub fn discard(&self, lane: &mut Lane, pages: Range<u32>) {
        if pages.is_empty() {
            return;
        }
        if self.is_lost(PageId(pages.start)) {
            for page in pages.map(PageId) {
                // Unwritten means lost there, so that a discard has to leave a trace. Where there is
                // no memory for it the page stays lost: a discard promises nothing.
                if self.tiers.table.reserve(page).is_ok() {
                    self.forget(lane, page, Word::of(Place::Hole));
                }
            }
            return;
        }
        // A durable export has to remember a discard until the log says so too.
        let is_durable = self.tiers.durable_of(PageId(pages.start)).is_some();
        let gone = Word::of(if is_durable {
            Place::Hole
        } else {
            Place::Unwritten
        });
        let (mut rest, mut did) = (pages, false);
        while let Some(part) = self.tiers.table.touched_in(rest.clone()) {
            rest.start = part.end;
            for page in part.map(PageId) {
                let word = self.tiers.table.peek(page);
                if word != Word::default() && word != gone {
                    self.forget(lane, page, gone);
                    did = true;
                }
            }
        }
        if did {
            // Frames and segments that became free can be given back.
            self.bell.ring();
        }
    }

    fn forget(&self, lane: &Lane, page: PageId, word: Word) {
        let guard = self.tiers.table.lock(page);
        self.tiers.change(&guard, word, &lane.stats);
    }

    fn owes_too_much(&self) -> bool {
        let durable = self.tiers.durable.as_ref();
        durable.is_some_and(crate::durable::Durable::owes_too_much)
    }

    /// Asks that every change of an export that was answered until now survives loss of the host. None:
    /// there is nothing to wait for, the export does not promise that.
    pub fn flush(&self, id: ExportId) -> Option<Flush> {
        let durable = self.tiers.durable.as_ref()?;
        if !durable.has_export(usize::from(id.0)) {
            return None;
        }
        let flush = durable.flushes.ask();
        self.bell.ring();
        Some(flush)
    }

    /// How a flush went; None: it is under way, and space is announced when it is over. While the device
    /// does not answer, one that is not over fails at once; it may still be done later.
    pub fn flushed(&self, flush: Flush) -> Option<std::result::Result<(), FlushError>> {
        let durable = self.tiers.durable.as_ref();
        let durable = durable.expect("it was asked of a durable export");
        let outcome = durable.flushes.outcome(flush);
        // Whoever steps may be in the kernel for ever, and answers nobody then.
        outcome.or_else(|| self.tiers.is_silent().then_some(Err(FlushError::Failed)))
    }

    /// Makes everything that durable exports owe survive loss of the host. `wait` lets time go by for
    /// whoever steps, or steps itself.
    ///
    /// # Errors
    /// As a flush fails, or since the device does not answer: everything is owed as before.
    pub fn settle(&self, wait: impl Fn(&Engine)) -> std::result::Result<(), FlushError> {
        let Some(durable) = &self.tiers.durable else {
            return Ok(());
        };
        let flush = durable.flushes.ask();
        self.bell.ring();
        loop {
            if let Some(outcome) = self.flushed(flush) {
                return outcome;
            }
            wait(self);
        }
    }

    /// What BLOCK_STATUS says of a page.
    pub fn page_state(&self, page: PageId) -> PageState {
        match self.tiers.table.peek(page).place() {
            Place::Unwritten if self.is_lost(page) => PageState::Data,
            Place::Unwritten | Place::Hole => PageState::Hole,
            Place::Same(0) => PageState::Zero,
            _ => PageState::Data,
        }
    }

    /// One bounded piece of background work, `now` being the time since the engine was opened. Only
    /// one thread does it at a time.
    pub fn step(&self, now: Duration) -> Work {
        self.codec.tidy();
        let mut writeback = self
            .writeback
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let context = Context {
            tiers: &self.tiers,
            lane: &self.writeback_lane,
            stats: &self.writeback_stats,
            now,
            incidents: &self.incidents,
        };
        writeback.step(&context, self.bell.take_asked())
    }

    /// Where a thread may write batches to the store while [`step`](Self::step) fills others. See
    /// [`serve_writes`](Self::serve_writes).
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// Writes what [`step`](Self::step) sends to the store, until the dispatch is closed; for a thread
    /// of its own. Returns at once without a store.
    pub fn serve_writes(&self) {
        if self.tiers.store.is_some() {
            self.dispatch.serve(&self.tiers);
        }
    }

    /// Verifies a piece of the store if it is time for one; for the thread that steps, when it has
    /// nothing else to do. `now_us`: microseconds on the clock of [`step`](Self::step). Gives the
    /// microseconds until it wants to be called again, None if never.
    pub fn scrub(&self, now_us: u64) -> Option<u64> {
        let mut writeback = self
            .writeback
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let context = Context {
            tiers: &self.tiers,
            lane: &self.writeback_lane,
            stats: &self.writeback_stats,
            now: Duration::from_micros(now_us),
            incidents: &self.incidents,
        };
        writeback.scrub(&context, now_us)
    }

    /// Takes the names of pages whose records were found to be damaged, and the number of those that
    /// found no place in the list.
    pub fn take_incidents(&self) -> (Vec<Incident>, u64) {
        self.incidents.take()
    }

    /// How the store does several reads at once; None without a store.
    pub fn store_reading(&self) -> Option<&crate::store::Reading> {
        (self.tiers.store.as_ref()).map(crate::store::Store::reading)
    }

    /// Is what is written back encrypted?
    pub fn is_store_encrypted(&self) -> bool {
        (self.tiers.store.as_ref()).is_some_and(crate::store::Store::is_encrypted)
    }

    /// The export of a page, and its number there.
    pub fn whose(&self, page: PageId) -> (&ExportInfo, PageIndex) {
        let export = &self.exports[self.tiers.export_of(page)];
        (export, PageIndex(page.0 - export.first.0))
    }

    /// Walks everything and panics on a contradiction. For tests: nothing else may run meanwhile.
    pub fn check(&self) {
        self.tiers.check();
    }

    fn is_lost(&self, page: PageId) -> bool {
        self.exports[self.tiers.export_of(page)].is_lost
    }

    /// The smallest form of a page.
    fn shrink<'a>(
        &self,
        compressor: &'a mut crate::codec::Compressor,
        stats: &LaneStats,
        page: &'a [u8],
    ) -> Shrunk<'a> {
        if let Some(word) = repeated_word(page) {
            return match pattern_of(word) {
                Some(pattern) => Shrunk::Pattern(pattern),
                None => Shrunk::Object(CodecId::Repeat, &page[..8]),
            };
        }
        let codec = compressor.id();
        let accept_bytes_max = self.accept_bytes_max.load(Ordering::Relaxed);
        match compressor.compress(page, accept_bytes_max) {
            Some(object) => Shrunk::Object(codec, object),
            None => {
                if codec != CodecId::None {
                    stats.reject_compress_poor.add(1);
                }
                Shrunk::Object(CodecId::None, page)
            }
        }
    }

    /// Where a page goes: a word in the table, the pool, or nowhere yet.
    fn place(
        &self,
        guard: &PageGuard<'_>,
        stats: &LaneStats,
        shrunk: &Shrunk<'_>,
    ) -> Result<Write> {
        let place = match *shrunk {
            Shrunk::Pattern(pattern) => Place::Same(pattern),
            Shrunk::Object(codec, object) => {
                let tag = Tag {
                    owner: guard.page().0,
                    stamp: self.tiers.clock.stamp(),
                };
                match self.tiers.pool.alloc(object.len(), tag) {
                    Ok(at) => {
                        self.tiers.pool.store(at, object);
                        Place::Pool(ObjectAt {
                            codec,
                            bytes: object.len(),
                            at,
                        })
                    }
                    Err(AllocError::TooLarge) => panic!("an object of {} bytes", object.len()),
                    Err(AllocError::Full) => return self.no_place(stats),
                }
            }
        };
        let word = Word::of(place);
        self.tiers.change(guard, word, stats);
        let is_high = self.tiers.is_above_high_mark() && self.tiers.pressure() == Pressure::Calm;
        if is_high || self.owes_too_much() {
            self.bell.ring();
        }
        Ok(Write::Done(Tier::of(word).expect("it was written")))
    }

    /// No slot is free: wait for write-back if it can still help, else refuse.
    fn no_place(&self, stats: &LaneStats) -> Result<Write> {
        self.bell.ask();
        if self.tiers.pressure() == Pressure::Stuck {
            self.bell.nudge();
            stats.reject_pool_full.add(1);
            return Err(Error::PoolFull);
        }
        self.bell.ring();
        stats.stalls.add(1);
        Ok(Write::Stall)
    }
}
