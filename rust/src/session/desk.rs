//! What a worker lends to whichever of its sessions is at work.

use std::sync::Arc;
use std::time::Instant;

use super::boxes::Boxes;
use super::metrics::{Shard, Tally};
use super::pages::Pages;
use crate::engine::StorePlace;
use crate::page::PageId;

/// Pages, scratch memory, fetch boxes, counters and the time. One for each worker.
pub struct Desk<P: Pages> {
    /// The pages of all exports.
    pub pages: Arc<P>,
    /// The worker's lane.
    pub lane: P::Lane,
    /// The worker's fetches.
    pub boxes: Boxes,
    /// Where the worker counts.
    pub shard: Arc<Shard>,
    /// Requests answered since the worker last settled it.
    pub tally: Tally,
    /// The time, as of when the worker began to serve this session.
    pub now: Instant,
    /// How often space in the pool was announced.
    pub space_epoch: u64,
    /// One page, for reads of parts of it.
    pub(super) scratch: Box<[u8]>,
    /// Pages of a piece that are in the store.
    pub(super) missing: Vec<(PageId, StorePlace)>,
}

impl<P: Pages> Desk<P> {
    /// The desk of a worker that has `boxes` and counts in `shard`.
    pub fn new(pages: Arc<P>, boxes: Boxes, shard: Arc<Shard>, now: Instant) -> Self {
        let page_bytes = pages.page_bytes();
        let lane = pages.lane();
        Desk {
            lane,
            boxes,
            shard,
            tally: Tally::default(),
            now,
            space_epoch: 0,
            scratch: vec![0xff; page_bytes].into_boxed_slice(),
            missing: Vec::with_capacity(super::export::PIECE_BYTES as usize / page_bytes),
            pages,
        }
    }
}
