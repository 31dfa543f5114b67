//! What is known of exports whose flushed pages survive loss of the host: which pages the log does not
//! have as they are, where it says that a page has no object, and which flushes wait.
//!
//! A page of such an export is
//!
//! * *owed* from a change of its content until a record of it is committed: its object, or, for a page
//!   that has none (zeros, one pattern, discarded, lost), a *mark*, a record that says so. Without a mark
//!   a recovery would find the page's older record;
//! * *unsynced* from then until a sync that began later has succeeded. If that sync fails, nothing that
//!   it should have covered is believed: the page is owed again.
//!
//! A mark lives, and is moved on by cleaning, as long as the page is what it says. So the log holds no
//! older record of a page without something newer. It costs 24 bytes, 32 when sealed, for each page.
//!
//! Memory: two bits for each page that changed, and 8 bytes for each page in use; none without such
//! exports.
//!
//! Not here: writing records (`writeback`), finding them (`engine::recovery`).
//! Locking: the page's lock for what concerns one page; a mutex for the flushes, held for a few
//! instructions.

mod belief;
mod flushes;
mod mark;
mod page_set;

use std::sync::atomic::{AtomicU64, Ordering};

pub use belief::Belief;
pub use flushes::{Flush, FlushError, Flushes};
pub use mark::{
    MARK_BYTES, MARK_CODEC, Mark, POSITION_PAGE, kind_of, position_object, position_of,
};
pub use page_set::PageSet;

use crate::error::Result;
use crate::page::PageId;
use crate::store::Location;
use crate::zpool::words::SharedWords;

/// Stands in a word of `marks` for "there is one".
const PRESENT: u64 = 1 << 63;

/// What is known of the durable exports of one server.
pub struct Durable {
    /// Which exports are durable.
    exports: Box<[bool]>,
    /// Content that no committed record holds.
    pub owed: PageSet,
    /// Committed, and not synced since.
    pub unsynced: PageSet,
    /// Where the marks of pages are.
    marks: SharedWords,
    /// More owed pages than this are to be written down soon, or there may be no room for them.
    pub owed_max: AtomicU64,
    /// All segments of smaller sequences are whole and on the device.
    pub position: AtomicU64,
    /// Who waits.
    pub flushes: Flushes,
}

impl Durable {
    /// For exports of `pages` together; nothing is known of any page. `populate`: all memory is taken
    /// at once.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if there is no memory.
    pub fn new(exports: Box<[bool]>, pages: usize, populate: bool) -> Result<Durable> {
        Ok(Durable {
            exports,
            owed: PageSet::new(pages, populate)?,
            unsynced: PageSet::new(pages, populate)?,
            marks: SharedWords::create(None, pages, populate)?,
            owed_max: AtomicU64::new(u64::MAX),
            position: AtomicU64::new(0),
            flushes: Flushes::default(),
        })
    }

    /// Is this export a durable one?
    pub fn has_export(&self, export: usize) -> bool {
        self.exports[export]
    }

    /// The content of a locked page is about to change.
    pub fn owe(&self, page: PageId) {
        self.owed.insert(page);
    }

    /// A record of the locked page, as it is, was committed.
    pub fn committed(&self, page: PageId) {
        self.unsynced.insert(page);
        self.owed.remove(page);
    }

    /// Where the mark of a locked page is.
    pub fn mark(&self, page: PageId) -> Option<Location> {
        location(self.marks.words()[page.0 as usize].load(Ordering::Acquire))
    }

    /// Changes where the mark of a locked page is; where it was.
    pub fn set_mark(&self, page: PageId, to: Option<Location>) -> Option<Location> {
        let word = to.map_or(0, |to| to.0 | PRESENT);
        location(self.marks.words()[page.0 as usize].swap(word, Ordering::AcqRel))
    }

    /// Is there so much that the log does not have that it should be written down?
    pub fn owes_too_much(&self) -> bool {
        self.owed.len() > self.owed_max.load(Ordering::Relaxed)
    }
}

fn location(word: u64) -> Option<Location> {
    (word & PRESENT != 0).then_some(Location(word & !PRESENT))
}
