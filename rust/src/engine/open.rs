//! Making an engine: new, or out of the shared memory that a predecessor left.
//!
//! Adoption is one walk over the words: every object is claimed at its zpool or store, what cannot be
//! claimed is lost, what nobody claims is free.
//! Locking: none, nothing else runs yet.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::header::{LOST_BYTES, encode_header, was_lost};
use super::recovery::Recovery;
use super::switch::CodecSwitch;
use super::{Bell, Engine, ExportInfo};
use crate::age::Clock;
use crate::codec::CodecChoice;
use crate::durable::{Belief, Durable};
use crate::error::{Error, Result};
use crate::incident::Incidents;
use crate::page::{PAGE_BYTES_ALLOWED, PageId};
use crate::stats::LaneStats;
use crate::store::{self, Device, Encryption, FileOptions, ReadBuffer, Store, StoreOptions};
use crate::table::{ObjectAt, Place, Table, Word};
use crate::tiers::{Marks, Tiers};
use crate::writeback::{Dispatch, WriteBudget, Writeback, WritebackStats};
use crate::zpool::mapping::unit_bytes_in;
use crate::zpool::words::SharedWords;
use crate::zpool::{Arena, ArenaOptions, Pools, Tag, Zpool, ZpoolKind};

/// Exports that a server may have: the bits of the header.
pub const EXPORTS_MAX: usize = LOST_BYTES * 8;

/// An export to be served.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The name that clients ask for.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Unless a predecessor's table is adopted, pages that were not written answer EIO.
    pub is_lost: bool,
    /// What was flushed survives loss of the host; needs a store.
    pub is_durable: bool,
    /// It was durable before: unless a predecessor's table is adopted, its pages are made from the
    /// store's log. Generation and exports are as they were then.
    pub is_recovered: bool,
}

/// What is behind the store.
pub enum Backing {
    /// A file or block device of that path.
    File(PathBuf, FileOptions),
    /// The same, that a predecessor left open and locked.
    HeldFile(PathBuf, FileOptions, OwnedFd),
    /// A device that is there already.
    Device(Box<dyn Device>),
}

/// The store to be opened.
pub struct StoreSource {
    /// What is behind it.
    pub backing: Backing,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Give freed segments back to the file system.
    pub punch: bool,
    /// What may be written; None: no limit.
    pub budget: Option<WriteBudget>,
    /// Bytes a second that the scrub may read; 0: no scrub.
    pub scrub_bytes_per_s: u64,
    /// Encrypt what is written.
    pub encryption: Option<Encryption>,
}

/// All that an engine is made of.
pub struct EngineOptions {
    /// Number that names the memory files.
    pub instance: u64,
    /// Where the memory files are; None: nameless memory that dies with the process.
    pub memory_dir: Option<PathBuf>,
    /// Take over a predecessor's files of the same instance.
    pub adopt: bool,
    /// The exports, in an order that must not change between lives.
    pub exports: Vec<ExportOptions>,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// The zpool for new pages.
    pub zpool: ZpoolKind,
    /// Bytes of a frame, at least a page.
    pub frame_bytes: usize,
    /// Longest chain of frames that zsmalloc makes; a pool that is taken over keeps its own.
    pub chain_frames_max: u32,
    /// Codec for new pages.
    pub codec: CodecChoice,
    /// Hard limit of the pool's memory.
    pub pool_bytes_max: u64,
    /// Write-back starts above this share of the limit.
    pub high_mark_percent: u8,
    /// Write-back ends below this share.
    pub low_mark_percent: u8,
    /// Take the memory of pool, table and what is known of durable pages from the system at start.
    pub populate: bool,
    /// None: a full pool refuses writes.
    pub store: Option<StoreSource>,
    /// Generation of the store when it is made anew.
    pub generation: u64,
}

