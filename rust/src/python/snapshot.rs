//! Counters as Python sees them: each struct becomes a dict with the names of its fields, which
//! `nbdswap/snapshots.py` documents.
//!
//! Locking: none.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;

use super::{Running, io_of};
use crate::background::Background;
use crate::codec::CodecId;
use crate::engine::{Engine, ExportId, ExportSnapshot, PoolSnapshot, Snapshot};
use crate::session::metrics::{Histogram, LatencySnapshot, Op, sum_latency, sum_op};
use crate::stats::Tier;
use crate::wire::Errno;
use crate::worker::Workers;
use crate::writeback::ScrubStats;

type Names<T> = HashMap<&'static str, T>;

#[derive(IntoPyObject)]
pub(super) struct CoreView {
    exports: Vec<ExportView>,
    pool: PoolView,
    store: Option<StoreView>,
    table: TableView,
    fixed_bytes: u64,
    connections: ConnectionsView,
    workers: Vec<WorkerView>,
    latency: Vec<LatencyView>,
}

#[derive(IntoPyObject)]
struct ExportView {
    name: String,
    size_bytes: u64,
    pages_total: u64,
    pages: Names<u64>,
    requests: Names<u64>,
    bytes: Names<u64>,
    errors: Names<Names<u64>>,
}

#[derive(IntoPyObject)]
struct PoolView {
    zpool: &'static str,
    former_objects: Names<u64>,
    codec: &'static str,
    codec_level: i32,
    frame_bytes: u64,
    limit_bytes: u64,
    used_bytes: u64,
    used_bytes_max: u64,
    huge_bytes: u64,
    block_bytes: u64,
    slot_bytes: u64,
    compressed_bytes: u64,
    logical_bytes: u64,
    objects: u64,
    codec_pages: Names<u64>,
    pages_compacted: u64,
    pages_moved: u64,
    high_mark_hits: u64,
    is_stuck: bool,
    rejects: Names<u64>,
    classes: Vec<ClassView>,
}

#[derive(IntoPyObject)]
struct ClassView {
    zpool: &'static str,
    object_bytes_max: u32,
    block_frames: u32,
    block_slots: u32,
    blocks: u64,
    frames: u64,
    slots: u64,
    slots_used: u64,
    freeable_frames: u64,
    fullness: Vec<u64>,
}

#[derive(IntoPyObject)]
struct StoreView {
    path: String,
    capacity_bytes: u64,
    used_bytes: u64,
    live_bytes: u64,
    written_bytes: u64,
    read_bytes: u64,
    segments_free: u64,
    segments_suspect: u64,
    segments_broken: u64,
    segments_cleaned: u64,
    records_written: u64,
    records_read: u64,
    ahead_spans: u64,
    ahead_records: u64,
    ahead_unused_bytes: u64,
    pages_written_back: u64,
    bytes_written_back: u64,
    pages_overtaken: u64,
    pages_cleaned: u64,
    bytes_cleaned: u64,
    segments_by_live_share: Vec<u64>,
    write_budget_left_bytes: Option<u64>,
    write_budget_waits: u64,
    over_budget: bool,
    write_errors: u64,
    read_errors: u64,
    checksum_errors: u64,
    discarded_bytes: u64,
    fetch_races: u64,
    degraded: bool,
    out_of_space: bool,
    silent: bool,
    unanswered_seconds: f64,
    encrypted: bool,
    io: &'static str,
    io_reason: String,
    summary_errors: u64,
    scrub: ScrubView,
    durable: Option<DurableView>,
}

#[derive(IntoPyObject)]
struct DurableView {
    owed_pages: u64,
    unsynced_pages: u64,
    segments_held: u64,
    checkpoints: u64,
    checkpoints_failed: u64,
    pages_written_down: u64,
    syncs_failed: u64,
    recovered_pages: Option<u64>,
    recovery_seconds: Option<f64>,
}

#[derive(IntoPyObject)]
struct ScrubView {
    segments: u64,
    segments_done: u64,
    passes: u64,
    passed_at: Option<f64>,
    bytes: u64,
    pages_lost: u64,
    records_unreadable: u64,
}

#[derive(IntoPyObject)]
struct TableView {
    bytes_resident: u64,
}

#[derive(IntoPyObject)]
struct ConnectionsView {
    open: u64,
    accepted_total: u64,
    closed_total: u64,
}

#[derive(IntoPyObject)]
struct WorkerView {
    polls: u64,
    poll_hits: u64,
    sleeps: u64,
    requests: u64,
}

