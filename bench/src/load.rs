//! One test against one server: what it is, and what all its connections together found.
//!
//! Not here: what one connection does (`runner`). Locking: none, each connection has a thread.

use std::io;
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::PAGE_BYTES;
use crate::chance::Chance;
use crate::connection::Connection;
use crate::image::Image;
use crate::runner::{Runner, Tally, new_histogram};
use crate::sample::Sample;

/// What the requests of a test do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Write what the image says: gives a new server its content.
    Fill,
    /// Write other pages than the present ones.
    Write,
    /// Read and compare.
    Read,
    /// Read or write, one as often as the other.
    Mix,
}

/// Where the requests of a test go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One block after the other, from a random one, round and round.
    Sequential,
    /// Anywhere.
    Random,
}

/// A test.
#[derive(Clone, Debug, Deserialize)]
pub struct Test {
    /// What the requests do.
    pub action: Action,
    /// Where they go.
    pub order: Order,
    /// Bytes of each request, whole pages.
    pub block_bytes: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Connections, each with a thread of its own.
    pub connections: usize,
    /// How long requests are sent; without it, as many as the image has blocks.
    pub seconds: Option<f64>,
}

/// What a test found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Requests that were answered.
    pub requests: u64,
    /// Pages that they read or wrote.
    pub pages: u64,
    /// From the first request to the last reply, of the connection that took longest.
    pub seconds: f64,
    /// Latency at the median.
    pub p50_us: f64,
    /// Latency that 1 in 100 requests exceeds.
    pub p99_us: f64,
    /// Latency that 1 in 1000 requests exceeds.
    pub p999_us: f64,
}

/// Runs `test` against the server at `socket`, which holds `image`.
pub fn run(
    socket: &Path,
    export: &str,
    test: &Test,
    image: &Image,
    sample: &Sample,
    chance: &mut Chance,
) -> io::Result<Outcome> {
    let wanted = (image.page_count() * PAGE_BYTES) as u64;
    let mut runners = Vec::new();
    for number in 0..test.connections {
        let connection = Connection::open(socket, export)?;
        if connection.export_bytes < wanted {
            let found = connection.export_bytes;
            return Err(io::Error::other(format!(
                "export of {found} bytes, must be {wanted}"
            )));
        }
        let chance = Chance::new(chance.below(1 << 32) as u64);
        runners.push(Runner::new(connection, number, test, image, sample, chance));
    }
    let tallies: io::Result<Vec<Tally>> = thread::scope(|scope| {
        let handles: Vec<_> = runners
            .into_iter()
            .map(|runner| scope.spawn(move || runner.run()))
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().expect("a runner panicked"))
            .collect()
    });
    let mut latency_ns = new_histogram();
    let mut seconds = 0.0_f64;
    for tally in tallies? {
        latency_ns.add(tally.latency_ns).map_err(io::Error::other)?;
        seconds = seconds.max(tally.seconds);
    }
    let at = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Outcome {
        requests: latency_ns.len(),
        pages: latency_ns.len() * (test.block_bytes / PAGE_BYTES) as u64,
        seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
    })
}
