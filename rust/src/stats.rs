//! What happened, counted: one reason a counter, one writer a shard, summed when somebody asks.
//!
//! Every thread that works on pages owns a [`LaneStats`]; a counter is a plain load and store there,
//! never a locked instruction. Gauges are kept as wrapping differences: a page that one thread put
//! into the pool and another took out sums up to nothing.
//! Locking: none; each shard is written by the thread that holds its lane.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::CodecId;
use crate::table::{ObjectAt, Place, Word};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; only the owner of the shard calls it.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away; the shard's own value may wrap, the sum over all shards does not.
    pub fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Makes it `n`, for what is a state and not a count.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a page was when a request found it, or where it went: the label of histograms and gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// Reads as zeros and takes no memory: written as zeros, discarded or never written.
    Zero,
    /// One repeated word.
    Same,
    /// Compressed in the pool.
    Pool,
    /// Incompressible, as it is in the pool.
    Raw,
    /// On the backing file.
    Store,
    /// Gone: answered with an error.
    Lost,
}

impl Tier {
    /// All tiers, in the order of their numbers.
    pub const ALL: [Tier; 6] = [
        Tier::Zero,
        Tier::Same,
        Tier::Pool,
        Tier::Raw,
        Tier::Store,
        Tier::Lost,
    ];

    /// The name in metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Zero => "zero",
            Tier::Same => "same_filled",
            Tier::Pool => "pool",
            Tier::Raw => "raw",
            Tier::Store => "store",
            Tier::Lost => "lost",
        }
    }

    /// The tier of a page. None: it was never written.
    pub fn of(word: Word) -> Option<Tier> {
        Some(match word.place() {
            Place::Unwritten => return None,
            Place::Hole | Place::Same(0) => Tier::Zero,
            Place::Same(_)
            | Place::Pool(ObjectAt {
                codec: CodecId::Repeat,
                ..
            }) => Tier::Same,
            Place::Pool(ObjectAt {
                codec: CodecId::None,
                ..
            }) => Tier::Raw,
            Place::Pool(_) => Tier::Pool,
            Place::Store(_) => Tier::Store,
            Place::Lost => Tier::Lost,
        })
    }
}

/// The counters of one thread's work on pages.
#[derive(Debug)]
pub struct LaneStats {
    /// Pages of each export by tier.
    pages: Box<[[Counter; Tier::ALL.len()]]>,
    /// Pages in the pool by codec.
    pub codec_pages: [Counter; CodecId::ALL.len()],
    /// A write that found no place in the pool and no hope of one: the client got ENOSPC.
    pub reject_pool_full: Counter,
    /// A write that waited for write-back to make room.
    pub stalls: Counter,
    /// A page that the codec could not shrink enough to save memory; it was kept raw.
    pub reject_compress_poor: Counter,
    /// An object in the pool that could not be decompressed: memory was damaged.
    pub decompress_fail: Counter,
    /// A page that came back from the store and had been changed meanwhile; it was read again.
    pub fetch_races: Counter,
}

impl LaneStats {
    /// Counters for a server of `exports` exports.
    pub fn new(exports: usize) -> LaneStats {
        LaneStats {
            pages: (0..exports).map(|_| Default::default()).collect(),
            codec_pages: Default::default(),
            reject_pool_full: Counter::default(),
            stalls: Counter::default(),
            reject_compress_poor: Counter::default(),
            decompress_fail: Counter::default(),
            fetch_races: Counter::default(),
        }
    }

    /// Pages of `export` in `tier`, as this shard's difference.
    pub fn pages(&self, export: usize, tier: Tier) -> u64 {
        self.pages[export][tier as usize].get()
    }

    /// A page of `export` went from one place to another.
    pub fn moved(&self, export: usize, old: Word, new: Word) {
        let (from, to) = (Tier::of(old), Tier::of(new));
        if from != to {
            if let Some(tier) = from {
                self.pages[export][tier as usize].sub(1);
            }
            if let Some(tier) = to {
                self.pages[export][tier as usize].add(1);
            }
        }
        if let Place::Pool(object) = old.place() {
            self.codec_pages[object.codec as usize].sub(1);
        }
        if let Place::Pool(object) = new.place() {
            self.codec_pages[object.codec as usize].add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zpool::Handle;

    #[test]
    fn a_page_that_two_shards_moved_is_counted_once() {
        let (first, second) = (LaneStats::new(1), LaneStats::new(1));
        let pooled = Word::of(Place::Pool(ObjectAt {
            codec: CodecId::Lz4,
            bytes: 100,
            at: Handle(5),
        }));
        first.moved(0, Word::default(), pooled);
        second.moved(0, pooled, Word::of(Place::Same(0)));
        let sum = |tier| first.pages(0, tier).wrapping_add(second.pages(0, tier));
        assert_eq!(sum(Tier::Pool), 0);
        assert_eq!(sum(Tier::Zero), 1);
        let lz4 = CodecId::Lz4 as usize;
        assert_eq!(
            first.codec_pages[lz4]
                .get()
                .wrapping_add(second.codec_pages[lz4].get()),
            0
        );
    }
}
