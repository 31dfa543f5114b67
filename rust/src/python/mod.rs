//! The Python module `nbdswap._core`: converts, releases the GIL, maps errors. Nothing is decided here.
//!
//! `nbdswap/_core.pyi` documents the module for its users.
//! Locking: one mutex around what is running, held for calls that use it and never while a call waits
//! for connections or threads to end.

// Descriptors change hands here, which no type of Python's can express; and the macros of the
// binding expand to unsafe code of their own.
#![allow(unsafe_code)]

mod codecs;
mod incidents;
mod lab;
mod lab_views;
mod offline;
mod options;
mod snapshot;

use std::borrow::Cow;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyPermissionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::background::Background;
use crate::codec::CodecChoice;
use crate::engine::{Engine, FlushError, OpenReport};
use crate::error::Error;
use crate::session::{Negotiated, Unfinished};
use crate::store::Reading;
use crate::worker::{HandedOver, Workers, WorkersOptions};
use crate::zpool::ZpoolKind;
use incidents::IncidentView;
use options::OpenArguments;
use snapshot::CoreView;

pyo3::create_exception!(
    _core,
    ConfigError,
    PyValueError,
    "A setting that cannot work; says what was found and what is wanted."
);
pyo3::create_exception!(
    _core,
    ForeignFileError,
    PyOSError,
    "A file that is not ours or does not fit. It was not touched."
);

/// How often it is looked whether the background thread has written everything down.
const SETTLE_PAUSE: Duration = Duration::from_millis(2);

/// The engine and the threads around it.
struct Running {
    engine: Arc<Engine>,
    workers: Option<Arc<Workers<Engine>>>,
    background: Option<Background>,
    options: WorkersOptions,
    store_path: Option<String>,
    /// Pages that were found in the store's log at the start, and the seconds that it took to open.
    recovery: Option<(u64, f64)>,
    opened: Instant,
}

#[derive(IntoPyObject)]
struct HandedOverView<'a> {
    number: u64,
    fd: RawFd,
    export: String,
    structured: bool,
    base_allocation_id: Option<u32>,
    received: Cow<'a, [u8]>,
    unsent: Cow<'a, [u8]>,
}

impl HandedOverView<'_> {
    /// The descriptor belongs to whoever gets this.
    fn of(one: HandedOver, engine: &Engine) -> Self {
        HandedOverView {
            number: one.number,
            fd: one.socket.into_raw_fd(),
            export: engine.export(one.export).name.clone(),
            structured: one.negotiated.structured,
            base_allocation_id: one.negotiated.base_allocation,
            received: Cow::Owned(one.unfinished.received),
            unsent: Cow::Owned(one.unfinished.unsent),
        }
    }
}

#[derive(IntoPyObject)]
struct ReportView {
    adopted: bool,
    reason: String,
    pages_adopted: u64,
    pages_lost: u64,
    recovered: bool,
    pages_recovered: u64,
    io: &'static str,
    io_reason: String,
    warnings: Vec<String>,
}

/// The name of a way to read, and why it is that one.
fn io_of(reading: Option<&Reading>) -> (&'static str, String) {
    match reading {
        None => ("", String::new()),
        Some(Reading::IoUring) => ("io_uring", String::new()),
        Some(Reading::Threads(why)) => ("threads", why.clone()),
    }
}

impl ReportView {
    fn new(report: OpenReport, engine: &Engine) -> ReportView {
        let (io, io_reason) = io_of(engine.store_reading());
        ReportView {
            adopted: report.adopted,
            reason: report.reason,
            pages_adopted: report.pages_adopted,
            pages_lost: report.pages_lost,
            recovered: report.recovered,
            pages_recovered: report.pages_recovered,
            io,
            io_reason,
            warnings: report.warnings,
        }
    }
}

/// See `_core.pyi`.
#[pyclass(frozen, module = "nbdswap._core")]
struct Core {
    running: Mutex<Option<Running>>,
}

