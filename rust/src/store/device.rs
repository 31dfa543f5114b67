//! What the store asks of a backing file: five operations, all of them whole or an error.
//!
//! Not here: caching, retries, what the bytes mean. Nothing else in the crate touches the backing
//! file, so a simulated device (`testing::sim_device`) can stand in for every fault.
//! Locking: the caller sees to it that a range is not written and discarded at the same time;
//! reads may overlap writes and then see any mixture of old and new bytes.

use std::{io, sync::Arc};

/// Unit of access, bytes: offsets, lengths and buffer addresses are multiples of it, as direct I/O
/// wants. No current disk has a larger sector that must be written whole.
pub const BLOCK_BYTES: usize = 4096;

/// A backing file or block device of fixed length.
#[expect(clippy::len_without_is_empty, reason = "a length, not a collection")]
pub trait Device: Send + Sync {
    /// Bytes that can be read and written.
    fn len(&self) -> u64;

    /// Fills `buffer` from `offset`, wholly or with an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may have landed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Says that the content of a range is not needed any more; what it reads as is undefined.
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Returns when everything written before would survive loss of power.
    fn sync(&self) -> io::Result<()>;
}

impl<D: Device + ?Sized> Device for Arc<D> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(bytes, offset)
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        (**self).discard(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}
