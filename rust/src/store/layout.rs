//! The bytes of a segment, written and read by hand.
//!
//! Everything is little endian. Every structure carries an xxh3-64 checksum that is seeded with the
//! store, its generation, the segment's sequence and the place in the file ([`Key::checksum`]), so
//! bytes of another store, of an earlier generation, of an earlier use of the segment, or that
//! landed elsewhere never verify.
//!
//! A store that is encrypted has sealed records, masked entries and keyed checksums in the same places
//! (`form`, `cipher`).
//!
//! Not here: the first block (`superblock`), which segment is where (`geometry`), I/O.
//! Locking: none, plain values.
//!
//! ```text
//! file      superblock . . .   segment 0   segment 1   ...   (a rest that is no whole segment)
//!           0                  S           2S                S = segment_bytes
//!
//! segment   head | record record ... record | summary | zeros | tail
//!           0    48                         48+R                W-48   W
//!
//! R bytes of records; W is the next whole block, and all of it is written at once.
//! The tail is a copy of the head. W <= S: a segment that is not full is a shorter write.
//! ```

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::{Error, Result};

use super::device::BLOCK_BYTES;
use super::form::Form;
use super::geometry::Location;

// head and tail of a segment, 48 bytes
//   0  magic             8 bytes  HEAD_MAGIC
//   8  sequence          u64      of this segment; none is ever used twice in a generation
//  16  generation        u64
//  24  records           u32      1..=RECORDS_MAX
//  28  records_bytes     u32      of all records; the summary follows
//  32  summary_checksum  u64      of the summary, seeded with the place where it begins
//  40  checksum          u64      of bytes 0..40, seeded with the place where the segment begins
pub const HEAD_BYTES: usize = 48;
/// Bytes in which two copies of a head may differ and be mended.
const MEND_BYTES_MAX: usize = 10;
/// What a head begins with.
pub const HEAD_MAGIC: [u8; 8] = *b"nbdswSEG";
const _: () = assert!(HEAD_BYTES == 8 + 8 + 8 + 4 + 4 + 8 + 8 && HEAD_BYTES.is_multiple_of(8));

// record, 16 bytes and the object, padded with zeros to a multiple of 8
//   0  entry     8 bytes  see below
//   8  checksum  u64      of the object, seeded with the entry and the place of the record
//  16  object
pub const RECORD_HEADER_BYTES: usize = 16;

// entry, 8 bytes: the first half of a record's header; the summary is the entries of all records
// in order, from which their places follow
//   0  page      u32      the owner
//   4  length-1  u16      bytes of the object, less one
//   6  codec     u8
//   7  flags     u8       0
pub const ENTRY_BYTES: usize = 8;
const _: () = assert!(RECORD_HEADER_BYTES == ENTRY_BYTES + 8);

/// Largest object, bytes: what length-1 can say, and the largest page.
pub const OBJECT_BYTES_MAX: usize = 1 << 16;
/// Records of one segment. With it a summary, wherever in a block it begins, and the tail are read
/// at once.
pub const RECORDS_MAX: u32 = 15 << 10;

/// Bytes that an object takes among the records of a segment in clear.
pub fn record_bytes(object_bytes: u32) -> u32 {
    assert!(
        (1..=OBJECT_BYTES_MAX as u32).contains(&object_bytes),
        "object of {object_bytes} bytes"
    );
    RECORD_HEADER_BYTES as u32 + object_bytes.next_multiple_of(8)
}

/// What the checksums of one generation of one store are seeded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The server instance.
    pub id: u64,
    /// The generation of its state.
    pub generation: u64,
}

