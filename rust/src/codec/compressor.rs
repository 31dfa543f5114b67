//! Makes objects of pages with the codec that was chosen.
//!
//! Not here: which codecs and levels there are (`registry`).
//! Locking: none, every thread has its own.

use libdeflater::CompressionLvl;
use zstd_safe::CCtx;

use super::{Codec, CodecChoice, CodecId, lz4, lzo, zstd};

/// The state of one codec.
enum Method {
    Raw,
    Lz4(lz4::State),
    Zstd(CCtx<'static>),
    Lzo(lzo::Encoder),
    Deflate(libdeflater::Compressor),
}

/// Makes objects of pages; one a thread.
pub struct Compressor {
    choice: CodecChoice,
    page_bytes: usize,
    method: Method,
    object: Box<[u8]>,
}

impl Compressor {
    /// A compressor for pages of `page_bytes`, ready to be used on any thread.
    pub fn new(choice: CodecChoice, page_bytes: usize) -> Compressor {
        let mut method = Method::new(choice);
        let bound = method.object_bytes_max(page_bytes);
        let mut made = Compressor {
            choice,
            page_bytes,
            method,
            object: vec![0; bound].into_boxed_slice(),
        };
        // Contexts of the C libraries allocate at first use; do it before a client is waiting.
        made.compress(&vec![1; page_bytes], page_bytes);
        made
    }

    /// The codec and its level.
    pub fn choice(&self) -> CodecChoice {
        self.choice
    }

    /// What the objects are that come out.
    pub fn id(&self) -> CodecId {
        self.choice.id()
    }

    /// Compresses `page` to at most `object_bytes_max` bytes. None: it does not get that small.
    pub fn compress(&mut self, page: &[u8], object_bytes_max: usize) -> Option<&[u8]> {
        let (found, wanted) = (page.len(), self.page_bytes);
        assert!(found == wanted, "a page of {found} bytes, wanted {wanted}");
        let bytes = self.method.compress(page, &mut self.object)?;
        (bytes <= object_bytes_max).then(|| &self.object[..bytes])
    }
}

impl Method {
    fn new(choice: CodecChoice) -> Method {
        match choice.codec() {
            Codec::None => Method::Raw,
            Codec::Lz4 => Method::Lz4(lz4::State::quick(choice.level())),
            Codec::Lz4hc => Method::Lz4(lz4::State::thorough(choice.level())),
            Codec::Zstd => Method::Zstd(zstd::compressor(choice.level())),
            Codec::Lzo => Method::Lzo(lzo::Encoder::new()),
            Codec::Deflate => {
                let level = CompressionLvl::new(choice.level()).expect("a level in its range");
                Method::Deflate(libdeflater::Compressor::new(level))
            }
        }
    }

    /// Room that every page fits into. With less, LZ4 takes a slower path that counts what is left
    /// of the output at every step.
    fn object_bytes_max(&mut self, page_bytes: usize) -> usize {
        match self {
            Method::Raw => 0,
            Method::Lz4(_) => lzzzz::lz4::max_compressed_size(page_bytes),
            Method::Zstd(_) => zstd_safe::compress_bound(page_bytes),
            Method::Lzo(_) => lzo::object_bytes_max(page_bytes),
            Method::Deflate(context) => context.deflate_compress_bound(page_bytes),
        }
    }

    /// Bytes of the object at the start of `out`. None: this is no codec.
    fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        const ROOM: &str = "the output has room for the worst case";
        Some(match self {
            Method::Raw => return None,
            Method::Lz4(state) => state.compress(page, out),
            Method::Zstd(context) => context.compress2(out, page).expect(ROOM),
            Method::Lzo(encoder) => encoder.encode(page, out),
            Method::Deflate(context) => context.deflate_compress(page, out).expect(ROOM),
        })
    }
}
