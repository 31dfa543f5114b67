//! What the lab's objects contain: bytes that tell one object from another.
//!
//! A piece of random bytes, cut out at a place that follows from the object's number. Nothing has
//! to be made before an object is stored, and the source is in the cache, as a page that was just
//! compressed is.
//!
//! Locking: none, the bytes do not change.

use crate::random::Random;

/// Places where an object's bytes may begin: a wrong object looks right once in so many times.
const PLACES: usize = 16 << 10;

/// The bytes of all objects.
pub struct Noise(Vec<u8>);

impl Noise {
    /// Noise for objects of up to `object_bytes_max`.
    pub fn new(object_bytes_max: usize) -> Noise {
        let mut random = Random::new(0);
        let words = (PLACES + object_bytes_max).div_ceil(8);
        Noise(
            (0..words)
                .flat_map(|_| random.bits().to_le_bytes())
                .collect(),
        )
    }

    /// The bytes of the object that was written as number `serial`.
    #[inline]
    pub fn object(&self, serial: u32, bytes: u32) -> &[u8] {
        // A multiplicative hash (Knuth): the high bits depend on all of the number's.
        let hash = u64::from(serial).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (hash >> 32) as usize % PLACES;
        &self.0[place..place + bytes as usize]
    }
}
