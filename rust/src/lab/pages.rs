//! Pages to measure with, and what a codec makes of them.
//!
//! Not here: what a pool makes of the objects (`pack`, `speed`).
//! Locking: none; pages do not change.

use xxhash_rust::xxh3::xxh3_64;

use super::Stopwatch;
use super::interrupt::Interrupt;
use super::objects::Objects;
use super::timing::{Percentiles, Timing, rank};
use crate::codec::{CodecChoice, CodecId, Compressor, Decompressor};
use crate::error::{Error, Result};
use crate::page::{PAGE_BYTES_ALLOWED, pattern_of, repeated_word};

/// Shares of the pages, per mille, for which a report says what size they do not exceed.
const SIZE_RANKS: [usize; 5] = [100, 250, 500, 750, 900];

/// Pages of one size, back to back.
pub struct Pages {
    data: Vec<u8>,
    page_bytes: usize,
}

/// What a codec makes of pages.
#[derive(Clone, Debug)]
pub struct CodecReport {
    /// Name of the codec.
    pub codec: String,
    /// Its level.
    pub level: i32,
    /// Pages that were compressed: same-filled ones left out.
    pub pages: u64,
    /// Pages that one repeated word fills.
    pub same_filled: u64,
    /// Of `pages`, those that are kept as they are.
    pub incompressible: u64,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Sum of the sizes that `pages` are stored in; an incompressible one counts whole.
    pub object_bytes: u64,
    /// Sizes that 10, 25, 50, 75 and 90 per cent of `pages` do not exceed.
    pub object_bytes_percentiles: [u32; 5],
    /// Time to compress a page.
    pub compress_ns: Percentiles,
    /// Time to make the page again, of an incompressible one to copy it.
    pub decompress_ns: Percentiles,
}

impl Pages {
    /// Cuts `data` into pages of `page_bytes`; a rest that is no whole page is left out.
    ///
    /// # Errors
    /// [`Error::Config`] for a page size that does not exist.
    pub fn of(mut data: Vec<u8>, page_bytes: usize) -> Result<Pages> {
        if !PAGE_BYTES_ALLOWED.contains(&page_bytes) {
            return Err(Error::Config(format!(
                "page size is {page_bytes}, wanted 4096, 16384 or 65536"
            )));
        }
        data.truncate(data.len() / page_bytes * page_bytes);
        Ok(Pages { data, page_bytes })
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.data.len() / self.page_bytes
    }

    /// Compresses and decompresses every page once, and compares what comes back.
    ///
    /// # Errors
    /// [`Error::Config`] for a codec or level that does not exist, [`Error::Corrupt`] if a page comes
    /// back as another, or that of `interrupt`.
    pub fn compress(
        &self,
        codec: &str,
        level: i32,
        interrupt: &mut Interrupt<'_>,
    ) -> Result<(Objects, CodecReport)> {
        let mut press = Press::new(CodecChoice::parse(codec, level)?, self.page_bytes);
        let mut sizes = Vec::with_capacity(self.count());
        let mut same_filled = 0;
        for (index, page) in self.data.chunks_exact(self.page_bytes).enumerate() {
            interrupt.poll()?;
            sizes.push(match repeated_word(page) {
                Some(word) => {
                    same_filled += 1;
                    // What fits the page table needs no object.
                    if pattern_of(word).is_some() { 0 } else { 8 }
                }
                None => press.round_trip(index, page)?,
            });
        }
        press.sizes.sort_unstable();
        let size = |per_mille| rank(&press.sizes, per_mille).unwrap_or(0);
        let report = CodecReport {
            codec: codec.to_owned(),
            level,
            pages: press.sizes.len() as u64,
            same_filled,
            incompressible: press.incompressible,
            page_bytes: self.page_bytes,
            object_bytes: press.sizes.iter().map(|&bytes| u64::from(bytes)).sum(),
            object_bytes_percentiles: SIZE_RANKS.map(size),
            compress_ns: press.compress.percentiles(),
            decompress_ns: press.decompress.percentiles(),
        };
        Ok((Objects::new(self.page_bytes, sizes), report))
    }
}

/// A codec at work, and its times.
struct Press {
    compressor: Compressor,
    decompressor: Decompressor,
    compress: Timing,
    decompress: Timing,
    /// The page that came back.
    back: Vec<u8>,
    /// Of the pages that went through.
    sizes: Vec<u32>,
    incompressible: u64,
}

impl Press {
    fn new(choice: CodecChoice, page_bytes: usize) -> Press {
        let watch = Stopwatch::calibrated();
        Press {
            compressor: Compressor::new(choice, page_bytes),
            decompressor: Decompressor::new(),
            compress: Timing::new(watch),
            decompress: Timing::new(watch),
            back: vec![0; page_bytes],
            sizes: Vec::new(),
            incompressible: 0,
        }
    }

    /// Sends a page through the codec and back. Returns the size that it is stored in.
    fn round_trip(&mut self, index: usize, page: &[u8]) -> Result<u32> {
        let id = self.compressor.id();
        let compressor = &mut self.compressor;
        let object = self
            .compress
            .one(|| compressor.compress(page, page.len() - 1));
        let (id, object) = match object {
            Some(object) => (id, object),
            None => {
                self.incompressible += 1;
                (CodecId::None, page)
            }
        };
        let (decompressor, back) = (&mut self.decompressor, &mut self.back);
        let is_page = self
            .decompress
            .one(|| decompressor.decompress(id, object, back));
        let bytes = object.len() as u32;
        if !is_page || self.back != page {
            return Err(Error::Corrupt {
                what: "checksum of a page that was decompressed",
                at: (index * page.len()) as u64,
                wanted: xxh3_64(page),
                found: xxh3_64(&self.back),
            });
        }
        self.sizes.push(bytes);
        Ok(bytes)
    }
}
