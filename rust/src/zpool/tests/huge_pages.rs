//! A populated pool on a tmpfs lies on huge pages where the system has some. The evidence is what the
//! system says it has mapped (`/proc/self/smaps`).
//!
//! Where it gives none to a tmpfs the tests say so and pass.

use std::os::unix::fs::MetadataExt;

use super::mounted::Mounted;
use super::*;
use crate::zpool::conformance::{MemoryDir, Model};
use crate::zpool::mapping::{Mapping, SYSTEM_PAGE_BYTES};

const HUGE: usize = 2 << 20;

/// Whether a mapping gets huge pages here; if not, the reason is on standard error.
fn are_given() -> bool {
    let mapping = Mapping::create(None, 2 * HUGE).unwrap();
    mapping.populate().unwrap();
    if mapping.huge_bytes() > 0 {
        return true;
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let enabled = read("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let can = (next(), next()) >= (6, 1) && !enabled.is_empty() && !enabled.contains("[deny]");
    // Memory may be too scattered for one huge page, though hardly on a machine with much of it free.
    let meminfo = read("/proc/meminfo");
    let free = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemFree:"));
    let free = free.and_then(|free| free.split_whitespace().next());
    let free_mib = free.map_or(0, |kib| kib.parse::<u64>().unwrap() >> 10);
    let (release, enabled) = (release.trim(), enabled.trim());
    let why = format!("Linux {release}, shmem_enabled {enabled}, {free_mib} MiB free");
    assert!(!can || free_mib < 1024, "no huge page: {why}");
    eprintln!("skipped: the system gives no huge page: {why}");
    false
}

fn options(dir: &MemoryDir, pool_bytes_max: u64, populate: bool) -> ArenaOptions {
    ArenaOptions {
        path: Some(dir.file("pool")),
        instance: 7,
        frame_bytes: 4096,
        pool_bytes_max,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        populate,
        unit_bytes: SYSTEM_PAGE_BYTES,
    }
}

#[test]
fn whole_huge_pages_inside_the_file_are_taken_and_no_more() {
    if !are_given() {
        return;
    }
    let dir = MemoryDir::new("huge-whole");
    // More than are asked for at once, and a tail that is no huge page.
    for (bytes, huge) in [(HUGE - 4096, 0), (HUGE, 1), (40 * HUGE + 5 * 4096, 40)] {
        let mapping = Mapping::create(Some(&dir.file("words")), bytes).unwrap();
        mapping.populate().unwrap();
        assert_eq!(mapping.huge_bytes(), (huge * HUGE) as u64, "of {bytes}");
        assert_eq!(mapping.held_bytes(), bytes as u64);
        assert!(mapping.bytes(0, bytes).iter().all(|&byte| byte == 0));
        mapping.store_bytes(bytes - 5, b"whole");
        assert_eq!(mapping.bytes(bytes - 5, 5), b"whole");
    }
}

#[test]
fn what_has_data_is_not_copied_and_stays() {
    if !are_given() {
        return;
    }
    let mapping = Mapping::create(None, 4 * HUGE).unwrap();
    let at = HUGE + 3 * 4096;
    mapping.reserve(at..at + 4096).unwrap();
    mapping.store_bytes(at, &[7; 4096]);
    mapping.populate().unwrap();
    assert_eq!(mapping.huge_bytes(), 3 * HUGE as u64);
    assert_eq!(mapping.held_bytes(), 4 * HUGE as u64);
    assert_eq!(mapping.bytes(at, 4096), [7; 4096]);
    assert_eq!(mapping.bytes(at + 4096, 4096), [0; 4096]);
    mapping.populate().unwrap();
    assert_eq!(mapping.huge_bytes(), 3 * HUGE as u64, "asked again");
}

#[test]
fn a_tmpfs_that_is_too_small_is_an_error_and_no_signal() {
    let Some(small) = Mounted::new("tmpfs", 5 << 20, "huge-small") else {
        return;
    };
    let mapping = Mapping::create(Some(&small.file("large")), 4 * HUGE).unwrap();
    let error = mapping.populate().expect_err("there is not so much");
    assert!(error.is_out_of_space(), "{error}");
    mapping.remove();
    drop(mapping);
    // One that fits to the last page: not all of it may be huge, all of it is there.
    let mapping = Mapping::create(Some(&small.file("fits")), 5 << 20).unwrap();
    mapping.populate().unwrap();
    assert_eq!(mapping.held_bytes(), 5 << 20);
    mapping.store_bytes((5 << 20) - 5, b"whole");
}

/// The next process finds all objects.
fn adopt(pools: &Pools, model: &Model<'_>) {
    for object in &model.objects {
        let adopted = pools.adopt(object.handle, object.bytes, object.tag);
        assert_eq!(adopted, Ok(()));
    }
    pools.adopted().unwrap();
    pools.check();
}

/// And uses what is left.
fn goes_on(dir: &MemoryDir, pools: &Pools, mut model: Model<'_>) {
    let file = dir.file("pool").metadata().unwrap();
    assert_eq!(pools.arena().held_bytes(), file.blocks() * 512);
    model.verify();
    while model.alloc_random().is_ok() {}
    model.verify();
    model.free_all();
}

#[test]
fn adoption_leaves_a_populated_pool_on_its_huge_pages() {
    if !are_given() {
        return;
    }
    let dir = MemoryDir::new("huge-adopt");
    let options = options(&dir, 33 << 20, true);
    let first = Pools::new(Arena::create(options.clone()).unwrap(), ZpoolKind::Zfit);
    let huge = first.arena().huge_bytes();
    assert_eq!(huge, 32 << 20);
    let mut model = Model::new(&first, Random::new(5));
    while model.alloc_random().is_ok() {}
    model.free_some(model.len() / 2);
    let second = Pools::new(Arena::open(options).unwrap(), ZpoolKind::Zfit);
    let model = model.over(&second);
    adopt(&second, &model);
    assert_eq!(second.arena().huge_bytes(), huge);
    goes_on(&dir, &second, model);
}

#[test]
fn adoption_of_a_pool_that_grew_takes_huge_pages_for_what_is_empty() {
    if !are_given() {
        return;
    }
    let dir = MemoryDir::new("huge-grown");
    let grown = options(&dir, 33 << 20, false);
    let first = Pools::new(Arena::create(grown.clone()).unwrap(), ZpoolKind::Zfit);
    let mut model = Model::new(&first, Random::new(6));
    while first.arena().held_bytes() < 10 << 20 {
        model.alloc_some(1);
    }
    let populated = ArenaOptions {
        populate: true,
        ..grown
    };
    let second = Pools::new(Arena::open(populated).unwrap(), ZpoolKind::Zfit);
    let model = model.over(&second);
    adopt(&second, &model);
    let huge = second.arena().huge_bytes();
    assert!((20 << 20..=22 << 20).contains(&huge), "{huge}");
    goes_on(&dir, &second, model);
}
