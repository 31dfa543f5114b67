//! Compression of single pages: which codecs there are, and each thread's compressor, decompressor.
//!
//! A compressor owns all state of its codec, made and used once before it is handed out:
//! compressing and decompressing allocate nothing, on whichever thread, and a compressor can
//! replace another at any time. Objects are read back by what they are and not by what is
//! configured, so pages of an older choice stay readable.
//!
//! An object may come from a damaged file: a decompressor refuses it or makes some page of it, and
//! never fails otherwise. That it is the right page is the checksums' business (`store`).
//!
//! Not here: what is worth compressing and where the result goes (`engine`).
//! Locking: none, every thread has its own.

mod compressor;
mod decompressor;
mod id;
mod lz4;
mod lzo;
mod registry;
mod zstd;

pub use compressor::Compressor;
pub use decompressor::Decompressor;
pub use id::CodecId;
pub use registry::{CODECS, Codec, CodecChoice, CodecInfo};

#[cfg(test)]
mod tests;