impl Key {
    /// Checksum of `bytes` at `at` in the segment of `sequence`; `entry` is zero but for records.
    pub fn checksum(&self, sequence: u64, at: Location, entry: [u8; 8], bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, xxh3_64(&self.place(sequence, at, entry)))
    }

    /// What every checksum depends on besides the bytes.
    pub fn place(&self, sequence: u64, at: Location, entry: [u8; 8]) -> [u8; 40] {
        let mut place = [0; 40];
        place[..8].copy_from_slice(&self.id.to_le_bytes());
        place[8..16].copy_from_slice(&self.generation.to_le_bytes());
        place[16..24].copy_from_slice(&sequence.to_le_bytes());
        place[24..32].copy_from_slice(&at.0.to_le_bytes());
        place[32..].copy_from_slice(&entry);
        place
    }
}

/// How much of a segment is used, and for how many records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub records: u32,
    pub records_bytes: u32,
}

impl Shape {
    /// Byte of the segment where the summary begins.
    pub fn summary_at(self) -> usize {
        HEAD_BYTES + self.records_bytes as usize
    }

    /// Byte of the segment where the summary ends.
    pub fn summary_end(self) -> usize {
        self.summary_at() + self.records as usize * ENTRY_BYTES
    }

    /// Bytes of the segment's write: whole blocks, with the tail at their end.
    pub fn written_bytes(self) -> usize {
        (self.summary_end() + HEAD_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    /// Whether a segment can have this shape.
    pub fn fits(self, segment_bytes: u32) -> bool {
        (1..=RECORDS_MAX).contains(&self.records)
            && self.records_bytes < segment_bytes
            && self.written_bytes() <= segment_bytes as usize
    }
}

/// Head, and tail, of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub sequence: u64,
    pub shape: Shape,
    pub summary_checksum: u64,
}

impl Head {
    /// The bytes of a head of the segment that begins at `start`.
    pub fn encode(&self, form: &Form, start: Location) -> [u8; HEAD_BYTES] {
        let mut raw = [0; HEAD_BYTES];
        raw[..8].copy_from_slice(&HEAD_MAGIC);
        raw[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        raw[16..24].copy_from_slice(&form.key.generation.to_le_bytes());
        raw[24..28].copy_from_slice(&self.shape.records.to_le_bytes());
        raw[28..32].copy_from_slice(&self.shape.records_bytes.to_le_bytes());
        raw[32..40].copy_from_slice(&self.summary_checksum.to_le_bytes());
        let checksum = form.checksum(self.sequence, start, &raw[..40]);
        raw[40..].copy_from_slice(&checksum.to_le_bytes());
        raw
    }

    /// The generation that what looks like a head says it is of.
    pub fn generation(raw: &[u8]) -> Option<u64> {
        (raw[..8] == HEAD_MAGIC).then(|| u64_at(raw, 16))
    }

    /// Bytes of a segment's write by what looks like its head, if they can be.
    pub fn claimed_bytes(raw: &[u8], segment_bytes: u32) -> Option<usize> {
        let shape = Shape {
            records: u32_at(raw, 24),
            records_bytes: u32_at(raw, 28),
        };
        shape.fits(segment_bytes).then(|| shape.written_bytes())
    }

    /// The head that two damaged copies of it come to. They have to differ in few bytes: for each of
    /// these either is tried until the checksum is right, which no wrong choice makes it.
    pub fn mend(
        one: &[u8; HEAD_BYTES],
        other: &[u8; HEAD_BYTES],
        form: &Form,
        start: Location,
        segment_bytes: u32,
    ) -> Option<Self> {
        let differ: Vec<usize> = (0..HEAD_BYTES).filter(|&at| one[at] != other[at]).collect();
        if differ.len() > MEND_BYTES_MAX {
            return None;
        }
        (0..1u32 << differ.len()).find_map(|choice| {
            let mut raw = *one;
            for (bit, &at) in differ.iter().enumerate() {
                if choice & 1 << bit != 0 {
                    raw[at] = other[at];
                }
            }
            Head::decode(&raw, form, start, segment_bytes).ok()
        })
    }

    /// Reads a head or tail of the segment that begins at `start`; every field is bounded here.
    pub fn decode(raw: &[u8], form: &Form, start: Location, segment_bytes: u32) -> Result<Self> {
        assert_eq!(raw.len(), HEAD_BYTES);
        let corrupt = |what, wanted, found| {
            Err(Error::Corrupt {
                what,
                at: start.offset(),
                wanted,
                found,
            })
        };
        let magic = u64::from_le_bytes(HEAD_MAGIC);
        if u64_at(raw, 0) != magic {
            return corrupt("segment magic", magic, u64_at(raw, 0));
        }
        let generation = u64_at(raw, 16);
        if generation != form.key.generation {
            return corrupt("segment generation", form.key.generation, generation);
        }
        let sequence = u64_at(raw, 8);
        let checksum = form.checksum(sequence, start, &raw[..40]);
        if u64_at(raw, 40) != checksum {
            return corrupt("segment checksum", checksum, u64_at(raw, 40));
        }
        let shape = Shape {
            records: u32_at(raw, 24),
            records_bytes: u32_at(raw, 28),
        };
        if sequence == 0 || !shape.fits(segment_bytes) {
            return corrupt(
                "segment size",
                u64::from(segment_bytes),
                shape.records_bytes.into(),
            );
        }
        Ok(Head {
            sequence,
            shape,
            summary_checksum: u64_at(raw, 32),
        })
    }
}

/// Whose object a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub page: u32,
    /// 1..=[`OBJECT_BYTES_MAX`].
    pub bytes: u32,
    pub codec: u8,
}

impl Entry {
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        assert!(
            (1..=OBJECT_BYTES_MAX as u32).contains(&self.bytes),
            "object of {} bytes",
            self.bytes
        );
        let mut raw = [0; ENTRY_BYTES];
        raw[..4].copy_from_slice(&self.page.to_le_bytes());
        raw[4..6].copy_from_slice(&((self.bytes - 1) as u16).to_le_bytes());
        raw[6] = self.codec;
        raw
    }

