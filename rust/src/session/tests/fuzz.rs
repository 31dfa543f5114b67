//! Random bytes and random requests: never a panic, never an answer that a model would not give.

use super::*;
use crate::session::fake::Fullness;

const ERRORS: [u32; 5] = [0, 1, 5, 22, 28];

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