/// How opening went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// A predecessor's table was taken over.
    pub adopted: bool,
    /// Why not, in one line.
    pub reason: String,
    /// Pages that are where the predecessor had them.
    pub pages_adopted: u64,
    /// Pages whose bytes are gone.
    pub pages_lost: u64,
    /// The predecessor's memory is gone, and durable exports were made from the store's log.
    pub recovered: bool,
    /// Pages that were found there.
    pub pages_recovered: u64,
    /// What else the operator should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Opens an engine.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work, [`Error::Foreign`] for a backing file that is
    /// not ours, [`Error::Io`] from the system.
    pub fn open(mut options: EngineOptions) -> Result<(Engine, OpenReport)> {
        validate(&options)?;
        let budget = options.store.as_ref().and_then(|store| store.budget);
        let mut report = OpenReport::default();
        let mut exports = lay_out(&options)?;
        let scrub_bytes_per_s = (options.store.as_ref()).map_or(0, |store| store.scrub_bytes_per_s);
        let table = open_table(&options, &mut exports, &mut report)?;
        // Without stored pages there is nothing to take over, whatever the backing file holds; with
        // them a backing file that does not fit is refused: its pages would be lost for a typing error.
        let is_durable = options.exports.iter().any(|export| export.is_durable);
        let holds_stored = report.adopted && holds_stored_pages(&table);
        let adopt_store = holds_stored || is_durable && (report.adopted || report.recovered);
        let adoption = Adoption {
            adopt: adopt_store,
            may_be_blank: report.adopted && !holds_stored,
            may_refuse_writes: report.adopted,
            keeps_freed: is_durable,
        };
        // Opening syncs, and a sync that fails then says so once, as any other does.
        let belief = Belief::new(table.memory().notes());
        let mut was_in_doubt = adopt_store && is_durable && belief.doubt();
        // The store first: a backing file that is refused must not cost the predecessor's pool.
        let opened = open_store(&mut options, adoption).and_then(|store| {
            let pool = open_pool(&options, &mut report)?;
            Ok((store, pool))
        });
        let (store, pool) = opened.inspect_err(|error| {
            if !was_in_doubt && !matches!(error, Error::Io { .. }) {
                belief.restore();
            }
            if !report.adopted {
                // Nobody will use it, and whoever looks for a predecessor's table must not find it.
                table.memory().remove();
            }
        })?;
        if let Some(store) = &store {
            report.warnings.extend(store.refusals().warnings());
            // A failure is told once: the next sync may well succeed.
            was_in_doubt |= store.has_superblock_failed_to_sync();
        }
        let frames_bytes = u64::from(pool.zpool.arena().frames()) * options.frame_bytes as u64;
        let percent = |share: u8| frames_bytes / 100 * u64::from(share);
        let durable = is_durable.then(|| {
            let exports = options.exports.iter().map(|export| export.is_durable);
            Durable::new(exports.collect(), table.pages(), options.populate)
        });
        let tiers = Tiers::new(
            table,
            pool.zpool,
            store,
            durable.transpose()?,
            Clock::new(options.pool_bytes_max),
            Marks {
                high_bytes: percent(options.high_mark_percent),
                low_bytes: percent(options.low_mark_percent),
            },
            exports.iter().map(|export| export.first.0).collect(),
            options.page_bytes,
        );
        let lane = Arc::new(LaneStats::new(exports.len()));
        let mut recovery = if adopt_store {
            Recovery::new(&tiers)?
        } else {
            None
        };
        if let Some(recovery) = recovery.as_mut().filter(|_| report.recovered) {
            recovery.find_pages(&|page| {
                let export = tiers.export_of(page);
                let is_recovered = options.exports[export].is_recovered;
                (is_recovered, exports[export].is_lost)
            })?;
        }
        if report.adopted || report.recovered {
            adopt(&tiers, pool.is_adopted, &lane, &mut report);
        }
        if pool.is_adopted {
            tiers.pool.adopted()?;
        }
        if let Some(recovery) = &mut recovery {
            if report.recovered {
                recovery.claim_marks();
                report.pages_recovered = std::mem::take(&mut report.pages_adopted);
                report.warnings.extend(recovery.survey().warning());
                recovery.make_sure()?;
            } else {
                recovery.compare(&lane)?;
                recovery.sync(was_in_doubt)?;
                report.warnings.extend(recovery.warn_of_unreadable());
            }
        }
        if let (true, Some(store)) = (adopt_store, &tiers.store) {
            store.adopted();
        }
        if let Some(recovery) = recovery {
            recovery.end();
        }
        if report.recovered {
            (tiers.table.memory()).set_header(&encode_header(&options, &exports));
        }
        let dispatch = Arc::new(Dispatch::default());
        let writeback_stats = WritebackStats::default();
        let mut writeback =
            Writeback::new(&tiers, budget, Arc::clone(&dispatch), scrub_bytes_per_s);
        if let Some(store) = (tiers.store.as_ref()).filter(|store| store.is_superblock_owed()) {
            writeback.begin_degraded(&writeback_stats, store);
        }
        let engine = Engine {
            accept_bytes_max: AtomicUsize::new(tiers.pool.accept_bytes_max(options.page_bytes)),
            zpool_switch: Mutex::new(()),
            writeback: Mutex::new(writeback),
            dispatch,
            writeback_stats,
            writeback_lane: Arc::clone(&lane),
            incidents: Incidents::default(),
            lanes: Mutex::new(vec![lane]),
            bell: Bell::default(),
            codec: CodecSwitch::new(options.codec),
            exports: exports.into_boxed_slice(),
            tiers,
        };
        Ok((engine, report))
    }

    /// Another descriptor of the backing file, open and locked, for the next process; None without
    /// a store.
    pub fn store_descriptor(&self) -> Result<Option<OwnedFd>> {
        let store = self.tiers.store.as_ref();
        store.map_or(Ok(None), Store::descriptor)
    }

    /// Removes the memory files: nothing is left to adopt.
    pub fn remove_memory(&self) {
        self.tiers.table.memory().remove();
        self.tiers.pool.arena().remove();
    }
}

