//! Damaged records as Python logs them.
//!
//! Locking: the ring's own.

use pyo3::prelude::*;

use crate::engine::Engine;
use crate::incident::Incident;

#[derive(IntoPyObject)]
pub(super) struct IncidentView {
    export: String,
    page: u32,
    byte: u64,
    store_byte: u64,
    fault: &'static str,
    finder: &'static str,
    times: u64,
}

/// Takes what waits in the engine.
pub(super) fn take(engine: &Engine) -> (Vec<IncidentView>, u64) {
    let (taken, unnamed) = engine.take_incidents();
    let view = |incident: Incident| {
        let (export, page) = engine.whose(incident.page);
        IncidentView {
            export: export.name.clone(),
            page: page.0,
            byte: u64::from(page.0) * engine.page_bytes() as u64,
            store_byte: incident.offset,
            fault: incident.fault.name(),
            finder: incident.finder.name(),
            times: incident.times,
        }
    };
    (taken.into_iter().map(view).collect(), unnamed)
}
