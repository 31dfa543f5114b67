//! What the store asks of a backing file: a few operations, all of them whole or an error.
//!
//! Not here: caching, retries, what the bytes mean. Nothing else in the crate touches the backing
//! file, so a simulated device (`testing::sim_device`) can stand in for every fault.
//! Locking: the caller sees to it that a range is not written and discarded at the same time;
//! reads may overlap writes and then see any mixture of old and new bytes.

use std::{io, sync::Arc};

/// Unit of access, bytes: offsets, lengths and buffer addresses are multiples of it, as direct I/O
/// wants. No current disk has a larger sector that must be written whole.
pub const BLOCK_BYTES: usize = 4096;

/// Whole blocks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl Span {
    /// The blocks around a range of bytes.
    pub fn around(start: u64, end: u64) -> Self {
        let block = BLOCK_BYTES as u64;
        Span {
            start: start / block * block,
            end: end.next_multiple_of(block),
        }
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a length, not a collection")]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Is the byte at this offset in it?
    pub fn holds(&self, offset: u64) -> bool {
        (self.start..self.end).contains(&offset)
    }
}

/// Who is told of each of several reads as soon as it is over: its number, its bytes, how it went.
pub type ReadDone<'a> = dyn FnMut(usize, &[u8], io::Result<()>) + 'a;

/// A backing file or block device of fixed length.
#[expect(clippy::len_without_is_empty, reason = "a length, not a collection")]
pub trait Device: Send + Sync {
    /// Bytes that can be read and written.
    fn len(&self) -> u64;

    /// Fills `buffer` from `offset`, wholly or with an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Does several reads, the first into the beginning of `buffer` and each other one behind the one
    /// before it, and tells of each once, in the order in which they end. They may be under way
    /// together; one that fails costs no other.
    fn read_many(&self, buffer: &mut [u8], spans: &[Span], done: &mut ReadDone<'_>) {
        read_in_turn(self, buffer, spans, done);
    }

    /// Writes all of `bytes` at `offset`. After an error any part of them may have landed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Says that the content of a range is not needed any more; what it reads as is undefined.
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Returns when everything written before would survive loss of power.
    fn sync(&self) -> io::Result<()>;
}

/// [`Device::read_many`] with one read under way at a time.
pub(super) fn read_in_turn<D: Device + ?Sized>(
    device: &D,
    buffer: &mut [u8],
    spans: &[Span],
    done: &mut ReadDone<'_>,
) {
    let mut rest = buffer;
    for (number, span) in spans.iter().enumerate() {
        let (bytes, later) = rest.split_at_mut(span.len());
        let result = device.read_at(bytes, span.start);
        done(number, bytes, result);
        rest = later;
    }
}

impl<D: Device + ?Sized> Device for Arc<D> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }

    fn read_many(&self, buffer: &mut [u8], spans: &[Span], done: &mut ReadDone<'_>) {
        (**self).read_many(buffer, spans, done);
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
