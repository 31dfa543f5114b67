//! The lab's reports as dicts, with the names of their fields; `_core.pyi` documents them.
//!
//! Locking: none.

use pyo3::prelude::*;

use crate::lab::{CodecReport, Density, Moment, PackReport, Percentiles, Plan, SpeedReport};

#[derive(IntoPyObject)]
struct PercentilesView {
    count: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(IntoPyObject)]
pub(super) struct CodecReportView {
    codec: String,
    level: i32,
    pages: u64,
    same_filled: u64,
    incompressible: u64,
    page_bytes: usize,
    object_bytes: u64,
    object_bytes_percentiles: Vec<u32>,
    compress_ns: PercentilesView,
    decompress_ns: PercentilesView,
}

#[derive(IntoPyObject)]
struct DensityView {
    phase: &'static str,
    objects: u64,
    object_bytes: u64,
    slot_bytes: u64,
    block_bytes: u64,
    held_bytes: u64,
}

#[derive(IntoPyObject)]
struct MomentView {
    operations: u64,
    object_bytes: u64,
    block_bytes: u64,
}

#[derive(IntoPyObject)]
pub(super) struct PackReportView {
    zpool: String,
    frame_bytes: usize,
    stored_bytes: u64,
    seed: u64,
    keeps_dense: bool,
    densities: Vec<DensityView>,
    timeline: Vec<MomentView>,
    alloc_ns: PercentilesView,
    store_ns: PercentilesView,
    load_ns: PercentilesView,
    free_ns: PercentilesView,
    objects_copied_twice: u64,
    bytes_copied_twice: u64,
    objects_moved: u64,
    objects_moved_meanwhile: u64,
    objects_written: u64,
}

#[derive(IntoPyObject)]
pub(super) struct SpeedReportView {
    zpool: String,
    frame_bytes: usize,
    threads: usize,
    cycles: u64,
    seconds: f64,
    ns_per_cycle: f64,
}

impl From<Percentiles> for PercentilesView {
    fn from(percentiles: Percentiles) -> Self {
        PercentilesView {
            count: percentiles.count,
            mean: percentiles.mean,
            p50: percentiles.p50,
            p90: percentiles.p90,
            p99: percentiles.p99,
            p999: percentiles.p999,
            max: percentiles.max,
        }
    }
}

impl From<CodecReport> for CodecReportView {
    fn from(report: CodecReport) -> Self {
        CodecReportView {
            codec: report.codec,
            level: report.level,
            pages: report.pages,
            same_filled: report.same_filled,
            incompressible: report.incompressible,
            page_bytes: report.page_bytes,
            object_bytes: report.object_bytes,
            object_bytes_percentiles: report.object_bytes_percentiles.into(),
            compress_ns: report.compress_ns.into(),
            decompress_ns: report.decompress_ns.into(),
        }
    }
}

impl From<Density> for DensityView {
    fn from(density: Density) -> Self {
        DensityView {
            phase: density.phase,
            objects: density.objects,
            object_bytes: density.object_bytes,
            slot_bytes: density.slot_bytes,
            block_bytes: density.block_bytes,
            held_bytes: density.held_bytes,
        }
    }
}

impl From<Moment> for MomentView {
    fn from(moment: Moment) -> Self {
        MomentView {
            operations: moment.operations,
            object_bytes: moment.object_bytes,
            block_bytes: moment.block_bytes,
        }
    }
}

impl PackReportView {
    pub(super) fn new(plan: Plan, report: PackReport) -> Self {
        PackReportView {
            zpool: plan.zpool,
            frame_bytes: plan.frame_bytes,
            stored_bytes: report.stored_bytes,
            seed: plan.seed,
            keeps_dense: plan.keeps_dense,
            densities: report.densities.into_iter().map(Into::into).collect(),
            timeline: report.timeline.into_iter().map(Into::into).collect(),
            alloc_ns: report.alloc_ns.into(),
            store_ns: report.store_ns.into(),
            load_ns: report.load_ns.into(),
            free_ns: report.free_ns.into(),
            objects_copied_twice: report.objects_copied_twice,
            bytes_copied_twice: report.bytes_copied_twice,
            objects_moved: report.objects_moved,
            objects_moved_meanwhile: report.objects_moved_meanwhile,
            objects_written: report.objects_written,
        }
    }
}

impl SpeedReportView {
    pub(super) fn new(plan: Plan, report: SpeedReport) -> Self {
        SpeedReportView {
            zpool: plan.zpool,
            frame_bytes: plan.frame_bytes,
            threads: report.threads,
            cycles: report.cycles,
            seconds: report.seconds,
            ns_per_cycle: report.ns_per_cycle,
        }
    }
}