#[derive(IntoPyObject)]
struct LatencyView {
    op: &'static str,
    tier: &'static str,
    bounds_seconds: Vec<f64>,
    counts: Vec<u64>,
    sum_seconds: f64,
}

/// Takes all counters of a running core.
pub(super) fn view(running: &Running) -> CoreView {
    let snapshot = running.engine.snapshot();
    let workers = running.workers.as_deref();
    let (open, accepted) = workers.map_or((0, 0), Workers::connections);
    CoreView {
        exports: (0u16..)
            .zip(&snapshot.exports)
            .map(|(id, export)| export_view(ExportId(id), export, workers))
            .collect(),
        pool: pool_view(&snapshot, &snapshot.pool),
        store: store_view(&snapshot, running),
        table: TableView {
            bytes_resident: snapshot.table_bytes,
        },
        fixed_bytes: workers.map_or(0, Workers::buffer_bytes),
        connections: ConnectionsView {
            open,
            accepted_total: accepted,
            closed_total: accepted - open,
        },
        workers: workers.map_or_else(Vec::new, worker_views),
        latency: workers.map_or_else(Vec::new, |workers| {
            sum_latency(workers.shards())
                .into_iter()
                .map(latency_view)
                .collect()
        }),
    }
}

fn export_view(
    id: ExportId,
    export: &ExportSnapshot,
    workers: Option<&Workers<Engine>>,
) -> ExportView {
    let mut pages: Names<u64> = Tier::ALL
        .iter()
        .map(|tier| tier.name())
        .zip(export.pages)
        .collect();
    let written: u64 = export.pages.iter().sum();
    pages.insert("unwritten", export.pages_total.saturating_sub(written));
    let sums = |op| workers.map_or_else(Default::default, |w| sum_op(w.shards(), id, op));
    let errors = |op| {
        let names = Errno::ALL.iter().map(|errno| errno.name());
        names
            .zip(sums(op).errors)
            .filter(|(_, count)| *count > 0)
            .collect()
    };
    ExportView {
        name: export.name.clone(),
        size_bytes: export.size_bytes,
        pages_total: export.pages_total,
        pages,
        requests: Op::ALL
            .iter()
            .map(|&op| (op.name(), sums(op).requests))
            .collect(),
        bytes: Op::ALL
            .iter()
            .map(|&op| (op.name(), sums(op).bytes))
            .collect(),
        errors: Op::ALL.iter().map(|&op| (op.name(), errors(op))).collect(),
    }
}

fn pool_view(snapshot: &Snapshot<'_>, pool: &PoolSnapshot) -> PoolView {
    PoolView {
        zpool: pool.zpool,
        former_objects: pool.former.iter().copied().collect(),
        codec: pool.codec.name(),
        codec_level: pool.codec.level(),
        frame_bytes: pool.frame_bytes,
        limit_bytes: pool.limit_bytes,
        used_bytes: pool.held_bytes,
        used_bytes_max: pool.held_bytes_max,
        huge_bytes: pool.huge_bytes,
        block_bytes: pool.stats.block_bytes,
        slot_bytes: pool.stats.slot_bytes,
        compressed_bytes: pool.stats.object_bytes,
        logical_bytes: pool.logical_bytes,
        objects: pool.stats.objects,
        codec_pages: CodecId::ALL
            .iter()
            .map(|id| id.name())
            .zip(pool.codec_pages)
            .collect(),
        pages_compacted: snapshot.writeback.pages_compacted.get(),
        pages_moved: snapshot.writeback.pages_moved.get(),
        high_mark_hits: snapshot.writeback.high_mark_hits.get(),
        is_stuck: pool.is_stuck,
        rejects: HashMap::from([
            ("pool_full", snapshot.reject_pool_full),
            ("compress_poor", snapshot.reject_compress_poor),
            ("alloc_retry", snapshot.stalls),
            ("decompress_fail", snapshot.decompress_fail),
        ]),
        classes: pool
            .classes
            .iter()
            .map(|(zpool, class)| ClassView {
                zpool: zpool.name(),
                object_bytes_max: class.object_bytes_max,
                block_frames: class.block_frames,
                block_slots: class.block_slots,
                blocks: class.blocks,
                frames: class.frames,
                slots: class.slots,
                slots_used: class.slots_used,
                freeable_frames: class.freeable_frames,
                fullness: class.fullness.to_vec(),
            })
            .collect(),
    }
}

