//! Random requests of many clients at a time against plain arrays.
//!
//! Each client owns a run of bytes of its export, which begins and ends inside pages that its
//! neighbours own the rest of, and knows what every byte must be. The first pages of each export
//! belong to all: they are written whole, each time with the page's and the writer's number, and
//! must read as one of these writes, whole.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nbdswap_core::testing::pages::make_page;
use nbdswap_core::testing::random::{Random, seeds};
use nbdswap_core::wire::*;

use crate::client::{Client, Done};
use crate::rig::{PAGE, Rig, SIZES};

const SEEDS: u64 = 8;
const CLIENTS_PER_EXPORT: u64 = 3;
const STEPS: usize = 1500;
const IN_FLIGHT_MAX: usize = 32;
const SHARED_PAGES: u64 = 4;
const SHARED_BYTES: u64 = SHARED_PAGES * PAGE as u64;

/// Writes of shared pages so far, of all clients: no reader may see a later one.
static VERSIONS: AtomicU64 = AtomicU64::new(0);

struct Player {
    client: Client,
    random: Random,
    number: u64,
    structured: bool,
    /// First byte of the export that is its own, and what its bytes are.
    first: u64,
    model: Vec<u8>,
    /// Extents that were said to be zero.
    zeros_seen: usize,
}

impl Player {
    fn step(&mut self) {
        if self.random.chance(10) {
            self.ask_for_shared();
        } else {
            self.ask_for_own();
        }
        while self.client.waiting().count() >= IN_FLIGHT_MAX || self.random.chance(40) {
            if self.client.waiting().count() == 0 {
                break;
            }
            let done = self.client.next();
            self.check(&done);
        }
    }

    fn ask_for_own(&mut self) {
        let length_max = match self.random.below(10) {
            0 => 300 << 10,
            1..4 => 5 * PAGE as u64,
            4..7 => PAGE as u64,
            _ => 100,
        };
        let mut length = 1 + self.random.below(length_max.min(self.model.len() as u64));
        let mut offset = self.first + self.random.below(self.model.len() as u64 - length + 1);
        if self.random.chance(50) && length >= PAGE as u64 {
            // Whole pages, as the kernel has it.
            offset = offset.next_multiple_of(PAGE as u64);
            length &= !(PAGE as u64 - 1);
            if offset + length > self.first + self.model.len() as u64 {
                return;
            }
        }
        let command = match self.random.below(100) {
            0..34 => CMD_WRITE,
            34..74 => CMD_READ,
            74..82 => CMD_TRIM,
            82..90 => CMD_WRITE_ZEROES,
            90..93 => CMD_FLUSH,
            93..95 => CMD_CACHE,
            _ if self.structured => CMD_BLOCK_STATUS,
            _ => CMD_READ,
        };
        if !self.is_free(command, offset, length) {
            return;
        }
        let range = (offset - self.first) as usize..(offset - self.first + length) as usize;
        let mut payload = Vec::new();
        match command {
            CMD_WRITE => {
                payload = self.content(length as usize);
                self.model[range].copy_from_slice(&payload);
            }
            CMD_WRITE_ZEROES => self.model[range].fill(0),
            CMD_TRIM => {
                // Pages of which a part is to stay are left alone.
                let first = offset.next_multiple_of(PAGE as u64);
                let end = (offset + length) & !(PAGE as u64 - 1);
                if first < end {
                    self.model[(first - self.first) as usize..(end - self.first) as usize].fill(0);
                }
            }
            _ => {}
        }
        let flags = self.flags(command);
        self.client
            .ask(command, flags, (offset, length as u32), &payload);
    }

    fn flags(&mut self, command: u16) -> u16 {
        let may = match command {
            CMD_READ if self.structured => FLAG_FUA | FLAG_DF,
            CMD_WRITE_ZEROES => FLAG_FUA | FLAG_NO_HOLE | FLAG_FAST_ZERO,
            CMD_BLOCK_STATUS => FLAG_REQ_ONE,
            _ => FLAG_FUA,
        };
        self.random.bits() as u16 & may
    }

    /// Bytes to write: pages of all kinds, or one byte again and again.
    fn content(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![self.random.bits() as u8; bytes];
        if self.random.chance(80) {
            for page in data.chunks_exact_mut(PAGE) {
                make_page(&mut self.random, page);
            }
        }
        data
    }

