//! Moving cold objects from the pool to the store, still compressed, and keeping both tidy.
//!
//! All of it happens in [`Writeback::step`], which does one bounded piece of work and returns: no
//! thread, no clock, no chance. A thread calls it in production, a seed in tests.
//!
//! Above the high mark, until the low mark is reached:
//!
//! 1. if much of the pool is holes (slots of part-filled blocks), empty the emptiest block into the
//!    others: that costs copies only;
//! 2. otherwise write back one segment: a census of ages gives a threshold (`age`), a sweep collects
//!    what is older, the objects are copied into the batch in the order of their page numbers and
//!    marked as moving, the batch goes to the device in one write, and every page that nobody
//!    touched meanwhile is published at its new place;
//!    When free segments run out, the batch begins with what still lives in the sparsest segment, so
//!    that writing one segment frees another.
//!
//! The moving mark is what makes publishing safe: a page that was rewritten meanwhile may have got the
//! same slot, length and codec again, but not the mark, and there is only one batch at a time.
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use crate::age::{Census, age};
use crate::codec::CodecId;
use crate::error::Error;
use crate::page::PageId;
use crate::stats::{Counter, LaneStats};
use crate::store::{Batch, Location, ReadBuffer, Reason, RecordRef, SegmentIndex, Store};
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::{Pressure, Tiers};
use crate::zpool::{Handle, Resident, Sweep, Tag};

/// Frames that one sweep call covers: bounds the time a class is locked.
const SWEEP_FRAMES: u32 = 256;

/// Holes are moved together when they are more than this share of what blocks hold: 1/16. Random
/// overwrites alone leave about 1/20, and moving them would cost copies without end.
const LOOSE_SHARE: u64 = 16;

/// After so many segments in a row that could not be written, each at another place, the device is
/// failing: writes that find no room are refused until a later attempt succeeds.
const FAILURES_MAX: u32 = 3;

/// When nobody writes, holes are moved together down to this share, 1/40: full blocks of real pages
/// leave as much.
const LOOSE_SHARE_QUIET: u64 = 40;

/// This share of the pool's frames may be free and stay in memory, so that a burst finds them.
const FREE_FRAMES_SHARE: u32 = 128;

/// A segment is worth cleaning when at most this share of it lives, in per cent. Cleaning at 75 % live
/// costs three bytes written for each byte freed; above that the log would mostly copy itself.
const CLEAN_LIVE_PERCENT: u32 = 75;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Something was done and there may be more: call again.
    More,
    /// Nothing to do until the pool passes its high mark.
    Idle,
    /// There is something to do that would disturb writers: call again when they may be gone.
    Later,
    /// There is something to do but it cannot be done now: call again after a while.
    Blocked,
}

/// What write-back did, in pages unless the name says bytes.
#[derive(Debug, Default)]
pub struct WritebackStats {
    /// Pages that moved from the pool to the store.
    pub pages_written_back: Counter,
    /// Their compressed bytes.
    pub bytes_written_back: Counter,
    /// Pages that were rewritten or discarded while they were on their way: written for nothing.
    pub pages_overtaken: Counter,
    /// Pages that cleaning moved inside the store.
    pub pages_cleaned: Counter,
    /// Pages that compaction moved inside the pool.
    pub pages_compacted: Counter,
    /// Segments that could not be written.
    pub segments_failed: Counter,
    /// 1 while the last segment could not be written, else 0.
    pub is_failing: Counter,
    /// Times that the pool passed its high mark.
    pub high_mark_hits: Counter,
}

/// An object that is on its way to the device.
struct Moved {
    page: PageId,
    word: Word,
    to: Location,
}

/// The state of write-back between steps.
pub struct Writeback {
    batch: Option<Batch>,
    buffer: ReadBuffer,
    scratch: Box<[u8]>,
    victims: Vec<(PageId, Handle)>,
    records: Vec<RecordRef>,
    moved: Vec<Moved>,
    census: Census,
    threshold: Option<u16>,
    sweep: Sweep,
    is_active: bool,
    /// Segments in a row that could not be written.
    failures: u32,
    /// The clock's writes when it was last looked whether somebody writes.
    writes_seen: u64,
}

/// What a step needs besides the tiers.
pub struct Context<'a> {
    /// The places of pages.
    pub tiers: &'a Tiers,
    /// The shard of the thread that steps.
    pub lane: &'a LaneStats,
    /// The counters of write-back.
    pub stats: &'a WritebackStats,
}