fn store_view(snapshot: &Snapshot<'_>, running: &Running) -> Option<StoreView> {
    let store = snapshot.store.as_ref()?;
    let writeback = snapshot.writeback;
    let (io, io_reason) = io_of(running.engine.store_reading());
    Some(StoreView {
        path: running.store_path.clone().unwrap_or_default(),
        capacity_bytes: store.capacity_bytes,
        used_bytes: store.used_bytes,
        live_bytes: store.live_bytes,
        written_bytes: store.written_bytes,
        read_bytes: store.read_bytes,
        segments_free: store.segments_free,
        segments_suspect: store.segments_suspect,
        segments_broken: store.segments_broken,
        segments_cleaned: store.segments_cleaned,
        records_written: store.records_written,
        records_read: store.records_read,
        pages_written_back: writeback.pages_written_back.get(),
        bytes_written_back: writeback.bytes_written_back.get(),
        pages_overtaken: writeback.pages_overtaken.get(),
        pages_cleaned: writeback.pages_cleaned.get(),
        bytes_cleaned: writeback.bytes_cleaned.get(),
        segments_by_live_share: store.segments_by_live_share.to_vec(),
        write_budget_left_bytes: Some(writeback.budget_left_bytes.get())
            .filter(|left_bytes| *left_bytes != u64::MAX),
        write_budget_waits: writeback.budget_waits.get(),
        over_budget: writeback.is_over_budget.get() != 0,
        write_errors: store.write_errors,
        read_errors: store.read_errors,
        checksum_errors: store.checksum_errors,
        discarded_bytes: store.discarded_bytes,
        ahead_spans: store.ahead_spans,
        ahead_records: store.ahead_records,
        ahead_unused_bytes: store.ahead_unused_bytes,
        fetch_races: snapshot.fetch_races,
        degraded: writeback.is_degraded.get() != 0,
        silent: snapshot.is_store_silent,
        unanswered_seconds: snapshot.store_unanswered.as_secs_f64(),
        out_of_space: writeback.is_out_of_space.get() != 0,
        encrypted: running.engine.is_store_encrypted(),
        io,
        io_reason,
        summary_errors: store.summary_errors,
        scrub: scrub_view(&writeback.scrub, store.segments, running),
        durable: snapshot
            .owed_and_unsynced
            .map(|pages| durable_view(pages, snapshot, running)),
    })
}

fn durable_view(
    (owed_pages, unsynced_pages): (u64, u64),
    snapshot: &Snapshot<'_>,
    running: &Running,
) -> DurableView {
    let checkpoints = &snapshot.writeback.checkpoints;
    DurableView {
        owed_pages,
        unsynced_pages,
        segments_held: (snapshot.store.as_ref()).map_or(0, |store| store.segments_held),
        checkpoints: checkpoints.done.get(),
        checkpoints_failed: checkpoints.failed.get(),
        pages_written_down: checkpoints.pages.get(),
        syncs_failed: checkpoints.syncs_failed.get(),
        recovered_pages: running.recovery.map(|(pages, _)| pages),
        recovery_seconds: running.recovery.map(|(_, seconds)| seconds),
    }
}

fn scrub_view(scrub: &ScrubStats, segments: u64, running: &Running) -> ScrubView {
    // The engine was told microseconds of the background thread's clock; people want a date.
    let passed_us = scrub.passed_us.get();
    let now_us = running.background.as_ref().map_or(0, Background::now_us);
    let since = Duration::from_micros(now_us.saturating_sub(passed_us));
    let passed_at = SystemTime::now()
        .checked_sub(since)
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .filter(|_| passed_us > 0);
    ScrubView {
        segments,
        segments_done: scrub.segments_done.get(),
        passes: scrub.passes.get(),
        passed_at: passed_at.map(|time| time.as_secs_f64()),
        bytes: scrub.bytes.get(),
        pages_lost: scrub.pages_lost.get(),
        records_unreadable: scrub.records_unreadable.get(),
    }
}

fn worker_views(workers: &Workers<Engine>) -> Vec<WorkerView> {
    let stats = workers.stats().into_iter();
    stats
        .map(|worker| WorkerView {
            polls: worker.polls,
            poll_hits: worker.poll_hits,
            sleeps: worker.sleeps,
            requests: worker.requests,
        })
        .collect()
}

fn latency_view(latency: LatencySnapshot) -> LatencyView {
    let bounds = (0..latency.counts.len()).filter_map(Histogram::bound_ns);
    LatencyView {
        op: latency.op.name(),
        tier: latency.tier,
        bounds_seconds: bounds.map(|ns| ns as f64 / 1e9).collect(),
        counts: latency.counts.to_vec(),
        sum_seconds: latency.sum_ns as f64 / 1e9,
    }
}
