//! One connection of a test: keeps requests in flight, checks what it reads, counts and times.
//!
//! Locking: none. Connections of a test share the image but touch blocks of their own.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::PAGE_BYTES;
use crate::chance::Chance;
use crate::connection::Connection;
use crate::image::Image;
use crate::load::{Action, Order, Test};
use crate::sample::Sample;
use crate::wire::{self, Reply, Request};

/// From 1 ns to a minute, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that the crate allows")
}

/// What one connection found.
pub struct Tally {
    /// One record a request.
    pub latency_ns: Histogram<u64>,
    /// From the first request to the last reply.
    pub seconds: f64,
}

/// A request in flight; its cookie is its place in `Runner::flights`.
#[derive(Clone, Copy)]
struct Flight {
    is_read: bool,
    block: usize,
    begun: Instant,
}

/// One connection of a test.
pub struct Runner<'a> {
    connection: Connection,
    test: &'a Test,
    image: &'a Image,
    sample: &'a Sample,
    chance: Chance,
    /// The blocks of this connection are `number`, `number + connections`, ...
    number: usize,
    block_count: usize,
    next: usize,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    begun_count: usize,
    latency_ns: Histogram<u64>,
}

impl<'a> Runner<'a> {
    /// Takes connection `number` of `test`, of as many as the test has.
    pub fn new(
        connection: Connection,
        number: usize,
        test: &'a Test,
        image: &'a Image,
        sample: &'a Sample,
        mut chance: Chance,
    ) -> Self {
        let pages_each = test.block_bytes / PAGE_BYTES;
        let block_count = image.page_count() / pages_each / test.connections;
        assert!(
            block_count > test.depth,
            "{block_count} blocks, {} in flight",
            test.depth
        );
        Self {
            connection,
            test,
            image,
            sample,
            number,
            block_count,
            next: chance.below(block_count),
            chance,
            flights: vec![None; test.depth],
            free: (0..test.depth).collect(),
            begun_count: 0,
            latency_ns: new_histogram(),
        }
    }

    /// Keeps requests in flight until the time is over and all are answered.
    pub fn run(mut self) -> io::Result<Tally> {
        let start = Instant::now();
        let time = self.test.seconds.map(Duration::from_secs_f64);
        let count_max = if time.is_some() {
            usize::MAX
        } else {
            self.block_count
        };
        loop {
            let now = Instant::now();
            if time.is_none_or(|time| now - start < time) {
                while self.begun_count < count_max
                    && let Some(cookie) = self.free.pop()
                {
                    self.begin(cookie, now);
                }
            }
            if self.free.len() == self.test.depth {
                self.connection.close()?;
                let seconds = (now - start).as_secs_f64();
                return Ok(Tally {
                    latency_ns: self.latency_ns,
                    seconds,
                });
            }
            self.connection.turn()?;
            let now = Instant::now();
            while self.finish(now)? {}
        }
    }

    fn begin(&mut self, cookie: usize, now: Instant) {
        let block = self.choose();
        let is_read = match self.test.action {
            Action::Fill | Action::Write => false,
            Action::Read => true,
            Action::Mix => self.chance.below(2) == 0,
        };
        self.connection.push(&Request {
            kind: if is_read {
                wire::CMD_READ
            } else {
                wire::CMD_WRITE
            },
            cookie: cookie as u64,
            offset: (block * self.test.block_bytes) as u64,
            length: self.test.block_bytes as u32,
        });
        if !is_read {
            self.push_pages(block);
        }
        self.flights[cookie] = Some(Flight {
            is_read,
            block,
            begun: now,
        });
        self.begun_count += 1;
    }

    /// A block with no request in flight: servers may answer in any order, so what a read finds
    /// while a write of the same block is in flight would be anyone's guess.
    fn choose(&mut self) -> usize {
        loop {
            let local = match self.test.order {
                Order::Random => self.chance.below(self.block_count),
                Order::Sequential => self.next,
            };
            self.next = (local + 1) % self.block_count;
            let block = local * self.test.connections + self.number;
            if !self
                .flights
                .iter()
                .flatten()
                .any(|flight| flight.block == block)
            {
                return block;
            }
        }
    }

    fn push_pages(&mut self, block: usize) {
        let pages_each = self.test.block_bytes / PAGE_BYTES;
        for place in block * pages_each..(block + 1) * pages_each {
            let page = match self.test.action {
                Action::Fill => self.image.at(place),
                _ => self.image.change(place, self.sample, &mut self.chance),
            };
            self.connection.push_payload(self.sample.page(page));
        }
    }

    /// Takes one whole reply; false if there is none.
    fn finish(&mut self, now: Instant) -> io::Result<bool> {
        let received = self.connection.received();
        if received.len() < wire::REPLY_BYTES {
            return Ok(false);
        }
        let reply = Reply::decode(received).ok_or_else(|| {
            io::Error::other(format!("{:x?} is no simple reply", &received[..16]))
        })?;
        let cookie = reply.cookie as usize;
        let Some(Some(flight)) = self.flights.get(cookie).copied() else {
            return Err(io::Error::other(format!(
                "a reply to no request, cookie {cookie}"
            )));
        };
        if reply.error != 0 {
            let (error, at) = (reply.error, flight.block * self.test.block_bytes);
            let verb = if flight.is_read { "read" } else { "write" };
            return Err(io::Error::other(format!(
                "error {error} to a {verb} at byte {at}"
            )));
        }
        let payload = if flight.is_read {
            self.test.block_bytes
        } else {
            0
        };
        let Some(found) = received.get(wire::REPLY_BYTES..wire::REPLY_BYTES + payload) else {
            return Ok(false);
        };
        let place = flight.block * (self.test.block_bytes / PAGE_BYTES);
        if let Some(page) = self.image.first_wrong(place, found, self.sample) {
            return Err(io::Error::other(format!("WRONG DATA in page {page}")));
        }
        self.connection.consume(wire::REPLY_BYTES + payload);
        self.latency_ns
            .saturating_record((now - flight.begun).as_nanos() as u64);
        self.flights[cookie] = None;
        self.free.push(cookie);
        Ok(true)
    }
}