fn validate(options: &EngineOptions) -> Result<()> {
    let wrong = |what: String| Err(Error::Config(what));
    if !PAGE_BYTES_ALLOWED.contains(&options.page_bytes) {
        return wrong(format!(
            "page size is {}, wanted 4096, 16384 or 65536",
            options.page_bytes
        ));
    }
    let (frame_bytes, page_bytes) = (options.frame_bytes, options.page_bytes);
    if !PAGE_BYTES_ALLOWED.contains(&frame_bytes) || frame_bytes < page_bytes {
        return wrong(format!(
            "frame size is {frame_bytes}, wanted 4096, 16384 or 65536 and at least the page size, \
             {page_bytes}"
        ));
    }
    if let Some(store) = &options.store {
        let most = store::object_bytes_max(store.segment_bytes);
        // A raw page that fits no segment could never be written back.
        if (most as usize) < page_bytes {
            return wrong(format!(
                "the store's segment size is {} bytes, which holds objects of {most}, wanted at \
                 least a page, {page_bytes}",
                store.segment_bytes
            ));
        }
    }
    let is_durable = options.exports.iter().any(|export| export.is_durable);
    if is_durable && options.store.is_none() {
        return wrong("an export is to survive loss of the host, wanted a store for it".into());
    }
    if let Some(export) = (options.exports.iter()).find(|one| one.is_recovered && !one.is_durable) {
        let name = &export.name;
        return wrong(format!(
            "export {name} is to be recovered, wanted a durable one"
        ));
    }
    let (low, high) = (options.low_mark_percent, options.high_mark_percent);
    if low >= high || high > 100 {
        return wrong(format!(
            "marks are {low} and {high} per cent, wanted low < high <= 100"
        ));
    }
    if options.exports.is_empty() || options.exports.len() > EXPORTS_MAX {
        let found = options.exports.len();
        return wrong(format!(
            "there are {found} exports, wanted 1 to {EXPORTS_MAX}"
        ));
    }
    Ok(())
}