    /// Nothing when the flags are not those of this version.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        assert_eq!(raw.len(), ENTRY_BYTES);
        let bytes = u32::from(u16::from_le_bytes([raw[4], raw[5]])) + 1;
        (raw[7] == 0).then(|| Entry {
            page: u32_at(raw, 0),
            bytes,
            codec: raw[6],
        })
    }
}

/// Writes the header of a record in clear, whose object is at its place behind it.
pub fn encode_record(
    head: &mut [u8],
    key: &Key,
    sequence: u64,
    at: Location,
    entry: &Entry,
    object: &[u8],
) {
    assert_eq!(object.len(), entry.bytes as usize);
    let header = entry.encode();
    head[..ENTRY_BYTES].copy_from_slice(&header);
    head[ENTRY_BYTES..].copy_from_slice(&key.checksum(sequence, at, header, object).to_le_bytes());
}

/// The object of the record in clear at the beginning of `raw`, if it is the one that is wanted there.
pub fn decode_record<'a>(
    raw: &'a [u8],
    key: &Key,
    sequence: u64,
    at: Location,
    wanted: &Entry,
) -> Result<&'a [u8]> {
    let header = wanted.encode();
    let found = u64_at(raw, 0);
    if found.to_le_bytes() != header {
        let wanted = u64::from_le_bytes(header);
        return Err(Error::Corrupt {
            what: "record header",
            at: at.offset(),
            wanted,
            found,
        });
    }
    let object = &raw[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + wanted.bytes as usize];
    let (wanted, found) = (
        key.checksum(sequence, at, header, object),
        u64_at(raw, ENTRY_BYTES),
    );
    if wanted != found {
        return Err(Error::Corrupt {
            what: "record checksum",
            at: at.offset(),
            wanted,
            found,
        });
    }
    Ok(object)
}

pub fn u32_at(raw: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&raw[at..at + 4]);
    u32::from_le_bytes(word)
}

pub fn u64_at(raw: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&raw[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests;
