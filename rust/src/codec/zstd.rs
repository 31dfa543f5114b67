//! Zstandard's contexts, set up for frames that carry nothing that is known anyway.
//!
//! Length and integrity are known from the page table and the store's own checksum: an object of
//! 1 KiB would carry one per cent of what it does not need.
//! Locking: none.

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

pub(super) fn compressor(level: i32) -> CCtx<'static> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
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

pub(super) fn decompressor() -> DCtx<'static> {
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::Format(FrameFormat::Magicless))
        .expect("a parameter in its range");
    context
}
