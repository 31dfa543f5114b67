//! The life of segments: free, taken, written, sealed, and free again when nothing in them lives.
//!
//! Who frees a segment is decided as in a reference count: `live` is the bytes of its living
//! records plus, until it is sealed, one credit that no record can reach. Whoever brings it to
//! zero, be it the last release or the seal, is the one that frees it. So a segment whose records
//! die while they are still being published is not freed under the publisher's feet.
//!
//! A segment that could not be written is suspect: it is taken again when there is no other, and if that
//! write fails too it is broken and taken only to clean where nothing else is left to. The next process
//! that opens the file trusts all of them anew.
//!
//! In a store that a recovery may have to read, a freed segment waits before it is taken again
//! (`quarantine`), and it is kept account of how far the log is whole (`doubt`).
//!
//! Not here: what is in a segment (`layout`), I/O (`log`, `read`, `clean`).
//! Locking: per-segment atomics for what every page operation touches, one mutex for the lists of
//! free segments. It is a leaf: nothing is called while it is held.

mod adoption;
mod audit;
mod choice;
mod doubt;
mod emptiest;
mod quarantine;

pub use choice::{Candidates, Choice};
pub use emptiest::Use;
pub(super) use quarantine::Spent;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

use super::geometry::{SEGMENT_BYTES_MAX, SegmentIndex};
use super::layout::Shape;
use super::stats::Counter;
use doubt::Doubt;
use quarantine::{Epochs, Held};

/// Stands in `live` for "not sealed yet".
const CREDIT: u32 = 1 << 31;
const _: () = assert!(SEGMENT_BYTES_MAX < CREDIT);

/// Bits of a sequence that count segments; those above count how often the generation was opened.
const SEQUENCE_BITS: u32 = 40;
/// How often a generation can be opened, that is adopted by a next process.
pub(super) const OPENS_MAX: u64 = (1 << (64 - SEQUENCE_BITS)) - 1;

/// Why a segment is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// To move objects out of the pool: must leave the reserve alone.
    WriteBack,
    /// To move what lives in a sparse segment, which frees one: may use the reserve. Without it a
    /// full store could never be cleaned.
    Cleaning,
    /// To write down what keeps freed segments waiting, which makes one free for certain: may use all there are.
    /// Cleaning may be overtaken, and what it empties wait.
    Relief,
}

/// Segments of the reserve that only relief may take, in a store whose freed segments wait: the one that it writes,
/// and another one for the next process, should this one die before it has freed any.
pub const RELIEF_SEGMENTS: u32 = 2;

/// What is known of one segment.
#[derive(Default)]
struct Segment {
    /// Of its present use; 0 while it holds nothing that may be read.
    sequence: AtomicU64,
    /// [`Shape`] in one word, so that a reader never sees half of a new one.
    shape: AtomicU64,
    live: AtomicU32,
    /// Named by `victim` since it was written.
    cleaning: AtomicBool,
    /// Cleaning could not empty it; not named again while it holds what it holds.
    set_aside: AtomicBool,
    /// Its last write failed.
    failed: AtomicBool,
    /// While adopting: neither head nor tail verifies. Spares the next claim the search.
    unreadable: AtomicBool,
    /// When it is freed, the checkpoint that has to succeed before it is reused; 0: none.
    checkpoint_wanted: AtomicU64,
    /// Uses of which it is not known that they are whole on the device.
    doubt: Doubt,
}

/// Free segments, by what is known of them. Sized for all segments, so they never grow.
struct Lists {
    /// Never written, or discarded.
    ready: VecDeque<u32>,
    /// Freed but maybe not discarded yet.
    freed: VecDeque<u32>,
    /// Their last write failed.
    suspect: VecDeque<u32>,
    /// Their last two writes failed.
    broken: VecDeque<u32>,
    /// Writes fail everywhere: that one failed says nothing against its segment.
    is_device_in_doubt: bool,
    /// Freed, and waiting for a sync or a checkpoint.
    held: VecDeque<Held>,
    /// Freed and of no use to anybody, but their heads stand.
    spent: VecDeque<Spent>,
    /// Their heads were written over, which waits for a sync.
    buried: VecDeque<Held>,
    /// Taken out of `freed` to be discarded, or out of `spent` to be buried.
    away: u32,
    sequence_next: u64,
}

/// All segments of a store.
pub(super) struct Segments {
    all: Box<[Segment]>,
    lists: Mutex<Lists>,
    /// Segments that are not for write-back.
    reserve: u32,
    /// Freed segments wait until what superseded their records is on the device.
    pub(super) keeps_freed: bool,
    epochs: Epochs,
    /// Is any segment in doubt?
    doubted: AtomicBool,
    /// Segments that were freed after `victim` named them.
    pub cleaned: Counter,
}

