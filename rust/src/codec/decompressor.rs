//! Makes pages of objects, of every codec.
//!
//! Locking: none, every thread has its own.

use zstd_safe::DCtx;

use super::{CodecId, lzo, zstd};

/// Makes pages of objects; one a thread.
pub struct Decompressor {
    zstd: DCtx<'static>,
    deflate: libdeflater::Decompressor,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// A decompressor for every codec: pages of an older choice stay readable.
    pub fn new() -> Decompressor {
        Decompressor {
            zstd: zstd::decompressor(),
            deflate: libdeflater::Decompressor::new(),
        }
    }

    /// Fills `page` from `object`. False: the object is not a page of that codec and length, and
    /// what `page` holds is anything.
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
            CodecId::Lzo => lzo::decode(object, page).unwrap_or(0),
            CodecId::Deflate => self.deflate.deflate_decompress(object, page).unwrap_or(0),
        };
        bytes == page.len()
    }
}