impl Writeback {
    /// Write-back for `tiers`; allocates all that it will ever need.
    pub fn new(tiers: &Tiers) -> Writeback {
        let objects = tiers.store.as_ref().map_or(0, Store::records_max);
        Writeback {
            batch: tiers.store.as_ref().map(Store::batch),
            buffer: ReadBuffer::new(),
            scratch: vec![0; tiers.pool.object_bytes_max()].into_boxed_slice(),
            victims: Vec::with_capacity(objects),
            records: Vec::with_capacity(objects),
            moved: Vec::with_capacity(objects),
            census: Census::default(),
            threshold: None,
            sweep: Sweep::default(),
            is_active: false,
            failures: 0,
            writes_seen: 0,
        }
    }

    /// Does one piece of work. `is_asked`: a write found no place, whatever the marks say.
    pub fn step(&mut self, context: &Context<'_>, is_asked: bool) -> Work {
        let tiers = context.tiers;
        // What was asked for may have been done since, by the step that was under way or by a
        // discard. Taken for urgent, it would drain the pool and call it stuck for being empty.
        let is_urgent = is_asked && !has_room(tiers);
        let pool = tiers.pool.stats();
        if !self.is_active && (pool.block_bytes >= tiers.marks.high_bytes || is_urgent) {
            self.is_active = true;
            context.stats.high_mark_hits.add(1);
        }
        if self.is_active && pool.block_bytes <= tiers.marks.low_bytes && !is_urgent {
            self.is_active = false;
            self.threshold = None;
            tiers.pool.settle();
        }
        let holes = pool.block_bytes - pool.slot_bytes;
        if !self.is_active {
            tiers.set_pressure(Pressure::Calm);
            let is_loose = holes > pool.block_bytes / LOOSE_SHARE_QUIET;
            return self.tidy(context, is_loose);
        }
        let did = holes > pool.block_bytes / LOOSE_SHARE && self.compact(context)
            || self.make_room(context, pool.block_bytes)
            || self.compact(context)
            // Or others made room meanwhile, and left nothing to move.
            || is_urgent && has_room(tiers);
        if did {
            tiers.set_pressure(Pressure::Working);
            return Work::More;
        }
        tiers.set_pressure(Pressure::Stuck);
        // Also lets the arena ask the system again for memory that it was refused.
        self.tidy(context, false);
        self.is_active = false;
        Work::Blocked
    }

    /// Gives back what is not needed: memory of free frames, space of freed segments; and moves
    /// objects together while nobody writes.
    fn tidy(&mut self, context: &Context<'_>, is_loose: bool) -> Work {
        let arena = context.tiers.pool.arena();
        arena.release_free(arena.frames() / FREE_FRAMES_SHARE);
        if context.tiers.store.as_ref().is_some_and(Store::tidy) {
            return Work::More;
        }
        if !is_loose {
            return Work::Idle;
        }
        let writes = context.tiers.clock.writes();
        let is_quiet = std::mem::replace(&mut self.writes_seen, writes) == writes;
        match is_quiet.then(|| self.compact(context)) {
            None => Work::Later,
            Some(true) => Work::More,
            Some(false) => Work::Idle,
        }
    }

    /// Empties one sparse block into the free slots of others. False: no block can be emptied.
    fn compact(&mut self, context: &Context<'_>) -> bool {
        let (tiers, scratch) = (context.tiers, &mut self.scratch);
        let mut moved = 0;
        let found = tiers.pool.isolate(&mut |resident| {
            moved += u64::from(relocate(context, scratch, resident));
        });
        tiers.pool.settle();
        context.stats.pages_compacted.add(moved);
        found && moved > 0
    }

    /// Writes one segment: what still lives in the sparsest segment, if free ones are running out,
    /// and then the oldest objects of the pool. False: nothing could be written.
    fn make_room(&mut self, context: &Context<'_>, block_bytes: u64) -> bool {
        let (Some(store), Some(mut batch)) = (&context.tiers.store, self.batch.take()) else {
            return false;
        };
        let did = self.fill(context, store, &mut batch, block_bytes);
        let did = did && (self.moved.is_empty() || self.commit(context, store, &mut batch));
        self.batch = Some(batch);
        did
    }

