//! The cipher of a store that is encrypted: what is secret, and why nothing ever repeats.
//!
//! AES-256-GCM by *ring*, keys by HKDF-SHA256. From the master key, a salt that is drawn whenever the
//! store begins anew (it stands in the superblock), and the store's instance and generation, four keys
//! are derived, each for one purpose:
//!
//! * *records*: seals an object. The nonce is the segment's sequence and the record's place. A sequence
//!   is used for one write of one segment, across all openings of a generation (`segment`), and a place
//!   once in a segment, so no nonce is ever used twice under one key. Entry and place are associated
//!   data: a record is nothing in another place, nor as another page's.
//! * *entries*: hides page number, length and codec. An entry is xored with AES-256 of sequence and
//!   place: one block of counter mode, whose counter never comes back for the same reason. It has no tag
//!   of its own; that of the record covers it.
//! * *heads*: HMAC-SHA256 in place of the plain checksum of heads and summaries, cut to their 64 bits.
//! * *check*: tells the right key from a wrong one before anything else is read or written.
//!
//! What a stolen disk still tells: that it is a store of nbdswap, its size and that of its segments,
//! how often it was opened, and of each segment how many records it has and how long they are together.
//! What it tells about a single record, its length to 8 bytes, can only be guessed from that sum.
//!
//! It keeps a disk silent that was taken away. It does not keep out who changes the disk and puts it back:
//! damage is noticed, but an older superblock in place of the present one would let the number of
//! openings, and with it sequences, come back.
//!
//! Locking: none, nothing changes after `new`. Nothing here allocates after it.

use std::fmt;
use std::sync::Arc;

use ring::aead::quic::{AES_256, HeaderProtectionKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::{hkdf, hmac};

use super::geometry::Location;
use super::layout::{ENTRY_BYTES, Key};

/// Bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;
/// Bytes of the tag that proves a record.
pub const TAG_BYTES: usize = 16;
/// Bytes that tell the right key from a wrong one.
pub const CHECK_BYTES: usize = 16;

/// The key that all others are derived from. Copies share one place in memory.
#[derive(Clone)]
pub struct MasterKey(Arc<[u8; KEY_BYTES]>);

impl MasterKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> MasterKey {
        MasterKey(Arc::new(bytes))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(secret)")
    }
}

/// How a store is to be encrypted.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// The key.
    pub key: MasterKey,
    /// Never used before; counts only if the store begins anew.
    pub salt: [u8; SALT_BYTES],
}

/// The keys of one generation of one store.
pub struct Cipher {
    records: LessSafeKey,
    entries: HeaderProtectionKey,
    heads: hmac::Key,
    check: [u8; CHECK_BYTES],
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Cipher {
    pub fn new(master: &MasterKey, salt: &[u8; SALT_BYTES], key: &Key) -> Cipher {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&master.0[..]);
        let (id, generation) = (key.id.to_le_bytes(), key.generation.to_le_bytes());
        let fill = |purpose: &str, out: &mut [u8]| {
            let about: [&[u8]; 4] = [b"nbdswap store 2 ", purpose.as_bytes(), &id, &generation];
            let length = Length(out.len());
            let filled = secret.expand(&about, length).and_then(|key| key.fill(out));
            filled.expect("HKDF gives 32 bytes");
        };
        let derive = |purpose: &str| {
            let mut bytes = [0; KEY_BYTES];
            fill(purpose, &mut bytes);
            bytes
        };
        let mut check = [0; CHECK_BYTES];
        fill("check", &mut check);
        let records = UnboundKey::new(&AES_256_GCM, &derive("records"));
        let entries = HeaderProtectionKey::new(&AES_256, &derive("entries"));
        Cipher {
            records: LessSafeKey::new(records.expect("a key of 32 bytes")),
            entries: entries.expect("a key of 32 bytes"),
            heads: hmac::Key::new(hmac::HMAC_SHA256, &derive("heads")),
            check,
        }
    }

    /// What the superblock of a store with these keys says.
    pub fn check(&self) -> [u8; CHECK_BYTES] {
        self.check
    }

    /// Encrypts an object in place; the tag proves it.
    pub fn seal(
        &self,
        sequence: u64,
        at: Location,
        entry: [u8; ENTRY_BYTES],
        object: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let sealed = self.records.seal_in_place_separate_tag(
            nonce(sequence, at),
            associated(at, entry),
            object,
        );
        let tag = sealed.expect("an object is short");
        tag.as_ref().try_into().expect("a tag of 16 bytes")
    }

    /// Decrypts an object in place. False: it is not what was sealed here; then nothing of it is left.
    pub fn open(
        &self,
        sequence: u64,
        at: Location,
        entry: [u8; ENTRY_BYTES],
        tag: [u8; TAG_BYTES],
        object: &mut [u8],
    ) -> bool {
        let opened = self.records.open_in_place_separate_tag(
            nonce(sequence, at),
            associated(at, entry),
            Tag::from(tag),
            object,
            0..,
        );
        opened.is_ok()
    }

    /// Hides an entry, or shows it again.
    pub fn mask(&self, sequence: u64, at: Location, entry: [u8; ENTRY_BYTES]) -> [u8; ENTRY_BYTES] {
        let mut masked = entry;
        for (half, bytes) in masked.chunks_exact_mut(ENTRY_BYTES / 2).enumerate() {
            // A location has 40 bits: its last byte is free for the number of the half.
            let mut block = [0; 16];
            block[..8].copy_from_slice(&sequence.to_le_bytes());
            block[8..].copy_from_slice(&at.0.to_le_bytes());
            block[15] = half as u8;
            let mask = self.entries.new_mask(&block).expect("a block of 16 bytes");
            bytes
                .iter_mut()
                .zip(mask)
                .for_each(|(byte, mask)| *byte ^= mask);
        }
        masked
    }

    /// The checksum of `bytes` at a place, which only who has the key can make.
    pub fn checksum(&self, place: &[u8], bytes: &[u8]) -> u64 {
        let mut context = hmac::Context::with_key(&self.heads);
        context.update(place);
        context.update(bytes);
        let mut word = [0; 8];
        word.copy_from_slice(&context.sign().as_ref()[..8]);
        u64::from_le_bytes(word)
    }
}

fn nonce(sequence: u64, at: Location) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    // The low bits alone tell all places of one segment apart: it has fewer than 2^32.
    nonce[8..].copy_from_slice(&(at.0 as u32).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn associated(at: Location, entry: [u8; ENTRY_BYTES]) -> Aad<[u8; 16]> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&entry);
    bytes[8..].copy_from_slice(&at.0.to_le_bytes());
    Aad::from(bytes)
}
