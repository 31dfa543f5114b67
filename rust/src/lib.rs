//! The page engine of nbdswap: swap pages, compressed in a bounded pool and packed on a backing file,
//! served over NBD's transmission phase.
//!
//! Layers, each knowing only those to its right:
//! `python -> background, worker -> session -> engine -> writeback -> tiers -> age, stats -> table
//! -> durable -> zpool, codec, store -> incident -> page, error, hugetlbfs, courtesy`; `wire`, which sessions speak; and beside the server
//! `python -> lab -> zpool, codec, random`. `tests/layers.rs` holds every module to it.
//! Negotiation, configuration and life cycle are Python's (`nbdswap/`).

#![deny(unsafe_code)]

pub mod age;
pub mod background;
pub mod codec;
pub mod courtesy;
pub mod durable;
pub mod engine;
pub mod error;
mod hugetlbfs;
pub mod incident;
pub mod lab;
pub mod page;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod session;
pub mod stats;
pub mod store;
pub mod table;
pub mod tiers;
pub mod wire;
pub mod worker;
pub mod writeback;
pub mod zpool;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
