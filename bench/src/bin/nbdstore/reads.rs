//! Reading stored pages back: in order and at random, and at random beside all that is written.
//!
//! A page is read as a server does it: the thread that wants it hands a fetch to reader threads, and
//! looks whether the page is where it was when it gets it back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nbdswap_bench::chance::Chance;
use nbdswap_core::background::Background;
use nbdswap_core::engine::{Engine, Fetch, Lane, Read};
use nbdswap_core::page::PageId;
use nbdswap_core::store::Io;
use nbdswap_core::writeback::Work;
use serde_json::json;

use super::{PAGE_BYTES, filled, steady};

/// Threads that read stored pages.
const READERS: usize = 2;

/// A fetch, and when a reader began and ended with it.
type Errand = (Box<Fetch>, [Instant; 2]);

/// Where the time of a read went, microseconds: until a reader had it, until that had the page, until
/// the client had it.
type Stages = [f64; 3];

/// One who waits for pages, and the way to the readers.
struct Client<'a> {
    engine: &'a Engine,
    lane: Lane,
    asks: SyncSender<Box<Fetch>>,
    answers: Receiver<Errand>,
    idle: Option<Box<Fetch>>,
    out: Vec<u8>,
}

impl Client<'_> {
    /// Reads a page and says how long it took. None: it was in the pool, or moved.
    fn read(&mut self, page: u64) -> Option<Stages> {
        let page = PageId(page as u32);
        let started = Instant::now();
        let Ok(Read::Fetch(place)) = self.engine.read(&mut self.lane, page, &mut self.out) else {
            return None;
        };
        let mut fetch = self.idle.take().expect("one is under way at most");
        (fetch.page, fetch.place) = (page, place);
        self.asks.send(fetch).expect("readers wait");
        let (fetch, [begun, ended]) = self.answers.recv().expect("a reader answers");
        let is_there = self.engine.confirm(page, place);
        assert!(!is_there || fetch.result.is_ok(), "{:?}", fetch.result);
        self.idle = Some(fetch);
        let stages = [begun - started, ended - begun, ended.elapsed()];
        is_there.then(|| stages.map(|time| time.as_secs_f64() * 1e6))
    }
}

/// Starts readers and lets `work` be their client.
fn with_readers<T>(
    engine: &Engine,
    reads_ahead: bool,
    work: impl FnOnce(&mut Client<'_>) -> T,
) -> T {
    let (asks, asked) = sync_channel::<Box<Fetch>>(1);
    let (answered, answers) = sync_channel::<Errand>(1);
    let asked = Mutex::new(asked);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let (asked, answered) = (&asked, answered.clone());
            scope.spawn(move || {
                let mut reader = engine.reader_lane();
                let mut batch = Vec::with_capacity(1);
                loop {
                    let next = asked.lock().expect("nobody panicked").recv();
                    let Ok(fetch) = next else { return };
                    batch.push(fetch);
                    let begun = Instant::now();
                    engine.fetch(&mut reader, &mut batch, &mut |fetch| {
                        let times = [begun, Instant::now()];
                        answered.send((fetch, times)).expect("somebody waits");
                    });
                    if reads_ahead {
                        engine.read_ahead(&mut reader);
                    }
                }
            });
        }
        let mut client = Client {
            engine,
            lane: engine.lane(),
            asks,
            answers,
            idle: Some(Fetch::new(PAGE_BYTES)),
            out: vec![0; PAGE_BYTES],
        };
        work(&mut client)
        // The client goes, and with it the way to the readers: they end.
    })
}

pub fn percentile(times: &mut [f64], permille: usize) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[(times.len() - 1) * permille / 1000]
}

