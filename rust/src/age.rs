//! Which pages leave memory next: the whole age policy.
//!
//! Time is counted in writes. Every object carries a 16-bit stamp, the epoch it was written in; an
//! epoch is a 256th of what the pool holds, so a pool that is full of one burst has about 256 ages.
//!
//! * The oldest go first. Age is the number of epochs since the *write*: an object's compressed bytes
//!   are written once, and a rewrite is a new object.
//! * A page that was *read* since it was written goes before every page that was not. What the client
//!   has just read it has in its own memory; it asks again only if it drops the page unchanged, and an
//!   NBD server cannot know. (The kernel's zswap drops its copy at this point; we must not.)
//! * Within what leaves together, pages go in the order of their numbers, so that neighbours lie side
//!   by side on the device and come back with one read (`writeback` sorts them).
//!
//! A census over the pool turns "free so many bytes" into a threshold age; a second pass takes what is
//! older. No list is kept, so a write costs one stamp and a read at most one mark.
//!
//! Ages wrap after 65,536 epochs without a rewrite, 256 times the pool: the cost is one wrong choice.
//! Locking: none; the clock is one relaxed atomic.

use std::sync::atomic::{AtomicU64, Ordering};

/// Epochs that a full pool spans.
const EPOCHS_PER_POOL: u64 = 256;

/// Ages that the census tells apart; everything older is one.
const CENSUS_AGES: usize = 1024;

/// Mean bytes of a compressed 4 KiB page, to guess how many objects a pool holds. Measured on
/// anonymous memory of eight kinds of programs with lz4: 1.9 KiB.
const OBJECT_BYTES_GUESS: u64 = 2048;

/// Older than any age by the clock: a page that was read.
pub const AGE_READ: u16 = u16::MAX;

/// The clock of the pool: it ticks with writes.
#[derive(Debug)]
pub struct Clock {
    writes: AtomicU64,
    epoch_shift: u32,
}

impl Clock {
    /// A clock for a pool of `pool_bytes_max`.
    pub fn new(pool_bytes_max: u64) -> Clock {
        let epoch_writes = (pool_bytes_max / OBJECT_BYTES_GUESS / EPOCHS_PER_POOL).max(1);
        Clock {
            writes: AtomicU64::new(0),
            epoch_shift: epoch_writes.ilog2(),
        }
    }

    /// Writes in an epoch: threads may count up to so many of their own before they advance the clock.
    pub fn epoch_writes(&self) -> u64 {
        1 << self.epoch_shift
    }

    /// `writes` pages were written.
    pub fn advance(&self, writes: u64) {
        self.writes.fetch_add(writes, Ordering::Relaxed);
    }

    /// All writes so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The stamp of an object that is written now.
    pub fn stamp(&self) -> u16 {
        (self.writes.load(Ordering::Relaxed) >> self.epoch_shift) as u16
    }
}

/// Age of an object: how soon it should leave; [`AGE_READ`] is first.
pub fn age(stamp: u16, now: u16, is_read: bool) -> u16 {
    if is_read {
        AGE_READ
    } else {
        now.wrapping_sub(stamp).min(AGE_READ - 1)
    }
}

/// Bytes of the pool by age.
pub struct Census {
    bytes: Box<[u64; CENSUS_AGES]>,
}

impl Default for Census {
    fn default() -> Self {
        Census {
            bytes: Box::new([0; CENSUS_AGES]),
        }
    }
}

impl Census {
    /// Starts over.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
    }

    /// Counts an object.
    pub fn add(&mut self, age: u16, bytes: usize) {
        self.bytes[usize::from(age).min(CENSUS_AGES - 1)] += bytes as u64;
    }

    /// The largest age such that objects of at least that age are at least `bytes` together; 0 if
    /// everything together is not. Pages that were read count as older than the last age told apart,
    /// and are taken before it.
    pub fn threshold(&self, bytes: u64) -> u16 {
        let mut sum = 0;
        for (age, here) in self.bytes.iter().enumerate().rev() {
            sum += here;
            if sum >= bytes {
                return age as u16;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_read_is_older_than_every_other() {
        for (stamp, now) in [(0, 0), (0, 65535), (65535, 0), (7, 300)] {
            assert!(age(stamp, now, true) > age(stamp, now, false));
        }
    }

    #[test]
    fn age_grows_with_the_clock_and_over_its_end() {
        assert_eq!(age(10, 10, false), 0);
        assert_eq!(age(10, 15, false), 5);
        assert_eq!(age(65530, 4, false), 10);
    }

    #[test]
    fn the_threshold_takes_the_oldest_that_are_enough() {
        let mut census = Census::default();
        for (age, bytes) in [(0, 100), (5, 10), (9, 10), (700, 3)] {
            census.add(age, bytes);
        }
        assert_eq!(census.threshold(3), 700);
        assert_eq!(census.threshold(4), 9);
        assert_eq!(census.threshold(13), 9);
        assert_eq!(census.threshold(23), 5);
        assert_eq!(census.threshold(24), 0);
        assert_eq!(census.threshold(1 << 40), 0);
        census.add(AGE_READ, 8);
        assert_eq!(census.threshold(8), 1023);
    }

    #[test]
    fn the_clock_counts_epochs_of_a_256th_of_the_pool() {
        let clock = Clock::new(512 << 20);
        assert_eq!(clock.epoch_writes(), 1024);
        clock.advance(1023);
        assert_eq!(clock.stamp(), 0);
        clock.advance(1);
        assert_eq!(clock.stamp(), 1);
        assert_eq!(Clock::new(4096).epoch_writes(), 1);
    }
}
