//! Random reads of stored pages with several under way: one client, the reader threads of a server.
//!
//! Readers take fetches as those of a server do (`worker/readers.rs`): a share of what waits, as many
//! as fit, and give each page away as soon as it is there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nbdswap_core::engine::{Engine, Fetch, Read};
use nbdswap_core::page::PageId;
use nbdswap_core::session::boxes::FetchBox;
use nbdswap_core::store::Io;
use nbdswap_core::writeback::Work;
use serde_json::{Value, json};

use super::reads::percentile;
use super::{Driver, PAGE_BYTES, cpu_seconds, filled};

/// Most fetches that a reader takes at a time.
const BATCH: usize = 32;

/// Requests under way.
const DEPTHS: [usize; 3] = [1, 4, 32];

#[derive(Default)]
struct Queue {
    state: Mutex<(VecDeque<FetchBox>, bool)>,
    filled: Condvar,
}

impl Queue {
    fn push(&self, fetches: &mut Vec<FetchBox>) {
        let several = fetches.len() > 1;
        let mut state = self.state.lock().expect("nobody panicked");
        state.0.extend(fetches.drain(..));
        drop(state);
        match several {
            true => self.filled.notify_all(),
            false => self.filled.notify_one(),
        }
    }

    fn pop(&self, readers: usize, batch: &mut Vec<FetchBox>) -> bool {
        let state = self.state.lock().expect("nobody panicked");
        let waited = self
            .filled
            .wait_while(state, |(fetches, is_over)| fetches.is_empty() && !*is_over);
        let (fetches, is_over) = &mut *waited.expect("nobody panicked");
        let share = fetches.len().div_ceil(readers).min(BATCH);
        batch.extend(fetches.drain(..share));
        !*is_over
    }

    fn end(&self) {
        self.state.lock().expect("nobody panicked").1 = true;
        self.filled.notify_all();
    }
}

fn read(engine: &Engine, readers: usize, queue: &Queue, answers: &Sender<FetchBox>) {
    let mut reader = engine.reader_lane();
    let mut batch = Vec::with_capacity(BATCH);
    while queue.pop(readers, &mut batch) {
        engine.fetch(&mut reader, &mut batch, &mut |fetch| {
            answers.send(fetch).expect("somebody waits");
        });
        engine.read_ahead(&mut reader);
    }
}

/// Reads pages at random for a second, `depth` of them under way.
fn at_depth(driver: &mut Driver, pages: u64, readers: usize, depth: usize) -> Value {
    let engine = &*driver.engine;
    let (queue, (answer, answers)) = (Queue::default(), channel());
    std::thread::scope(|scope| {
        for _ in 0..readers {
            let (queue, answer) = (&queue, answer.clone());
            scope.spawn(move || read(engine, readers, queue, &answer));
        }
        let mut idle: Vec<_> = (0..depth).map(|_| Fetch::new(PAGE_BYTES)).collect();
        for (number, fetch) in idle.iter_mut().enumerate() {
            fetch.ticket.request = number as u16;
        }
        let mut asked = vec![Instant::now(); depth];
        let mut outgoing = Vec::with_capacity(depth);
        let mut out = vec![0; PAGE_BYTES];
        let mut times = Vec::with_capacity(1 << 20);
        let before = engine.snapshot().store.expect("there is one");
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let until = started + Duration::from_secs(1);
        let mut lane = engine.lane();
        let mut under_way = 0;
        loop {
            let is_over = Instant::now() >= until;
            while let Some(mut fetch) = idle.pop_if(|_| !is_over) {
                let page = PageId(driver.chance.below(pages as usize) as u32);
                let read = engine.read(&mut lane, page, &mut out);
                let Ok(Read::Fetch(place)) = read else {
                    idle.push(fetch);
                    continue;
                };
                (fetch.page, fetch.place) = (page, place);
                asked[usize::from(fetch.ticket.request)] = Instant::now();
                outgoing.push(fetch);
            }
            under_way += outgoing.len();
            queue.push(&mut outgoing);
            if under_way == 0 {
                break;
            }
            // All that are there, as a worker takes them.
            let first = answers.recv().expect("a reader answers");
            for fetch in std::iter::once(first).chain(answers.try_iter()) {
                fetch.result.as_ref().expect("a page without fault");
                let took = asked[usize::from(fetch.ticket.request)].elapsed();
                times.push(took.as_secs_f64() * 1e6);
                under_way -= 1;
                idle.push(fetch);
            }
        }
        queue.end();
        let seconds = started.elapsed().as_secs_f64();
        let after = engine.snapshot().store.expect("there is one");
        json!({
            "reads": times.len(),
            "reads_per_s": times.len() as f64 / seconds,
            "cpu_us": (cpu_seconds() - cpu) * 1e6 / times.len() as f64,
            "mean_us": times.iter().sum::<f64>() / times.len() as f64,
            "p50_us": percentile(&mut times, 500),
            "p99_us": percentile(&mut times, 990),
            "p999_us": percentile(&mut times, 999),
            "device_reads": after.device_reads - before.device_reads,
        })
    })
}

/// Writes the same pages back to two stores, one read by threads and one in an io_uring, and reads at
/// random at each depth: a second from one and then from the other, so that both see the same machine.
pub fn depths(path: PathBuf, pool_bytes: u64, readers: usize, rounds: usize, seed: u64) {
    let second = path.with_extension("second");
    let ways = [(Io::Threads, path), (Io::IoUring, second)];
    let mut stores = ways.map(|(io, path)| {
        let driver = filled(path, pool_bytes, io, seed);
        while driver.step() == Work::More {}
        // The first that were written left first.
        let stored = driver.count().pages;
        (io, driver, stored)
    });
    let mut found = Vec::new();
    for round in 0..rounds {
        for depth in DEPTHS {
            let mut both = serde_json::Map::new();
            for turn in 0..2 {
                let (io, driver, stored) = &mut stores[(round + turn) % 2];
                let name = match io {
                    Io::Threads => "threads",
                    _ => "io_uring",
                };
                both.insert(name.into(), at_depth(driver, *stored, readers, depth));
            }
            found.push(json!({ "depth": depth, "io": both }));
        }
    }
    println!("{}", json!({ "depths": found }));
}