    /// True if no request is under way whose outcome would depend on which one is first.
    fn is_free(&self, command: u16, offset: u64, length: u64) -> bool {
        let changes = |command| matches!(command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
        self.client.waiting().all(|other| {
            let apart =
                other.offset + u64::from(other.length) <= offset || offset + length <= other.offset;
            apart || !changes(command) && !changes(other.command)
        })
    }

    fn ask_for_shared(&mut self) {
        let page = self.random.below(SHARED_PAGES);
        let range = (page * PAGE as u64, PAGE as u32);
        if self.random.chance(50) {
            let version = 1 + VERSIONS.fetch_add(1, SeqCst);
            let word = (page << 56 | self.number << 48 | version).to_be_bytes();
            let payload = if self.random.chance(50) {
                word.repeat(PAGE / 8)
            } else {
                // No repeated word: it is compressed.
                let words = (0..PAGE / 8).flat_map(|at| [word, (at as u64).to_be_bytes()]);
                words.take(PAGE / 8).flatten().collect()
            };
            self.client.ask(CMD_WRITE, 0, range, &payload);
        } else {
            self.client.ask(CMD_READ, 0, range, &[]);
        }
    }

    fn check(&mut self, done: &Done) {
        let Done { request, error, .. } = done;
        assert_eq!(*error, 0, "{request:?}");
        if request.offset < SHARED_BYTES {
            if request.command == CMD_READ {
                check_shared(request.offset / PAGE as u64, &done.data);
            }
            return;
        }
        let at = (request.offset - self.first) as usize;
        match request.command {
            CMD_READ => assert!(
                done.data == self.model[at..at + request.length as usize],
                "{request:?} is not what was written"
            ),
            CMD_BLOCK_STATUS => self.check_extents(done, at),
            _ => {}
        }
    }

    fn check_extents(&mut self, done: &Done, at: usize) {
        let end = at + done.request.length as usize;
        let mut from = at;
        for (bytes, flags) in &done.extents {
            let to = from + *bytes as usize;
            assert!(to <= end, "{done:?}");
            assert!(
                flags & STATE_HOLE == 0 || flags & STATE_ZERO != 0,
                "{done:?}"
            );
            if flags & STATE_ZERO != 0 {
                assert!(
                    self.model[from..to].iter().all(|byte| *byte == 0),
                    "{done:?}"
                );
                self.zeros_seen += 1;
            }
            from = to;
        }
        let one = done.request.flags & FLAG_REQ_ONE != 0;
        assert!(done.extents.len() == 1 || !one, "{done:?}");
    }

    /// Takes all answers, reads all of its own, and leaves.
    fn finish(mut self) -> usize {
        while self.client.waiting().count() > 0 {
            let done = self.client.next();
            self.check(&done);
        }
        let found = self.client.read(self.first, self.model.len());
        assert!(
            found == self.model,
            "the last state of client {}",
            self.number
        );
        self.client.leave();
        self.zeros_seen
    }
}

/// A shared page is as one write left it.
fn check_shared(page: u64, data: &[u8]) {
    let words: Vec<u64> = data
        .chunks_exact(8)
        .map(|word| u64::from_be_bytes(word.try_into().unwrap()))
        .collect();
    if words.iter().all(|word| *word == 0) {
        return;
    }
    let word = words[0];
    assert_eq!(word >> 56, page, "another page's bytes");
    assert!(
        word & 0xffff_ffff_ffff <= VERSIONS.load(SeqCst),
        "a version to come"
    );
    let repeated = words.iter().all(|other| *other == word);
    let alternating = || {
        let pairs = words.chunks_exact(2).enumerate();
        pairs
            .map(|(at, pair)| (at as u64, pair))
            .all(|(at, pair)| *pair == [word, at])
    };
    assert!(
        repeated || alternating(),
        "two writes of page {page} are mixed"
    );
}

fn play(seed: u64) {
    let mut rig = Rig::new(2, Duration::from_secs(30));
    let zeros_seen: usize = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..2 * CLIENTS_PER_EXPORT {
            let export = (number % 2) as u16;
            let structured = number % 3 != 0;
            let share = (SIZES[usize::from(export)] - SHARED_BYTES) / CLIENTS_PER_EXPORT;
            let mut player = Player {
                client: rig.connect(export, structured, number % 4 == 1),
                random: Random::new(seed << 8 | number),
                number,
                structured,
                first: SHARED_BYTES + number / 2 * share,
                model: vec![0; share as usize],
                zeros_seen: 0,
            };
            threads.push(scope.spawn(move || {
                for _ in 0..STEPS {
                    player.step();
                }
                player.finish()
            }));
        }
        let zeros = threads
            .into_iter()
            .map(|thread| thread.join().expect("a client failed"));
        zeros.sum()
    });
    assert!(zeros_seen > 0, "BLOCK_STATUS found no zeros");
    assert!(
        rig.stored_pages() > 50,
        "{} pages are stored",
        rig.stored_pages()
    );
    assert!(rig.device.counts().reads > 100, "{:?}", rig.device.counts());
    rig.stop_background();
    rig.engine.check();
}

#[test]
fn clients_read_what_they_wrote() {
    for seed in seeds(SEEDS) {
        if let Err(panic) = std::panic::catch_unwind(|| play(seed)) {
            eprintln!("replay with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
