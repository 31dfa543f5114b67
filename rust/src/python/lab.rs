//! The lab as Python sees it; `_core.pyi` documents it.
//!
//! Locking: none; pages and objects do not change, and the GIL is released while they are measured.

use std::cell::RefCell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::lab_views::{CodecReportView, PackReportView, SpeedReportView};
use super::to_python;
use crate::error::{Error, Result};
use crate::lab::{Interrupt, Objects, Pages, Plan, pack, speed};
use crate::zpool::ZpoolKind;

/// See `_core.pyi`.
#[pyclass(frozen, module = "nbdswap._core")]
pub(super) struct LabPages(Pages);

/// See `_core.pyi`.
#[pyclass(frozen, module = "nbdswap._core")]
pub(super) struct LabObjects(Objects);

#[pymethods]
impl LabPages {
    #[staticmethod]
    fn of(py: Python<'_>, data: &[u8], page_bytes: usize) -> PyResult<LabPages> {
        let pages = py.detach(|| Pages::of(data.to_vec(), page_bytes));
        Ok(LabPages(pages.map_err(to_python)?))
    }

    #[getter]
    fn pages(&self) -> usize {
        self.0.count()
    }

    fn compress(
        &self,
        py: Python<'_>,
        codec: &str,
        level: i32,
    ) -> PyResult<(LabObjects, CodecReportView)> {
        let compressed = interruptible(py, |interrupt| self.0.compress(codec, level, interrupt));
        compressed.map(|(objects, report)| (LabObjects(objects), report.into()))
    }
}

#[pymethods]
impl LabObjects {
    // The parameters are Python's; a struct for them would only move the list.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (*, zpool, frame_bytes, stored_bytes, seed, keeps_dense = false))]
    fn pack(
        &self,
        py: Python<'_>,
        zpool: String,
        frame_bytes: usize,
        stored_bytes: u64,
        seed: u64,
        keeps_dense: bool,
    ) -> PyResult<PackReportView> {
        let plan = Plan {
            zpool,
            frame_bytes,
            stored_bytes,
            seed,
            keeps_dense,
        };
        let report = interruptible(py, |interrupt| pack(&self.0, &plan, interrupt))?;
        Ok(PackReportView::new(plan, report))
    }

    // The parameters are Python's; a struct for them would only move the list.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (*, zpool, frame_bytes, stored_bytes, threads, cycles, seed))]
    fn speed(
        &self,
        py: Python<'_>,
        zpool: String,
        frame_bytes: usize,
        stored_bytes: u64,
        threads: usize,
        cycles: u64,
        seed: u64,
    ) -> PyResult<SpeedReportView> {
        let plan = Plan {
            zpool,
            frame_bytes,
            stored_bytes,
            seed,
            keeps_dense: false,
        };
        let report = interruptible(py, |interrupt| {
            speed(&self.0, &plan, threads, cycles, interrupt)
        })?;
        Ok(SpeedReportView::new(plan, report))
    }
}

/// Names of the zpools.
#[pyfunction]
pub(super) fn zpools() -> Vec<&'static str> {
    ZpoolKind::ALL.into_iter().map(ZpoolKind::name).collect()
}

/// Measures without the GIL; a signal whose handler raises (Ctrl-C) ends the measurement with that
/// exception.
fn interruptible<T: Send>(
    py: Python<'_>,
    measure: impl FnOnce(Interrupt<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let (result, raised) = py.detach(|| {
        let raised = RefCell::new(None);
        let is_wanted = || {
            let checked = Python::attach(|py| py.check_signals());
            let is_wanted = checked.is_ok();
            raised.replace(checked.err());
            is_wanted
        };
        let result = measure(Interrupt::new(&is_wanted));
        (result, raised.into_inner())
    });
    match (result, raised) {
        (Ok(measured), _) => Ok(measured),
        (Err(_), Some(raised)) => Err(raised),
        (Err(error @ Error::Corrupt { .. }), None) => {
            Err(PyRuntimeError::new_err(error.to_string()))
        }
        (Err(error), None) => Err(to_python(error)),
    }
}