    /// Begins a batch and fills it. False: there is no free segment, or nothing to write. It may stay
    /// empty, and is then not begun any more, if everything that was found was overtaken.
    fn fill(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        batch: &mut Batch,
        block_bytes: u64,
    ) -> bool {
        self.moved.clear();
        let sparse = if store.is_low() {
            store.victim(CLEAN_LIVE_PERCENT)
        } else {
            None
        };
        let reason = if sparse.is_some() {
            Reason::Cleaning
        } else {
            Reason::WriteBack
        };
        if store.begin(batch, reason).is_err() {
            return false;
        }
        if let Some(segment) = sparse {
            self.gather(context, store, segment, batch);
        }
        let found = self.collect(context, store, block_bytes);
        self.copy(context, batch);
        if self.moved.is_empty() {
            store.cancel(batch);
        }
        found || !self.moved.is_empty()
    }

    /// Fills `victims` with about a segment of the oldest objects. False: the pool is empty.
    fn collect(&mut self, context: &Context<'_>, store: &Store, block_bytes: u64) -> bool {
        if !self.victims.is_empty() {
            return true;
        }
        let bytes = u64::from(store.segment_bytes());
        // What a census promised may have been rewritten by the time the sweep gets there; a new
        // census finds what there is.
        if let Some(threshold) = self.threshold
            && self.sweep_older(context.tiers, threshold, bytes)
        {
            return true;
        }
        let excess = block_bytes.saturating_sub(context.tiers.marks.low_bytes);
        let threshold = self.count_ages(context.tiers, excess.max(bytes));
        self.threshold = Some(threshold);
        self.sweep = Sweep::default();
        self.sweep_older(context.tiers, threshold, bytes)
    }

    /// The age such that objects of at least that age are `bytes` together.
    fn count_ages(&mut self, tiers: &Tiers, bytes: u64) -> u16 {
        let (census, now) = (&mut self.census, tiers.clock.stamp());
        census.clear();
        let mut sweep = Sweep::default();
        while !tiers.pool.sweep(&mut sweep, SWEEP_FRAMES, &mut |resident| {
            if let Some((word, object)) = current(tiers, resident) {
                census.add(age(resident.tag.stamp, now, word.is_read()), object.bytes);
            }
        }) {}
        census.threshold(bytes)
    }

    /// Goes on with the sweep and takes objects of at least `threshold` until they are `bytes`
    /// together or the pool ends. False: there was none.
    fn sweep_older(&mut self, tiers: &Tiers, threshold: u16, bytes: u64) -> bool {
        let (victims, now) = (&mut self.victims, tiers.clock.stamp());
        let mut found_bytes = 0;
        while found_bytes < bytes {
            let at_end = tiers
                .pool
                .sweep(&mut self.sweep, SWEEP_FRAMES, &mut |resident| {
                    let Some((word, object)) = current(tiers, resident) else {
                        return;
                    };
                    let is_old = age(resident.tag.stamp, now, word.is_read()) >= threshold;
                    if is_old && victims.len() < victims.capacity() {
                        victims.push((PageId(resident.tag.owner), resident.handle));
                        found_bytes += object.bytes as u64;
                    }
                });
            if at_end {
                self.threshold = None;
                break;
            }
        }
        // Last first: they are taken from the end.
        victims.sort_unstable_by_key(|&(page, _)| std::cmp::Reverse(page));
        !victims.is_empty()
    }

    /// Copies victims into the batch until it is full, and marks them.
    fn copy(&mut self, context: &Context<'_>, batch: &mut Batch) {
        while let Some(&(page, handle)) = self.victims.last() {
            let guard = context.tiers.table.lock(page);
            let word = guard.word();
            if let Place::Pool(object) = word.place()
                && object.at == handle
            {
                let bytes = context
                    .tiers
                    .pool
                    .load(handle, object.bytes, &mut self.scratch);
                let Some(to) = batch.push(page.0, object.codec as u8, bytes) else {
                    return;
                };
                let word = word.with_moving(true);
                guard.publish(word);
                self.moved.push(Moved { page, word, to });
            }
            self.victims.pop();
        }
    }

    /// Writes the batch and publishes the new place of every page that is still where it was.
    fn commit(&mut self, context: &Context<'_>, store: &Store, batch: &mut Batch) -> bool {
        if store.commit(batch).is_err() {
            context.stats.segments_failed.add(1);
            context.stats.is_failing.set(1);
            self.take_back(context);
            self.failures += 1;
            return self.failures < FAILURES_MAX;
        }
        context.stats.is_failing.set(0);
        self.failures = 0;
        for moved in &self.moved {
            let guard = context.tiers.table.lock(moved.page);
            let word = guard.word();
            if word.unmarked() != moved.word.unmarked()
                || word.is_moving() != moved.word.is_moving()
            {
                context.stats.pages_overtaken.add(1);
                continue;
            }
            let (codec, bytes) = match word.place() {
                Place::Pool(object) => {
                    context.stats.pages_written_back.add(1);
                    context.stats.bytes_written_back.add(object.bytes as u64);
                    (object.codec, object.bytes)
                }
                Place::Store(object) => {
                    context.stats.pages_cleaned.add(1);
                    (object.codec, object.bytes)
                }
                place => unreachable!("a batch of objects has {place:?}"),
            };
            store.retain(moved.to, bytes as u32);
            let place = Place::Store(ObjectAt {
                codec,
                bytes,
                at: moved.to,
            });
            context.tiers.replace(&guard, Word::of(place), context.lane);
        }
        store.seal(batch);
        true
    }

