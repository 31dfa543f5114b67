//! The page path of the real engine asks for no memory after warm-up, nor do the C libraries of its
//! codecs, nor does background work.
//!
//! This counts the calls of the C allocator, under everything, that one thread makes.

#![cfg(all(feature = "testing", target_env = "gnu"))]
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use nbdswap_core::codec::{CODECS, CodecChoice, Compressor, Decompressor};
use nbdswap_core::engine::{
    Backing, Engine, EngineOptions, ExportId, ExportOptions, Fetch, Lane, Read, ReaderLane,
    StoreSource, Write,
};
use nbdswap_core::page::PageId;
use nbdswap_core::session::boxes::FetchBox;
use nbdswap_core::store::{Device, Encryption, FileOptions, Io, KEY_BYTES, MasterKey, Reading};
use nbdswap_core::testing::pages::make_page;
use nbdswap_core::testing::random::Random;
use nbdswap_core::zpool::{CHAIN_FRAMES_MAX_DEFAULT, ZpoolKind};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(memory: *mut c_void, bytes: usize) -> *mut c_void;
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: the C library's own functions by their other names; its `free` takes what they give.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(bytes: usize) -> *mut c_void {
    count();
    // SAFETY: as the caller promised.
    unsafe { __libc_malloc(bytes) }
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(number: usize, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: as the caller promised.
    unsafe { __libc_calloc(number, bytes) }
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(memory: *mut c_void, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: as the caller promised.
    unsafe { __libc_realloc(memory, bytes) }
}

/// A device that allocates nothing itself.
struct Memory(Mutex<Vec<u8>>);

impl Device for Memory {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = offset as usize;
        buffer.copy_from_slice(&self.0.lock().unwrap()[from..from + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let to = offset as usize;
        self.0.lock().unwrap()[to..to + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

const DEVICE_BYTES: usize = 8 << 20;
const PAGE: usize = 4096;
const PAGES: u32 = 400;
/// Pages that are read together.
const BOXES: usize = 16;

fn engine(codec: &str, zpool: ZpoolKind, is_encrypted: bool, backing: Backing) -> Engine {
    let options = EngineOptions {
        instance: 1,
        memory_dir: None,
        adopt: false,
        exports: vec![ExportOptions {
            name: "swap".into(),
            size_bytes: u64::from(PAGES) * PAGE as u64,
            read_only: false,
            is_lost: false,
            // Half of them are encrypted, and these are durable too.
            is_durable: is_encrypted,
            is_recovered: false,
        }],
        page_bytes: PAGE,
        zpool,
        frame_bytes: PAGE,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        codec: CodecChoice::named(codec).expect("a codec"),
        pool_bytes_max: 512 << 10,
        high_mark_percent: 80,
        low_mark_percent: 50,
        populate: true,
        store: Some(StoreSource {
            backing,
            segment_bytes: 64 << 10,
            punch: true,
            budget: None,
            scrub_bytes_per_s: 1 << 20,
            encryption: is_encrypted.then(|| Encryption {
                key: MasterKey::new([7; KEY_BYTES]),
                salt: [1; 16],
            }),
        }),
        generation: 1,
    };
    Engine::open(options).expect("memory for a test").0
}

/// A thread's equipment, made before anything is counted.
struct Bench {
    engine: Engine,
    lane: Lane,
    reader: ReaderLane,
    idle: Vec<FetchBox>,
    batch: Vec<FetchBox>,
    content: Vec<[u8; PAGE]>,
    out: [u8; PAGE],
    fetches: u32,
    now_us: u64,
}

impl Bench {
    /// Reads up to [`BOXES`] pages, those that are stored together.
    fn read(&mut self, pages: impl Iterator<Item = u32>) {
        for page in pages.map(PageId) {
            let read = self.engine.read(&mut self.lane, page, &mut self.out);
            if let Read::Fetch(place) = read.expect("a page without fault") {
                let mut fetch = self.idle.pop().expect("a box a page");
                (fetch.page, fetch.place) = (page, place);
                self.batch.push(fetch);
                self.fetches += 1;
            }
        }
        let (engine, idle) = (&self.engine, &mut self.idle);
        engine.fetch(&mut self.reader, &mut self.batch, &mut |fetch| {
            assert!(fetch.result.is_ok() && engine.confirm(fetch.page, fetch.place));
            idle.push(fetch);
        });
        engine.read_ahead(&mut self.reader);
    }

    /// Every operation on every page.
    fn round(&mut self) {
        for index in 0..PAGES {
            let page = PageId(index);
            let content = &self.content[index as usize];
            while self
                .engine
                .write(&mut self.lane, page, content)
                .expect("room")
                == Write::Stall
            {
                self.engine.step(Duration::from_micros(self.fetches.into()));
            }
            self.read(std::iter::once(index));
            self.read(std::iter::once((index + PAGES / 2) % PAGES));
            self.read((index % 32..PAGES).step_by(32));
            while self
                .engine
                .patch(&mut self.lane, page, 100, &[7; 50])
                .expect("room")
                == Write::Stall
            {
                self.engine.step(Duration::from_micros(self.now_us));
            }
            self.engine.step(Duration::from_micros(self.now_us));
            self.now_us += self.engine.scrub(self.now_us).expect("it is on");
            if index % 150 == 149
                && let Some(flush) = self.engine.flush(ExportId(0))
            {
                while self.engine.flushed(flush).is_none() {
                    self.engine.step(Duration::from_micros(self.now_us));
                }
            }
            match index % 10 {
                8 => self
                    .engine
                    .zero(&mut self.lane, page)
                    .expect("a table entry"),
                9 => self.engine.discard(&mut self.lane, index..index + 1),
                _ => {}
            }
        }
    }
}

/// Whoever changes the codec pays for it; lanes, and the steps that move objects, do not.
fn switch_and_go_on(bench: &mut Bench) {
    for zpool in ZpoolKind::ALL {
        for codec in &CODECS {
            let before = ALLOCATIONS.get();
            let choice = CodecChoice::named(codec.name).expect("a codec");
            bench.engine.set_codec(choice);
            assert!(ALLOCATIONS.get() > before, "a compressor of no memory");
            bench.engine.set_zpool(zpool);
            let before = ALLOCATIONS.get();
            bench.round();
            assert_eq!(
                ALLOCATIONS.get() - before,
                0,
                "allocations after {choice:?}"
            );
            // Write-back may have left nothing in so small a pool.
            let written = bench
                .engine
                .write(&mut bench.lane, PageId(0), &bench.content[0]);
            assert_ne!(written.expect("room"), Write::Stall);
            let pages = bench.engine.snapshot().pool.codec_pages[codec.id as usize];
            assert!(pages > 0, "no page is of {choice:?}");
        }
    }
    // Little is in the pool at that moment, but all of it.
    let snapshot = bench.engine.snapshot();
    let moved = snapshot.writeback.pages_moved.get();
    assert!(moved > 10, "{moved} moved");
    assert_eq!(snapshot.pool.former, []);
    bench.engine.check();
}

#[test]
fn page_operations_and_background_work_allocate_nothing_after_warm_up() {
    for (index, codec) in CODECS.iter().enumerate() {
        let codec = codec.name;
        let zpool = ZpoolKind::ALL[index % ZpoolKind::ALL.len()];
        let path = std::env::temp_dir().join(format!("nbdswap-no-alloc-{}", std::process::id()));
        let file = FileOptions {
            bytes: DEVICE_BYTES as u64,
            preallocate: false,
            direct: true,
            io: Io::Auto,
            readers: 1,
        };
        let backing = match index % 3 {
            0 => Backing::File(path.clone(), file),
            _ => Backing::Device(Box::new(Memory(Mutex::new(vec![0; DEVICE_BYTES])))),
        };
        let engine = engine(codec, zpool, index % 2 == 0, backing);
        // Open, it needs no name; nothing is there if it is in memory.
        drop(fs::remove_file(&path));
        let reading = engine.store_reading().expect("it has a store");
        if index % 3 == 0 && *reading != Reading::IoUring {
            eprintln!("SKIPPED for io_uring: {reading:?}");
        }
        let mut random = Random::new(1);
        let mut content = vec![[0; PAGE]; PAGES as usize];
        content
            .iter_mut()
            .for_each(|page| make_page(&mut random, page));
        let mut bench = Bench {
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            idle: (0..BOXES).map(|_| Fetch::new(PAGE)).collect(),
            batch: Vec::with_capacity(BOXES),
            content,
            out: [0; PAGE],
            fetches: 0,
            now_us: 0,
        };
        bench.round();
        let (before, fetches) = (ALLOCATIONS.get(), bench.fetches);
        (0..5).for_each(|_| bench.round());
        assert_eq!(
            ALLOCATIONS.get() - before,
            0,
            "allocations with {codec}, {zpool:?}"
        );
        assert!(bench.fetches > fetches + 100, "{} fetches", bench.fetches);
        let scrubbed = bench.engine.snapshot().writeback.scrub.bytes.get();
        assert!(scrubbed > 0, "nothing was scrubbed");
        bench.engine.check();
        switch_and_go_on(&mut bench);
        // The count is not blind: a box is seen.
        let before = ALLOCATIONS.get();
        drop(std::hint::black_box(Box::new(1u64)));
        assert_eq!(ALLOCATIONS.get() - before, 1);
    }
}

/// A codec is made by one thread and handed to the one that works with it.
#[test]
fn codecs_allocate_nothing_on_a_thread_that_did_not_make_them() {
    let mut random = Random::new(2);
    let mut pages = vec![[0; PAGE]; 200];
    pages
        .iter_mut()
        .for_each(|page| make_page(&mut random, page));
    for codec in &CODECS {
        // All levels, as each may be another algorithm; accelerations of lz4 are not.
        let most = codec.level_max.min(codec.level_min + 30);
        for level in codec.level_min..=most {
            let choice = CodecChoice::new(codec.codec, level).expect("a level of the codec");
            let mut compressor = Compressor::new(choice, PAGE);
            let mut decompressor = Decompressor::new();
            let count = || {
                let before = ALLOCATIONS.get();
                let mut back = [0; PAGE];
                for page in &pages {
                    if let Some(object) = compressor.compress(page, PAGE) {
                        assert!(decompressor.decompress(choice.id(), object, &mut back));
                        assert_eq!(&back, page);
                    }
                }
                ALLOCATIONS.get() - before
            };
            let allocations = std::thread::scope(|scope| scope.spawn(count).join());
            assert_eq!(allocations.expect("pages that come back"), 0, "{choice:?}");
        }
    }
}