impl Segments {
    /// Segments that are not in use and not free either, until `list_free`. `reserve` of them are not for write-back.
    pub fn new(count: u32, reserve: u32, opens: u64, keeps_freed: bool) -> Self {
        assert!((1..=OPENS_MAX).contains(&opens), "opened {opens} times");
        fn room<T>(count: u32) -> VecDeque<T> {
            VecDeque::with_capacity(count as usize)
        }
        let lists = Lists {
            ready: room(count),
            freed: room(count),
            suspect: room(count),
            broken: room(count),
            is_device_in_doubt: false,
            held: room(count),
            spent: room(count),
            buried: room(count),
            away: 0,
            sequence_next: opens << SEQUENCE_BITS,
        };
        let all = (0..count).map(|_| Segment::default()).collect();
        Segments {
            all,
            lists: Mutex::new(lists),
            reserve,
            keeps_freed,
            epochs: Epochs::default(),
            doubted: AtomicBool::new(false),
            cleaned: Counter::default(),
        }
    }

    /// Makes all segments in which nothing lives free; called once, before any is taken. If there
    /// was a store before, they may still take room in the file.
    /// What a recovery would look at waits, as if it had been freed now.
    pub fn list_free(&self, used_before: bool) {
        for (number, segment) in self.all.iter().enumerate() {
            if segment.live.load(Ordering::Relaxed) > 0 {
                continue;
            }
            let sequence = segment.sequence.swap(0, Ordering::AcqRel);
            if self.keeps_freed && sequence > 0 {
                self.hold_since_start(SegmentIndex(number as u32), sequence);
                continue;
            }
            let mut lists = self.lists();
            // Either way the first ones are taken first, and the last ones discarded first.
            match used_before {
                true => lists.freed.push_front(number as u32),
                false => lists.ready.push_back(number as u32),
            }
        }
        self.let_go();
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        // Every change of the lists is one push or pop: a panic elsewhere leaves nothing half done.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, index: SegmentIndex) -> &Segment {
        &self.all[index.0 as usize]
    }

    /// A sequence that no segment of this generation ever had.
    pub fn next_sequence(&self) -> u64 {
        let mut lists = self.lists();
        lists.sequence_next += 1;
        lists.sequence_next - 1
    }

    /// Sequences up to this one were used: a device that lost the superblock of the last time it was opened would
    /// have them used again, and older records win.
    pub fn pass(&self, sequence: u64) {
        let mut lists = self.lists();
        lists.sequence_next = lists.sequence_next.max(sequence + 1);
    }

    /// Segments that are not for write-back.
    pub fn reserve(&self) -> u32 {
        self.reserve
    }

    /// Free segments that one who asks for this reason leaves alone.
    fn spared(&self, reason: Reason) -> usize {
        match reason {
            Reason::WriteBack => self.reserve as usize,
            Reason::Cleaning if self.keeps_freed => RELIEF_SEGMENTS as usize,
            Reason::Cleaning | Reason::Relief => 0,
        }
    }

    /// Takes a free segment.
    pub fn take(&self, reason: Reason) -> Result<SegmentIndex> {
        let mut lists = self.lists();
        let free = lists.ready.len() + lists.freed.len();
        let spared = self.spared(reason);
        // One that was freed last spares the device a discard; a suspect is the last resort. It does
        // not count for the reserve: cleaning must not depend on it. Without a segment to clean into a
        // full store would stay full for ever, so that cleaning takes even a broken one.
        let number = if free > spared {
            lists.freed.pop_back().or_else(|| lists.ready.pop_front())
        } else {
            let suspect = lists.suspect.pop_front();
            suspect.or_else(|| match reason {
                Reason::Cleaning | Reason::Relief => lists.broken.pop_front(),
                Reason::WriteBack => None,
            })
        };
        drop(lists);
        let index = SegmentIndex(number.ok_or(Error::StoreFull)?);

        let segment = self.at(index);
        assert_eq!(
            segment.sequence.load(Ordering::Acquire),
            0,
            "{index:?} is free and readable"
        );
        let live = segment.live.swap(CREDIT, Ordering::AcqRel);
        assert_eq!(live, 0, "{index:?} is free and has living records");
        segment.cleaning.store(false, Ordering::Relaxed);
        segment.set_aside.store(false, Ordering::Relaxed);
        segment.checkpoint_wanted.store(0, Ordering::SeqCst);
        Ok(index)
    }

    /// The segment was written: its records may be published and read.
    pub fn written(&self, index: SegmentIndex, sequence: u64, shape: Shape) {
        let segment = self.at(index);
        assert_eq!(
            segment.live.load(Ordering::Acquire),
            CREDIT,
            "{index:?} was not taken"
        );
        segment.failed.store(false, Ordering::Relaxed);
        self.install(segment, sequence, shape);
    }

