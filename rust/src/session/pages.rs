//! What a session needs of the page engine: one trait, so that a session can be tested with pages
//! that are stored, stalled or broken exactly when a test says so.
//!
//! The engine implements it by its own methods of the same names. Sessions and workers are generic
//! over it: calls are direct, nothing is dispatched at run time.

use std::ops::Range;

use crate::engine::{
    Engine, ExportId, ExportInfo, Fetch, Flush, FlushError, Lane, PageState, Read, ReaderLane,
    StorePlace, Write,
};
use crate::error::Result;
use crate::page::PageId;

/// Pages of all exports.
pub trait Pages: Send + Sync + 'static {
    /// What a thread needs to work on pages: codec state, scratch buffers, its own counters.
    type Lane: Send;
    /// What a thread needs to read stored pages.
    type ReaderLane: Send;

    /// A lane for one worker.
    fn lane(&self) -> Self::Lane;

    /// A lane for one reader thread.
    fn reader_lane(&self) -> Self::ReaderLane;

    /// Bytes of a page, a power of two.
    fn page_bytes(&self) -> usize;

    /// How many exports there are; their numbers start at 0.
    fn exports(&self) -> usize;

    /// An export by its number.
    fn export(&self, id: ExportId) -> &ExportInfo;

    /// Reads a whole page into `out`, or says where in the store it is.
    fn read(&self, lane: &mut Self::Lane, page: PageId, out: &mut [u8]) -> Result<Read>;

    /// Hints that a page will be read soon.
    fn prefetch(&self, page: PageId);

    /// Writes a whole page.
    fn write(&self, lane: &mut Self::Lane, page: PageId, data: &[u8]) -> Result<Write>;

    /// Writes `data` at `offset` inside a page.
    fn patch(
        &self,
        lane: &mut Self::Lane,
        page: PageId,
        offset: usize,
        data: &[u8],
    ) -> Result<Write>;

    /// As [`patch`](Self::patch), with `base` the page as fetched from `place`. If the page is no
    /// longer at `place`, the base is ignored and the result may be another `Fetch`.
    fn patch_fetched(
        &self,
        lane: &mut Self::Lane,
        page: PageId,
        place: StorePlace,
        base: &mut [u8],
        patch: (usize, &[u8]),
    ) -> Result<Write>;

    /// True if the page is still at `place`: then bytes fetched from there are the page.
    fn confirm(&self, page: PageId, place: StorePlace) -> bool;

    /// Makes pages read as zeros and frees what they hold. Bounded work a call: at most
    /// [`SLICE_PAGES`](super::span::SLICE_PAGES).
    fn discard(&self, lane: &mut Self::Lane, pages: Range<u32>);

    /// Writes zeros to a whole page.
    fn zero(&self, lane: &mut Self::Lane, page: PageId) -> Result<()>;

    /// Asks that every change of an export that was answered until now survives loss of the host. None:
    /// there is nothing to wait for. Space is announced when it is over.
    fn flush(&self, id: ExportId) -> Option<Flush>;

    /// How a flush went; None: it is under way.
    fn flushed(&self, flush: Flush) -> Option<std::result::Result<(), FlushError>>;

    /// What BLOCK_STATUS says of a page.
    fn page_state(&self, page: PageId) -> PageState;

    /// Reads a batch of stored pages, waiting for the disk; sets each `result`, and gives each away as
    /// soon as it is there. Reader threads only.
    fn fetch(
        &self,
        reader: &mut Self::ReaderLane,
        batch: &mut Vec<Box<Fetch>>,
        done: &mut dyn FnMut(Box<Fetch>),
    );

    /// Reads what the last fetch says will be asked for next, waiting for the disk. Reader threads
    /// only, after they have given the pages away.
    fn read_ahead(&self, reader: &mut Self::ReaderLane);
}

impl Pages for Engine {
    type Lane = Lane;
    type ReaderLane = ReaderLane;

    fn lane(&self) -> Lane {
        self.lane()
    }

    fn reader_lane(&self) -> ReaderLane {
        self.reader_lane()
    }

    fn page_bytes(&self) -> usize {
        self.page_bytes()
    }

    fn exports(&self) -> usize {
        self.exports()
    }

    fn export(&self, id: ExportId) -> &ExportInfo {
        self.export(id)
    }

    fn read(&self, lane: &mut Lane, page: PageId, out: &mut [u8]) -> Result<Read> {
        self.read(lane, page, out)
    }

    fn prefetch(&self, page: PageId) {
        self.prefetch(page);
    }

    fn write(&self, lane: &mut Lane, page: PageId, data: &[u8]) -> Result<Write> {
        self.write(lane, page, data)
    }

    fn patch(&self, lane: &mut Lane, page: PageId, offset: usize, data: &[u8]) -> Result<Write> {
        self.patch(lane, page, offset, data)
    }

    fn patch_fetched(
        &self,
        lane: &mut Lane,
        page: PageId,
        place: StorePlace,
        base: &mut [u8],
        patch: (usize, &[u8]),
    ) -> Result<Write> {
        self.patch_fetched(lane, page, place, base, patch)
    }

    fn confirm(&self, page: PageId, place: StorePlace) -> bool {
        self.confirm(page, place)
    }

    fn discard(&self, lane: &mut Lane, pages: Range<u32>) {
        self.discard(lane, pages);
    }

    fn zero(&self, lane: &mut Lane, page: PageId) -> Result<()> {
        self.zero(lane, page)
    }

    fn flush(&self, id: ExportId) -> Option<Flush> {
        self.flush(id)
    }

    fn flushed(&self, flush: Flush) -> Option<std::result::Result<(), FlushError>> {
        self.flushed(flush)
    }

    fn page_state(&self, page: PageId) -> PageState {
        self.page_state(page)
    }

    fn fetch(
        &self,
        reader: &mut ReaderLane,
        batch: &mut Vec<Box<Fetch>>,
        done: &mut dyn FnMut(Box<Fetch>),
    ) {
        self.fetch(reader, batch, done);
    }

    fn read_ahead(&self, reader: &mut ReaderLane) {
        self.read_ahead(reader);
    }
}
