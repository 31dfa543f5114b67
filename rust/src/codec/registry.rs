//! The codecs that an operator can choose, in one table, and the choice that is made of them.
//!
//! These are the codecs of the kernel's zram and zswap, but for two: lzo-rle has no maintained
//! implementation outside the kernel, and 842 is made for the hardware of POWER.
//!
//! Not here: what objects look like to a reader (`id`).
//! Locking: none, plain values.

use super::CodecId;
use crate::error::{Error, Result};

/// A way to make objects of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// LZ4's quick compressor.
    Lz4,
    /// LZ4's thorough compressor; its objects are LZ4 blocks too.
    Lz4hc,
    /// Zstandard.
    Zstd,
    /// LZO1X.
    Lzo,
    /// DEFLATE.
    Deflate,
    /// Pages are kept as they are.
    None,
}

/// What is known about a codec before it is used.
#[derive(Debug)]
pub struct CodecInfo {
    /// Which.
    pub codec: Codec,
    /// The name in configuration and status.
    pub name: &'static str,
    /// What its objects are.
    pub id: CodecId,
    /// The lowest level.
    pub level_min: i32,
    /// The highest level.
    pub level_max: i32,
    /// The level unless one is asked for.
    pub level_default: i32,
    /// What the level does, and what the codec is good for.
    pub about: &'static str,
    /// What its objects are, and who else reads them. What holds of all: an object is shorter than its
    /// page, or the page is kept as it is; a codec, level and page give one object, whatever was
    /// compressed before; a damaged object is refused or some page, and nothing else is harmed.
    pub guarantees: &'static str,
}

/// All codecs, the default first. The bounds of a level are those within which it does something
/// for a page:
/// * lz4hc: above 9 the library allocates for each page, and gains 0.1 per cent.
/// * zstd: below -7 it is slower than lz4 and less dense; above 19 little but its window grows, and
///   a page fills none.
pub const CODECS: [CodecInfo; 6] = [
    CodecInfo {
        codec: Codec::Lz4,
        name: "lz4",
        id: CodecId::Lz4,
        level_min: 1,
        level_max: 65537,
        level_default: 1,
        about: "fastest both ways; the level is an acceleration, 1 is the densest",
        guarantees: "an LZ4 block, which liblz4 reads",
    },
    CodecInfo {
        codec: Codec::Lz4hc,
        name: "lz4hc",
        id: CodecId::Lz4,
        level_min: 2,
        level_max: 9,
        level_default: 9,
        about: "objects of lz4, read as fast, a little denser for much more work when written",
        guarantees: "an LZ4 block, which liblz4 reads; not to be told from one of lz4",
    },
    CodecInfo {
        codec: Codec::Zstd,
        name: "zstd",
        id: CodecId::Zstd,
        level_min: -7,
        level_max: 19,
        level_default: 3,
        about: "densest; levels up to 4 are the best trade of time for memory",
        guarantees: "a zstd frame without magic number, size and checksum; libzstd reads it as magicless",
    },
    CodecInfo {
        codec: Codec::Lzo,
        name: "lzo",
        id: CodecId::Lzo,
        level_min: 1,
        level_max: 1,
        level_default: 1,
        about: "LZO1X, what zram calls lzo; between lz4 and zstd in all",
        guarantees: "an LZO1X stream, the format of liblzo2 and of the kernel's lzo",
    },
    CodecInfo {
        codec: Codec::Deflate,
        name: "deflate",
        id: CodecId::Deflate,
        level_min: 1,
        level_max: 12,
        level_default: 6,
        about: "about as dense as zstd, slower both ways; zlib reads it",
        guarantees: "a raw DEFLATE stream, which zlib reads with wbits=-15",
    },
    CodecInfo {
        codec: Codec::None,
        name: "none",
        id: CodecId::None,
        level_min: 0,
        level_max: 0,
        level_default: 0,
        about: "pages are kept as they are",
        guarantees: "no object: the page is its own, and takes all of its size",
    },
];

impl Codec {
    /// Its line in the table.
    pub fn info(self) -> &'static CodecInfo {
        CODECS
            .iter()
            .find(|info| info.codec == self)
            .expect("every codec has a line")
    }

    /// The codec of that name.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none.
    pub fn parse(name: &str) -> Result<Codec> {
        let found = CODECS.iter().find(|info| info.name == name);
        found.map(|info| info.codec).ok_or_else(|| {
            let names = CODECS.map(|info| info.name);
            let (last, others) = names.split_last().expect("a table of codecs");
            let others = others.join(", ");
            Error::Config(format!("codec is {name}, wanted {others} or {last}"))
        })
    }
}

/// A codec and its level, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecChoice {
    codec: Codec,
    level: i32,
}

impl CodecChoice {
    /// That codec at that level.
    ///
    /// # Errors
    /// [`Error::Config`] for a level that the codec does not have.
    pub fn new(codec: Codec, level: i32) -> Result<CodecChoice> {
        let info = codec.info();
        let (low, high) = (info.level_min, info.level_max);
        if (low..=high).contains(&level) {
            return Ok(CodecChoice { codec, level });
        }
        let wanted = match low < high {
            true => format!("{low} to {high}"),
            false => low.to_string(),
        };
        Err(Error::Config(format!(
            "codec level is {level}, wanted {wanted} for {}",
            info.name
        )))
    }

    /// Reads a choice from its configured name and level.
    ///
    /// # Errors
    /// [`Error::Config`] for a name or level that does not exist.
    pub fn parse(name: &str, level: i32) -> Result<CodecChoice> {
        CodecChoice::new(Codec::parse(name)?, level)
    }

    /// The codec of that name at its default level.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that does not exist.
    pub fn named(name: &str) -> Result<CodecChoice> {
        let codec = Codec::parse(name)?;
        CodecChoice::new(codec, codec.info().level_default)
    }

    /// The codec.
    pub fn codec(self) -> Codec {
        self.codec
    }

    /// The level, within the codec's bounds.
    pub fn level(self) -> i32 {
        self.level
    }

    /// The codec's name in configuration and status.
    pub fn name(self) -> &'static str {
        self.codec.info().name
    }

    /// What the objects are that come of it.
    pub fn id(self) -> CodecId {
        self.codec.info().id
    }
}
