//! Where things are in the backing file: segments by number, records by location.
//!
//! The superblock has the first segment's place to itself, so segment `i` begins at
//! `(i + 1) * segment_bytes`: every segment is aligned to its own size, which is what file systems,
//! thin volumes and SSDs can discard as a whole. What is left behind the last one is not used.
//!
//! Not here: what the bytes mean (`layout`), which segments are free (`segment`).
//! Locking: none, plain values.

use crate::error::{Error, Result};

use super::device::BLOCK_BYTES;
use super::form::{RECORD_BYTES_MAX, SEALED_HEADER_BYTES};
use super::layout::{ENTRY_BYTES, HEAD_BYTES, OBJECT_BYTES_MAX};

/// Bits of a location: the place that the page table has for it.
pub const LOCATION_BITS: u32 = 40;
/// Records begin at multiples of this.
pub const LOCATION_UNIT_BYTES: u64 = 8;
/// Largest backing file that locations can address, bytes: 8 TiB.
pub const CAPACITY_BYTES_MAX: u64 = LOCATION_UNIT_BYTES << LOCATION_BITS;

/// Size of a segment unless configured: long enough that the disk streams, short enough that moving
/// what lives in one is a small piece of work.
pub const SEGMENT_BYTES_DEFAULT: u32 = 1 << 20;
/// Smallest segment: holds a raw page of 4096 bytes with its headers.
pub const SEGMENT_BYTES_MIN: u32 = 8 << 10;
/// Largest segment: its summary, at 2 KiB a record, still fits one read.
pub const SEGMENT_BYTES_MAX: u32 = 16 << 20;

/// Place of a record: byte offset of its header in the backing file, divided by 8. Fits 40 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location(pub u64);

impl Location {
    /// The location at a byte offset of the backing file.
    pub fn at_offset(offset: u64) -> Self {
        assert!(
            offset.is_multiple_of(LOCATION_UNIT_BYTES),
            "a record at byte {offset}"
        );
        Location(offset / LOCATION_UNIT_BYTES)
    }

    /// Byte offset in the backing file.
    pub fn offset(self) -> u64 {
        self.0 * LOCATION_UNIT_BYTES
    }
}

/// Number of a segment, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentIndex(pub u32);

/// Sizes of one store. Fixed while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Segments in the backing file.
    pub segments: u32,
}

impl Geometry {
    /// Divides a device into segments, or says why it cannot be.
    pub fn new(device_bytes: u64, segment_bytes: u32, reserve_segments: u32) -> Result<Self> {
        let block = BLOCK_BYTES as u32;
        if !segment_bytes.is_multiple_of(block)
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        {
            return Err(Error::Config(format!(
                "the store's segment size is {segment_bytes} bytes, must be a multiple of {block} \
                 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )));
        }
        // One segment's place is the superblock's, and write-back needs one besides the reserve.
        let wanted = (u64::from(reserve_segments) + 2) * u64::from(segment_bytes);
        if !(wanted..=CAPACITY_BYTES_MAX).contains(&device_bytes) {
            return Err(Error::Config(format!(
                "the store's size is {device_bytes} bytes, must be {wanted} to \
                 {CAPACITY_BYTES_MAX} with segments of {segment_bytes} and {reserve_segments} of \
                 them in reserve"
            )));
        }
        let segments = device_bytes / u64::from(segment_bytes) - 1;
        Ok(Geometry {
            segment_bytes,
            segments: segments as u32,
        })
    }

    /// Place of a segment's first byte.
    pub fn start(&self, segment: SegmentIndex) -> Location {
        assert!(
            segment.0 < self.segments,
            "segment {} of {}",
            segment.0,
            self.segments
        );
        Location::at_offset((u64::from(segment.0) + 1) * u64::from(self.segment_bytes))
    }

    /// The segment around a location, and the byte in it; nothing for a place outside all segments.
    pub fn find(&self, location: Location) -> Option<(SegmentIndex, u32)> {
        if location.0 >> LOCATION_BITS != 0 {
            return None;
        }
        let number = location.offset() / u64::from(self.segment_bytes);
        let byte = location.offset() % u64::from(self.segment_bytes);
        if number == 0 || number > u64::from(self.segments) {
            return None;
        }
        Some((SegmentIndex(number as u32 - 1), byte as u32))
    }

    /// Like [`find`](Self::find), for a location that this process itself handed out.
    pub fn segment(&self, location: Location) -> SegmentIndex {
        let Some((segment, _)) = self.find(location) else {
            panic!("no segment at {location:?} in {self:?}");
        };
        segment
    }

    /// Largest object that a segment can take, bytes.
    pub fn object_bytes_max(&self) -> u32 {
        object_bytes_max(self.segment_bytes)
    }
}

/// Largest object that a segment of `segment_bytes` can take, bytes.
pub fn object_bytes_max(segment_bytes: u32) -> u32 {
    // Of a sealed record, whether or not they are: what fits must not depend on a key.
    let overhead = 2 * HEAD_BYTES + SEALED_HEADER_BYTES + ENTRY_BYTES;
    segment_bytes
        .saturating_sub(overhead as u32)
        .min(OBJECT_BYTES_MAX as u32)
}

// A location with its record ends inside what u64 offsets and the largest file can address.
const _: () = assert!(CAPACITY_BYTES_MAX < u64::MAX - RECORD_BYTES_MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_lies_behind_the_superblock_and_a_rest_is_left_over() {
        let geometry = Geometry::new(5 * 8192 + 4096, 8192, 0).unwrap();
        assert_eq!(geometry.segments, 4);
        assert_eq!(geometry.start(SegmentIndex(0)).offset(), 8192);
        assert_eq!(geometry.find(Location::at_offset(8184)), None);
        assert_eq!(
            geometry.find(Location::at_offset(8192)),
            Some((SegmentIndex(0), 0))
        );
        assert_eq!(
            geometry.find(Location::at_offset(40952)),
            Some((SegmentIndex(3), 8184))
        );
        assert_eq!(geometry.find(Location::at_offset(40960)), None);
        assert_eq!(geometry.find(Location(u64::MAX / 8)), None);
    }

    #[test]
    fn the_largest_file_has_its_last_location_in_40_bits_and_one_more_is_refused() {
        let geometry = Geometry::new(CAPACITY_BYTES_MAX, SEGMENT_BYTES_MAX, 2).unwrap();
        let last = geometry.start(SegmentIndex(geometry.segments - 1));
        assert!(last.0 + u64::from(SEGMENT_BYTES_MAX) / 8 <= 1 << LOCATION_BITS);
        let refused = Geometry::new(CAPACITY_BYTES_MAX + 4096, SEGMENT_BYTES_MAX, 2);
        let words = refused.unwrap_err().to_string();
        assert!(
            words.contains("8796093026304") && words.contains("8796093022208"),
            "{words}"
        );
    }

    #[test]
    fn sizes_that_cannot_work_are_refused_with_what_was_found_and_wanted() {
        for (device_bytes, segment_bytes, reserve, word) in [
            (1 << 20, 0, 0, "segment size is 0"),
            (1 << 20, 4096, 0, "segment size is 4096"),
            (1 << 20, 8192 + 512, 0, "segment size is 8704"),
            (1 << 30, 32 << 20, 0, "segment size is 33554432"),
            (4 * 8192 - 1, 8192, 2, "size is 32767 bytes, must be 32768"),
            (0, 8192, 0, "size is 0 bytes"),
        ] {
            let words = Geometry::new(device_bytes, segment_bytes, reserve)
                .unwrap_err()
                .to_string();
            assert!(words.contains(word), "{words}");
        }
    }
}