/// Gives every export its pages.
fn lay_out(options: &EngineOptions) -> Result<Vec<ExportInfo>> {
    let mut first = 0u64;
    let mut infos = Vec::with_capacity(options.exports.len());
    for export in &options.exports {
        let pages = export.size_bytes.div_ceil(options.page_bytes as u64);
        if pages == 0 || first + pages > u64::from(u32::MAX) {
            return Err(Error::Config(format!(
                "export {} has {} bytes, wanted at least 1 and less than 2^32 pages in all exports",
                export.name, export.size_bytes
            )));
        }
        infos.push(ExportInfo {
            name: export.name.clone(),
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            first: PageId(first as u32),
            pages: pages as u32,
            is_lost: export.is_lost,
        });
        first += pages;
    }
    Ok(infos)
}

fn open_table(
    options: &EngineOptions,
    exports: &mut [ExportInfo],
    report: &mut OpenReport,
) -> Result<Table> {
    let pages = exports.iter().map(|export| export.pages as usize).sum();
    let path = memory_path(options, "table");
    if let (true, Some(path)) = (options.adopt, &path) {
        match adopt_table(path, pages, options, exports) {
            Ok(Some(words)) => {
                if options.populate {
                    words.populate()?;
                }
                report.adopted = true;
                return Ok(Table::new(words));
            }
            // Nobody ever wrote to it: it takes its place.
            Ok(None) => report.reason = format!("{} was never finished", path.display()),
            // Whatever else is there is not touched, and nothing may take its place.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                report.reason = format!("{} is gone", path.display());
            }
            Err(error) => return Err(error),
        }
    }
    let words = SharedWords::create(path.as_deref(), pages, options.populate)?;
    if options.exports.iter().any(|export| export.is_recovered) {
        // The header comes when all words are there: whoever finds a table without one makes it anew.
        report.recovered = true;
    } else {
        words.set_header(&encode_header(options, exports));
    }
    Ok(Table::new(words))
}

fn memory_path(options: &EngineOptions, what: &str) -> Option<PathBuf> {
    let dir = options.memory_dir.as_ref()?;
    Some(dir.join(format!("nbdswap-{:016x}.{what}", options.instance)))
}

/// Opens a predecessor's table and takes over which exports are lost. None: the predecessor died
/// before it had written the header.
fn adopt_table(
    path: &Path,
    pages: usize,
    options: &EngineOptions,
    exports: &mut [ExportInfo],
) -> Result<Option<SharedWords>> {
    let words = SharedWords::open(path, pages)?;
    let found = words.header();
    if found.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let mut as_before = exports.to_vec();
    for (index, export) in as_before.iter_mut().enumerate() {
        export.is_lost = was_lost(&found, index);
    }
    // The header that this configuration would have written, with what only the file knows.
    if encode_header(options, &as_before) != found {
        return Err(Error::Foreign {
            path: path.display().to_string(),
            why: "is of another configuration (exports, page size) or another life".into(),
        });
    }
    exports.clone_from_slice(&as_before);
    Ok(Some(words))
}

struct OpenedPool {
    zpool: Pools,
    is_adopted: bool,
}

