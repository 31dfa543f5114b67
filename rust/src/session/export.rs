//! Where the bytes of an export are: which page, and where in it.
//!
//! Locking: none, plain values.

use std::ops::Range;

use super::pages::Pages;
use crate::engine::ExportId;
use crate::page::PageId;

/// Data of one piece of a reply: what is decompressed in one go and, for a simple reply, still has
/// its error in the header.
pub const PIECE_BYTES: u64 = 128 << 10;

/// What a session knows of its export.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its number.
    pub id: ExportId,
    /// Its size.
    pub size_bytes: u64,
    /// Changes are refused.
    pub read_only: bool,
    first: u32,
    page_shift: u32,
}

/// A run of bytes inside one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The page.
    pub page: PageId,
    /// First byte in the page.
    pub start: usize,
    /// How many bytes.
    pub bytes: usize,
}

impl Area {
    /// The export `id` of `pages`.
    pub fn new<P: Pages>(pages: &P, id: ExportId) -> Self {
        let info = pages.export(id);
        let page_bytes = pages.page_bytes();
        assert!(page_bytes.is_power_of_two(), "a page of {page_bytes} bytes");
        let page_shift = page_bytes.ilog2();
        let needed = info.size_bytes.div_ceil(page_bytes as u64);
        assert!(
            needed <= u64::from(info.pages),
            "{needed} pages in {}",
            info.pages
        );
        Area {
            id,
            size_bytes: info.size_bytes,
            read_only: info.read_only,
            first: info.first.0,
            page_shift,
        }
    }

    /// Bytes of a page.
    #[inline]
    pub fn page_bytes(&self) -> usize {
        1 << self.page_shift
    }

    /// The first part of `offset..end`: up to the end of its page.
    #[inline]
    pub fn part(&self, offset: u64, end: u64) -> Part {
        let start = (offset & (self.page_bytes() as u64 - 1)) as usize;
        let rest = end - offset;
        Part {
            page: PageId(self.first + (offset >> self.page_shift) as u32),
            start,
            bytes: rest.min((self.page_bytes() - start) as u64) as usize,
        }
    }

    /// Where a page of this export starts, bytes.
    pub fn offset_of(&self, page: PageId) -> u64 {
        u64::from(page.0 - self.first) << self.page_shift
    }

    /// Pages that lie wholly in `offset..end`, in the table's numbers; empty if there are none.
    pub fn whole_pages(&self, offset: u64, end: u64) -> Range<u32> {
        let start = offset.div_ceil(self.page_bytes() as u64) as u32 + self.first;
        let end = (end >> self.page_shift) as u32 + self.first;
        start..end.max(start)
    }

    /// End of the piece that starts at `offset`: at a page's start unless it is the last of a read
    /// to `end`, so no piece touches more pages than [`Area::piece_pages`].
    pub fn piece_end(&self, offset: u64, end: u64) -> u64 {
        end.min((offset & !(self.page_bytes() as u64 - 1)) + PIECE_BYTES)
    }

    /// Most pages that a piece touches.
    pub fn piece_pages(&self) -> usize {
        (PIECE_BYTES >> self.page_shift) as usize
    }
}
