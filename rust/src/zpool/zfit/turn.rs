//! Which shard a thread's next object goes to.
//!
//! A thread stays with a shard for many objects, so that the shard's lists stay in the cache of its
//! core. Then it goes on to the next one, so that all shards get the same share of what one thread
//! stores, and at once if it meets another thread. (glibc's malloc chooses its arenas like that,
//! but for the first.)
//!
//! Locking: none, each thread has its own.

use std::cell::Cell;

/// Objects that go to one shard. To come into a shard that another core worked in takes some dozens of
/// cache misses.
pub const STAY: u32 = 1024;

thread_local! {
    /// Objects of this thread so far, as if none had gone on early.
    static TAKEN: Cell<u32> = const { Cell::new(0) };
}

/// The shard of this thread at present, of so many.
#[inline]
pub fn current(shards: usize) -> usize {
    match shards {
        1 => 0,
        _ => (TAKEN.get() / STAY) as usize % shards,
    }
}

/// An object goes to `shard` of so many.
#[inline]
pub fn take(shard: usize, shards: usize) {
    let taken = match shard == current(shards) {
        true => TAKEN.get().wrapping_add(1),
        false => shard as u32 * STAY,
    };
    TAKEN.set(taken);
}

/// Begins with the first shard: for a new pool, so that what one thread does with it can be repeated.
pub fn begin() {
    TAKEN.set(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_get_equal_shares_and_who_left_early_stays_where_it_went() {
        begin();
        let mut shares = [0; 3];
        for _ in 0..9 * STAY {
            shares[current(3)] += 1;
            take(current(3), 3);
        }
        assert_eq!(shares, [3 * STAY; 3]);
        take(1, 3);
        (0..STAY - 1).for_each(|_| take(current(3), 3));
        assert_eq!(current(3), 1);
        take(1, 3);
        assert_eq!(current(3), 2);
    }
}
