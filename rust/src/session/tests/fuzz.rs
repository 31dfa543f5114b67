//! Random bytes and random requests: never a panic, never an answer that a model would not give.

use std::collections::HashSet;
use std::time::SystemTime;

use super::*;
use crate::session::End;
use crate::session::fake::Fullness;
use crate::testing::random::seeds;

const ERRORS: [u32; 5] = [0, 1, 5, 22, 28];

/// The seeds to run: the first `count`, the one in `SEED`, or new ones for `FUZZ_SECONDS`.
fn fuzz_seeds(count: u64) -> Box<dyn Iterator<Item = u64>> {
    let Ok(seconds) = std::env::var("FUZZ_SECONDS") else {
        return Box::new(seeds(count).into_iter());
    };
    let seconds = seconds.parse().expect("FUZZ_SECONDS is a number");
    let until = Instant::now() + Duration::from_secs(seconds);
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let first = since_epoch.expect("a clock after 1970").as_micros() as u64;
    Box::new((first..).take_while(move |_| Instant::now() < until))
}

#[test]
fn garbage_ends_at_most_its_own_connection() {
    for seed in 1..400 {
        let mut random = Random(seed);
        let mut client = if seed % 2 == 0 {
            Client::simple()
        } else {
            Client::structured()
        };
        for _ in 0..40 {
            let mut bytes = if random.below(4) > 0 {
                let any = random.next();
                let length = if any.is_multiple_of(3) {
                    random.next() as u32
                } else {
                    random.below(9000) as u32
                };
                let flags = if any.is_multiple_of(5) {
                    random.next() as u16
                } else {
                    0
                };
                client.request(
                    random.below(10) as u16,
                    flags,
                    random.below(SIZE + 99),
                    length,
                )
            } else {
                vec![]
            };
            let length = random.below(9000) as usize;
            bytes.extend(pattern(length, random.next()));
            client.send(&bytes);
            while !client.lent.is_empty() && random.below(8) > 0 {
                client.fetch(0);
            }
            let page = random.below(u64::from(PAGES)) as u32;
            client.pages.put_in_store(page);
        }
        client.fetch_all();
        client.pass(TIMEOUT);
        assert_eq!(client.desk.boxes.free_count(), BOXES, "seed {seed}");
    }
}

/// One request that a model carries out in the order of the replies: replies come before the next
/// request is sent, so the model is a plain array.
#[test]
fn one_at_a_time_reads_return_what_was_written() {
    for seed in 1..20 {
        let mut random = Random(seed);
        let mut client = Client::simple();
        let mut model = vec![0u8; SIZE as usize];
        for step in 0..400 {
            let length_max = if random.below(8) == 0 { 300_000 } else { 9000 };
            let length = 1 + random.below(length_max);
            let offset = random.below(SIZE - length);
            let range = offset as usize..(offset + length) as usize;
            let mut bytes = Vec::new();
            match random.below(5) {
                0 | 1 => {
                    let data = pattern(length as usize, random.next());
                    bytes = client.request(CMD_WRITE, 0, offset, length as u32);
                    bytes.extend(&data);
                    model[range.clone()].copy_from_slice(&data);
                }
                2 => {
                    bytes = client.request(CMD_WRITE_ZEROES, 0, offset, length as u32);
                    model[range.clone()].fill(0);
                }
                3 => client
                    .pages
                    .put_in_store(random.below(u64::from(PAGES)) as u32),
                _ => {}
            }
            client.send(&bytes);
            client.fetch_all();
            for reply in client.take_replies() {
                assert_eq!(reply.error, 0, "seed {seed} step {step}");
            }
            client.read(offset, length as u32);
            client.fetch_all();
            let replies = client.take_replies();
            assert!(replies[0].data == model[range], "seed {seed} step {step}");
        }
        client.check_at_rest();
    }
}

