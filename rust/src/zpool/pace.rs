//! How many objects may be moved inside a pool while somebody writes to it: so many for each write, and only while holes are more
//! than a certain share of the pool. The looser a pool is for its size, the more is moved.
//!
//! Measured with zfit and lz4 objects of 4 KiB pages that are overwritten at random (`bench/pools`): a store of 768 MiB
//! needs 0.03 moves for a write, one of 96 MiB 0.3 and one of 16 MiB 0.6.
//!
//! Locking: none; who moves objects has one.

use super::ZpoolStats;

/// Holes are to be at most this share of what blocks hold: 1/112.
const HOLES_SHARE: u64 = 112;

/// With more than this share of holes, 1/16, pages were discarded: what is written next has room there, and nothing need move.
const HOLES_SHARE_DISCARDED: u64 = 16;

/// Objects that may be moved for each write.
const MOVES_PER_WRITE: u64 = 2;

/// When no object was found to be moved, it is looked again after this share of the objects was written, 1/64: to look through a
/// large pool in vain takes milliseconds.
const AWAITED_SHARE: u64 = 64;

/// What may be moved now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    moves: u64,
    /// Writes before it is looked again.
    awaited: u64,
}

impl Pace {
    /// Somebody wrote so many objects.
    pub fn note_writes(&mut self, writes: u64) {
        let counted = writes.saturating_sub(self.awaited);
        self.awaited = self.awaited.saturating_sub(writes);
        let moves = counted.saturating_mul(MOVES_PER_WRITE);
        self.moves = self.moves.saturating_add(moves);
    }

    /// Whether objects may be moved. What was allowed is gone if there is no need: it is not saved up.
    pub fn allows(&mut self, pool: &ZpoolStats) -> bool {
        let holes = pool.block_bytes - pool.slot_bytes;
        let shares = pool.block_bytes / HOLES_SHARE..pool.block_bytes / HOLES_SHARE_DISCARDED;
        if holes <= shares.start || holes > shares.end {
            self.moves = 0;
        }
        self.moves > 0
    }

    /// So many objects were moved, of a pool with so many; if none, no more are for a while.
    pub fn note_moves(&mut self, moves: u64, objects: u64) {
        if moves == 0 {
            self.moves = 0;
            self.awaited = objects / AWAITED_SHARE;
        } else {
            self.moves = self.moves.saturating_sub(moves);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(holes_bytes: u64) -> ZpoolStats {
        ZpoolStats {
            block_bytes: 8000,
            slot_bytes: 8000 - holes_bytes,
            ..ZpoolStats::default()
        }
    }

    #[test]
    fn two_objects_may_move_for_a_write_to_a_pool_with_holes() {
        let mut pace = Pace::default();
        assert!(!pace.allows(&pool(72)), "nobody wrote");
        pace.note_writes(2);
        assert!(pace.allows(&pool(72)));
        pace.note_moves(3, 640);
        assert!(pace.allows(&pool(72)));
        pace.note_moves(3, 640);
        assert!(!pace.allows(&pool(72)));
    }

    #[test]
    fn what_was_allowed_is_lost_when_nothing_is_to_be_moved() {
        let mut pace = Pace::default();
        pace.note_writes(2);
        assert!(!pace.allows(&pool(71)), "dense enough");
        assert!(!pace.allows(&pool(72)));
        pace.note_writes(2);
        assert!(pace.allows(&pool(500)));
        assert!(!pace.allows(&pool(501)), "there is much room");
        assert!(!pace.allows(&pool(500)));
    }

    #[test]
    fn when_nothing_could_be_moved_it_is_looked_again_after_some_writes() {
        let mut pace = Pace::default();
        pace.note_writes(2);
        pace.note_moves(0, 640);
        pace.note_writes(9);
        assert!(!pace.allows(&pool(72)));
        pace.note_writes(1);
        assert!(!pace.allows(&pool(72)));
        pace.note_writes(1);
        assert!(pace.allows(&pool(72)));
    }
}
