//! The page table: one 64-bit word a page, the only truth about where a page is.
//!
//! A word, from the lowest bit:
//!
//! ```text
//!   0..3   kind       Unwritten, Hole, Same, Pool, Store, Lost
//!   3..6   codec      how the object's bytes are compressed (Pool, Store)
//!   6      read       the client read the page since it was written (Pool)
//!   7      moving     write-back has chosen the object and its segment is not on the device yet (Pool)
//!   8..24  bytes - 1  length of the object (Pool, Store)
//!  24..64  location   zpool handle (Pool), place in the store (Store), the 32-bit pattern (Same)
//! ```
//!
//! A word is published by one atomic store after the bytes that it points to are whole, so whoever
//! finds the shared-memory file after a crash finds every acknowledged write. What the zpool and the
//! store know about occupancy is derived from it.
//!
//! Locking: a page is locked through one of a fixed number of stripes. The stripe protects the word
//! *and* the pool bytes that it points to. Never two stripes at once; never across I/O.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::codec::CodecId;
use crate::error::Result;
use crate::page::PageId;
use crate::store::Location;
use crate::zpool::words::SharedWords;
use crate::zpool::{HANDLE_BITS, Handle};

/// Locks for pages: enough that a few dozen threads hardly ever meet (4 KiB of memory a thousand).
const STRIPES: usize = 4096;

/// Words in one 4096-byte page of the table: the grain of [`Table::touched`].
const CHUNK_WORDS: usize = 512;

const CODEC_SHIFT: u32 = 3;
const READ: u64 = 1 << 6;
const MOVING: u64 = 1 << 7;
const BYTES_SHIFT: u32 = 8;
const LOCATION_SHIFT: u32 = 24;
const _: () = assert!(LOCATION_SHIFT + HANDLE_BITS == 64);

const KIND_UNWRITTEN: u64 = 0;
const KIND_HOLE: u64 = 1;
const KIND_SAME: u64 = 2;
const KIND_POOL: u64 = 3;
const KIND_STORE: u64 = 4;
const KIND_LOST: u64 = 5;

/// An object's place in the pool or the store, with what is needed to decompress it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectAt<P> {
    /// How the bytes are compressed.
    pub codec: CodecId,
    /// Length of the object, 1..=65536.
    pub bytes: usize,
    /// Where it is.
    pub at: P,
}

/// Where a page is: a decoded [`Word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Never written in the life of this table.
    Unwritten,
    /// Discarded: reads as zeros.
    Hole,
    /// Filled with one 32-bit pattern, which is zero for a zero page.
    Same(u32),
    /// In the pool.
    Pool(ObjectAt<Handle>),
    /// On the backing file.
    Store(ObjectAt<Location>),
    /// Written once, but the bytes are gone: only an error may be answered.
    Lost,
}

/// A page table entry; see the head of this file for the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Word(u64);

impl Word {
    /// The word for a page at `place`, not marked.
    pub fn of(place: Place) -> Word {
        let object = |kind: u64, codec: CodecId, bytes: usize, location: u64| {
            assert!((1..=1 << 16).contains(&bytes), "an object of {bytes} bytes");
            assert!(location >> HANDLE_BITS == 0, "location {location:#x}");
            let (codec, bytes) = (codec as u64, bytes as u64 - 1);
            kind | codec << CODEC_SHIFT | bytes << BYTES_SHIFT | location << LOCATION_SHIFT
        };
        Word(match place {
            Place::Unwritten => KIND_UNWRITTEN,
            Place::Hole => KIND_HOLE,
            Place::Same(pattern) => KIND_SAME | u64::from(pattern) << LOCATION_SHIFT,
            Place::Pool(o) => object(KIND_POOL, o.codec, o.bytes, o.at.0),
            Place::Store(o) => object(KIND_STORE, o.codec, o.bytes, o.at.0),
            Place::Lost => KIND_LOST,
        })
    }

    /// Decodes a word that came from a predecessor's file. None: not a word that this format knows.
    pub fn checked_place(self) -> Option<Place> {
        let kind = self.0 & 0b111;
        let location = self.0 >> LOCATION_SHIFT;
        let bytes = (self.0 >> BYTES_SHIFT & 0xffff) as usize + 1;
        Some(match kind {
            KIND_UNWRITTEN if self.0 == 0 => Place::Unwritten,
            KIND_HOLE => Place::Hole,
            KIND_SAME => Place::Same(u32::try_from(location).ok()?),
            KIND_LOST => Place::Lost,
            KIND_POOL | KIND_STORE => {
                let codec = CodecId::from_bits((self.0 >> CODEC_SHIFT & 0b111) as u8)?;
                if kind == KIND_POOL {
                    Place::Pool(ObjectAt {
                        codec,
                        bytes,
                        at: Handle(location),
                    })
                } else {
                    Place::Store(ObjectAt {
                        codec,
                        bytes,
                        at: Location(location),
                    })
                }
            }
            _ => return None,
        })
    }