    /// The batch could not be written: its pages stay where they are.
    fn take_back(&mut self, context: &Context<'_>) {
        for moved in self.moved.drain(..) {
            let guard = context.tiers.table.lock(moved.page);
            guard.publish(guard.word().with_moving(false));
        }
        self.victims.clear();
    }

    /// Copies what lives in a segment into the batch. A record that does not verify is lost; one
    /// that the device does not give keeps its segment from being cleaned.
    fn gather(
        &mut self,
        context: &Context<'_>,
        store: &Store,
        segment: SegmentIndex,
        batch: &mut Batch,
    ) {
        let tiers = context.tiers;
        let (records, moved) = (&mut self.records, &mut self.moved);
        records.clear();
        let listed = store.segment_records(segment, &mut self.buffer, &mut |record| {
            if is_current(tiers, &record) {
                records.push(record);
            }
        });
        let mut is_readable = listed.is_ok();
        store.read(&mut self.buffer, records, &mut |index, object| {
            let record = &records[index];
            match object {
                Ok(object) => {
                    let to = batch.push(record.page, record.codec, object);
                    let to = to.expect("what lives in one segment fits into another");
                    moved.push(Moved {
                        page: PageId(record.page),
                        word: word_of(record),
                        to,
                    });
                }
                Err(Error::Corrupt { .. }) => lose(context, record),
                Err(_) => is_readable = false,
            }
        });
        if !is_readable {
            store.set_aside(segment);
        }
    }
}

/// Would a page find a place now, whatever its content?
fn has_room(tiers: &Tiers) -> bool {
    let nobody = Tag { owner: 0, stamp: 0 };
    let place = tiers.pool.alloc(tiers.page_bytes, nobody);
    if let Ok(handle) = place {
        tiers.pool.free(handle, tiers.page_bytes);
    }
    place.is_ok()
}

/// The word of a page that is where the record is.
fn word_of(record: &RecordRef) -> Word {
    let codec = CodecId::from_bits(record.codec).expect("we wrote it");
    Word::of(Place::Store(ObjectAt {
        codec,
        bytes: record.bytes as usize,
        at: record.location,
    }))
}

/// Is the record where its page is?
fn is_current(tiers: &Tiers, record: &RecordRef) -> bool {
    tiers.table.peek(PageId(record.page)) == word_of(record)
}

/// The bytes of a record are not what was written: its page is lost, and known to be.
fn lose(context: &Context<'_>, record: &RecordRef) {
    let guard = context.tiers.table.lock(PageId(record.page));
    if is_current(context.tiers, record) {
        context
            .tiers
            .replace(&guard, Word::of(Place::Lost), context.lane);
    }
}

/// The word and object of a resident that is still where the sweep saw it.
fn current(tiers: &Tiers, resident: Resident) -> Option<(Word, ObjectAt<Handle>)> {
    let word = tiers.table.peek(PageId(resident.tag.owner));
    match word.place() {
        Place::Pool(object) if object.at == resident.handle => Some((word, object)),
        _ => None,
    }
}

/// Moves one object to another slot. False: it is gone, or no slot is free.
fn relocate(context: &Context<'_>, scratch: &mut [u8], resident: Resident) -> bool {
    let tiers = context.tiers;
    let guard = tiers.table.lock(PageId(resident.tag.owner));
    let word = guard.word();
    let Some((_, object)) = current(tiers, resident) else {
        return false;
    };
    let Ok(at) = tiers.pool.alloc(object.bytes, resident.tag) else {
        return false;
    };
    tiers
        .pool
        .store(at, tiers.pool.load(object.at, object.bytes, scratch));
    let moved = Word::of(Place::Pool(ObjectAt { at, ..object }));
    let moved = if word.is_read() {
        moved.with_read()
    } else {
        moved
    };
    tiers.replace(&guard, moved, context.lane);
    true
}