/// Writes pages back, then reads some in order and some at random, in turn with and without reading
/// ahead. Each is read once, as a client would.
pub fn read_back(path: PathBuf, pool_bytes: u64, rounds: u64, seed: u64) {
    let mut driver = filled(path, pool_bytes, Io::Auto, seed);
    while driver.step() == Work::More {}
    // The first that were written left first.
    let stored = driver.count().pages;
    let share = stored / (4 * rounds);
    let mut reports = Vec::new();
    for round in 0..rounds {
        for (number, is_in_order, reads_ahead) in [
            (0, true, false),
            (1, true, true),
            (2, false, false),
            (3, false, true),
        ] {
            let first = (4 * round + number) * share;
            let pages: Vec<u64> = match is_in_order {
                true => (first..first + share).collect(),
                false => (0..share / 8)
                    .map(|_| driver.chance.below(stored as usize) as u64)
                    .collect(),
            };
            let before = driver.engine.snapshot().store.expect("there is one");
            let started = Instant::now();
            let mut times: Vec<f64> = with_readers(&driver.engine, reads_ahead, |client| {
                pages
                    .iter()
                    .filter_map(|page| Some(client.read(*page)?.iter().sum()))
                    .collect()
            });
            let seconds = started.elapsed().as_secs_f64();
            let after = driver.engine.snapshot().store.expect("there is one");
            reports.push(json!({
                "round": round,
                "in_order": is_in_order,
                "ahead": reads_ahead,
                "pages": times.len(),
                "pages_per_s": times.len() as f64 / seconds,
                "mean_us": times.iter().sum::<f64>() / times.len() as f64,
                "p50_us": percentile(&mut times, 500),
                "p99_us": percentile(&mut times, 990),
                "served_ahead": after.ahead_records - before.ahead_records,
                "device_reads": after.device_reads - before.device_reads,
                "read_bytes": after.read_bytes - before.read_bytes,
            }));
        }
    }
    println!("{}", json!({ "reads": reports }));
}

/// Overwrites pages at random, `pages_per_s` of them, while the threads of a server write back and clean,
/// and times reads of stored pages at random, one at a time.
pub fn tail(path: PathBuf, store_bytes: u64, seconds: u64, pages_per_s: u64, seed: u64) {
    let mut driver = steady(path, store_bytes, 70, seed);
    let pages = driver.pages as usize;
    // Until segments are as they will be.
    for _ in 0..pages {
        let page = driver.chance.below(pages) as u64;
        driver.write_and_work(page);
    }
    let engine = Arc::clone(&driver.engine);
    let patience = Duration::from_secs(60);
    let background = Background::start(Arc::clone(&engine), patience, || {}).expect("threads");
    let before = driver.count();
    let is_over = AtomicBool::new(false);
    let mut times: Vec<Stages> = std::thread::scope(|scope| {
        let (driver, is_over) = (&mut driver, &is_over);
        let overwrites = scope.spawn(move || {
            let started = Instant::now();
            for number in 0u64.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let page = driver.chance.below(pages) as u64;
                driver.write(page);
                if number.is_multiple_of(64) {
                    let due = Duration::from_secs_f64(number as f64 / pages_per_s as f64);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
            }
        });
        let mut chance = Chance::new(seed + 1);
        let until = Instant::now() + Duration::from_secs(seconds);
        let times: Vec<Stages> = with_readers(&engine, true, |client| {
            let mut times = Vec::new();
            while Instant::now() < until {
                times.extend(client.read(chance.below(pages) as u64));
            }
            times
        });
        is_over.store(true, Ordering::Relaxed);
        overwrites.join().expect("writes succeed");
        times
    });
    let now = driver.count();
    drop(background);
    let took = (now.at - before.at).as_secs_f64();
    let sum = |stages: &Stages| stages.iter().sum::<f64>();
    times.sort_unstable_by(|one, other| sum(one).total_cmp(&sum(other)));
    let at = |permille: usize| sum(&times[(times.len() - 1) * permille / 1000]);
    let slowest = &times[(times.len() - 1) * 999 / 1000..];
    let of_stage = |stage: usize| {
        let us: f64 = slowest.iter().map(|stages| stages[stage]).sum();
        us / slowest.len() as f64
    };
    let report = json!({
        "reads": times.len(),
        "p50_us": at(500),
        "p99_us": at(990),
        "p999_us": at(999),
        "max_us": at(1000),
        "slowest_thousandth_us": {
            "until_a_reader_began": of_stage(0),
            "until_it_had_the_page": of_stage(1),
            "until_the_client_had_it": of_stage(2),
        },
        "written_bytes_per_s": (now.kernel_bytes - before.kernel_bytes) as f64 / took,
        "pages_written_back": now.pages - before.pages,
        "cleaned_bytes": now.cleaned_bytes - before.cleaned_bytes,
    });
    println!("{report}");
}
