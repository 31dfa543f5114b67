//! A store that no server has, as Python sees it: dicts that `_core.pyi` documents.
//!
//! Locking: none.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;

use super::to_python;
use crate::store::{self, Damage, KeySource, Label};

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
    fault: &'static str,
}

#[derive(IntoPyObject)]
pub(super) struct VerdictView {
    segments: u32,
    segments_written: u32,
    summaries_damaged: u64,
    records: u64,
    object_bytes: u64,
    records_damaged: u64,
    records_missing: u64,
    damaged: Vec<DamageView>,
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
        store::verify_store(&path, key.as_ref().map(|encryption| &encryption.key))
    });
    let verdict = verified.map_err(to_python)?;
    Ok(VerdictView {
        segments: verdict.segments,
        segments_written: verdict.segments_written,
        summaries_damaged: verdict.summaries_damaged,
        records: verdict.records,
        object_bytes: verdict.object_bytes,
        records_damaged: verdict.records_damaged,
        records_missing: verdict.records_missing,
        damaged: verdict.damaged.into_iter().map(DamageView::from).collect(),
    })
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
