//! The engine against a plain array: random operations, small pool, small store, faults, restarts.

mod census;
mod cleaning;
mod crash;
mod degraded;
mod faults;
mod flushing;
mod late_superblock;
mod matrix;
mod opening;
mod power;
mod quiet;
mod recovery;
mod room;
mod scrub;
mod silence;
mod switching;
mod wear;

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::codec::CodecChoice;
use crate::store::Device;
use crate::testing::pages::make_page;
use crate::testing::random::{Random, seeds};
use crate::testing::sim_device::SimDevice;
use crate::zpool::{CHAIN_FRAMES_MAX_DEFAULT, ZpoolKind};

const PAGE: usize = 4096;
const SEGMENT: u32 = 32 << 10;

/// What one run is made of.
#[derive(Clone, Copy)]
struct Setup {
    zpool: ZpoolKind,
    codec: &'static str,
    pool_bytes_max: u64,
    store_bytes: u64,
    page_bytes: usize,
    budget: Option<WriteBudget>,
}

const SMALL: Setup = Setup {
    zpool: ZpoolKind::Zblock,
    codec: "lz4",
    pool_bytes_max: 512 << 10,
    store_bytes: 4 << 20,
    page_bytes: PAGE,
    budget: None,
};

/// Where the memory files of a test are; removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        // A tmpfs, as in production, where there is one.
        let parent = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("nbdswap-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(
    setup: &Setup,
    device: Option<Arc<SimDevice>>,
    dir: Option<&Directory>,
) -> EngineOptions {
    let export = |name: &str, pages: u64, cut: u64| ExportOptions {
        name: name.into(),
        size_bytes: pages * setup.page_bytes as u64 - cut,
        read_only: false,
        is_lost: false,
        is_durable: false,
        is_recovered: false,
    };
    EngineOptions {
        instance: 7,
        memory_dir: dir.map(|dir| dir.0.clone()),
        adopt: false,
        exports: vec![export("first", 300, 0), export("second", 200, 1)],
        page_bytes: setup.page_bytes,
        zpool: setup.zpool,
        frame_bytes: setup.page_bytes,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        codec: CodecChoice::named(setup.codec).unwrap(),
        pool_bytes_max: setup.pool_bytes_max,
        high_mark_percent: 90,
        low_mark_percent: 70,
        populate: false,
        store: device.map(|device| StoreSource {
            backing: Backing::Device(Box::new(device) as Box<dyn Device>),
            segment_bytes: SEGMENT,
            punch: true,
            budget: setup.budget,
            scrub_bytes_per_s: 0,
            encryption: None,
        }),
        generation: 1,
    }
}

/// An engine and the array that it must equal.
struct Run {
    setup: Setup,
    engine: Engine,
    lane: Lane,
    reader: ReaderLane,
    device: Option<Arc<SimDevice>>,
    model: Vec<Vec<u8>>,
    random: Random,
    refused: u64,
    now: Duration,
}

const PAGES: u32 = 500;

impl Run {
    fn new(setup: Setup, seed: u64) -> Run {
        Run::open(setup, seed, None)
    }

    fn open(setup: Setup, seed: u64, dir: Option<&Directory>) -> Run {
        Run::open_with(setup, seed, dir, |_| {})
    }

    /// The next engine takes over what this one leaves.
    fn take_over(&mut self, mut options: EngineOptions) -> OpenReport {
        options.adopt = true;
        let (engine, report) = Engine::open(options).unwrap();
        assert!(report.adopted, "{}", report.reason);
        self.lane = engine.lane();
        self.reader = engine.reader_lane();
        self.engine = engine;
        report
    }

