//! Memory files on a real hugetlbfs, mounted for the test: its memory comes by huge pages of which
//! there are few, it cannot be written to, and it calls every hole data.
//!
//! Where nothing may be mounted or no huge page is free the tests say so and pass:
//! `echo 64 >/proc/sys/vm/nr_hugepages` makes some. `MemoryDir`s stand for it on a tmpfs, with units
//! of 64 KiB (`conformance`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mounted::Mounted;
use super::*;
use crate::error::Error;
use crate::store::KeySource;
use crate::zpool::conformance::{Model, conformance_in};
use crate::zpool::mapping::{Mapping, SYSTEM_PAGE_BYTES, unit_bytes_in};
use crate::zpool::words::SharedWords;

/// Huge pages that a test may use.
const PAGES: usize = 12;

/// Tests take turns: together they would want more huge pages than there may be.
static TURN: Mutex<()> = Mutex::new(());

/// A hugetlbfs that gives [`PAGES`] huge pages and no more.
struct HugeDir {
    dir: Mounted,
    unit_bytes: usize,
    _turn: MutexGuard<'static, ()>,
}

impl HugeDir {
    /// None, with the reason on standard error, where there can be none.
    fn mount() -> Option<HugeDir> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let huge = |name: &str| -> usize {
            let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.map_or(0, |number| number.parse().unwrap())
        };
        let free = huge("HugePages_Free:").saturating_sub(huge("HugePages_Rsvd:"));
        if free < PAGES {
            eprintln!("skipped: {free} huge pages are free, wanted {PAGES}");
            return None;
        }
        let unit_bytes = huge("Hugepagesize:") << 10;
        Some(HugeDir {
            dir: Mounted::new("hugetlbfs", PAGES * unit_bytes, "hugetlbfs")?,
            unit_bytes,
            _turn: turn,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.file(name)
    }

    fn options(&self, units: usize) -> ArenaOptions {
        ArenaOptions {
            path: Some(self.file("pool")),
            instance: 7,
            frame_bytes: 4096,
            pool_bytes_max: (units * self.unit_bytes) as u64,
            chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
            populate: false,
            unit_bytes: unit_bytes_in(Some(self.dir.path())).unwrap(),
        }
    }
}

fn counted(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

#[test]
fn every_zpool_is_adopted_from_huge_pages() {
    let Some(huge) = HugeDir::mount() else { return };
    assert_eq!(
        unit_bytes_in(Some(huge.dir.path())).unwrap(),
        huge.unit_bytes
    );
    for zpool in ZpoolKind::ALL {
        conformance_in(huge.dir.path(), zpool, |arena| Pools::new(arena, zpool));
    }
}

#[test]
fn a_pool_that_gets_no_more_huge_pages_is_full_and_whole() {
    let Some(huge) = HugeDir::mount() else { return };
    let options = huge.options(2 * PAGES);
    let pool = Pools::new(Arena::create(options.clone()).unwrap(), ZpoolKind::Zfit);
    let path = huge.file("pool");
    assert_eq!(counted(&path), huge.unit_bytes as u64);
    let mut model = Model::new(&pool, Random::new(3));
    while model.alloc_random().is_ok() {}
    // All that the file system has, and not a frame that it has not.
    assert_eq!(counted(&path), (PAGES * huge.unit_bytes) as u64);
    assert_eq!(pool.arena().held_bytes(), counted(&path));
    model.verify();
    pool.check();
    model.free_some(model.len() / 2);
    while model.alloc_random().is_ok() {}
    model.verify();
    model.free_all();
    pool.arena().release_free(0);
    pool.check();
    assert_eq!(pool.arena().held_bytes(), counted(&path));
    assert!(counted(&path) <= 2 * huge.unit_bytes as u64, "side words");
    // What went back is there for others.
    let other = ArenaOptions {
        path: Some(huge.file("other")),
        populate: true,
        ..huge.options(PAGES - 2)
    };
    let other = Arena::create(other).unwrap();
    assert_eq!(other.held_bytes(), counted(&huge.file("other")));
    assert_eq!(other.held_bytes(), other.options().pool_bytes_max);
}

#[test]
fn to_populate_with_too_few_huge_pages_is_an_error_that_leaves_nothing() {
    let Some(huge) = HugeDir::mount() else { return };
    let options = ArenaOptions {
        populate: true,
        ..huge.options(PAGES + 1)
    };
    match Arena::create(options) {
        Err(error) if error.is_out_of_space() => {}
        Err(other) => panic!("wanted no space, found {other}"),
        Ok(_) => panic!("there were more huge pages than there are"),
    }
    assert!(!huge.file("pool").exists());
    let fits = ArenaOptions {
        populate: true,
        ..huge.options(PAGES)
    };
    let arena = Arena::create(fits).expect("all pages were given back");
    assert_eq!(arena.held_bytes(), counted(&huge.file("pool")));
}

#[test]
fn a_limit_between_two_huge_pages_is_not_passed() {
    let Some(huge) = HugeDir::mount() else { return };
    let mut options = huge.options(3);
    options.pool_bytes_max += huge.unit_bytes as u64 - 1;
    options.populate = true;
    let arena = Arena::create(options).unwrap();
    assert_eq!(arena.held_bytes(), 3 * huge.unit_bytes as u64);
    assert_eq!(arena.frames() as usize, 2 * huge.unit_bytes / 4096);
    arena.check();
    drop(arena);
    let error = Arena::create(huge.options(1)).err().expect("no frame fits");
    assert!(matches!(error, Error::Config(_)), "{error}");
}

#[test]
fn to_look_at_a_table_takes_no_huge_page() {
    let Some(huge) = HugeDir::mount() else { return };
    let path = huge.file("table");
    // Far more words than there are huge pages for.
    let count = 4 * PAGES * huge.unit_bytes / 8;
    let words_a_unit = huge.unit_bytes / 8;
    let words = SharedWords::create(Some(&path), count, false).unwrap();
    assert!(words.populated().is_empty());
    for word in [1000, 9 * words_a_unit] {
        words.reserve(word..word + 1).unwrap();
        words.words()[word].store(5, Relaxed);
    }
    drop(words);
    let words = SharedWords::open(&path, count).unwrap();
    let head_words = SYSTEM_PAGE_BYTES / 8;
    let second = 9 * words_a_unit - head_words..10 * words_a_unit - head_words;
    assert_eq!(
        words.populated(),
        [0..words_a_unit - head_words, second],
        "whole units, and no other"
    );
    assert_eq!(words.held_bytes(), 2 * huge.unit_bytes as u64);
    assert_eq!(words.words()[1000].load(Relaxed), 5);
    assert!(words.populate().is_err(), "there are not so many");
}

#[test]
fn a_key_is_kept_and_read() {
    let Some(huge) = HugeDir::mount() else { return };
    let path = huge.file("key");
    let key = KeySource::File(path.clone());
    key.read(Some(Mapping::keep)).unwrap();
    let made = std::fs::read(&path).unwrap();
    assert_ne!(made[..32], [0; 32]);
    assert_eq!(made[32..], vec![0; huge.unit_bytes - 32]);
    // It is the next one's, who would make none.
    key.read(None).unwrap();
    key.read(Some(|_, _| panic!("a second key"))).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), made);
    assert_eq!(counted(&path), huge.unit_bytes as u64);
    let mode = path.metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}
