//! The codecs for tools and tests: what there is, and single pages to objects and back.
//!
//! A codec is made for each call, which the page path never does.
//! Locking: none.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::to_python;
use crate::codec::{CODECS, Codec, CodecChoice, Compressor, Decompressor};
use crate::error::{Error, Result};
use crate::page::PAGE_BYTES_ALLOWED;

#[derive(IntoPyObject)]
pub(super) struct CodecView {
    name: &'static str,
    level_min: i32,
    level_max: i32,
    level_default: i32,
    about: &'static str,
    guarantees: &'static str,
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn codecs() -> Vec<CodecView> {
    CODECS
        .iter()
        .map(|info| CodecView {
            name: info.name,
            level_min: info.level_min,
            level_max: info.level_max,
            level_default: info.level_default,
            about: info.about,
            guarantees: info.guarantees,
        })
        .collect()
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn compress_page<'py>(
    py: Python<'py>,
    codec: &str,
    level: i32,
    page: &[u8],
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let choice = CodecChoice::parse(codec, level).map_err(to_python)?;
    check_page_bytes(page.len()).map_err(to_python)?;
    let object = Compressor::new(choice, page.len())
        .compress(page, page.len() - 1)
        .map(|object| PyBytes::new(py, object));
    Ok(object)
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn decompress_page<'py>(
    py: Python<'py>,
    codec: &str,
    object: &[u8],
    page_bytes: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let id = Codec::parse(codec).map_err(to_python)?.info().id;
    check_page_bytes(page_bytes).map_err(to_python)?;
    PyBytes::new_with(py, page_bytes, |page| {
        if Decompressor::new().decompress(id, object, page) {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "object is {} bytes of something else, wanted {page_bytes} bytes compressed by {codec}",
            object.len()
        )))
    })
}

fn check_page_bytes(found: usize) -> Result<()> {
    let [small, middle, large] = PAGE_BYTES_ALLOWED;
    match PAGE_BYTES_ALLOWED.contains(&found) {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "page is {found} bytes, wanted {small}, {middle} or {large}"
        ))),
    }
}
