//! Drives the page engine with a store on a real file and says what the device was made to write.
//!
//! `nbdstore drain FILE` fills a pool in memory and times the write-back of nearly all of it.
//! `nbdstore readback FILE` writes pages back and reads them in order and at random, with and without
//! reading ahead.
//! `nbdstore depth FILE` reads them at random with 1, 4 and 32 under way, by threads and in an io_uring.
//! `nbdstore tail FILE` times reads at random while others are written back and segments are cleaned.
//! `nbdstore churn FILE` fills the store to a share of its segments and overwrites pages at random.
//!
//! One JSON object on standard output. Beside what the store counts stands what the kernel counted for
//! this process (`write_bytes` in `/proc/self/io`, see proc(5)): what was sent to the block layer.
//! Not here: comparisons, the other program, what is wanted (`bench/store/measure.py`).

mod depth;
mod reads;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use nbdswap_bench::chance::Chance;
use nbdswap_core::codec::CodecChoice;
use nbdswap_core::courtesy;
use nbdswap_core::engine::{
    Backing, Engine, EngineOptions, ExportOptions, Lane, StoreSource, Write,
};
use nbdswap_core::page::PageId;
use nbdswap_core::store::{FileOptions, Io};
use nbdswap_core::writeback::Work;
use nbdswap_core::zpool::{CHAIN_FRAMES_MAX_DEFAULT, ZpoolKind};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const PAGE_BYTES: usize = 4096;
const SEGMENT_BYTES: u32 = 1 << 20;

/// Threads that write batches, as in a server.
const WRITERS: usize = 3;

/// Mean of the objects that `Driver::write` makes, with lz4.
const OBJECT_BYTES_MEAN: u64 = 2020;

struct Driver {
    engine: Arc<Engine>,
    lane: Lane,
    chance: Chance,
    data: Vec<u8>,
    start: Instant,
    pages: u64,
}

/// Sizes and marks.
struct Plan {
    path: PathBuf,
    store_bytes: u64,
    pool_bytes: u64,
    pages: u64,
    marks: (u8, u8),
    io: Io,
    seed: u64,
}

impl Driver {
    fn open(plan: Plan) -> Driver {
        let file = FileOptions {
            bytes: plan.store_bytes,
            preallocate: true,
            direct: true,
            io: plan.io,
            // As many as are tried.
            readers: 16,
        };
        let options = EngineOptions {
            instance: 1,
            memory_dir: None,
            adopt: false,
            exports: vec![ExportOptions {
                name: "swap".into(),
                size_bytes: plan.pages * PAGE_BYTES as u64,
                read_only: false,
                is_lost: false,
                is_durable: false,
                is_recovered: false,
            }],
            page_bytes: PAGE_BYTES,
            zpool: ZpoolKind::Zfit,
            frame_bytes: PAGE_BYTES,
            chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
            codec: CodecChoice::named("lz4").expect("a codec of ours"),
            pool_bytes_max: plan.pool_bytes,
            low_mark_percent: plan.marks.0,
            high_mark_percent: plan.marks.1,
            populate: true,
            store: Some(StoreSource {
                backing: Backing::File(plan.path, file),
                segment_bytes: SEGMENT_BYTES,
                punch: false,
                budget: None,
                scrub_bytes_per_s: 0,
                encryption: None,
            }),
            generation: 1,
        };
        let (engine, _) = Engine::open(options).unwrap_or_else(|error| panic!("{error}"));
        Driver {
            lane: engine.lane(),
            engine: Arc::new(engine),
            chance: Chance::new(plan.seed),
            data: vec![0; PAGE_BYTES],
            start: Instant::now(),
            pages: plan.pages,
        }
    }

    fn step(&self) -> Work {
        self.engine.step(self.start.elapsed())
    }

