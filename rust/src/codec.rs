//! Compression of single pages: which codecs there are, and one compressor and decompressor a thread.
//!
//! Not here: what is worth compressing and where the result goes (`engine`). All state is made at
//! start; compressing and decompressing allocate nothing.
//! Locking: none, every thread has its own.

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

use crate::error::{Error, Result};

/// How an object's bytes are to be understood: 3 bits in the page table, a byte in the store.
/// The numbers are part of both formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodecId {
    /// The page itself.
    None = 0,
    /// Eight bytes that fill the page.
    Repeat = 1,
    /// An LZ4 block.
    Lz4 = 2,
    /// A Zstandard frame without magic number, content size and checksum.
    Zstd = 3,
}

impl CodecId {
    /// All of them, in the order of their numbers.
    pub const ALL: [CodecId; 4] = [CodecId::None, CodecId::Repeat, CodecId::Lz4, CodecId::Zstd];

    /// The codec of that number, if there is one.
    pub fn from_bits(bits: u8) -> Option<CodecId> {
        CodecId::ALL.get(usize::from(bits)).copied()
    }

    /// The name in configuration, metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            CodecId::None => "none",
            CodecId::Repeat => "repeat",
            CodecId::Lz4 => "lz4",
            CodecId::Zstd => "zstd",
        }
    }
}

/// A codec and its level, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecChoice {
    /// `None`, `Lz4` or `Zstd`.
    pub id: CodecId,
    /// lz4: acceleration, 1 (densest) to 65537; zstd: level, -7 to 19; none: not used.
    pub level: i32,
}

impl CodecChoice {
    /// Reads a choice from its configured name and level.
    ///
    /// # Errors
    /// [`Error::Config`] for a name or level that does not exist.
    pub fn parse(name: &str, level: i32) -> Result<CodecChoice> {
        let (id, levels) = match name {
            "none" => (CodecId::None, i32::MIN..=i32::MAX),
            "lz4" => (CodecId::Lz4, 1..=65537),
            "zstd" => (CodecId::Zstd, -7..=19),
            other => {
                return Err(Error::Config(format!(
                    "codec is {other}, wanted lz4, zstd or none"
                )));
            }
        };
        if !levels.contains(&level) {
            let (low, high) = (levels.start(), levels.end());
            return Err(Error::Config(format!(
                "codec level is {level}, wanted {low} to {high} for {name}"
            )));
        }
        Ok(CodecChoice { id, level })
    }
}

/// Makes objects of pages; one a thread.
pub struct Compressor {
    choice: CodecChoice,
    zstd: Option<CCtx<'static>>,
    object: Box<[u8]>,
}

impl Compressor {
    /// A compressor for pages of `page_bytes`.
    pub fn new(choice: CodecChoice, page_bytes: usize) -> Compressor {
        let zstd = (choice.id == CodecId::Zstd).then(|| zstd_compressor(choice.level));
        // Room for the worst case of both libraries: with less, LZ4 takes a slower path that counts
        // what is left of the output at every step.
        let bound =
            lzzzz::lz4::max_compressed_size(page_bytes).max(zstd_safe::compress_bound(page_bytes));
        let mut made = Compressor {
            choice,
            zstd,
            object: vec![0; bound].into_boxed_slice(),
        };
        // Contexts of the C libraries allocate at first use; do it before a client is waiting.
        made.compress(&vec![1; page_bytes], page_bytes);
        made
    }

    /// The codec of the objects that come out.
    pub fn id(&self) -> CodecId {
        self.choice.id
    }

    /// Compresses `page` to at most `object_bytes_max` bytes. None: it does not get that small.
    pub fn compress(&mut self, page: &[u8], object_bytes_max: usize) -> Option<&[u8]> {
        let bytes = match self.choice.id {
            CodecId::None | CodecId::Repeat => return None,
            CodecId::Lz4 => lzzzz::lz4::compress(page, &mut self.object, self.choice.level)
                .expect("the output has room for the worst case"),
            CodecId::Zstd => self
                .zstd
                .as_mut()
                .expect("made with the choice")
                .compress2(&mut self.object[..], page)
                .expect("the output has room for the worst case"),
        };
        (bytes <= object_bytes_max).then(|| &self.object[..bytes])
    }
}

