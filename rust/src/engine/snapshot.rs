//! All counters at one moment, summed over threads: plain numbers for whoever shows them.
//!
//! Locking: the list of lanes, for the time of the sum; counters go on meanwhile, so sums may be off
//! by what happens while they are taken.

use std::sync::PoisonError;
use std::time::Duration;

use super::Engine;
use crate::codec::{CodecChoice, CodecId};
use crate::stats::{LaneStats, Tier};
use crate::store::StoreStats;
use crate::tiers::Pressure;
use crate::writeback::WritebackStats;
use crate::zpool::{ClassStats, Zpool, ZpoolKind, ZpoolStats};

/// One export.
#[derive(Clone, Debug)]
pub struct ExportSnapshot {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Pages by tier, in the order of [`Tier::ALL`]; in an export of an older life the unwritten
    /// ones count as lost, which is what a read finds.
    pub pages: [u64; Tier::ALL.len()],
    /// Pages in all.
    pub pages_total: u64,
}

/// The pool.
#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    /// Name of the zpool for new pages.
    pub zpool: &'static str,
    /// Objects in zpools that were current before, by name.
    pub former: Vec<(&'static str, u64)>,
    /// Codec for new pages.
    pub codec: CodecChoice,
    /// What it holds.
    pub stats: ZpoolStats,
    /// Bytes of a frame.
    pub frame_bytes: u64,
    /// Hard limit.
    pub limit_bytes: u64,
    /// Bytes that it really holds from the system.
    pub held_bytes: u64,
    /// The most that it ever held.
    pub held_bytes_max: u64,
    /// Of them, those on huge pages.
    pub huge_bytes: u64,
    /// Uncompressed bytes of the pages in it.
    pub logical_bytes: u64,
    /// Pages by codec, in the order of [`CodecId::ALL`].
    pub codec_pages: [u64; CodecId::ALL.len()],
    /// Write-back cannot make more room.
    pub is_stuck: bool,
    /// Every class of the current zpool, then of those that still hold objects.
    pub classes: Vec<(ZpoolKind, ClassStats)>,
}

/// Everything.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The exports.
    pub exports: Vec<ExportSnapshot>,
    /// The pool.
    pub pool: PoolSnapshot,
    /// The store, if there is one.
    pub store: Option<StoreStats>,
    /// For how long its device has been asked something and has answered nothing.
    pub store_unanswered: Duration,
    /// That is too long: it does not answer.
    pub is_store_silent: bool,
    /// Pages of durable exports that the store's log does not have as they are, and those that it has
    /// and that are not synced; None without such exports.
    pub owed_and_unsynced: Option<(u64, u64)>,
    /// Write-back.
    pub writeback: &'a WritebackStats,
    /// Bytes of the page table that are in use.
    pub table_bytes: u64,
    /// See [`LaneStats`].
    pub reject_pool_full: u64,
    /// See [`LaneStats`].
    pub reject_compress_poor: u64,
    /// See [`LaneStats`].
    pub stalls: u64,
    /// See [`LaneStats`].
    pub decompress_fail: u64,
    /// See [`LaneStats`].
    pub fetch_races: u64,
}

impl Engine {
    /// Sums all counters.
    pub fn snapshot(&self) -> Snapshot<'_> {
        let lanes = self
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let sum = |of: &dyn Fn(&LaneStats) -> u64| {
            lanes
                .iter()
                .fold(0u64, |sum, lane| sum.wrapping_add(of(lane)))
        };
        let exports = self.exports.iter().enumerate().map(|(index, export)| {
            let mut pages = Tier::ALL.map(|tier| sum(&|lane| lane.pages(index, tier)));
            let pages_total = u64::from(export.pages);
            if export.is_lost {
                let found: u64 = pages.iter().sum();
                pages[Tier::Lost as usize] += pages_total.saturating_sub(found);
            }
            ExportSnapshot {
                name: export.name.clone(),
                size_bytes: export.size_bytes,
                pages,
                pages_total,
            }
        });
        let codec_pages = CodecId::ALL.map(|id| sum(&|lane| lane.codec_pages[id as usize].get()));
        let arena = self.tiers.pool.arena();
        Snapshot {
            exports: exports.collect(),
            pool: PoolSnapshot {
                zpool: self.tiers.pool.current().name(),
                former: self.former(),
                codec: self.codec.choice(),
                stats: self.tiers.pool.stats(),
                frame_bytes: arena.frame_bytes() as u64,
                limit_bytes: arena.options().pool_bytes_max,
                held_bytes: arena.held_bytes(),
                held_bytes_max: arena.held_bytes_max(),
                huge_bytes: arena.huge_bytes(),
                logical_bytes: codec_pages.iter().sum::<u64>() * self.page_bytes() as u64,
                codec_pages,
                is_stuck: self.tiers.pressure() == Pressure::Stuck,
                classes: self.classes(),
            },
            store: self.tiers.store.as_ref().map(crate::store::Store::stats),
            store_unanswered: self.tiers.unanswered(),
            is_store_silent: self.tiers.is_silent(),
            owed_and_unsynced: (self.tiers.durable.as_ref())
                .map(|durable| (durable.owed.len(), durable.unsynced.len())),
            writeback: &self.writeback_stats,
            table_bytes: self.tiers.table.held_bytes(),
            reject_pool_full: sum(&|lane| lane.reject_pool_full.get()),
            reject_compress_poor: sum(&|lane| lane.reject_compress_poor.get()),
            stalls: sum(&|lane| lane.stalls.get()),
            decompress_fail: sum(&|lane| lane.decompress_fail.get()),
            fetch_races: sum(&|lane| lane.fetch_races.get()),
        }
    }
    fn classes(&self) -> Vec<(ZpoolKind, ClassStats)> {
        let mut classes = Vec::new();
        for (number, pool) in self.tiers.pool.active().enumerate() {
            if number == 0 || pool.stats().objects > 0 {
                pool.classes(&mut |class| classes.push((pool.kind(), class)));
            }
        }
        classes
    }

    /// The zpools that still hold objects and get no new ones.
    fn former(&self) -> Vec<(&'static str, u64)> {
        let pools = &self.tiers.pool;
        let objects = pools
            .former()
            .map(|kind| (kind.name(), pools.pool(kind).stats().objects));
        objects.filter(|(_, count)| *count > 0).collect()
    }
}
