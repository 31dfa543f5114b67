//! The seeds of random tests, and the chance that they give.

pub use crate::random::Random;

/// The seeds to run: the one in `SEED`, or the first `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}
