//! Which shard a thread's next object goes to.
//!
//! A thread stays with a shard for many objects, so that the shard's lists stay in the cache of its
//! core. Then it goes on to the next one, so that all shards get the same share of what one thread
//! stores, and at once if it meets another thread. (glibc's malloc chooses its arenas like that,
//! but for the first.)
//!
//! Threads that seldom meet have one shard: it is denser than two, and a thread that is alone has nothing to hand in
//! elsewhere.
//!
//! Locking: none, each thread has its own turn; the shard's lock is held where meetings are counted.

use std::cell::Cell;

/// Objects that go to one shard. To come into a shard that another core worked in takes some dozens of
/// cache misses.
pub const STAY: u32 = 1024;

/// Threads meet too often if they find all shards busy so many times while a shard takes as many objects as in a stay: for
/// one object of 16. Threads of a server do more than to allocate, and wait for each other far less.
const MEETINGS: u32 = STAY / 16;

thread_local! {
    /// Objects of this thread while several shards were in use, as if none had gone on early.
    static TAKEN: Cell<u32> = const { Cell::new(0) };
}

/// How often threads that found all shards busy waited for one.
#[derive(Default)]
pub struct Meetings {
    count: u32,
    /// Objects that the shard had taken when they began to be counted.
    since: u64,
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
    if shards == 1 {
        return;
    }
    let taken = match shard == current(shards) {
        true => TAKEN.get().wrapping_add(1),
        false => shard as u32 * STAY,
    };
    TAKEN.set(taken);
}

impl Meetings {
    /// One more, when the shard has taken so many objects ever. Whether that is so too often.
    pub fn add(&mut self, taken: u64) -> bool {
        if taken - self.since >= u64::from(STAY) {
            *self = Meetings {
                count: 0,
                since: taken,
            };
        }
        self.count += 1;
        self.count >= MEETINGS
    }
}

/// Begins with the first shard: for a new pool, so that what one thread does with it can be repeated.
pub fn begin() {
    TAKEN.set(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meetings_count_that_come_close_together() {
        let mut meetings = Meetings::default();
        assert!((1..MEETINGS).all(|_| !meetings.add(7)));
        let late = 7 + u64::from(STAY);
        assert!((1..MEETINGS).all(|_| !meetings.add(late)));
        assert!(meetings.add(late + u64::from(STAY) - 1));
    }

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
