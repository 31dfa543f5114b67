//! A set of pages: a bit each, and a bit for each 4096 of them, so that what is empty costs nothing.
//!
//! Any number of threads insert and remove; one walks. Memory is held for parts that were used.
//! Locking: none, atomics.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::error::Result;
use crate::page::PageId;
use crate::zpool::words::SharedWords;

/// Words that share a bit of the summary.
const WORDS_PER_CHUNK: usize = 64;
const PAGES_PER_CHUNK: usize = WORDS_PER_CHUNK * 64;

/// Pages of a table.
pub struct PageSet {
    words: SharedWords,
    /// A bit for each chunk of words; unset: all of them are zero.
    chunks: Box<[AtomicU64]>,
    pages: usize,
    len: AtomicU64,
}

impl PageSet {
    /// An empty set of pages below `pages`. `populate`: all memory is taken at once.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if there is no memory.
    pub fn new(pages: usize, populate: bool) -> Result<PageSet> {
        let chunks = pages.div_ceil(PAGES_PER_CHUNK);
        Ok(PageSet {
            words: SharedWords::create(None, chunks * WORDS_PER_CHUNK, populate)?,
            chunks: (0..chunks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            pages,
            len: AtomicU64::new(0),
        })
    }

    /// How many are in it.
    pub fn len(&self) -> u64 {
        self.len.load(SeqCst)
    }

    /// Is none in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn word(&self, page: u32) -> (&AtomicU64, u64) {
        assert!(
            (page as usize) < self.pages,
            "page {page} of {}",
            self.pages
        );
        (&self.words.words()[page as usize / 64], 1 << (page % 64))
    }

    fn chunk(&self, chunk: usize) -> (&AtomicU64, u64) {
        (&self.chunks[chunk / 64], 1 << (chunk % 64))
    }

    fn has_chunk(&self, chunk: usize) -> bool {
        let (word, bit) = self.chunk(chunk);
        word.load(SeqCst) & bit != 0
    }

    /// Puts a page in.
    pub fn insert(&self, page: PageId) {
        let (word, bit) = self.word(page.0);
        let before = word.fetch_or(bit, SeqCst);
        // After the word: whoever clears a chunk looks at its words again afterwards. Not left to the one who put
        // in a neighbour before: that may still be on its way here.
        let chunk = page.0 as usize / PAGES_PER_CHUNK;
        if !self.has_chunk(chunk) {
            let (chunks, chunk) = self.chunk(chunk);
            chunks.fetch_or(chunk, SeqCst);
        }
        if before & bit == 0 {
            self.len.fetch_add(1, SeqCst);
        }
    }

    /// Takes a page out.
    pub fn remove(&self, page: PageId) {
        if !self.contains(page) {
            return;
        }
        let (word, bit) = self.word(page.0);
        if word.fetch_and(!bit, SeqCst) & bit != 0 {
            self.len.fetch_sub(1, SeqCst);
        }
    }

    /// Is a page in it?
    pub fn contains(&self, page: PageId) -> bool {
        let (word, bit) = self.word(page.0);
        self.has_chunk(page.0 as usize / PAGES_PER_CHUNK) && word.load(SeqCst) & bit != 0
    }

    /// The first page that is in it, from `from` on. Those that are put in behind it meanwhile are not
    /// found.
    pub fn next(&self, from: u32) -> Option<PageId> {
        let mut at = from as usize;
        while at < self.pages {
            let chunk = at / PAGES_PER_CHUNK;
            let end = (chunk + 1) * PAGES_PER_CHUNK;
            if !self.has_chunk(chunk) {
                at = end;
                continue;
            }
            let is_whole = at.is_multiple_of(PAGES_PER_CHUNK);
            while at < end {
                let word = self.words.words()[at / 64].load(SeqCst) & u64::MAX << (at % 64);
                if word != 0 {
                    return Some(PageId((at / 64 * 64) as u32 + word.trailing_zeros()));
                }
                at = (at / 64 + 1) * 64;
            }
            if is_whole {
                self.tidy(chunk);
            }
        }
        None
    }

    /// Says of a chunk without pages that it has none.
    fn tidy(&self, chunk: usize) {
        let (chunks, bit) = self.chunk(chunk);
        chunks.fetch_and(!bit, SeqCst);
        let from = chunk * WORDS_PER_CHUNK;
        let words = &self.words.words()[from..from + WORDS_PER_CHUNK];
        if words.iter().any(|word| word.load(SeqCst) != 0) {
            chunks.fetch_or(bit, SeqCst);
        }
    }

    /// Takes all pages out and hands each over.
    pub fn drain(&self, mut each: impl FnMut(PageId)) {
        let mut from = 0;
        while let Some(page) = self.next(from) {
            self.remove(page);
            each(page);
            from = page.0 / PAGES_PER_CHUNK as u32 * PAGES_PER_CHUNK as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random::{Random, seeds};
    use std::collections::BTreeSet;

    #[test]
    fn it_is_the_set_that_it_should_be() {
        for seed in seeds(4) {
            let mut random = Random::new(seed);
            let pages = 3 * PAGES_PER_CHUNK as u64 + 77;
            let set = PageSet::new(pages as usize, false).unwrap();
            let mut model = BTreeSet::new();
            for _ in 0..5000 {
                let page = random.below(pages) as u32;
                match random.below(6) {
                    0..3 => {
                        set.insert(PageId(page));
                        model.insert(page);
                    }
                    3..5 => {
                        let page = model.range(page..).next().copied().unwrap_or(page);
                        set.remove(PageId(page));
                        model.remove(&page);
                    }
                    _ => {
                        let found = set.next(page).map(|page| page.0);
                        assert_eq!(found, model.range(page..).next().copied(), "seed {seed}");
                    }
                }
                assert_eq!(set.len(), model.len() as u64, "seed {seed}");
                assert_eq!(
                    set.contains(PageId(page)),
                    model.contains(&page),
                    "seed {seed}"
                );
            }
            let mut drained = Vec::new();
            set.drain(|page| drained.push(page.0));
            assert_eq!(
                drained,
                model.into_iter().collect::<Vec<_>>(),
                "seed {seed}"
            );
            assert!(set.is_empty() && set.next(0).is_none());
        }
    }

    /// Two writers of pages whose bits share a word; the second one walks when its page is in, as a checkpoint
    /// does for a flush that comes after a write. It missed its page while the first was between two steps.
    #[test]
    fn a_page_is_found_whoever_else_puts_in_its_neighbour_while_chunks_are_tidied() {
        let set = PageSet::new(PAGES_PER_CHUNK, false).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let missed = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    set.insert(PageId(1));
                    set.remove(PageId(1));
                }
            });
            let mut missed = 0;
            for _ in 0..300_000u32 {
                set.insert(PageId(2));
                let (mut from, mut is_found) = (0, false);
                while let Some(page) = set.next(from) {
                    is_found |= page == PageId(2);
                    from = page.0 + 1;
                }
                missed += u32::from(!is_found);
                set.remove(PageId(2));
                // What a sweep that finds nothing leaves.
                set.next(0);
            }
            is_over.store(true, SeqCst);
            missed
        });
        assert_eq!(missed, 0, "times that a sweep did not find the page");
    }
}
