//! LZ4's two compressors on state that is ours.
//!
//! The safe functions of the binding keep their state in the thread that first calls them: it would
//! be allocated under the first page of a worker, and stay for ever once a codec was tried. The
//! library itself takes state from its caller; this calls it so. Decompression needs no state.
//!
//! Locking: none, a state has one owner.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

/// State, source, destination, the bytes of both, and acceleration or level; gives the bytes of the
/// block, 0 if the destination is too small.
type Compress =
    unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_char, c_int, c_int, c_int) -> c_int;

// From liblz4 1.10, which the crate `lzzzz` builds and links.
unsafe extern "C" {
    safe fn LZ4_sizeofState() -> c_int;
    safe fn LZ4_sizeofStateHC() -> c_int;
    fn LZ4_compress_fast_extState(
        state: *mut c_void,
        source: *const c_char,
        destination: *mut c_char,
        source_bytes: c_int,
        destination_bytes: c_int,
        acceleration: c_int,
    ) -> c_int;
    fn LZ4_compress_fast_extState_fastReset(
        state: *mut c_void,
        source: *const c_char,
        destination: *mut c_char,
        source_bytes: c_int,
        destination_bytes: c_int,
        acceleration: c_int,
    ) -> c_int;
    fn LZ4_compress_HC_extStateHC(
        state: *mut c_void,
        source: *const c_char,
        destination: *mut c_char,
        source_bytes: c_int,
        destination_bytes: c_int,
        level: c_int,
    ) -> c_int;
    fn LZ4_compress_HC_extStateHC_fastReset(
        state: *mut c_void,
        source: *const c_char,
        destination: *mut c_char,
        source_bytes: c_int,
        destination_bytes: c_int,
        level: c_int,
    ) -> c_int;
}

/// One of the compressors with its level and the tables that it works on.
pub(super) struct State {
    /// Words, because the library wants it aligned to a pointer. Initialised by `new`.
    words: Box<[u64]>,
    /// A function that takes `words` as the function before left it.
    compress: Compress,
    level: c_int,
}

impl State {
    /// The quick compressor; 1 is its densest acceleration.
    pub(super) fn quick(acceleration: i32) -> State {
        let mut state = State::zeroed(LZ4_sizeofState(), LZ4_compress_fast_extState, acceleration);
        state.compress(&[0; 64], &mut [0; 128]);
        state.compress = LZ4_compress_fast_extState_fastReset;
        state
    }

    /// The thorough compressor.
    pub(super) fn thorough(level: i32) -> State {
        let mut state = State::zeroed(LZ4_sizeofStateHC(), LZ4_compress_HC_extStateHC, level);
        state.compress(&[0; 64], &mut [0; 128]);
        state.compress = LZ4_compress_HC_extStateHC_fastReset;
        state
    }

    /// A state for `compress`, which initialises it itself.
    fn zeroed(bytes: c_int, compress: Compress, level: i32) -> State {
        let bytes = usize::try_from(bytes).expect("the size of a state");
        State {
            words: vec![0; bytes.div_ceil(size_of::<u64>())].into_boxed_slice(),
            compress,
            level,
        }
    }

    /// Bytes of the block that `page` makes at the start of `out`, which has room for the worst
    /// case.
    pub(super) fn compress(&mut self, page: &[u8], out: &mut [u8]) -> usize {
        let lengths = (c_int::try_from(page.len()), c_int::try_from(out.len()));
        let (Ok(page_bytes), Ok(out_bytes)) = lengths else {
            panic!("a page of {} bytes", page.len());
        };
        // SAFETY: `words` is as large as the library says that this state is, aligned, and only
        // written by functions of this one compressor, the first of which initialises it; source
        // and destination are slices that are as long as it is told.
        let bytes = unsafe {
            (self.compress)(
                self.words.as_mut_ptr().cast(),
                page.as_ptr().cast(),
                out.as_mut_ptr().cast(),
                page_bytes,
                out_bytes,
                self.level,
            )
        };
        assert!(bytes > 0, "{page_bytes} bytes do not fit into {out_bytes}");
        bytes as usize
    }
}
