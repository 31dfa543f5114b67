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

    /// Size of the object of `page`, one of `pages`: the set is repeated as often as it fits, and
    /// what is left is spread evenly over it. A part of the set would be of one program's pages.
    pub fn of_page(&self, page: u32, pages: u32) -> u32 {
        assert!(page < pages, "page {page} of {pages}");
        let (page, pages, set) = (page as usize, pages as usize, self.sizes.len());
        let whole = pages - pages % set;
        if page < whole {
            return self.sizes[page % set];
        }
        self.sizes[(page - whole) * set / (pages - whole)]
    }

    /// Size of a random page's object.
    #[inline]
    pub fn any(&self, random: &mut Random) -> u32 {
        self.sizes[random.below(self.sizes.len() as u64) as usize]
    }

    /// The size of every page's object, in the order of the pages.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// The set as a pool stores it that takes objects up to `accept_bytes_max`: larger ones are
    /// kept as whole pages.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(objects: &Objects, pages: u32) -> Vec<u32> {
        (0..pages)
            .map(|page| objects.of_page(page, pages))
            .collect()
    }

    #[test]
    fn the_set_is_repeated_and_the_rest_spread_over_it() {
        let objects = Objects::new(4096, vec![10, 20, 30, 40]);
        assert_eq!(laid_out(&objects, 2), [10, 30]);
        assert_eq!(laid_out(&objects, 4), [10, 20, 30, 40]);
        assert_eq!(laid_out(&objects, 7), [10, 20, 30, 40, 10, 20, 30]);
        assert_eq!(laid_out(&objects, 10)[8..], [10, 30]);
    }
}
