//! What Python passes to `Core.open`, and what that means here.
//!
//! Locking: none.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;

use crate::codec::CodecChoice;
use crate::engine::{Backing, EngineOptions, ExportOptions, StoreSource, WriteBudget};
use crate::error::Result;
use crate::store::{FileOptions, Io, KeySource, MakeFile, draw_key};
use crate::worker::{Polling, WorkersOptions};
use crate::zpool::ZpoolKind;
use crate::zpool::mapping::Mapping;

/// Connections that the core takes; the server refuses earlier.
const CONNECTIONS_MAX: usize = 1024;

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ExportSpec {
    name: String,
    size_bytes: u64,
    read_only: bool,
    lost: bool,
    durable: bool,
    recovered: bool,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct StoreSpec {
    path: PathBuf,
    capacity_bytes: u64,
    segment_bytes: u32,
    direct: bool,
    io: String,
    preallocate: bool,
    punch: bool,
    held_fd: Option<RawFd>,
    write_bytes_per_day_max: Option<u64>,
    write_burst_bytes: u64,
    scrub_bytes_per_s: u64,
    key: Option<OsString>,
    make_key: bool,
}

/// The keyword arguments of `Core.open`; `_core.pyi` documents them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(super) struct OpenArguments {
    instance: u64,
    memory_dir: Option<PathBuf>,
    adopt: bool,
    exports: Vec<ExportSpec>,
    page_bytes: usize,
    zpool: String,
    frame_bytes: usize,
    chain_frames_max: u32,
    codec: String,
    codec_level: i32,
    pool_bytes_max: u64,
    high_mark_percent: u8,
    low_mark_percent: u8,
    populate: bool,
    store: Option<StoreSpec>,
    generation: u64,
    workers: usize,
    readers: usize,
    polling_us: Option<u32>,
    request_timeout_s: f64,
}

impl OpenArguments {
    pub(super) fn store_path(&self) -> Option<String> {
        self.store
            .as_ref()
            .map(|store| store.path.display().to_string())
    }

    pub(super) fn workers(&self) -> WorkersOptions {
        WorkersOptions {
            workers: self.workers,
            readers: self.readers,
            polling: match self.polling_us {
                None => Polling::Auto,
                Some(0) => Polling::Off,
                Some(us) => Polling::Fixed(us),
            },
            request_timeout: Duration::from_secs_f64(self.request_timeout_s),
            connections_max: CONNECTIONS_MAX,
        }
    }

    pub(super) fn engine(self) -> Result<EngineOptions> {
        Ok(EngineOptions {
            instance: self.instance,
            memory_dir: self.memory_dir,
            adopt: self.adopt,
            exports: self
                .exports
                .into_iter()
                .map(ExportSpec::into_options)
                .collect(),
            page_bytes: self.page_bytes,
            zpool: ZpoolKind::parse(&self.zpool)?,
            frame_bytes: self.frame_bytes,
            chain_frames_max: self.chain_frames_max,
            codec: CodecChoice::parse(&self.codec, self.codec_level)?,
            pool_bytes_max: self.pool_bytes_max,
            high_mark_percent: self.high_mark_percent,
            low_mark_percent: self.low_mark_percent,
            populate: self.populate,
            store: match self.store {
                None => None,
                Some(store) => Some(store.into_source(self.readers)?),
            },
            generation: self.generation,
        })
    }
}

impl ExportSpec {
    fn into_options(self) -> ExportOptions {
        ExportOptions {
            name: self.name,
            size_bytes: self.size_bytes,
            read_only: self.read_only,
            is_lost: self.lost,
            is_durable: self.durable,
            is_recovered: self.recovered,
        }
    }
}

impl StoreSpec {
    fn into_source(self, readers: usize) -> Result<StoreSource> {
        let file = FileOptions {
            bytes: self.capacity_bytes,
            direct: self.direct,
            io: Io::parse(&self.io)?,
            readers,
            preallocate: self.preallocate,
        };
        let encryption = match self.key.as_deref() {
            Some(key) => {
                let make = self.make_key.then_some(Mapping::keep as MakeFile);
                Some(KeySource::parse(key)?.read(make)?)
            }
            None if self.make_key => Some(draw_key()?),
            None => None,
        };
        let backing = match self.held_fd {
            None => Backing::File(self.path, file),
            Some(fd) => Backing::HeldFile(self.path, file, super::owned(fd)),
        };
        Ok(StoreSource {
            backing,
            segment_bytes: self.segment_bytes,
            punch: self.punch,
            budget: self
                .write_bytes_per_day_max
                .map(|bytes_per_day_max| WriteBudget {
                    bytes_per_day_max,
                    burst_bytes: self.write_burst_bytes,
                }),
            scrub_bytes_per_s: self.scrub_bytes_per_s,
            encryption,
        })
    }
}
