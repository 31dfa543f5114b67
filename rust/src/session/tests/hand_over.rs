//! Connections that go from one session to the next in the middle of whatever they are at: the client
//! notices nothing.

use super::*;
use crate::session::fake::Fullness;
use crate::session::{End, OUTPUT_BYTES, RECEIVED_BYTES_MAX, Unfinished};
use crate::testing::random::seeds;

impl Client {
    /// Gives the session up; fetches are done as they come. None if it cannot be.
    fn give_up(&mut self) -> Option<Unfinished> {
        self.session.begin_hand_over();
        self.run();
        self.fetch_all();
        if !self.session.is_handed_over() {
            return None;
        }
        let unfinished = self.session.take_unfinished(&mut self.desk);
        assert_eq!(self.desk.boxes.free_count(), BOXES, "it keeps nothing");
        Some(unfinished)
    }

    /// Goes on in a new session.
    fn go_on(&mut self, unfinished: &Unfinished) {
        let (export, negotiated) = self.session.agreed();
        let now = self.desk.now;
        self.session = Session::new(&*self.pages, export, negotiated, TIMEOUT, now);
        self.session
            .preload(&unfinished.received, &unfinished.unsent);
        self.run();
    }

    fn hand_over(&mut self) -> Unfinished {
        let unfinished = self.give_up().expect("nothing keeps it");
        self.go_on(&unfinished);
        unfinished
    }
}

#[test]
fn an_idle_connection_leaves_nothing_unfinished() {
    let mut client = Client::simple();
    client.write(0, &[1; PAGE]);
    assert_eq!(client.hand_over(), Unfinished::default());
    client.read(0, PAGE as u32);
    let replies = client.take_replies();
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[1].data, [1; PAGE]);
}

/// Every request, cut at a random byte into parts for different sessions, does what it does whole.
#[test]
fn requests_that_are_cut_anywhere_do_what_they_do_whole() {
    for seed in seeds(30) {
        let mut random = Random(seed + 1);
        let mut client = Client::simple();
        let mut model = vec![0u8; SIZE as usize];
        let mut in_part = 0;
        for step in 0..120 {
            let length_max = if random.below(6) == 0 { 300_000 } else { 9000 };
            let length = 1 + random.below(length_max);
            let offset = random.below(SIZE - length);
            let range = offset as usize..(offset + length) as usize;
            for _ in 0..3 {
                let page = (range.start / PAGE) as u64 + random.below(3);
                client
                    .pages
                    .put_in_store(page.min(u64::from(PAGES) - 1) as u32);
            }
            let mut bytes;
            if random.below(4) > 0 {
                let data = pattern(length as usize, random.next());
                bytes = client.request(CMD_WRITE, 0, offset, length as u32);
                bytes.extend(&data);
                model[range.clone()].copy_from_slice(&data);
            } else {
                bytes = client.request(CMD_WRITE_ZEROES, FLAG_NO_HOLE, offset, length as u32);
                model[range.clone()].fill(0);
            }
            bytes.extend(client.request(CMD_READ, 0, offset, length as u32));
            let mut rest = &bytes[..];
            for _ in 0..1 + random.below(3) {
                let cut = random.below(rest.len() as u64 + 1) as usize;
                assert!(client.send(&rest[..cut]).is_empty(), "seed {seed}");
                rest = &rest[cut..];
                in_part += u32::from(client.hand_over().received.len() >= REQUEST_BYTES);
            }
            assert!(client.send(rest).is_empty(), "seed {seed}");
            client.fetch_all();
            let replies = client.take_replies();
            assert_eq!(replies.len(), 2, "seed {seed} step {step}");
            assert_eq!((replies[0].error, replies[1].error), (0, 0));
            assert!(replies[1].data == model[range], "seed {seed} step {step}");
        }
        assert!(in_part > 0, "seed {seed}: no write was cut");
        client.check_at_rest();
    }
}

#[test]
fn a_write_that_waits_for_space_goes_on_elsewhere() {
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Stalled);
    client.write(0, &[3; 2 * PAGE]);
    let unfinished = client.hand_over();
    assert_eq!(unfinished.received.len(), REQUEST_BYTES + 2 * PAGE);
    client.pages.set_fullness(Fullness::Free);
    client.desk.space_epoch += 1;
    client.run();
    assert_eq!(client.take_replies()[0].error, 0);
    assert_eq!(client.pages.bytes(1), [3; PAGE]);
}

#[test]
fn a_long_discard_goes_on_elsewhere() {
    let mut client = Client::simple();
    client.write(0, &pattern(64 * PAGE, 3));
    client.take_replies();
    let bytes = client.request(CMD_TRIM, 0, 0, SIZE as u32);
    let space = client.session.input().expect("it is at rest");
    space[..bytes.len()].copy_from_slice(&bytes);
    client.session.received(bytes.len());
    client.session.begin_hand_over();
    client.run();
    let unfinished = client.session.take_unfinished(&mut client.desk);
    client.go_on(&unfinished);
    assert_eq!(client.take_replies()[0].error, 0);
    assert!((0..64).all(|page| client.pages.bytes(page) == [0; PAGE]));
}