    fn open_with(
        setup: Setup,
        seed: u64,
        dir: Option<&Directory>,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Run {
        let device = (setup.store_bytes > 0)
            .then(|| Arc::new(SimDevice::new(setup.store_bytes as usize, seed)));
        let mut options = options(&setup, device.clone(), dir);
        change(&mut options);
        let (engine, report) = Engine::open(options).unwrap();
        assert!(!report.adopted);
        Run {
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            device,
            setup,
            model: vec![vec![0; setup.page_bytes]; PAGES as usize],
            random: Random::new(seed),
            refused: 0,
            now: Duration::ZERO,
        }
    }

    /// A step of background work, half a millisecond after the last one.
    fn step(&mut self) -> Work {
        self.now += Duration::from_micros(500);
        self.engine.step(self.now)
    }

    /// Reads a page as a worker and a reader would together.
    fn read(&mut self, page: PageId) -> Result<Vec<u8>> {
        let mut out = vec![0xa5; self.setup.page_bytes];
        loop {
            match self.engine.read(&mut self.lane, page, &mut out)? {
                Read::Ready(_) => return Ok(out),
                Read::Fetch(place) => {
                    let fetch = self.fetch(page, place);
                    if self.engine.confirm(page, place) {
                        fetch.result?;
                        return Ok(fetch.buffer.into_vec());
                    }
                }
            }
        }
    }

    fn fetch(&mut self, page: PageId, place: StorePlace) -> Fetch {
        let mut fetch = Fetch::new(self.setup.page_bytes);
        (fetch.page, fetch.place) = (page, place);
        let fetch = fetch_one(&self.engine, &mut self.reader, fetch);
        self.engine.read_ahead(&mut self.reader);
        *fetch
    }

    /// Writes part of a page; steps while the pool is full. None: refused.
    fn patch(&mut self, page: PageId, offset: usize, data: &[u8]) -> Option<Tier> {
        let is_whole = data.len() == self.setup.page_bytes;
        let mut fetched: Option<Fetch> = None;
        for _ in 0..10_000 {
            let written = match &mut fetched {
                Some(fetch) => self.engine.patch_fetched(
                    &mut self.lane,
                    page,
                    fetch.place,
                    &mut fetch.buffer,
                    (offset, data),
                ),
                None if is_whole => self.engine.write(&mut self.lane, page, data),
                None => self.engine.patch(&mut self.lane, page, offset, data),
            };
            match written {
                Ok(Write::Done(tier)) => return Some(tier),
                Ok(Write::Stall) => {
                    self.step();
                }
                Ok(Write::Fetch(place)) => {
                    let fetch = self.fetch(page, place);
                    fetch.result.as_ref().ok()?;
                    fetched = Some(fetch);
                }
                Err(_) => return None,
            }
        }
        panic!("a write that never ends");
    }

    /// One random operation on engine and model.
    fn act(&mut self) {
        let page_bytes = self.setup.page_bytes;
        let page = PageId(self.random.below(u64::from(PAGES)) as u32);
        match self.random.below(100) {
            0..45 => {
                let mut data = vec![0; page_bytes];
                make_page(&mut self.random, &mut data);
                match self.patch(page, 0, &data) {
                    Some(_) => self.model[page.0 as usize] = data,
                    None => self.refused += 1,
                }
            }
            45..55 => {
                let offset = self.random.below(page_bytes as u64) as usize;
                let len = 1 + self.random.below((page_bytes - offset) as u64) as usize;
                let data = vec![self.random.bits() as u8; len];
                match self.patch(page, offset, &data) {
                    Some(_) => {
                        self.model[page.0 as usize][offset..offset + len].copy_from_slice(&data);
                    }
                    None => self.refused += 1,
                }
            }
            55..58 => {
                let end = (page.0 + 1 + self.random.below(30) as u32).min(PAGES);
                // Two exports: a discard stays inside one.
                let end = if page.0 < 300 { end.min(300) } else { end };
                self.engine.discard(&mut self.lane, page.0..end);
                for gone in page.0..end {
                    self.model[gone as usize].fill(0);
                }
            }
            58..60 => {
                self.engine.zero(&mut self.lane, page).unwrap();
                self.model[page.0 as usize].fill(0);
            }
            60..70 => {
                self.step();
            }
            _ => {
                let found = self.read(page).expect("a page without fault");
                assert!(
                    found == self.model[page.0 as usize],
                    "{page} is not what was written"
                );
            }
        }
    }

    fn verify(&mut self) {
        for index in 0..PAGES {
            let found = self.read(PageId(index)).expect("a page without fault");
            assert!(
                found == self.model[index as usize],
                "page {index} is not what was written"
            );
        }
    }

    fn stored_pages(&self) -> u64 {
        let snapshot = self.engine.snapshot();
        snapshot
            .exports
            .iter()
            .map(|export| export.pages[Tier::Store as usize])
            .sum()
    }
}

/// What a reader makes of one fetch.
fn fetch_one(engine: &Engine, reader: &mut ReaderLane, fetch: Box<Fetch>) -> Box<Fetch> {
    let mut fetched = None;
    engine.fetch(reader, &mut vec![fetch], &mut |fetch| fetched = Some(fetch));
    fetched.expect("it is answered")
}

fn with_seed(seed: u64, run: impl FnOnce(u64)) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
    if let Err(panic) = result {
        eprintln!("replay with SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn random_operations_read_what_was_written() {
    let setups = [
        SMALL,
        Setup {
            zpool: ZpoolKind::Zsmalloc,
            ..SMALL
        },
        Setup {
            zpool: ZpoolKind::Zbud,
            ..SMALL
        },
        Setup {
            zpool: ZpoolKind::Z3fold,
            ..SMALL
        },
        Setup {
            codec: "zstd",
            ..SMALL
        },
        Setup {
            codec: "none",
            store_bytes: 2 << 20,
            ..SMALL
        },
        Setup {
            store_bytes: 0,
            ..SMALL
        },
        Setup {
            page_bytes: 16 << 10,
            pool_bytes_max: 2 << 20,
            store_bytes: 8 << 20,
            ..SMALL
        },
    ];
    for seed in seeds(24) {
        with_seed(seed, |seed| {
            let mut run = Run::new(setups[seed as usize % setups.len()], seed);
            for _ in 0..2000 {
                run.act();
                run.engine.check();
            }
            run.verify();
            assert!(
                run.setup.store_bytes == 0 || run.stored_pages() > 0,
                "nothing was stored"
            );
            if run.setup.store_bytes >= SMALL.store_bytes {
                assert_eq!(run.refused, 0, "the store had room for everything");
            }
        });
    }
}

#[test]
fn what_write_back_moves_is_the_oldest_and_what_was_read() {
    let mut run = Run::new(
        Setup {
            pool_bytes_max: 1 << 20,
            codec: "none",
            ..SMALL
        },
        3,
    );
    let mut noise = Random::new(9);
    let mut page = || -> Vec<u8> { (0..PAGE).map(|_| noise.bits() as u8).collect() };
    for index in 0..200 {
        let data = page();
        run.patch(PageId(index), 0, &data).unwrap();
        run.model[index as usize] = data;
    }
    // 190 is young, but the client has just read it.
    run.read(PageId(190)).unwrap();
    for index in 200..240 {
        let data = page();
        run.patch(PageId(index), 0, &data).unwrap();
        run.model[index as usize] = data;
        while run.step() == Work::More {}
    }
    let is_stored = |run: &mut Run, index| {
        let mut out = vec![0; PAGE];
        let read = run
            .engine
            .read(&mut run.lane, PageId(index), &mut out)
            .unwrap();
        matches!(read, Read::Fetch(_))
    };
    assert!(
        is_stored(&mut run, 0),
        "the oldest page is still in the pool"
    );
    assert!(
        is_stored(&mut run, 190),
        "the page that was read is still in the pool"
    );
    assert!(!is_stored(&mut run, 239), "the newest page left");
    run.verify();
    run.engine.check();
}

#[test]
fn a_successor_finds_every_page_that_was_acknowledged() {
    for seed in seeds(6) {
        with_seed(seed, |seed| {
            let dir = Directory::new(&format!("adopt-{seed}"));
            let zpool = ZpoolKind::ALL[seed as usize % ZpoolKind::ALL.len()];
            let mut run = Run::open(Setup { zpool, ..SMALL }, seed, Some(&dir));
            for _ in 0..4 {
                for _ in 0..400 {
                    run.act();
                }
                // No orderly end: the predecessor is simply gone.
                let report = run.take_over(options(&run.setup, run.device.clone(), Some(&dir)));
                assert_eq!(report.pages_lost, 0);
                run.engine.check();
                run.verify();
            }
        });
    }
}

#[test]
fn a_successor_of_another_pool_size_loses_pool_pages_and_says_so() {
    let dir = Directory::new("resize");
    let mut run = Run::open(SMALL, 11, Some(&dir));
    for _ in 0..2000 {
        run.act();
    }
    let pooled: u64 = run.engine.snapshot().pool.codec_pages.iter().sum();
    let mut options = options(&run.setup, run.device.clone(), Some(&dir));
    options.adopt = true;
    options.pool_bytes_max *= 2;
    let (engine, report) = Engine::open(options).unwrap();
    assert_eq!(report.pages_lost, pooled);
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
    let mut lost = 0;
    for index in 0..PAGES {
        match run.read(PageId(index)) {
            Ok(found) => assert!(found == run.model[index as usize], "page {index}"),
            Err(Error::Lost) => lost += 1,
            Err(error) => panic!("page {index}: {error}"),
        }
    }
    assert_eq!(lost, pooled);
    // A whole write makes a lost page good again.
    let index = (0..PAGES).find(|&p| run.read(PageId(p)).is_err()).unwrap();
    assert!(run.patch(PageId(index), 100, b"part").is_none());
    assert!(run.patch(PageId(index), 0, &vec![8; PAGE]).is_some());
    assert_eq!(run.read(PageId(index)).unwrap(), vec![8; PAGE]);
}

#[test]
fn unwritten_pages_of_a_lost_export_answer_an_error_until_discarded() {
    let mut options = options(
        &Setup {
            store_bytes: 0,
            ..SMALL
        },
        None,
        None,
    );
    options.exports[0].is_lost = true;
    let (engine, _) = Engine::open(options).unwrap();
    let mut lane = engine.lane();
    let mut out = vec![1; PAGE];
    assert!(matches!(
        engine.read(&mut lane, PageId(5), &mut out),
        Err(Error::Lost)
    ));
    assert!(matches!(
        engine.patch(&mut lane, PageId(5), 0, b"x"),
        Err(Error::Lost)
    ));
    let lost = |engine: &Engine| engine.snapshot().exports[0].pages[Tier::Lost as usize];
    assert_eq!(lost(&engine), 300);
    engine.discard(&mut lane, 5..6);
    assert_eq!(lost(&engine), 299);
    assert_eq!(
        engine.read(&mut lane, PageId(5), &mut out).unwrap(),
        Read::Ready(Tier::Zero)
    );
    // The other export is whole.
    assert_eq!(
        engine.read(&mut lane, PageId(305), &mut out).unwrap(),
        Read::Ready(Tier::Zero)
    );
}

#[test]
fn segments_are_written_full() {
    let setup = Setup {
        store_bytes: 8 << 20,
        ..SMALL
    };
    let mut run = Run::new(setup, 3);
    for round in 0..4 {
        for index in 0..PAGES {
            // 1 KiB of noise: 31 records fill a segment, and some of it is left over each time.
            let mut data = vec![round; PAGE];
            data[..1000].fill_with(|| run.random.bits() as u8);
            assert!(run.patch(PageId(index), 0, &data).is_some());
            run.model[index as usize] = data;
        }
    }
    run.verify();
    let store = run.engine.snapshot().store.expect("this setup has one");
    let segments = run.device.as_ref().unwrap().counts().writes - 2;
    let used = store.written_bytes as f64 / (segments * u64::from(SEGMENT)) as f64;
    assert!(
        segments > 20 && used > 0.9,
        "{segments} segments are {used:.2} full"
    );
}
