//! The age policy against FIFO and LRU on what a real guest asked of its swap device.
//!
//! The traces and their format are described in `tests/traces/README.md`. The model keeps so many
//! pages in the pool; above that it writes back a twentieth of them, chosen by the policy, as the
//! marks of the server do. What counts is how many reads had to go to the store: a client waits for
//! them; and how many pages were written, which wears the device.

use std::collections::HashMap;
use std::path::Path;

use nbdswap_core::age::{Census, Clock, age};

/// A request of the trace, page by page.
enum Request {
    Write(u32),
    Read(u32),
    Discard(std::ops::Range<u32>),
}

fn requests(name: &str) -> Vec<Request> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/traces")
        .join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let mut requests = Vec::new();
    while let Some(word) = words.next() {
        let page = word & ((1 << 30) - 1);
        requests.push(match word >> 30 {
            0 => Request::Write(page),
            1 => Request::Read(page),
            2 => Request::Discard(page..page + words.next().expect("a count follows")),
            other => panic!("operation {other} in {name}"),
        });
    }
    requests
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    /// What `age` says.
    Ours,
    /// The oldest write first.
    Fifo,
    /// The oldest use first, write or read.
    Lru,
}

/// A page in the modelled pool.
struct Entry {
    stamp: u16,
    is_read: bool,
    written_at: u64,
    used_at: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    store_reads: u64,
    pages_written_back: u64,
}

const PAGE_BYTES: usize = 2048;

/// Plays a trace with room for `pages_max` pages in the pool.
fn play(requests: &[Request], policy: Policy, pages_max: usize) -> Cost {
    let clock = Clock::new((pages_max * PAGE_BYTES) as u64);
    let mut pool: HashMap<u32, Entry> = HashMap::new();
    let mut store: HashMap<u32, ()> = HashMap::new();
    let mut cost = Cost::default();
    for (now, request) in (0u64..).zip(requests) {
        match request {
            Request::Write(page) => {
                store.remove(page);
                let stamp = clock.stamp();
                let entry = Entry {
                    stamp,
                    is_read: false,
                    written_at: now,
                    used_at: now,
                };
                pool.insert(*page, entry);
                clock.advance(1);
            }
            Request::Read(page) => {
                if let Some(entry) = pool.get_mut(page) {
                    (entry.is_read, entry.used_at) = (true, now);
                } else if store.contains_key(page) {
                    cost.store_reads += 1;
                }
            }
            Request::Discard(pages) => {
                pool.retain(|page, _| !pages.contains(page));
                store.retain(|page, ()| !pages.contains(page));
            }
        }
        if pool.len() > pages_max {
            for page in victims(&pool, policy, &clock, pages_max / 20) {
                pool.remove(&page);
                store.insert(page, ());
                cost.pages_written_back += 1;
            }
        }
    }
    cost
}

/// The pages that leave, at least `count`.
fn victims(pool: &HashMap<u32, Entry>, policy: Policy, clock: &Clock, count: usize) -> Vec<u32> {
    let mut pages: Vec<u32> = pool.keys().copied().collect();
    pages.sort_unstable();
    match policy {
        Policy::Ours => {
            let age_of = |page: &u32| age(pool[page].stamp, clock.stamp(), pool[page].is_read);
            let mut census = Census::default();
            pages
                .iter()
                .for_each(|page| census.add(age_of(page), PAGE_BYTES));
            let threshold = census.threshold((count * PAGE_BYTES) as u64);
            pages.retain(|page| age_of(page) >= threshold);
        }
        Policy::Fifo => pages.sort_by_key(|page| pool[page].written_at),
        Policy::Lru => pages.sort_by_key(|page| pool[page].used_at),
    }
    pages.truncate(count);
    pages
}

#[test]
fn fewer_reads_go_to_the_store_than_with_fifo_or_lru() {
    let mut sums = [0; 3];
    for name in ["workset.trace", "uniform.trace"] {
        let requests = requests(name);
        for pages_max in [4_000, 8_000, 16_000] {
            let costs = [Policy::Ours, Policy::Fifo, Policy::Lru]
                .map(|policy| play(&requests, policy, pages_max));
            println!(
                "{name} {pages_max}: ours {:?} fifo {:?} lru {:?}",
                costs[0], costs[1], costs[2]
            );
            for (sum, cost) in sums.iter_mut().zip(costs) {
                *sum += cost.store_reads;
            }
            assert!(
                costs[0].store_reads <= costs[2].store_reads,
                "{name}, {pages_max} pages: LRU reads less from the store"
            );
        }
    }
    assert!(
        sums[0] < sums[1] && sums[0] < sums[2],
        "store reads of ours, FIFO, LRU: {sums:?}"
    );
}