#[test]
fn replies_that_are_not_read_are_sent_by_the_next_session() {
    let mut client = Client::simple();
    let data = pattern(64 * PAGE, 8);
    client.write(0, &data);
    client.take_replies();
    let mut asked = Vec::new();
    for at in 0..2000 {
        asked.extend(client.request(CMD_READ, 0, at % 64 * PAGE as u64, PAGE as u32));
    }
    // As much as the session takes while nobody reads.
    let space = client.session.input().expect("it is at rest");
    space[..asked.len()].copy_from_slice(&asked);
    client.session.received(asked.len());
    while client.session.advance(&mut client.desk) == Progress::More {}
    client.session.begin_hand_over();
    while client.session.advance(&mut client.desk) == Progress::More {}
    assert!(client.session.is_handed_over());
    let unfinished = client.session.take_unfinished(&mut client.desk);
    assert!(unfinished.unsent.len() > OUTPUT_BYTES / 2);
    assert!(!unfinished.received.is_empty());
    client.go_on(&unfinished);
    let replies = client.take_replies();
    assert_eq!(replies.len(), 2000);
    for (at, reply) in replies.iter().enumerate() {
        assert_eq!(reply.error, 0);
        assert!(reply.data == data[at % 64 * PAGE..(at % 64 + 1) * PAGE]);
    }
}

#[test]
fn a_read_that_waits_for_the_store_is_finished_first() {
    let mut client = Client::simple();
    client.write(0, &[5; PAGE]);
    client.take_replies();
    client.pages.put_in_store(0);
    client.read(0, PAGE as u32);
    client.session.begin_hand_over();
    client.run();
    assert!(!client.session.is_handed_over());
    assert!(!client.session.waits_for_client());
    assert!(client.session.input().is_none(), "it receives no more");
    client.fetch_all();
    assert!(client.session.is_handed_over());
    assert_eq!(client.take_replies()[0].data, [5; PAGE]);
}

#[test]
fn one_that_was_to_go_can_stay() {
    let mut client = Client::simple();
    client.write(0, &[5; PAGE]);
    client.take_replies();
    client.pages.put_in_store(0);
    client.read(0, PAGE as u32);
    client.session.begin_hand_over();
    client.run();
    client.session.stay();
    client.read(PAGE as u64, PAGE as u32);
    assert_eq!(client.take_replies().len(), 1, "it receives again");
    client.fetch_all();
    assert_eq!(client.take_replies().len(), 1);
    client.check_at_rest();
}

#[test]
fn a_stop_outdoes_a_hand_over() {
    let mut client = Client::simple();
    client.write(0, &[5; PAGE]);
    client.pages.put_in_store(0);
    client.read(0, PAGE as u32);
    client.session.begin_hand_over();
    client.session.leave(End::Detached);
    client.fetch_all();
    assert_eq!(client.session.end(), Some(&End::Detached));
}

#[test]
fn the_payload_of_a_refused_write_is_waited_for() {
    let mut client = Client::simple();
    let mut bytes = client.request(CMD_WRITE, 0, SIZE, PAGE as u32);
    bytes.extend([0; PAGE]);
    client.send(&bytes[..100]);
    client.session.begin_hand_over();
    client.run();
    assert!(!client.session.is_handed_over());
    assert!(client.session.waits_for_client());
    assert!(client.send(&bytes[100..]).is_empty());
    assert!(client.session.is_handed_over());
    assert_eq!(client.take_replies()[0].error, 28);
}

#[test]
fn a_full_receive_buffer_with_the_rest_of_a_write_fits_the_next_one() {
    rest_of_a_write_is_handed_over_when(false);
}

/// Then the buffer is empty when the payload begins, and takes more of it.
#[test]
fn so_does_one_whose_header_came_alone() {
    rest_of_a_write_is_handed_over_when(true);
}

fn rest_of_a_write_is_handed_over_when(header_comes_alone: bool) {
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Stalled);
    let mut bytes = client.request(CMD_WRITE, 0, 0, 1 << 20);
    bytes.resize(bytes.len() + (1 << 20), 9);
    let header = if header_comes_alone { REQUEST_BYTES } else { 0 };
    assert!(client.send(&bytes[..header]).is_empty());
    let left = client.send(&bytes[header..]).len();
    let unfinished = client.give_up().expect("nothing keeps it");
    assert!(
        unfinished.received.len() <= RECEIVED_BYTES_MAX,
        "{} bytes",
        unfinished.received.len()
    );
    assert_eq!(unfinished.received.len() + left, bytes.len());
    client.go_on(&unfinished);
    client.pages.set_fullness(Fullness::Free);
    client.desk.space_epoch += 1;
    client.run();
    assert!(client.send(&bytes[bytes.len() - left..]).is_empty());
    assert_eq!(client.take_replies()[0].error, 0);
    assert_eq!(client.pages.bytes(255), [9; PAGE]);
}
