//! A store that no server has, as Python sees it: dicts that `_core.pyi` documents.
//!
//! Locking: none.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;

use super::to_python;
use crate::durable;
use crate::engine::{self, Foreseen, LogSurvey};
use crate::store::{self, Damage, KeySource, Label, RecordKind};

#[derive(IntoPyObject)]
pub(super) struct LabelView {
    instance: u64,
    generation: u64,
    segment_bytes: u32,
    capacity_bytes: u64,
    opens: u64,
    encrypted: bool,
}

#[derive(IntoPyObject)]
pub(super) struct InspectionView {
    bytes: u64,
    superblock: Option<LabelView>,
    problem: String,
    copy: Option<LabelView>,
    copy_byte: Option<u64>,
}

#[derive(IntoPyObject)]
struct DamageView {
    store_byte: u64,
    page: u32,
    kind: &'static str,
    fault: &'static str,
}

#[derive(IntoPyObject)]
pub(super) struct VerdictView {
    segments: u32,
    segments_written: u32,
    summaries_damaged: u64,
    heads_damaged: u64,
    records: u64,
    object_bytes: u64,
    marks: u64,
    records_damaged: u64,
    records_missing: u64,
    damaged: Vec<DamageView>,
    damaged_left_out: u64,
}

impl From<Label> for LabelView {
    fn from(label: Label) -> LabelView {
        LabelView {
            instance: label.id,
            generation: label.generation,
            segment_bytes: label.segment_bytes,
            capacity_bytes: label.capacity_bytes,
            opens: label.opens,
            encrypted: label.is_encrypted,
        }
    }
}

impl From<Damage> for DamageView {
    fn from(damage: Damage) -> DamageView {
        DamageView {
            store_byte: damage.offset,
            page: damage.page,
            kind: match damage.kind {
                RecordKind::Object => "object",
                RecordKind::Mark => "mark",
                RecordKind::Position => "position",
            },
            fault: if damage.is_unreadable {
                "unreadable"
            } else {
                "damaged"
            },
        }
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn inspect_store(py: Python<'_>, path: PathBuf) -> PyResult<InspectionView> {
    let labels = py
        .detach(|| store::inspect_store(&path))
        .map_err(to_python)?;
    Ok(InspectionView {
        bytes: labels.bytes,
        problem: labels
            .superblock
            .as_ref()
            .err()
            .cloned()
            .unwrap_or_default(),
        superblock: labels.superblock.ok().map(LabelView::from),
        copy: labels.copy.map(|(_, label)| label.into()),
        copy_byte: labels.copy.map(|(at, _)| at),
    })
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn verify_store(
    py: Python<'_>,
    path: PathBuf,
    key: Option<OsString>,
) -> PyResult<VerdictView> {
    let verified = py.detach(|| {
        let key = key
            .map(|key| KeySource::parse(&key)?.read(None))
            .transpose()?;
        let key = key.as_ref().map(|encryption| &encryption.key);
        store::verify_store(&path, key, &durable::kind_of)
    });
    let verdict = verified.map_err(to_python)?;
    Ok(VerdictView {
        segments: verdict.segments,
        segments_written: verdict.segments_written,
        summaries_damaged: verdict.summaries_damaged,
        heads_damaged: verdict.heads_damaged,
        records: verdict.records,
        object_bytes: verdict.object_bytes,
        marks: verdict.marks,
        records_damaged: verdict.records_damaged,
        records_missing: verdict.records_missing,
        damaged: verdict.damaged.into_iter().map(DamageView::from).collect(),
        damaged_left_out: verdict.damaged_left_out,
    })
}

#[derive(IntoPyObject)]
pub(super) struct ForeseenView {
    stored: u64,
    filled: u64,
    discarded: u64,
    lost: u64,
}

#[derive(IntoPyObject)]
pub(super) struct ForesightView {
    position: u64,
    segments: u64,
    segments_unsure: u64,
    lists_damaged: u64,
    heads_damaged: u64,
    records_unnamed: u64,
    pages_owed: u64,
    exports: Vec<Option<ForeseenView>>,
}

impl From<Foreseen> for ForeseenView {
    fn from(foreseen: Foreseen) -> ForeseenView {
        ForeseenView {
            stored: foreseen.stored,
            filled: foreseen.filled,
            discarded: foreseen.discarded,
            lost: foreseen.lost,
        }
    }
}

impl From<(Vec<Option<Foreseen>>, LogSurvey)> for ForesightView {
    fn from((exports, survey): (Vec<Option<Foreseen>>, LogSurvey)) -> ForesightView {
        ForesightView {
            position: survey.position,
            segments: survey.segments,
            segments_unsure: survey.segments_unsure,
            lists_damaged: survey.lists_damaged,
            heads_damaged: survey.heads_damaged,
            records_unnamed: survey.records_unnamed,
            pages_owed: survey.pages_owed,
            exports: (exports.into_iter())
                .map(|export| export.map(ForeseenView::from))
                .collect(),
        }
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn foresee_recovery(
    py: Python<'_>,
    path: PathBuf,
    key: Option<OsString>,
    exports: Vec<(u32, bool)>,
    page_bytes: usize,
) -> PyResult<ForesightView> {
    let foreseen = py.detach(|| {
        let key = key
            .map(|key| KeySource::parse(&key)?.read(None))
            .transpose()?;
        let key = key.as_ref().map(|encryption| &encryption.key);
        engine::foresee(&path, key, &exports, page_bytes)
    });
    foreseen.map(ForesightView::from).map_err(to_python)
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (path, *, dry_run))]
pub(super) fn repair_store(
    py: Python<'_>,
    path: PathBuf,
    dry_run: bool,
) -> PyResult<Option<&'static str>> {
    py.detach(|| store::repair_store(&path, dry_run))
        .map_err(to_python)
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn check_keyring_key(name: String) -> PyResult<()> {
    let read = KeySource::Keyring(name).read(None);
    read.map(drop).map_err(to_python)
}
