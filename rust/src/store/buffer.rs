//! A buffer that direct I/O accepts: its address is a multiple of the block.
//!
//! Without `unsafe`: one block more than needed is allocated and the aligned part of it is used.
//! Locking: none, the owner's.

use std::ops::{Deref, DerefMut};

use super::device::BLOCK_BYTES;

/// Bytes at an aligned address, zero at first, of a length that never changes.
pub struct AlignedBuffer {
    /// Never reallocated, so `start` stays true.
    room: Box<[u8]>,
    start: usize,
    bytes: usize,
}

impl AlignedBuffer {
    /// A buffer of `bytes`.
    pub fn new(bytes: usize) -> Self {
        // Written to and not only asked for: later there may be no memory for it.
        let mut room = vec![0xff; bytes + BLOCK_BYTES - 1].into_boxed_slice();
        std::hint::black_box(&mut room).fill(0);
        let start = room.as_ptr().align_offset(BLOCK_BYTES);
        assert!(
            start < BLOCK_BYTES,
            "the allocator's address cannot be aligned"
        );
        AlignedBuffer { room, start, bytes }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room[self.start..self.start + self.bytes]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_aligned_and_has_its_length() {
        for bytes in [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 8] {
            let mut buffer = AlignedBuffer::new(bytes);
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES));
            buffer.fill(1);
            assert!(buffer.iter().all(|byte| *byte == 1));
        }
    }
}
