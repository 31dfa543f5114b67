//! An array of 64-bit words that the next process takes over, with one page of header before it.
//!
//! The page table is one. Memory is held only for words that were touched. What header and words
//! mean is their owner's business.
//!
//! Locking: none; words are atomics, the header is written by its owner alone.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::mapping::Mapping;
use crate::error::Result;

/// Bytes before the words, for the owner's magic, version and identity, and its notes.
pub const HEADER_BYTES: usize = 4096;
/// Words at the end of the header that change while the words are in use; zero in every header.
pub const NOTES: usize = 11;
const NOTES_AT: usize = HEADER_BYTES - 8 * NOTES;

/// A header and words in a shared-memory file, or in nameless memory.
pub struct SharedWords {
    mapping: Mapping,
    words: usize,
}

impl SharedWords {
    /// Header and words of zeros; replaces an existing file of that name. Without a name the words
    /// die with the process. `populate`: all memory is taken at once, or there is an error and no file.
    pub fn create(path: Option<&Path>, words: usize, populate: bool) -> Result<Self> {
        let mapping = Mapping::create(path, file_bytes(words))?;
        if populate {
            mapping.populate().inspect_err(|_| mapping.remove())?;
        }
        Ok(Self { mapping, words })
    }

    /// A predecessor's words. [`Error::Foreign`](crate::error::Error::Foreign) unless the file is
    /// this user's own, [`Error::Misfit`](crate::error::Error::Misfit) unless it holds exactly
    /// `words`; the header is the caller's to check.
    pub fn open(path: &Path, words: usize) -> Result<Self> {
        Ok(Self {
            mapping: Mapping::open(path, file_bytes(words))?,
            words,
        })
    }

    /// A copy of the header, without the notes.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..NOTES_AT].copy_from_slice(self.mapping.bytes(0, NOTES_AT));
        header
    }

    /// Replaces the header; the notes stay.
    pub fn set_header(&self, bytes: &[u8; HEADER_BYTES]) {
        self.mapping.store_bytes(0, &bytes[..NOTES_AT]);
    }

    /// What the owner notes for the next process.
    pub fn notes(&self) -> &[AtomicU64] {
        self.mapping.atomic_u64s(NOTES_AT, NOTES)
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        self.mapping.atomic_u64s(HEADER_BYTES, self.words)
    }

    /// Hints that a word will be read soon.
    #[inline]
    pub fn prefetch(&self, word: usize) {
        self.mapping.prefetch(HEADER_BYTES + word * 8, 1);
    }

    /// Ranges of words, page by page, that may hold anything but zeros. Words outside them need not
    /// be looked at, which would cost memory.
    pub fn populated(&self) -> Vec<Range<usize>> {
        let word = |byte: usize| (byte.saturating_sub(HEADER_BYTES) / 8).min(self.words);
        let ranges = self.mapping.populated().into_iter();
        ranges
            .map(|r| word(r.start)..word(r.end))
            .filter(|r| !r.is_empty())
            .collect()
    }

    /// Takes memory for `words`, so that storing to them cannot fail later.
    pub fn reserve(&self, words: Range<usize>) -> Result<()> {
        assert!(
            words.end <= self.words,
            "reserve words {words:?} of {}",
            self.words
        );
        self.mapping
            .reserve(HEADER_BYTES + words.start * 8..HEADER_BYTES + words.end * 8)
    }

    /// Takes all the memory now, so that no later access can fault or fail.
    pub fn populate(&self) -> Result<()> {
        self.mapping.populate()
    }

    /// Bytes of memory that the system has given for header and words.
    pub fn held_bytes(&self) -> u64 {
        self.mapping.held_bytes()
    }

    /// Removes the file's name; the memory lives until this is dropped.
    pub fn remove(&self) {
        self.mapping.remove();
    }
}

/// Whole pages, so that the last words can be given back too.
fn file_bytes(words: usize) -> usize {
    assert!(words > 0, "an array of no words");
    (HEADER_BYTES + words * 8).next_multiple_of(HEADER_BYTES)
}