fn zstd_compressor(level: i32) -> CCtx<'static> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        // Length and integrity are known from the page table and the store's own checksum: a page
        // of 1 KiB would carry one per cent of what it does not need.
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context
            .set_parameter(parameter)
            .expect("a parameter in its range");
    }
    context
}

/// Makes pages of objects; one a thread.
pub struct Decompressor {
    zstd: DCtx<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// A decompressor for every codec: pages of an older choice stay readable.
    pub fn new() -> Decompressor {
        let mut zstd = DCtx::create();
        zstd.set_parameter(DParameter::Format(FrameFormat::Magicless))
            .expect("a parameter in its range");
        Decompressor { zstd }
    }

    /// Fills `page` from `object`. False: the object is not a page of that codec and length.
    #[must_use]
    pub fn decompress(&mut self, codec: CodecId, object: &[u8], page: &mut [u8]) -> bool {
        let bytes = match codec {
            CodecId::None if object.len() == page.len() => {
                page.copy_from_slice(object);
                page.len()
            }
            CodecId::Repeat if object.len() == 8 => {
                for word in page.chunks_exact_mut(8) {
                    word.copy_from_slice(object);
                }
                page.len()
            }
            CodecId::None | CodecId::Repeat => return false,
            CodecId::Lz4 => lzzzz::lz4::decompress(object, page).unwrap_or(0),
            CodecId::Zstd => self.zstd.decompress(page, object).unwrap_or(0),
        };
        bytes == page.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choices() -> impl Strategy<Value = CodecChoice> {
        prop_oneof![
            (1..100).prop_map(|level| CodecChoice {
                id: CodecId::Lz4,
                level
            }),
            (-7..=9).prop_map(|level| CodecChoice {
                id: CodecId::Zstd,
                level
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_page_comes_back_from_its_object(
            choice in choices(),
            parts in proptest::collection::vec((any::<u8>(), 1..400usize), 1..60),
        ) {
            let mut page: Vec<u8> =
                parts.iter().flat_map(|&(byte, n)| std::iter::repeat_n(byte, n)).collect();
            page.resize(4096, 9);
            let mut compressor = Compressor::new(choice, 4096);
            let object = compressor.compress(&page, 4096).unwrap().to_vec();
            let mut back = vec![0; 4096];
            prop_assert!(Decompressor::new().decompress(choice.id, &object, &mut back));
            prop_assert_eq!(back, page);
        }

        #[test]
        fn garbage_is_refused_or_some_page_but_never_a_crash(
            bytes in proptest::collection::vec(any::<u8>(), 1..4096),
        ) {
            let mut page = vec![0; 4096];
            for codec in CodecId::ALL {
                let _ = Decompressor::new().decompress(codec, &bytes, &mut page);
            }
        }
    }

    #[test]
    fn a_truncated_object_is_refused() {
        let page: Vec<u8> = (0..4096u32).map(|i| (i / 13 * 7) as u8).collect();
        for id in [CodecId::Lz4, CodecId::Zstd] {
            let mut compressor = Compressor::new(CodecChoice { id, level: 1 }, 4096);
            let object = compressor.compress(&page, 4096).unwrap().to_vec();
            let mut back = vec![0; 4096];
            let mut decompressor = Decompressor::new();
            assert!(!decompressor.decompress(id, &object[..object.len() / 2], &mut back));
            assert!(decompressor.decompress(id, &object, &mut back));
            assert_eq!(back, page);
        }
    }

    #[test]
    fn noise_does_not_get_smaller() {
        let mut state = 1u64;
        let page: Vec<u8> = (0..4096)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        for id in [CodecId::Lz4, CodecId::Zstd, CodecId::None] {
            assert!(
                Compressor::new(CodecChoice { id, level: 1 }, 4096)
                    .compress(&page, 4095)
                    .is_none()
            );
        }
    }

    #[test]
    fn a_level_out_of_range_is_named() {
        let error = CodecChoice::parse("zstd", 23).unwrap_err().to_string();
        assert_eq!(error, "codec level is 23, wanted -7 to 19 for zstd");
        assert!(
            CodecChoice::parse("lzma", 1)
                .unwrap_err()
                .to_string()
                .contains("wanted lz4")
        );
    }
}