    /// Decodes a word of our own making.
    pub fn place(self) -> Place {
        self.checked_place()
            .unwrap_or_else(|| panic!("page table word {:#018x}", self.0))
    }

    /// The raw bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// A word from raw bits; decode it with [`checked_place`](Self::checked_place) if it is not ours.
    pub const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    /// Did the client read the page since it was written?
    pub fn is_read(self) -> bool {
        self.0 & READ != 0
    }

    /// The same word with the read mark.
    pub fn with_read(self) -> Word {
        Word(self.0 | READ)
    }

    /// Is the object on its way to the device?
    pub fn is_moving(self) -> bool {
        self.0 & MOVING != 0
    }

    /// The same word with or without the moving mark.
    pub fn with_moving(self, moving: bool) -> Word {
        Word(if moving {
            self.0 | MOVING
        } else {
            self.0 & !MOVING
        })
    }

    /// The same word without marks: what identifies the bytes.
    pub fn unmarked(self) -> Word {
        Word(self.0 & !(READ | MOVING))
    }
}

/// The words of all exports, with their locks.
pub struct Table {
    words: SharedWords,
    /// One bit for each 4096 bytes of words that may hold anything but Unwritten: reading a hole of a
    /// shared-memory file would allocate it, and an export is much larger than what is used of it.
    touched: Box<[AtomicU64]>,
    stripes: Box<[Mutex<()>]>,
}

/// A locked page: nobody else changes its word or the pool bytes behind it.
pub struct PageGuard<'a> {
    table: &'a Table,
    page: PageId,
    _stripe: MutexGuard<'a, ()>,
}

impl Table {
    /// A table over `words`, which may hold a predecessor's entries.
    pub fn new(words: SharedWords) -> Table {
        let chunks = words.words().len().div_ceil(CHUNK_WORDS);
        let table = Table {
            touched: (0..chunks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            words,
        };
        for range in table.words.populated() {
            for chunk in range.start / CHUNK_WORDS..range.end.div_ceil(CHUNK_WORDS) {
                table.touch(chunk);
            }
        }
        table
    }

    /// Pages that the table has a word for.
    pub fn pages(&self) -> usize {
        self.words.words().len()
    }

    /// Bytes of shared memory that the system has given for the table so far.
    pub fn held_bytes(&self) -> u64 {
        self.words.held_bytes()
    }

    /// The shared memory behind the table, for its header and its end.
    pub fn memory(&self) -> &SharedWords {
        &self.words
    }

    /// Locks a page.
    pub fn lock(&self, page: PageId) -> PageGuard<'_> {
        // A panic while a page was locked is our bug and was reported where it happened. The word is
        // published last, so the page is still whole and the others must not suffer.
        let stripe = self.stripes[page.0 as usize % STRIPES]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        PageGuard {
            table: self,
            page,
            _stripe: stripe,
        }
    }

    /// The word of a page, without a lock: a hint that may be old by the time it is looked at.
    pub fn peek(&self, page: PageId) -> Word {
        if !self.is_touched(page.0 as usize / CHUNK_WORDS) {
            return Word::default();
        }
        Word(self.words.words()[page.0 as usize].load(Ordering::Acquire))
    }

    /// Hints that the word of a page will be looked at soon.
    #[inline]
    pub fn prefetch(&self, page: PageId) {
        self.words.prefetch(page.0 as usize);
    }

    /// The next part of `pages` that holds anything but Unwritten words, at the grain of 512 pages.
    pub fn touched_in(&self, pages: Range<u32>) -> Option<Range<u32>> {
        if pages.is_empty() {
            return None;
        }
        let last = (pages.end as usize).div_ceil(CHUNK_WORDS);
        let first = (pages.start as usize / CHUNK_WORDS..last).find(|&c| self.is_touched(c))?;
        let start = ((first * CHUNK_WORDS) as u32).max(pages.start);
        // As u32 only at the end: the last chunk of the largest table ends at 2^32.
        let end = ((first + 1) * CHUNK_WORDS).min(pages.end as usize);
        Some(start..end as u32)
    }

