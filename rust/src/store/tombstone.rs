//! What stands in place of a segment's head when its use is over and nobody needs it, so that nothing is
//! written over a head that stands (see `segment::quarantine`).
//!
//! ```text
//!  0  magic       8 bytes  TOMBSTONE_MAGIC
//!  8  sequence    u64      of the use that is over
//! 16  generation  u64
//! 24  checksum    u64      of bytes 0..24, seeded with the place where the segment begins
//! 32  zeros to the end of the block
//! ```
//!
//! Little endian. It fits one sector, as a head does, so that loss of power leaves the one or the other. The
//! segment's copy of the head, at its end, may stand: behind a tombstone nobody looks for it.
//!
//! Only in stores that a recovery may have to read. Locking: one mutex around the buffer; the thread that begins
//! batches buries.

use std::sync::PoisonError;

use super::device::BLOCK_BYTES;
use super::form::Form;
use super::geometry::Location;
use super::layout::u64_at;
use super::log::Store;

/// What a tombstone begins with.
pub const TOMBSTONE_MAGIC: [u8; 8] = *b"nbdswEND";
const CHECKSUM_AT: usize = 24;
const TOMBSTONE_BYTES: usize = CHECKSUM_AT + 8;

/// Writes the block over the head of the segment that begins at `start`.
fn encode(block: &mut [u8], form: &Form, start: Location, sequence: u64) {
    block.fill(0);
    block[..8].copy_from_slice(&TOMBSTONE_MAGIC);
    block[8..16].copy_from_slice(&sequence.to_le_bytes());
    block[16..24].copy_from_slice(&form.key.generation.to_le_bytes());
    let checksum = form.checksum(sequence, start, &block[..CHECKSUM_AT]);
    block[CHECKSUM_AT..TOMBSTONE_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// The sequence of the use that is over, if the segment that begins at `start` with these bytes has a
/// tombstone. One of another generation is as good: nothing of ours is behind it.
pub(super) fn tombstone_at(bytes: &[u8], form: &Form, start: Location) -> Option<u64> {
    if bytes[..8] != TOMBSTONE_MAGIC {
        return None;
    }
    let sequence = u64_at(bytes, 8);
    let is_ours = u64_at(bytes, 16) == form.key.generation;
    let checksum = u64_at(bytes, CHECKSUM_AT);
    let is_whole = || checksum == form.checksum(sequence, start, &bytes[..CHECKSUM_AT]);
    (!is_ours || is_whole()).then_some(sequence)
}

impl Store {
    /// Buries up to `most` segments that wait for it, each with a write of [`BLOCK_BYTES`], and says how many. They
    /// are free after the next sync. An error of the device ends it, and one of
    /// the superblock that is still to be written keeps it from beginning. To be called by the thread that also begins
    /// batches.
    pub fn bury(&self, most: u32) -> u32 {
        let Some(block) = &self.tombstones else {
            return 0;
        };
        if self.segments.spent_count() == 0 || self.write_superblock().is_err() {
            return 0;
        }
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        for count in 0..most {
            let Some(spent) = self.segments.take_spent() else {
                return count;
            };
            let start = self.geometry.start(spent.index());
            encode(&mut block, &self.form, start, spent.sequence);
            if self.device.write_at(&block, start.offset()).is_err() {
                self.counters.write_errors.add(1);
                self.segments.unburied(spent);
                return count;
            }
            self.counters.written_bytes.add(BLOCK_BYTES as u64);
            self.segments.buried(spent);
        }
        most
    }

    /// Segments that nobody needs and that wait to be buried.
    pub fn segments_spent(&self) -> u32 {
        self.segments.spent_count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Key;
    use super::*;

    #[test]
    fn it_stands_at_its_place_and_whole_or_is_of_another_generation() {
        let form = |generation| Form::from(Key { id: 1, generation });
        let (here, there) = (Location(4096), Location(8192));
        let mut block = [7; BLOCK_BYTES];
        encode(&mut block, &form(2), here, 99);
        assert_eq!(tombstone_at(&block, &form(2), here), Some(99));
        assert_eq!(tombstone_at(&block, &form(2), there), None, "misdirected");
        assert_eq!(tombstone_at(&block, &form(3), here), Some(99), "older");
        assert!(block[TOMBSTONE_BYTES..].iter().all(|byte| *byte == 0));
        for at in (0..TOMBSTONE_BYTES).filter(|at| !(16..24).contains(at)) {
            block[at] ^= 1;
            assert_eq!(tombstone_at(&block, &form(2), here), None, "byte {at}");
            block[at] ^= 1;
        }
        assert_eq!(tombstone_at(&[0; BLOCK_BYTES], &form(2), here), None);
    }
}