    /// 500 to 3500 bytes of noise, then zeros: lz4 leaves the noise and a few bytes.
    fn write(&mut self, page: u64) {
        let noise = 500 + self.chance.below(3000);
        let mut word = self.chance.below(1 << 32) as u64;
        for chunk in self.data[..noise].chunks_mut(8) {
            word = word
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let bytes = (word ^ word >> 32).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        self.data[noise..].fill(0);
        loop {
            let page = PageId(page as u32);
            match self.engine.write(&mut self.lane, page, &self.data) {
                Ok(Write::Done(_)) => return,
                Ok(_) => _ = self.step(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn write_and_work(&mut self, page: u64) {
        self.write(page);
        // As the background thread, which is told of every 64th write.
        if page.is_multiple_of(64) {
            while self.step() == Work::More {}
        }
    }

    fn share_of_pool(&self) -> f64 {
        let pool = self.engine.snapshot().pool;
        pool.stats.block_bytes as f64 / pool.limit_bytes as f64
    }

    fn count(&self) -> Counted {
        let snapshot = self.engine.snapshot();
        let store = snapshot.store.expect("it was opened with one");
        Counted {
            store_bytes: store.written_bytes,
            kernel_bytes: kernel_bytes(),
            object_bytes: snapshot.writeback.bytes_written_back.get(),
            pages: snapshot.writeback.pages_written_back.get(),
            cleaned_bytes: snapshot.writeback.bytes_cleaned.get(),
            pages_compacted: snapshot.writeback.pages_compacted.get(),
            cpu_seconds: cpu_seconds(),
            at: Instant::now(),
        }
    }

    fn report(&self, before: &Counted) {
        // Before the count, which walks the whole pool.
        let seconds = before.at.elapsed().as_secs_f64();
        let now = self.count();
        let store = self
            .engine
            .snapshot()
            .store
            .expect("it was opened with one");
        let report = json!({
            "seconds": seconds,
            "pages": now.pages - before.pages,
            "object_bytes": now.object_bytes - before.object_bytes,
            "cleaned_bytes": now.cleaned_bytes - before.cleaned_bytes,
            "pages_compacted": now.pages_compacted - before.pages_compacted,
            "cpu_seconds": now.cpu_seconds - before.cpu_seconds,
            "store_bytes": now.store_bytes - before.store_bytes,
            "kernel_bytes": now.kernel_bytes - before.kernel_bytes,
            "live_bytes": store.live_bytes,
            "segments_bytes": store.capacity_bytes,
            "segments_by_live_share": store.segments_by_live_share,
        });
        println!("{report}");
    }
}

struct Counted {
    store_bytes: u64,
    kernel_bytes: u64,
    object_bytes: u64,
    pages: u64,
    cleaned_bytes: u64,
    pages_compacted: u64,
    cpu_seconds: f64,
    at: Instant,
}

/// What the kernel says that this process caused to be sent to the block layer.
fn kernel_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("a kernel that accounts I/O");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|count| count.parse().ok())
        .expect("write_bytes in /proc/self/io")
}

/// Processor time of this process, all its threads.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A pool that was filled to 95 per cent of its limit, over a store that can take all of it.
fn filled(path: PathBuf, pool_bytes: u64, io: Io, seed: u64) -> Driver {
    let mut driver = Driver::open(Plan {
        path,
        store_bytes: pool_bytes + (64 << 20),
        pool_bytes,
        pages: pool_bytes / 1024,
        marks: (10, 95),
        io,
        seed,
    });
    for page in 0.. {
        driver.write(page);
        if page % 1000 == 0 && driver.share_of_pool() >= 0.951 {
            break;
        }
    }
    driver
}

/// Times write-back of a full pool until a tenth of it is left.
fn drain(path: PathBuf, pool_bytes: u64, seed: u64) {
    let driver = filled(path, pool_bytes, Io::Auto, seed);
    // The threads that a server has for it.
    driver.engine.dispatch().open();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                courtesy::begin();
                driver.engine.serve_writes();
            });
        }
        courtesy::begin();
        let before = driver.count();
        while driver.step() == Work::More {
            courtesy::give_way();
        }
        driver.report(&before);
        driver.engine.dispatch().close();
    });
}

/// A store of which `live_percent` of the segments live, behind a pool of 64 MiB.
fn steady(path: PathBuf, store_bytes: u64, live_percent: u64, seed: u64) -> Driver {
    let pool_bytes = 64 << 20;
    let in_pool = pool_bytes * 80 / 100;
    let pages = (store_bytes / 100 * live_percent + in_pool) / (OBJECT_BYTES_MEAN + 20);
    let mut driver = Driver::open(Plan {
        path,
        store_bytes: store_bytes + u64::from(SEGMENT_BYTES),
        pool_bytes,
        pages,
        marks: (80, 90),
        io: Io::Auto,
        seed,
    });
    (0..pages).for_each(|page| driver.write_and_work(page));
    driver
}

/// Fills the store, overwrites all pages `rounds` times at random, and measures over `rounds` more.
fn churn(path: PathBuf, store_bytes: u64, live_percent: u64, skewed: bool, rounds: u64, seed: u64) {
    let mut driver = steady(path, store_bytes, live_percent, seed);
    let pages = driver.pages;
    let page = |driver: &mut Driver| {
        let (all, hot) = (driver.pages as usize, driver.pages as usize / 5);
        let page = match (skewed, driver.chance.below(5)) {
            (false, _) => driver.chance.below(all),
            (true, 0) => hot + driver.chance.below(all - hot),
            (true, _) => driver.chance.below(hot),
        };
        page as u64
    };
    for _ in 0..rounds * pages {
        let page = page(&mut driver);
        driver.write_and_work(page);
    }
    let before = driver.count();
    for _ in 0..rounds * pages {
        let page = page(&mut driver);
        driver.write_and_work(page);
    }
    driver.report(&before);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> u64 {
        let text = arguments.get(index).map_or("", String::as_str);
        text.parse().unwrap_or_else(|_| usage())
    };
    let path = PathBuf::from(arguments.get(1).unwrap_or_else(|| usage()));
    match arguments[0].as_str() {
        "drain" => drain(path, number(2) << 20, number(3)),
        "tail" => reads::tail(path, number(2) << 20, number(3), number(4), number(5)),
        "readback" => reads::read_back(path, number(2) << 20, number(3), number(4)),
        "depth" => {
            let (readers, rounds) = (number(3) as usize, number(4) as usize);
            depth::depths(path, number(2) << 20, readers, rounds, number(5));
        }
        "churn" => churn(
            path,
            number(2) << 20,
            number(3),
            number(4) > 0,
            number(5),
            number(6),
        ),
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: nbdstore drain FILE POOL_MIB SEED");
    eprintln!("       nbdstore readback FILE POOL_MIB ROUNDS SEED");
    eprintln!("       nbdstore depth FILE POOL_MIB READERS ROUNDS SEED");
    eprintln!("       nbdstore tail FILE STORE_MIB SECONDS PAGES_PER_S SEED");
    eprintln!("       nbdstore churn FILE STORE_MIB LIVE_PERCENT SKEWED ROUNDS SEED");
    std::process::exit(2)
}
