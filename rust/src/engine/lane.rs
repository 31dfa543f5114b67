//! What one thread needs to work on pages: codecs, scratch memory, its counters.
//!
//! Made once a thread, so that the page path allocates nothing and shares nothing.
//! Locking: none; a lane has one owner.

use std::sync::Arc;

use super::Engine;
use crate::codec::{Compressor, Decompressor};
use crate::stats::LaneStats;
use crate::zpool::Zpool;

/// A thread's equipment; see [`Engine::lane`].
pub struct Lane {
    pub(super) compressor: Compressor,
    pub(super) decompressor: Decompressor,
    /// A page being put together from old and new bytes.
    pub(super) page: Box<[u8]>,
    /// An object whose bytes were not in one piece.
    pub(super) object: Box<[u8]>,
    /// Writes since this lane last advanced the clock.
    writes: u64,
    /// The counters that this lane writes.
    pub stats: Arc<LaneStats>,
}

impl Lane {
    pub(super) fn new(engine: &Engine, stats: Arc<LaneStats>) -> Lane {
        let page_bytes = engine.page_bytes();
        Lane {
            compressor: Compressor::new(engine.codec, page_bytes),
            decompressor: Decompressor::new(),
            page: vec![0; page_bytes].into_boxed_slice(),
            object: vec![0; engine.tiers.pool.object_bytes_max()].into_boxed_slice(),
            writes: 0,
            stats,
        }
    }

    /// Counts a write; one in many is told to the clock that all threads share.
    pub(super) fn tick(&mut self, engine: &Engine) {
        self.writes += 1;
        if self.writes >= engine.tiers.clock.epoch_writes().min(64) {
            engine.tiers.clock.advance(self.writes);
            self.writes = 0;
            // Rewritten objects leave holes behind: somebody may want to look after them.
            engine.bell().nudge();
        }
    }
}
