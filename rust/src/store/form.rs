//! How the records of one generation of one store are made: in clear with a checksum, or sealed.
//!
//! ```text
//! in clear   entry 8 | checksum 8 | object | zeros to a multiple of 8
//! sealed     entry 8, masked | tag 16 | object, encrypted | zeros to a multiple of 8
//! ```
//!
//! A record is placed in a batch as it is, and finished when the segment's sequence is certain, right
//! before the segment is written: once, so that no nonce is used twice.
//!
//! Not here: keys and nonces (`cipher`), heads and entries (`layout`). Locking: none, plain values.

use std::sync::Arc;

use crate::error::{Error, Result};

use super::cipher::{Cipher, TAG_BYTES};
use super::geometry::Location;
use super::layout::{
    ENTRY_BYTES, Entry, Key, OBJECT_BYTES_MAX, RECORD_HEADER_BYTES, decode_record, encode_record,
    record_bytes, u64_at,
};

/// Bytes before the object of a sealed record.
pub const SEALED_HEADER_BYTES: usize = ENTRY_BYTES + TAG_BYTES;
const _: () = assert!(SEALED_HEADER_BYTES == RECORD_HEADER_BYTES + 8);

/// The key of a generation, and its cipher if the store is encrypted.
#[derive(Clone)]
pub struct Form {
    pub key: Key,
    pub cipher: Option<Arc<Cipher>>,
}

impl From<Key> for Form {
    /// Records in clear.
    fn from(key: Key) -> Form {
        Form { key, cipher: None }
    }
}

impl Form {
    /// Bytes before the object of a record.
    pub fn header_bytes(&self) -> usize {
        match self.cipher {
            None => RECORD_HEADER_BYTES,
            Some(_) => SEALED_HEADER_BYTES,
        }
    }

    /// Bytes that an object takes among the records of a segment.
    pub fn record_bytes(&self, object_bytes: u32) -> u32 {
        record_bytes(object_bytes) + (self.header_bytes() - RECORD_HEADER_BYTES) as u32
    }

    /// Checksum of a head or summary that begins at `at`.
    pub fn checksum(&self, sequence: u64, at: Location, bytes: &[u8]) -> u64 {
        match &self.cipher {
            None => self.key.checksum(sequence, at, [0; ENTRY_BYTES], bytes),
            Some(cipher) => {
                let place = self.key.place(sequence, at, [0; ENTRY_BYTES]);
                cipher.checksum(&place, bytes)
            }
        }
    }

    /// Puts a record into `raw`, which is exactly [`record_bytes`](Self::record_bytes) long, but
    /// neither seals nor proves it.
    pub fn place_record(&self, raw: &mut [u8], entry: &Entry, object: &[u8]) {
        assert_eq!(object.len(), entry.bytes as usize);
        assert_eq!(raw.len(), self.record_bytes(entry.bytes) as usize);
        let (head, body) = raw.split_at_mut(self.header_bytes());
        head[..ENTRY_BYTES].copy_from_slice(&entry.encode());
        body[..object.len()].copy_from_slice(object);
        // The buffer was used before: what it held must not reach the disk as padding.
        body[object.len()..].fill(0);
    }

    /// Finishes the record of `entry` that was placed in `raw`. Once: the cipher's nonce is its place.
    pub fn seal_record(&self, raw: &mut [u8], sequence: u64, at: Location, entry: &Entry) {
        let (head, body) = raw.split_at_mut(self.header_bytes());
        let object = &mut body[..entry.bytes as usize];
        let Some(cipher) = &self.cipher else {
            encode_record(head, &self.key, sequence, at, entry, object);
            return;
        };
        let entry = entry.encode();
        let tag = cipher.seal(sequence, at, entry, object);
        head[..ENTRY_BYTES].copy_from_slice(&cipher.mask(sequence, at, entry));
        head[ENTRY_BYTES..].copy_from_slice(&tag);
    }

    /// The entry that a record at this place begins with, or that its segment's summary has for it.
    /// Nothing when it is none of this version.
    pub fn entry(&self, raw: &[u8], sequence: u64, at: Location) -> Option<Entry> {
        let raw: [u8; ENTRY_BYTES] = raw.try_into().expect("an entry of 8 bytes");
        match &self.cipher {
            None => Entry::decode(&raw),
            Some(cipher) => Entry::decode(&cipher.mask(sequence, at, raw)),
        }
    }

    /// The object of the record at the beginning of `raw`, if it is the one that is wanted there. A
    /// sealed one is decrypted into `plain`, since its bytes may be asked for twice.
    pub fn decode_record<'a>(
        &self,
        raw: &'a [u8],
        sequence: u64,
        at: Location,
        wanted: &Entry,
        plain: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let Some(cipher) = &self.cipher else {
            return decode_record(raw, &self.key, sequence, at, wanted);
        };
        let corrupt = |what, wanted, found| Error::Corrupt {
            what,
            at: at.offset(),
            wanted,
            found,
        };
        let entry = wanted.encode();
        let (wanted_word, found) = (
            u64::from_le_bytes(cipher.mask(sequence, at, entry)),
            u64_at(raw, 0),
        );
        if wanted_word != found {
            return Err(corrupt("record header", wanted_word, found));
        }
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&raw[ENTRY_BYTES..SEALED_HEADER_BYTES]);
        let plain = &mut plain[..wanted.bytes as usize];
        plain.copy_from_slice(&raw[SEALED_HEADER_BYTES..SEALED_HEADER_BYTES + plain.len()]);
        if !cipher.open(sequence, at, entry, tag, plain) {
            // What tag was wanted is for nobody to know.
            return Err(corrupt("record seal", 1, 0));
        }
        Ok(plain)
    }
}

/// Largest record, bytes.
pub const RECORD_BYTES_MAX: usize = SEALED_HEADER_BYTES + OBJECT_BYTES_MAX;
