//! How a pool's density went over a whole run: a moment every so many operations.
//!
//! Locking: none; a run has one timeline.

use crate::zpool::Zpool;

/// Moments of a run, if it has as many operations as was guessed.
const MOMENTS: u64 = 200;

/// What the pool held at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Allocations and frees so far.
    pub operations: u64,
    /// Sum of the sizes of the objects.
    pub object_bytes: u64,
    /// Frames of blocks and their side words.
    pub block_bytes: u64,
}

/// Moments in the order of time.
#[derive(Debug)]
pub struct Timeline {
    every: u64,
    operations: u64,
    moments: Vec<Moment>,
}

impl Timeline {
    /// For a run of about so many operations.
    pub fn new(operations: u64) -> Timeline {
        Timeline {
            every: (operations / MOMENTS).max(1),
            operations: 0,
            moments: Vec::with_capacity(MOMENTS as usize * 2),
        }
    }

    /// Counts operations; looks at the pool if the next moment has come.
    pub fn advance(&mut self, operations: u64, pool: &dyn Zpool) {
        self.operations += operations;
        let last = self.moments.last().map_or(0, |moment| moment.operations);
        if self.operations - last >= self.every {
            self.look(pool);
        }
    }

    /// The moments, the last of them now.
    pub fn finish(mut self, pool: &dyn Zpool) -> Vec<Moment> {
        self.look(pool);
        self.moments
    }

    fn look(&mut self, pool: &dyn Zpool) {
        let stats = pool.stats();
        self.moments.push(Moment {
            operations: self.operations,
            object_bytes: stats.object_bytes,
            block_bytes: stats.block_bytes + stats.index_bytes,
        });
    }
}
