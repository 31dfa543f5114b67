//! The places of pages together: table, pool and store, and the one function that changes where a page is.
//!
//! Not here: which place a page gets (`engine`), when it moves on (`writeback`).
//! Locking: the callers hold the page; see `table`.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::age::Clock;
use crate::durable::{Belief, Durable, MARK_BYTES};
use crate::page::PageId;
use crate::stats::LaneStats;

use crate::store::Store;
use crate::table::{PageGuard, Place, Table, Word};
use crate::zpool::{Pools, Zpool};

/// How the pool stands, as write-back sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pressure {
    /// Below the marks, or nothing was asked for yet.
    Calm,
    /// Write-back is making room.
    Working,
    /// Nothing more can be moved: writes that find no place are refused.
    Stuck,
}

/// Pool limit and the marks between which write-back works, in bytes of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Write-back starts above this.
    pub high_bytes: u64,
    /// Write-back ends below this.
    pub low_bytes: u64,
}

/// Table, pool and store of one server.
pub struct Tiers {
    /// Where every page is.
    pub table: Table,
    /// Compressed pages in memory.
    pub pool: Pools,
    /// Packed pages on the backing file.
    pub store: Option<Store>,
    /// What is known of exports whose flushed pages survive loss of the host; None without one.
    pub durable: Option<Durable>,
    /// Age of pages.
    pub clock: Clock,
    /// When to write back.
    pub marks: Marks,
    /// The first page of every export, ascending.
    pub first_pages: Box<[u32]>,
    /// Bytes of a page.
    pub page_bytes: usize,
    pressure: AtomicU8,
    /// The device does not answer reads; writes.
    are_reads_silent: AtomicBool,
    are_writes_silent: AtomicBool,
    /// For how long it has not answered, microseconds.
    unanswered_us: AtomicU64,
}

impl Tiers {
    /// Puts the parts together. `durable` needs a store.
    #[expect(clippy::too_many_arguments, reason = "the parts, each of its own type")]
    pub fn new(
        table: Table,
        pool: Pools,
        store: Option<Store>,
        durable: Option<Durable>,
        clock: Clock,
        marks: Marks,
        first_pages: Box<[u32]>,
        page_bytes: usize,
    ) -> Tiers {
        let pressure = AtomicU8::new(Pressure::Calm as u8);
        Tiers {
            table,
            pool,
            store,
            durable,
            clock,
            marks,
            first_pages,
            page_bytes,
            pressure,
            are_reads_silent: AtomicBool::new(false),
            are_writes_silent: AtomicBool::new(false),
            unanswered_us: AtomicU64::new(0),
        }
    }

    /// The number of the export that a page belongs to.
    pub fn export_of(&self, page: PageId) -> usize {
        self.first_pages.partition_point(|&first| first <= page.0) - 1
    }

    /// What is known of the export of a page, if it is a durable one.
    pub fn durable_of(&self, page: PageId) -> Option<&Durable> {
        let durable = self.durable.as_ref()?;
        durable.has_export(self.export_of(page)).then_some(durable)
    }

