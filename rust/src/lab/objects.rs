//! The sizes that a set of pages compresses to.
//!
//! Not here: their bytes. A pool knows nothing but sizes, so the lab fills it with noise of these.
//! Locking: none, the sizes do not change.

use crate::random::Random;

/// The size of every page's object, in the order of the pages; 0 where a page needs none.
pub struct Objects {
    page_bytes: usize,
    sizes: Vec<u32>,
}

impl Objects {
    /// Objects of these sizes, at most a page each.
    pub fn new(page_bytes: usize, sizes: Vec<u32>) -> Objects {
        assert!(
            sizes.iter().all(|&bytes| bytes as usize <= page_bytes),
            "an object is larger than its page"
        );
        Objects { page_bytes, sizes }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pages in the set.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Size of the object of page number `page`, if the set is repeated without end.
    pub fn of_page(&self, page: u32) -> u32 {
        self.sizes[page as usize % self.sizes.len()]
    }

    /// Size of a random page's object.
    #[inline]
    pub fn any(&self, random: &mut Random) -> u32 {
        self.sizes[random.below(self.sizes.len() as u64) as usize]
    }

    /// Sum of the sizes.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&bytes| u64::from(bytes)).sum()
    }

    /// The set as a pool stores it that takes objects up to `accept_bytes_max`: larger ones are kept
    /// as whole pages.
    pub fn as_stored(&self, accept_bytes_max: usize) -> Objects {
        let whole = self.page_bytes as u32;
        let stored = |&bytes: &u32| {
            if bytes as usize > accept_bytes_max {
                whole
            } else {
                bytes
            }
        };
        Objects::new(self.page_bytes, self.sizes.iter().map(stored).collect())
    }

    /// The set without pages that need no object.
    pub fn without_empty(&self) -> Objects {
        let sizes = self.sizes.iter().copied().filter(|&bytes| bytes > 0);
        Objects::new(self.page_bytes, sizes.collect())
    }
}