#[pymethods]
impl Core {
    #[staticmethod]
    #[pyo3(signature = (**arguments))]
    fn open(py: Python<'_>, arguments: Option<Bound<'_, PyDict>>) -> PyResult<(Core, ReportView)> {
        let arguments: OpenArguments = arguments
            .unwrap_or_else(|| PyDict::new(py))
            .into_any()
            .extract()?;
        let (options, store_path) = (arguments.workers(), arguments.store_path());
        let began = Instant::now();
        let opened = py.detach(|| Engine::open(arguments.engine()?));
        let (engine, report) = opened.map_err(to_python)?;
        let engine = Arc::new(engine);
        let recovery =
            (report.recovered).then(|| (report.pages_recovered, began.elapsed().as_secs_f64()));
        let report = ReportView::new(report, &engine);
        let running = Running {
            engine,
            workers: None,
            background: None,
            options,
            store_path,
            recovery,
            opened: began,
        };
        Ok((
            Core {
                running: Mutex::new(Some(running)),
            },
            report,
        ))
    }

    fn start(&self) -> PyResult<()> {
        self.with(|running| {
            if running.workers.is_some() {
                return Err(PyRuntimeError::new_err("the core was started before"));
            }
            let engine = Arc::clone(&running.engine);
            let workers = Workers::start(engine, running.options).map_err(to_python)?;
            let workers = Arc::new(workers);
            let waiting = Arc::clone(&workers);
            let patience = running.options.request_timeout;
            let announce = move || waiting.space_available();
            let background = Background::start(Arc::clone(&running.engine), patience, announce);
            running.background = Some(background?);
            running.workers = Some(workers);
            Ok(())
        })
    }

    fn thread_ids(&self) -> PyResult<Vec<i32>> {
        self.with(|running| {
            let mut ids = running.workers()?.thread_ids();
            ids.extend(running.background.iter().flat_map(Background::thread_ids));
            Ok(ids)
        })
    }

    #[pyo3(signature = (fd, export, *, structured, base_allocation_id, received, unsent))]
    #[expect(clippy::too_many_arguments)] // Keywords, in Python.
    fn attach(
        &self,
        py: Python<'_>,
        fd: RawFd,
        export: &str,
        structured: bool,
        base_allocation_id: Option<u32>,
        received: Vec<u8>,
        unsent: Vec<u8>,
    ) -> PyResult<u64> {
        let socket = owned(fd);
        let (engine, workers) =
            self.with(|running| Ok((Arc::clone(&running.engine), running.workers()?)))?;
        let Some(id) = engine.export_named(export) else {
            return Err(ConfigError::new_err(format!("there is no export {export}")));
        };
        let negotiated = Negotiated {
            structured,
            base_allocation: base_allocation_id,
        };
        let unfinished = Unfinished { received, unsent };
        py.detach(|| workers.attach(socket, id, negotiated, &unfinished))
            .map_err(to_python)
    }

    fn hand_over(
        &self,
        py: Python<'_>,
        deadline_s: f64,
    ) -> PyResult<(Vec<HandedOverView<'_>>, usize)> {
        let (engine, workers) =
            self.with(|running| Ok((Arc::clone(&running.engine), running.workers()?)))?;
        let deadline = Duration::from_secs_f64(deadline_s);
        let (handed_over, late) = py.detach(|| workers.hand_over(deadline));
        let view = |one| HandedOverView::of(one, &engine);
        Ok((handed_over.into_iter().map(view).collect(), late))
    }

    fn store_descriptor(&self) -> PyResult<Option<RawFd>> {
        let descriptor = self.with(|running| {
            let store = running.engine.store_descriptor();
            store.map_err(to_python)
        })?;
        // The caller owns it from here on.
        Ok(descriptor.map(IntoRawFd::into_raw_fd))
    }

    #[getter]
    fn ended_fd(&self) -> PyResult<RawFd> {
        self.with(|running| Ok(running.workers()?.ended_fd().as_raw_fd()))
    }

    fn take_ended(&self) -> PyResult<Vec<(u64, String)>> {
        self.with(|running| Ok(running.workers()?.take_ended()))
    }

