//! Measures NBD servers with real memory pages: what `nbdload` and `nbdfloor` are made of.
//!
//! Not here: which servers run, how much CPU and memory they take, tables (`run.py`).

pub mod chance;
pub mod connection;
pub mod floor;
pub mod image;
pub mod load;
pub mod runner;
pub mod sample;
pub mod wire;

/// Bytes of a page, everywhere in the benchmark.
pub const PAGE_BYTES: usize = 4096;