    /// Makes sure that there is memory behind the page's word, before it is published. Once a chunk of
    /// 512 pages this asks the system, so that a full tmpfs is an error here and not a SIGBUS later.
    pub fn reserve(&self, page: PageId) -> Result<()> {
        let chunk = page.0 as usize / CHUNK_WORDS;
        if !self.is_touched(chunk) {
            let start = chunk * CHUNK_WORDS;
            self.words
                .reserve(start..(start + CHUNK_WORDS).min(self.pages()))?;
            self.touch(chunk);
        }
        Ok(())
    }

    fn is_touched(&self, chunk: usize) -> bool {
        self.touched[chunk / 64].load(Ordering::Acquire) & 1 << (chunk % 64) != 0
    }

    fn touch(&self, chunk: usize) {
        self.touched[chunk / 64].fetch_or(1 << (chunk % 64), Ordering::AcqRel);
    }
}

impl PageGuard<'_> {
    /// The page that is locked.
    pub fn page(&self) -> PageId {
        self.page
    }

    /// The page's word.
    pub fn word(&self) -> Word {
        self.table.peek(self.page)
    }

    /// Publishes a new word; the bytes that it points to are whole, and the word was reserved.
    pub fn publish(&self, word: Word) {
        let index = self.page.0 as usize;
        debug_assert!(
            self.table.is_touched(index / CHUNK_WORDS),
            "{} reserved",
            self.page
        );
        self.table.words.words()[index].store(word.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places() -> impl Strategy<Value = Place> {
        let object = (0..4u8, 1..=65536usize, 0..1u64 << HANDLE_BITS);
        prop_oneof![
            Just(Place::Unwritten),
            Just(Place::Hole),
            Just(Place::Lost),
            any::<u32>().prop_map(Place::Same),
            object
                .clone()
                .prop_map(|(c, bytes, at)| Place::Pool(ObjectAt {
                    codec: CodecId::from_bits(c).unwrap(),
                    bytes,
                    at: Handle(at)
                })),
            object.prop_map(|(c, bytes, at)| Place::Store(ObjectAt {
                codec: CodecId::from_bits(c).unwrap(),
                bytes,
                at: Location(at)
            })),
        ]
    }

    proptest! {
        #[test]
        fn a_place_survives_its_word(place in places()) {
            prop_assert_eq!(Word::of(place).place(), place);
        }

        #[test]
        fn any_bits_are_decoded_or_refused(bits: u64) {
            if let Some(place) = Word::from_bits(bits).checked_place() {
                prop_assert_eq!(Word::of(place).checked_place(), Some(place));
            }
        }
    }

    #[test]
    fn marks_do_not_change_the_place() {
        let place = Place::Pool(ObjectAt {
            codec: CodecId::Lz4,
            bytes: 77,
            at: Handle(1 << 39),
        });
        let word = Word::of(place);
        let marked = word.with_read().with_moving(true);
        assert!(marked.is_read() && marked.is_moving() && !word.is_read() && !word.is_moving());
        assert_eq!(marked.place(), place);
        assert_eq!(marked.unmarked(), word);
        assert_eq!(marked.with_moving(false), word.with_read());
    }

    #[test]
    fn untouched_parts_are_skipped_and_read_as_unwritten() {
        let table = Table::new(SharedWords::create(None, 10_000, false).unwrap());
        assert_eq!(table.touched_in(0..10_000), None);
        assert_eq!(table.held_bytes(), 4096, "the header");
        table.reserve(PageId(5_000)).unwrap();
        table.lock(PageId(5_000)).publish(Word::of(Place::Hole));
        assert_eq!(table.touched_in(0..10_000), Some(4608..5120));
        assert_eq!(table.touched_in(4_900..5_001), Some(4_900..5_001));
        assert_eq!(table.touched_in(5_120..10_000), None);
        assert_eq!(table.held_bytes(), 8192);
        assert_eq!(table.peek(PageId(5_000)).place(), Place::Hole);
        assert_eq!(table.peek(PageId(9_999)).place(), Place::Unwritten);
    }

    #[test]
    fn the_last_part_of_the_largest_table_ends_with_it() {
        let table = Table::new(SharedWords::create(None, u32::MAX as usize, false).unwrap());
        let last = PageId(u32::MAX - 1);
        table.reserve(last).unwrap();
        table.lock(last).publish(Word::of(Place::Hole));
        let part = table.touched_in(0..u32::MAX).unwrap();
        assert_eq!(part, u32::MAX - 511..u32::MAX);
        assert_eq!(table.touched_in(part.end..u32::MAX), None);
    }
}