    fn detach_all(&self, py: Python<'_>, deadline_s: f64) -> PyResult<()> {
        let workers = self.with(|running| running.workers())?;
        py.detach(|| workers.detach_all(Duration::from_secs_f64(deadline_s)));
        Ok(())
    }

    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        let (engine, opened, is_running) = self.with(|running| {
            let is_running = running.background.is_some();
            Ok((Arc::clone(&running.engine), running.opened, is_running))
        })?;
        let settled = py.detach(|| {
            engine.settle(|engine| {
                if is_running {
                    std::thread::sleep(SETTLE_PAUSE);
                } else {
                    engine.step(opened.elapsed());
                }
            })
        });
        settled.map_err(|error| {
            PyOSError::new_err(match error {
                FlushError::Full => "the backing file has no room for what is to be kept",
                FlushError::Failed => "the backing file cannot be written or synced",
            })
        })
    }

    fn set_codec(&self, py: Python<'_>, codec: &str, level: i32) -> PyResult<()> {
        let choice = CodecChoice::parse(codec, level).map_err(to_python)?;
        let engine = self.with(|running| Ok(Arc::clone(&running.engine)))?;
        py.detach(|| engine.set_codec(choice));
        Ok(())
    }

    fn set_zpool(&self, py: Python<'_>, zpool: &str) -> PyResult<()> {
        let kind = ZpoolKind::parse(zpool).map_err(to_python)?;
        let engine = self.with(|running| Ok(Arc::clone(&running.engine)))?;
        py.detach(|| engine.set_zpool(kind));
        Ok(())
    }

    fn take_incidents(&self) -> PyResult<(Vec<IncidentView>, u64)> {
        self.with(|running| Ok(incidents::take(&running.engine)))
    }

    fn snapshot(&self, py: Python<'_>) -> PyResult<CoreView> {
        py.detach(|| self.with(|running| Ok(snapshot::view(running))))
    }

    #[pyo3(signature = (*, forget))]
    fn close(&self, py: Python<'_>, forget: bool) {
        py.detach(|| {
            let running = self
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(running) = running {
                // The background thread holds the workers too: it goes first.
                drop(running.background);
                drop(running.workers);
                if forget {
                    running.engine.remove_memory();
                }
            }
        });
    }
}

/// A descriptor that Python has given up: it was detached from its object there and is not used
/// again, so that it has one owner from here on, on every path.
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: as said; whoever calls this for a descriptor that an argument names, calls it once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Core {
    fn with<T>(&self, work: impl FnOnce(&mut Running) -> PyResult<T>) -> PyResult<T> {
        match self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            Some(running) => work(running),
            None => Err(PyRuntimeError::new_err("the core is closed")),
        }
    }
}

impl Running {
    fn workers(&self) -> PyResult<Arc<Workers<Engine>>> {
        let workers = self.workers.as_ref();
        workers
            .cloned()
            .ok_or_else(|| PyRuntimeError::new_err("the core was not started"))
    }
}

/// The one place where our errors become Python's.
fn to_python(error: Error) -> PyErr {
    match error {
        Error::Config(what) => ConfigError::new_err(what),
        Error::NotPermitted(why) => PyPermissionError::new_err(why),
        Error::Foreign { .. } | Error::Misfit { .. } => {
            ForeignFileError::new_err(error.to_string())
        }
        Error::Io { ref source, .. } => match source.raw_os_error() {
            // Python would make other classes of some of them, which mean something else here.
            Some(errno) if source.kind() != ErrorKind::PermissionDenied => {
                PyOSError::new_err((errno, error.to_string()))
            }
            _ => PyOSError::new_err(error.to_string()),
        },
        _ => PyOSError::new_err(error.to_string()),
    }
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Core>()?;
    module.add_class::<lab::LabPages>()?;
    module.add_class::<lab::LabObjects>()?;
    module.add_function(wrap_pyfunction!(lab::zpools, module)?)?;
    module.add_function(wrap_pyfunction!(offline::check_keyring_key, module)?)?;
    module.add_function(wrap_pyfunction!(offline::inspect_store, module)?)?;
    module.add_function(wrap_pyfunction!(offline::verify_store, module)?)?;
    module.add_function(wrap_pyfunction!(offline::foresee_recovery, module)?)?;
    module.add_function(wrap_pyfunction!(offline::repair_store, module)?)?;
    module.add_function(wrap_pyfunction!(codecs::codecs, module)?)?;
    module.add_function(wrap_pyfunction!(codecs::compress_page, module)?)?;
    module.add_function(wrap_pyfunction!(codecs::decompress_page, module)?)?;
    module.add("ConfigError", module.py().get_type::<ConfigError>())?;
    module.add(
        "ForeignFileError",
        module.py().get_type::<ForeignFileError>(),
    )
}