/// Many requests under way, with stalls, hung fetches and deadlines: each is answered once, with an
/// allowed error, and reads return for each page bytes that were written to it at some time.
#[test]
fn every_request_is_answered_once_whatever_happens() {
    for seed in 1..40 {
        let mut random = Random(seed);
        let mut client = Client::simple();
        let mut asked = 0;
        let mut answered = std::collections::HashSet::new();
        for step in 0..300 {
            let page = random.below(64);
            let offset = page * PAGE as u64 + random.below(2) * random.below(PAGE as u64);
            let length = 1 + random.below(3 * PAGE as u64) as u32;
            let command =
                [CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, CMD_TRIM][random.below(4) as usize];
            let mut bytes = client.request(command, 0, offset, length);
            asked += 1;
            if command == CMD_WRITE {
                // Every byte of a page is its number, so that a byte of another page is noticed.
                bytes.extend(
                    (offset..offset + u64::from(length)).map(|at| (at / PAGE as u64) as u8 + 1),
                );
            }
            if !client.send(&bytes).is_empty() {
                client.pages.set_fullness(Fullness::Free);
                client.desk.space_epoch += 1;
                client.fetch_all();
                client.run();
            }
            something_happens(&mut client, &mut random);
            while !client.lent.is_empty() && random.below(3) > 0 {
                let at = random.below(client.lent.len() as u64) as usize;
                client.fetch(at);
            }
            let reads = client.reads.clone();
            for reply in client.take_replies() {
                assert!(
                    ERRORS.contains(&reply.error),
                    "seed {seed} step {step}: {}",
                    reply.error
                );
                assert!(
                    answered.insert(reply.cookie),
                    "seed {seed} step {step}: answered twice"
                );
                assert!(
                    !reads.contains_key(&reply.cookie) || reply.data.iter().all(|byte| *byte < 70)
                );
            }
        }
        client.pages.set_fullness(Fullness::Free);
        client.desk.space_epoch += 1;
        client.run();
        client.fetch_all();
        client.pass(2 * TIMEOUT);
        client.fetch_all();
        answered.extend(client.take_replies().iter().map(|reply| reply.cookie));
        assert_eq!(answered.len(), asked, "seed {seed}");
        client.check_at_rest();
    }
}

fn something_happens(client: &mut Client, random: &mut Random) {
    match random.below(12) {
        0 => client.pages.set_fullness(Fullness::Stalled),
        1 | 2 => {
            client.pages.set_fullness(Fullness::Free);
            client.desk.space_epoch += 1;
            client.run();
        }
        3 => client.pass(TIMEOUT / 3),
        4 => client.pages.set_fetches_fail(random.below(2) == 0),
        _ => client.pages.put_in_store(random.below(64) as u32),
    }
}

/// A client that sends in pieces, reads in pieces, and whose every field may be anything.
struct Slow {
    client: Client,
    random: Random,
    pending: Vec<u8>,
    asked: HashSet<u64>,
    seed: u64,
    /// It mostly reads long runs, and takes its replies only when they are more than fit.
    heavy: bool,
}

impl Slow {
    fn new(seed: u64) -> Self {
        // xorshift never leaves 0, and neighbours of 0 begin alike.
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let structured = random.below(2) == 0;
        let negotiated = Negotiated {
            structured,
            base_allocation: (structured && random.below(4) > 0).then_some(CONTEXT),
        };
        Slow {
            client: Client::on(ExportId(u16::from(random.below(8) == 0)), negotiated),
            random,
            pending: Vec::new(),
            asked: HashSet::new(),
            seed,
            heavy: seed.is_multiple_of(3),
        }
    }

    fn ask(&mut self) {
        let random = &mut self.random;
        let commands = [0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 6, 7, 8, 99];
        let command = match self.heavy && random.below(4) > 0 {
            true => CMD_READ,
            false => commands[random.below(commands.len() as u64) as usize],
        };
        let flags = match random.below(8) {
            0 => random.next() as u16,
            1..4 => random.next() as u16 & 0x1f,
            _ => 0,
        };
        let length = match random.below(16) {
            0 => 0,
            1 if command != CMD_WRITE => random.next() as u32,
            2 => 1 + random.below(600_000) as u32,
            3..12 if self.heavy => 100_000 + random.below(500_000) as u32,
            3..8 => PAGE as u32 * (1 + random.below(32) as u32),
            _ => 1 + random.below(9000) as u32,
        };
        let offset = match random.below(16) {
            0 => random.next(),
            1 => u64::MAX - random.below(9000),
            2 => SIZE - random.below(9000),
            3..8 => random.below(64) * PAGE as u64,
            _ => random.below(64 * PAGE as u64),
        };
        let request = self.client.request(command, flags, offset, length);
        self.pending.extend(request);
        self.asked.insert(self.client.cookie());
        if command == CMD_WRITE {
            self.pending.extend(pattern(length as usize, offset));
        }
    }

