//! How many objects may be moved inside a pool while somebody writes to it: so many for each write, and only while holes are more
//! than a certain share of the pool. The looser a pool is for its size, the more is moved.
//!
//! Measured with zfit and lz4 objects of 4 KiB pages that are overwritten at random (`bench/pools`): a store of 768 MiB
//! needs 0.06 moves for a write, one of 96 MiB 0.32 and one of 16 MiB 0.64.
//!
//! Locking: none; who moves objects has one.

use super::ZpoolStats;

/// Holes are to be at most this share of what blocks hold: 1/100.
const HOLES_SHARE: u64 = 100;

/// Objects that may be moved for each write.
const MOVES_PER_WRITE: u64 = 2;

/// What may be moved now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    moves: u64,
}

impl Pace {
    /// Somebody wrote so many objects.
    pub fn note_writes(&mut self, writes: u64) {
        self.moves = self
            .moves
            .saturating_add(writes.saturating_mul(MOVES_PER_WRITE));
    }

    /// Whether objects may be moved. What was allowed is gone if the pool is dense enough: it is not saved up.
    pub fn allows(&mut self, pool: &ZpoolStats) -> bool {
        if pool.block_bytes - pool.slot_bytes <= pool.block_bytes / HOLES_SHARE {
            self.moves = 0;
        }
        self.moves > 0
    }

    /// So many objects were moved; if none, no more are until somebody writes.
    pub fn note_moves(&mut self, moves: u64) {
        self.moves = match moves {
            0 => 0,
            moves => self.moves.saturating_sub(moves),
        };
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
        assert!(!pace.allows(&pool(81)), "nobody wrote");
        pace.note_writes(2);
        assert!(pace.allows(&pool(81)));
        pace.note_moves(3);
        assert!(pace.allows(&pool(81)));
        pace.note_moves(3);
        assert!(!pace.allows(&pool(81)));
    }

    #[test]
    fn what_was_allowed_is_lost_when_nothing_is_to_be_moved() {
        let mut pace = Pace::default();
        pace.note_writes(2);
        assert!(!pace.allows(&pool(80)), "dense enough");
        assert!(!pace.allows(&pool(81)));
        pace.note_writes(2);
        pace.note_moves(0);
        assert!(!pace.allows(&pool(81)), "nothing could be moved");
    }
}
