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
    /// [`Error::Config`] for a codec or level that does not exist, [`Error::Corrupt`] if a page
    /// comes back as another, or that of `interrupt`.
    pub fn compress(
        &self,
        codec: &str,
        level: i32,
        mut interrupt: Interrupt<'_>,
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
        if !is_page {
            self.back.fill(0);
        }
        compare(index, page, &self.back)?;
        self.sizes.push(bytes);
        Ok(bytes)
    }
}

/// Is `back` the page number `index`?
fn compare(index: usize, page: &[u8], back: &[u8]) -> Result<()> {
    if back == page {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: "checksum of a page that was decompressed",
        at: (index * page.len()) as u64,
        wanted: xxh3_64(page),
        found: xxh3_64(back),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CODECS;
    use crate::random::Random;

    const PAGE_BYTES: usize = 4096;

    /// Pages of zeros, of a pattern, of a longer word, of text, of noise; and a rest.
    fn mixture() -> Vec<u8> {
        let mut random = Random::new(3);
        let mut data = vec![0; PAGE_BYTES];
        data.extend([7, 8, 9, 10].repeat(PAGE_BYTES / 4));
        data.extend([1, 2, 3, 4, 5, 6, 7, 8].repeat(PAGE_BYTES / 8));
        data.extend((0..PAGE_BYTES).map(|at| (at / 13 * 7) as u8));
        data.extend((0..PAGE_BYTES).map(|_| random.bits() as u8));
        data.extend([1; 100]);
        data
    }

    fn compress(data: Vec<u8>, codec: &str, level: i32) -> Result<(Objects, CodecReport)> {
        Pages::of(data, PAGE_BYTES)?.compress(codec, level, Interrupt::new(&|| true))
    }

    #[test]
    fn each_kind_of_page_is_counted_and_stored_as_the_server_does() {
        for info in CODECS.iter().filter(|info| info.name != "none") {
            let codec = info.name;
            let (objects, report) = compress(mixture(), codec, info.level_default).unwrap();
            let sizes = objects.sizes();
            assert_eq!(sizes[..3], [0, 0, 8]);
            assert!((1..3000).contains(&sizes[3]), "{codec}: {sizes:?}");
            assert_eq!(sizes[4..], [PAGE_BYTES as u32]);
            assert_eq!(
                (report.pages, report.same_filled, report.incompressible),
                (2, 3, 1)
            );
            assert_eq!(report.object_bytes, u64::from(sizes[3] + sizes[4]));
            assert_eq!(report.object_bytes_percentiles[1], sizes[3]);
            assert_eq!(report.object_bytes_percentiles[4], sizes[4]);
            assert_eq!(report.compress_ns.count, 2);
            assert!(report.decompress_ns.max > 0);
        }
    }

    #[test]
    fn without_a_codec_every_page_is_kept() {
        let (objects, report) = compress(mixture(), "none", 0).unwrap();
        assert_eq!(report.incompressible, 2);
        assert_eq!(objects.sizes()[3..], [PAGE_BYTES as u32; 2]);
    }

    #[test]
    fn no_pages_give_a_report_of_zeros() {
        let (objects, report) = compress(vec![1; PAGE_BYTES - 1], "lz4", 1).unwrap();
        assert_eq!(objects.count(), 0);
        assert_eq!(report.compress_ns, Percentiles::default());
        assert_eq!(report.object_bytes_percentiles, [0; 5]);
    }

    #[test]
    fn a_page_that_comes_back_as_another_is_noticed() {
        let page = mixture()[3 * PAGE_BYTES..4 * PAGE_BYTES].to_vec();
        let mut back = page.clone();
        assert!(compare(3, &page, &back).is_ok());
        back[4095] ^= 1;
        let error = compare(3, &page, &back).unwrap_err().to_string();
        assert!(error.contains("at byte 12288"), "{error}");
    }

    #[test]
    fn settings_that_do_not_exist_are_refused() {
        let wrong_page = Pages::of(Vec::new(), 8192).err().unwrap().to_string();
        assert_eq!(wrong_page, "page size is 8192, wanted 4096, 16384 or 65536");
        assert!(matches!(
            compress(mixture(), "lzma", 1),
            Err(Error::Config(_))
        ));
        assert!(matches!(
            compress(mixture(), "lz4", 0),
            Err(Error::Config(_))
        ));
    }

    #[test]
    fn compression_can_be_interrupted() {
        let pages = Pages::of(mixture(), PAGE_BYTES).unwrap();
        let stopped = pages.compress("lz4", 1, Interrupt::new(&|| false));
        assert!(matches!(stopped, Err(Error::Io { .. })));
    }
}