    /// The session takes some bytes, works, and the client reads some.
    fn exchange(&mut self) {
        let Slow { client, random, .. } = self;
        if let Some(space) = client.session.input() {
            let most = space.len().min(self.pending.len());
            let taken = most - random.below(2) as usize * random.below(most as u64 + 1) as usize;
            space[..taken].copy_from_slice(&self.pending[..taken]);
            client.session.received(taken);
            self.pending.drain(..taken);
        }
        client.session.advance(&mut client.desk);
        if !self.heavy {
            let sent = random.below(client.session.output().len() as u64 + 1) as usize;
            self.read(sent);
        }
        if self.random.below(8) == 0 {
            self.sip();
        }
    }

    /// The client reads so little at a time that what waits for room goes on as soon as it just
    /// fits: there, and only there, room that was promised twice is missed.
    fn sip(&mut self) {
        const SIP_BYTES: usize = 48;
        while self.client.session.waits().output && self.client.session.end().is_none() {
            let sip = SIP_BYTES.min(self.client.session.output().len());
            if sip == 0 {
                // All room is promised to what waits for the store.
                break;
            }
            self.read(sip);
            self.client.session.advance(&mut self.client.desk);
        }
        self.client.lent.append(self.client.desk.boxes.outgoing());
    }

    /// The client reads this much of what there is.
    fn read(&mut self, bytes: usize) {
        let client = &mut self.client;
        client.replies.extend(&client.session.output()[..bytes]);
        client.session.sent(bytes);
        client.lent.append(client.desk.boxes.outgoing());
    }

    fn something_happens(&mut self) {
        let Slow { client, random, .. } = self;
        match random.below(16) {
            0 => client.pages.set_fullness(Fullness::Stalled),
            1 => client.pages.set_fullness(Fullness::Full),
            2 | 3 => {
                client.pages.set_fullness(Fullness::Free);
                client.desk.space_epoch += 1;
            }
            4 => {
                client.desk.now += TIMEOUT / 3;
                client.session.expire(&mut client.desk);
            }
            5 => client.pages.set_fetches_fail(random.below(2) == 0),
            6..12 => client.pages.put_in_store(random.below(64) as u32),
            _ if !client.lent.is_empty() => {
                let at = random.below(client.lent.len() as u64) as usize;
                let mut fetch = client.lent.remove(at);
                client.pages.fetch_one(&mut fetch);
                client.session.fetched(&mut client.desk, fetch);
            }
            _ => {}
        }
    }

    /// Everything that waits is let go on.
    fn settle(&mut self) {
        let mut rounds = 0;
        while self.client.session.end().is_none() {
            self.client.pages.set_fullness(Fullness::Free);
            self.client.desk.space_epoch += 1;
            let left = std::mem::take(&mut self.pending);
            self.pending = self.client.send(&left).to_vec();
            self.client.fetch_all();
            self.client.run();
            if self.pending.is_empty() && self.client.session.deadline().is_none() {
                return;
            }
            rounds += 1;
            assert!(rounds < 10_000, "seed {}: it never ends", self.seed);
        }
    }

    /// Each request has one answer, unless the session had to end.
    fn check(&mut self) {
        let seed = self.seed;
        let mut answered = Vec::new();
        let client = &mut self.client;
        if let Some(end) = client.session.end() {
            assert!(matches!(end, End::ReadFailed { .. }), "seed {seed}: {end}");
            client.session.abandon(&mut client.desk, End::EndOfStream);
            client.fetch_all();
        } else {
            if client.structured {
                for chunk in client.take_chunks() {
                    answered.extend(chunk.done.then_some(chunk.cookie));
                }
            } else {
                for reply in client.take_replies() {
                    assert!(ERRORS.contains(&reply.error), "seed {seed}: {reply:?}");
                    answered.push(reply.cookie);
                }
            }
            let once: HashSet<u64> = answered.iter().copied().collect();
            assert_eq!(once.len(), answered.len(), "seed {seed}: answered twice");
            assert_eq!(once, self.asked, "seed {seed}");
        }
        client.check_at_rest();
    }
}

/// Requests with a valid frame and any fields, a client that reads when it likes, stalls, hung and
/// failed fetches and deadlines: no panic, one answer each, nothing left behind.
#[test]
fn requests_of_any_kind_are_answered_once_to_a_client_that_reads_slowly() {
    for seed in fuzz_seeds(150) {
        let mut slow = Slow::new(seed);
        let play = std::panic::AssertUnwindSafe(|| {
            for _ in 0..150 {
                if slow.pending.len() < 1 << 20 {
                    slow.ask();
                }
                for _ in 0..slow.random.below(4) {
                    slow.something_happens();
                    slow.exchange();
                }
            }
            slow.settle();
            slow.check();
        });
        if let Err(panic) = std::panic::catch_unwind(play) {
            eprintln!("replay with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