    fn install(&self, segment: &Segment, sequence: u64, shape: Shape) {
        let word = u64::from(shape.records) << 32 | u64::from(shape.records_bytes);
        segment.shape.store(word, Ordering::Relaxed);
        // Published last: who sees the sequence sees the shape.
        segment.sequence.store(sequence, Ordering::Release);
    }

    /// The segment could not be written, and nothing in it was published.
    pub fn suspect(&self, index: SegmentIndex) {
        let live = self.at(index).live.swap(0, Ordering::AcqRel);
        assert_eq!(live, CREDIT, "{index:?} was not taken");
        let has_failed = self.at(index).failed.swap(true, Ordering::Relaxed);
        let mut lists = self.lists();
        if has_failed && !lists.is_device_in_doubt {
            lists.broken.push_back(index.0);
        } else {
            lists.suspect.push_back(index.0);
        }
    }

    /// Do writes fail everywhere?
    pub fn set_device_in_doubt(&self, is_in_doubt: bool) {
        self.lists().is_device_in_doubt = is_in_doubt;
    }

    /// The segment was taken but not needed.
    pub fn give_back(&self, index: SegmentIndex) {
        let live = self.at(index).live.swap(0, Ordering::AcqRel);
        assert_eq!(live, CREDIT, "{index:?} was not taken");
        self.lists().freed.push_back(index.0);
    }

    /// A record of the segment is now what its owner's table points to.
    pub fn retain(&self, index: SegmentIndex, bytes: u32) {
        let before = self.at(index).live.fetch_add(bytes, Ordering::AcqRel);
        assert!(
            before & CREDIT != 0,
            "{index:?} is sealed: nothing new can live in it"
        );
        assert!(
            (before & !CREDIT) + bytes < SEGMENT_BYTES_MAX,
            "{index:?} is overfull"
        );
    }

    /// Nobody points to a record of the segment any more.
    pub fn release(&self, index: SegmentIndex, bytes: u32) {
        let before = self.at(index).live.fetch_sub(bytes, Ordering::AcqRel);
        assert!(
            before & !CREDIT >= bytes,
            "{bytes} bytes released, {before:#x} live in {index:?}"
        );
        if before == bytes {
            self.free(index);
        }
    }

    /// Everything that will ever live in the segment was retained.
    pub fn seal(&self, index: SegmentIndex) {
        let before = self.at(index).live.fetch_sub(CREDIT, Ordering::AcqRel);
        assert!(before & CREDIT != 0, "{index:?} was sealed twice");
        if before == CREDIT {
            self.free(index);
        }
    }

    fn free(&self, index: SegmentIndex) {
        let segment = self.at(index);
        // Before anybody can take it: a reader that kept the old sequence must see that it is over.
        let sequence = segment.sequence.swap(0, Ordering::AcqRel);
        if segment.cleaning.load(Ordering::Relaxed) {
            self.cleaned.add(1);
        }
        self.hold_or_free(index, sequence);
    }

    /// The sequence that the next segment will get.
    pub fn sequence_next(&self) -> u64 {
        self.lists().sequence_next
    }

    /// Segments that a batch could take, suspect ones not included.
    pub fn free_count(&self) -> usize {
        let lists = self.lists();
        lists.ready.len() + lists.freed.len()
    }

    /// Sequence of the segment's present use, 0 when free.
    pub fn sequence(&self, index: SegmentIndex) -> u64 {
        self.at(index).sequence.load(Ordering::Acquire)
    }

    /// Sequence and shape of a segment that is in use.
    pub fn shape(&self, index: SegmentIndex) -> Option<(u64, Shape)> {
        let segment = self.at(index);
        let sequence = segment.sequence.load(Ordering::Acquire);
        let word = segment.shape.load(Ordering::Relaxed);
        let shape = Shape {
            records: (word >> 32) as u32,
            records_bytes: word as u32,
        };
        (sequence != 0).then_some((sequence, shape))
    }

    /// Bytes that live in a segment that is sealed.
    pub fn live_bytes(&self, index: SegmentIndex) -> u32 {
        self.at(index).live.load(Ordering::Acquire) & !CREDIT
    }

    /// A freed segment to discard; give it back with `discarded`.
    pub fn take_freed(&self) -> Option<SegmentIndex> {
        let mut lists = self.lists();
        let number = lists.freed.pop_front()?;
        lists.away += 1;
        Some(SegmentIndex(number))
    }

    /// The segment can be taken; true when more are waiting for a discard.
    pub fn discarded(&self, index: SegmentIndex) -> bool {
        let mut lists = self.lists();
        assert!(lists.away > 0, "{index:?} was not taken for a discard");
        lists.away -= 1;
        lists.ready.push_back(index.0);
        !lists.freed.is_empty()
    }
}