    /// What the next process may believe of the log.
    pub fn belief(&self) -> Belief<'_> {
        Belief::new(self.table.memory().notes())
    }

    /// Gives a page another content: as [`replace`](Self::replace), and a durable export owes it to the
    /// log from now on.
    pub fn change(&self, guard: &PageGuard<'_>, new: Word, stats: &LaneStats) {
        let page = guard.page();
        if self.durable_of(page).is_some() {
            let old = guard.word();
            if old.unmarked() == new && !matches!(new.place(), Place::Pool(_) | Place::Store(_)) {
                // Zeros over zeros: the log knows, or is about to.
                return;
            }
            self.owe_again(guard);
            if let Place::Store(object) = old.place() {
                self.store_of_a_stored_page().outlived(object.at);
            }
        }
        self.replace(guard, new, stats);
    }

    /// What the log has of a page of a durable export is not to be relied on: it is owed to it.
    pub fn owe_again(&self, guard: &PageGuard<'_>) {
        let Some(durable) = self.durable_of(guard.page()) else {
            return;
        };
        durable.owe(guard.page());
        if let Some(mark) = durable.set_mark(guard.page(), None) {
            let store = self.store_of_a_stored_page();
            store.outlived(mark);
            store.release(mark, MARK_BYTES as u32);
        }
    }

    /// Moves a page: publishes `new`, whose bytes are whole, and gives the old place back.
    pub fn replace(&self, guard: &PageGuard<'_>, new: Word, stats: &LaneStats) {
        let old = guard.word();
        guard.publish(new);
        match old.place() {
            Place::Pool(object) => self.pool.free(object.at, object.bytes),
            Place::Store(object) => {
                self.store_of_a_stored_page()
                    .release(object.at, object.bytes as u32);
            }
            Place::Unwritten | Place::Hole | Place::Same(_) | Place::Lost => {}
        }
        stats.moved(self.export_of(guard.page()), old, new);
    }

    /// The store; a page that is there proves that there is one.
    pub fn store_of_a_stored_page(&self) -> &Store {
        self.store
            .as_ref()
            .expect("a page is, or is to be, in the store, so there is one")
    }

    /// Do the pool's blocks hold so much that write-back should start?
    pub fn is_above_high_mark(&self) -> bool {
        let arena = self.pool.arena();
        u64::from(arena.used_frames()) * arena.frame_bytes() as u64 >= self.marks.high_bytes
    }

    /// How the pool stands. Write-back cannot say that it is stuck while it waits for a device that
    /// does not answer.
    pub fn pressure(&self) -> Pressure {
        if self.is_silent() {
            return Pressure::Stuck;
        }
        match self.pressure.load(Ordering::Acquire) {
            0 => Pressure::Calm,
            1 => Pressure::Working,
            _ => Pressure::Stuck,
        }
    }

    /// Write-back says how the pool stands.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Release);
    }

    /// Whether the device answers reads and writes. True: that has changed.
    pub fn set_silent(&self, reads: bool, writes: bool) -> bool {
        let reads_before = self.are_reads_silent.swap(reads, Ordering::AcqRel);
        let writes_before = self.are_writes_silent.swap(writes, Ordering::AcqRel);
        (reads_before, writes_before) != (reads, writes)
    }

    /// For how long something has been asked of the device and nothing has come back, when somebody
    /// looked last.
    pub fn unanswered(&self) -> Duration {
        Duration::from_micros(self.unanswered_us.load(Ordering::Relaxed))
    }

    /// Somebody has looked.
    pub fn set_unanswered(&self, time: Duration) {
        let us = time.as_micros() as u64;
        self.unanswered_us.store(us, Ordering::Relaxed);
    }

    /// Does the device not answer reads?
    pub fn are_reads_silent(&self) -> bool {
        self.are_reads_silent.load(Ordering::Acquire)
    }

    /// Does the device not answer in one direction or both?
    pub fn is_silent(&self) -> bool {
        self.are_reads_silent() || self.are_writes_silent.load(Ordering::Acquire)
    }

    /// Walks table, pool and store and panics where they contradict each other. For tests: nothing
    /// else may run meanwhile.
    pub fn check(&self) {
        self.pool.check();
        let (mut objects, mut bytes) = (0, 0);
        let mut live_bytes = 0;
        for index in 0..self.table.pages() as u32 {
            let page = PageId(index);
            match self.table.peek(page).place() {
                Place::Pool(object) => {
                    let tag = self.pool.tag(object.at, object.bytes);
                    assert_eq!(tag.owner, index, "owner of the object of {page}");
                    objects += 1;
                    bytes += object.bytes as u64;
                }
                Place::Store(object) => {
                    let store = self.store_of_a_stored_page();
                    assert_ne!(store.sequence(object.at), 0, "{page} is in a free segment");
                    live_bytes += u64::from(store.record_bytes(object.bytes as u32));
                }
                _ => {}
            }
            if let Some(durable) = self.durable_of(page)
                && durable.mark(page).is_some()
            {
                let store = self.store_of_a_stored_page();
                live_bytes += u64::from(store.record_bytes(MARK_BYTES as u32));
            }
        }
        let stats = self.pool.stats();
        assert_eq!(
            (stats.objects, stats.object_bytes),
            (objects, bytes),
            "pool against table"
        );
        if let Some(store) = &self.store {
            store.check();
            assert_eq!(store.stats().live_bytes, live_bytes, "store against table");
        }
    }
}
