//! Records without a page's object: that a page has none, and how far the log is known to be whole.
//!
//! ```text
//! mark       page, codec MARK_CODEC, 8 bytes: kind u32 (1 discarded, 2 lost, 3 filled), pattern u32
//! position   page POSITION_PAGE, codec MARK_CODEC, 8 bytes: sequence u64
//! ```
//!
//! Little endian. Locking: none, plain values.

use crate::store::RecordKind;

/// In place of the codec of an object.
pub const MARK_CODEC: u8 = 0x80;
/// Bytes of either.
pub const MARK_BYTES: usize = 8;
/// No page has this number: exports have fewer than 2^32 pages together.
pub const POSITION_PAGE: u32 = u32::MAX;

/// What a page without an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was discarded: it reads as zeros.
    Discarded,
    /// Its bytes are gone: an error is all that may be answered.
    Lost,
    /// Filled with one pattern.
    Filled(u32),
}

impl Mark {
    /// The object of its record.
    pub fn encode(self) -> [u8; MARK_BYTES] {
        let (kind, pattern) = match self {
            Mark::Discarded => (1u32, 0),
            Mark::Lost => (2, 0),
            Mark::Filled(pattern) => (3, pattern),
        };
        (u64::from(pattern) << 32 | u64::from(kind)).to_le_bytes()
    }

    /// None: not a mark of this version.
    pub fn decode(object: &[u8]) -> Option<Mark> {
        let word = u64::from_le_bytes(object.try_into().ok()?);
        let pattern = (word >> 32) as u32;
        match (word as u32, pattern) {
            (1, 0) => Some(Mark::Discarded),
            (2, 0) => Some(Mark::Lost),
            (3, pattern) => Some(Mark::Filled(pattern)),
            _ => None,
        }
    }
}

/// What a record of that page and codec is for.
pub fn kind_of(page: u32, codec: u8) -> RecordKind {
    match (codec, page) {
        (MARK_CODEC, POSITION_PAGE) => RecordKind::Position,
        (MARK_CODEC, _) => RecordKind::Mark,
        _ => RecordKind::Object,
    }
}

/// The object of a record that says: all segments of smaller sequences are whole and on the device.
pub fn position_object(sequence: u64) -> [u8; MARK_BYTES] {
    sequence.to_le_bytes()
}

/// What such a record says.
pub fn position_of(object: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(object.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_record_and_nothing_else_is_one() {
        for mark in [
            Mark::Discarded,
            Mark::Lost,
            Mark::Filled(0),
            Mark::Filled(u32::MAX),
        ] {
            assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
        for wrong in [
            &[0u8; 8][..],
            &[1, 0, 0, 0, 1, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[1; 4],
        ] {
            assert_eq!(Mark::decode(wrong), None, "{wrong:?}");
        }
        assert_eq!(position_of(&position_object(1 << 41)), Some(1 << 41));
    }
}
