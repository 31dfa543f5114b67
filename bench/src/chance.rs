//! Random numbers that a seed replays: xorshift64*, small enough to cost the client nothing.
//!
//! Locking: none, each connection owns one.

/// A stream of random numbers.
pub struct Chance(u64);

impl Chance {
    /// The stream of `seed`. Streams of neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        // splitmix64: spreads a small seed over all bits and leaves zero, from which xorshift
        // would never move, to one seed in 2^64.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)).max(1))
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a choice among {limit}");
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * limit as u64) >> 32) as usize
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_stream_again_and_another_seed_another_one() {
        let stream = |seed| {
            let mut chance = Chance::new(seed);
            (0..64).map(|_| chance.below(1 << 30)).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }

    #[test]
    fn every_number_below_the_limit_comes_up() {
        let mut chance = Chance::new(1);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[chance.below(10)] += 1;
        }
        assert!(
            seen.iter().all(|&count| (800..1200).contains(&count)),
            "{seen:?}"
        );
    }

    #[test]
    fn a_shuffle_loses_no_item() {
        let mut items: Vec<_> = (0..100).collect();
        Chance::new(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
