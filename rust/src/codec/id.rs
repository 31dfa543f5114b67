//! What an object is: the codec's number in the page table and in the store.
//!
//! Not here: which codecs an operator can choose (`registry`). Two of them may share a number, as
//! lz4 and lz4hc do: their objects are the same to whoever reads them.
//! Locking: none, plain values.

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
    /// An LZO1X stream with its end mark.
    Lzo = 4,
    /// A raw DEFLATE stream (RFC 1951).
    Deflate = 5,
}

impl CodecId {
    /// All of them, in the order of their numbers.
    pub const ALL: [CodecId; 6] = [
        CodecId::None,
        CodecId::Repeat,
        CodecId::Lz4,
        CodecId::Zstd,
        CodecId::Lzo,
        CodecId::Deflate,
    ];

    /// The codec of that number, if there is one.
    pub fn from_bits(bits: u8) -> Option<CodecId> {
        CodecId::ALL.get(usize::from(bits)).copied()
    }

    /// The name in metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            CodecId::None => "none",
            CodecId::Repeat => "repeat",
            CodecId::Lz4 => "lz4",
            CodecId::Zstd => "zstd",
            CodecId::Lzo => "lzo",
            CodecId::Deflate => "deflate",
        }
    }
}