fn open_pool(options: &EngineOptions, report: &mut OpenReport) -> Result<OpenedPool> {
    let arena = ArenaOptions {
        path: memory_path(options, "pool"),
        instance: options.instance,
        frame_bytes: options.frame_bytes,
        pool_bytes_max: options.pool_bytes_max,
        chain_frames_max: options.chain_frames_max,
        populate: options.populate,
        unit_bytes: unit_bytes_in(options.memory_dir.as_deref())?,
    };
    if report.adopted {
        match Arena::open(arena.clone()) {
            Ok(arena) => {
                return Ok(OpenedPool {
                    zpool: Pools::new(arena, options.zpool),
                    is_adopted: true,
                });
            }
            // Of another size, or never finished: the table is good without it.
            Err(Error::Misfit { path, why }) => {
                let warning = format!("the pool could not be adopted: {path}: {why}");
                report.warnings.push(warning);
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                report.warnings.push("the pool is gone".into());
            }
            Err(error) => return Err(error),
        }
    }
    let zpool = Pools::new(Arena::create(arena)?, options.zpool);
    Ok(OpenedPool {
        zpool,
        is_adopted: false,
    })
}

fn holds_stored_pages(table: &Table) -> bool {
    let mut at = 0;
    let pages = table.pages() as u32;
    while let Some(part) = table.touched_in(at..pages) {
        at = part.end;
        let mut words = part.map(|page| table.peek(PageId(page)));
        if words.any(|word| matches!(word.checked_place(), Some(Place::Store(_)))) {
            return true;
        }
    }
    false
}

/// What is to become of what the store holds.
#[derive(Clone, Copy)]
struct Adoption {
    adopt: bool,
    may_be_blank: bool,
    may_refuse_writes: bool,
    keeps_freed: bool,
}

fn open_store(options: &mut EngineOptions, adoption: Adoption) -> Result<Option<Store>> {
    let Some(source) = options.store.take() else {
        return Ok(None);
    };
    let store = StoreOptions {
        id: options.instance,
        generation: options.generation,
        segment_bytes: source.segment_bytes,
        adopt: adoption.adopt,
        may_be_blank: adoption.may_be_blank,
        may_refuse_writes: adoption.may_refuse_writes,
        keeps_freed: adoption.keeps_freed,
        punch: source.punch,
        encryption: source.encryption,
        ..StoreOptions::default()
    };
    Ok(Some(match source.backing {
        Backing::File(path, file) => Store::open_file(&path, &file, store)?,
        Backing::HeldFile(path, file, held) => {
            Store::open_held_file(&path, &file, Some(held), store)?
        }
        Backing::Device(device) => Store::open(device, store)?,
    }))
}

/// Claims every object that the table knows.
fn adopt(tiers: &Tiers, has_pool: bool, lane: &LaneStats, report: &mut OpenReport) {
    let mut buffer = ReadBuffer::new();
    let mut at = 0;
    let pages = tiers.table.pages() as u32;
    while let Some(part) = tiers.table.touched_in(at..pages) {
        at = part.end;
        for page in part.map(PageId) {
            let old = tiers.table.peek(page);
            if old == Word::default() {
                continue;
            }
            let new = claim(tiers, has_pool, &mut buffer, page, old);
            tiers.table.lock(page).publish(new);
            lane.moved(tiers.export_of(page), Word::default(), new);
            if new.place() == Place::Lost {
                report.pages_lost += 1;
            } else {
                report.pages_adopted += 1;
            }
        }
    }
}

/// The word of a page after adoption, without marks.
fn claim(tiers: &Tiers, has_pool: bool, buffer: &mut ReadBuffer, page: PageId, old: Word) -> Word {
    let is_held = match old.checked_place() {
        Some(Place::Pool(ObjectAt { bytes, at, .. })) => {
            let tag = Tag {
                owner: page.0,
                stamp: 0,
            };
            has_pool && bytes <= tiers.page_bytes && tiers.pool.adopt(at, bytes, tag).is_ok()
        }
        Some(Place::Store(ObjectAt { bytes, at, .. })) => {
            let store = tiers.store.as_ref().filter(|_| bytes <= tiers.page_bytes);
            store.is_some_and(|store| store.adopt_record(buffer, at, bytes as u32).is_ok())
        }
        Some(_) => true,
        None => false,
    };
    if is_held {
        old.unmarked()
    } else {
        Word::of(Place::Lost)
    }
}
