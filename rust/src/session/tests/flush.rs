//! FLUSH and FUA where the export promises that what was flushed survives loss of the host: the reply waits,
//! and nothing else does.

use super::*;
use crate::engine::FlushError;
use crate::session::End;
use crate::session::fake::Fullness;
use crate::session::slab::WAITING_MAX;

fn durable() -> Client {
    let client = Client::simple();
    client.pages.set_durable();
    client
}

impl Client {
    fn ask(&mut self, command: u16, flags: u16, pages: u32) -> Vec<u8> {
        let mut bytes = self.request(command, flags, 0, pages * PAGE as u32);
        if command == CMD_WRITE {
            bytes.extend(vec![7; pages as usize * PAGE]);
        }
        bytes
    }

    fn errors(&mut self) -> Vec<u32> {
        let replies = self.take_replies();
        replies.iter().map(|reply| reply.error).collect()
    }

    fn end(&mut self, result: Result<(), FlushError>) {
        self.pages.end_flushes(result);
        self.run();
    }
}

#[test]
fn a_flush_is_answered_when_it_is_over_and_holds_up_nobody() {
    let mut client = durable();
    let bytes = client.ask(CMD_FLUSH, 0, 0);
    client.send(&bytes);
    assert!(client.take_replies().is_empty());
    client.read(0, PAGE as u32);
    assert_eq!(client.errors(), [0], "the read, not the flush");
    assert!(client.session.waits().space, "its end is announced");
    client.end(Ok(()));
    assert_eq!(client.errors(), [0]);
    assert!(!client.session.waits().space);
}

#[test]
fn changes_with_fua_wait_and_others_do_not() {
    for (command, pages) in [(CMD_WRITE, 2), (CMD_TRIM, 2), (CMD_WRITE_ZEROES, 2)] {
        let mut client = durable();
        let bytes = client.ask(command, 0, pages);
        client.send(&bytes);
        assert_eq!(client.errors(), [0], "command {command} without FUA");
        let bytes = client.ask(command, FLAG_FUA, pages);
        client.send(&bytes);
        assert!(client.take_replies().is_empty(), "command {command}");
        assert!(client.pages.has_flushes(), "command {command}");
        client.end(Ok(()));
        assert_eq!(client.errors(), [0], "command {command}");
    }
}

#[test]
fn a_write_with_fua_of_part_of_a_stored_page_waits_for_both() {
    let mut client = durable();
    client.write(0, &[1; PAGE]);
    client.take_replies();
    client.pages.put_in_store(0);
    let mut bytes = client.request(CMD_WRITE, FLAG_FUA, 10, 20);
    bytes.extend([2; 20]);
    client.send(&bytes);
    assert!(!client.pages.has_flushes(), "nothing is written yet");
    client.fetch_all();
    assert!(client.take_replies().is_empty() && client.pages.has_flushes());
    client.end(Ok(()));
    assert_eq!(client.errors(), [0]);
    assert_eq!(client.pages.bytes(0)[9..31], {
        let mut part = [2; 22];
        (part[0], part[21]) = (1, 1);
        part
    });
}

#[test]
fn a_flush_that_fails_says_why() {
    for (why, errno) in [
        (FlushError::Full, Errno::NoSpace),
        (FlushError::Failed, Errno::Io),
    ] {
        let mut client = durable();
        let bytes = client.ask(CMD_FLUSH, 0, 0);
        client.send(&bytes);
        client.end(Err(why));
        assert_eq!(client.errors(), [errno as u32]);
    }
}

#[test]
fn a_flush_of_a_device_that_hangs_fails_at_its_deadline() {
    let mut client = durable();
    let bytes = client.ask(CMD_FLUSH, 0, 0);
    client.send(&bytes);
    let deadline = client.session.deadline().expect("it has one");
    assert_eq!(deadline, client.desk.now + TIMEOUT);
    client.desk.now = deadline;
    client.session.expire(&mut client.desk);
    client.run();
    assert_eq!(client.errors(), [Errno::Io as u32]);
    client.end(Ok(()));
    assert!(client.take_replies().is_empty(), "it was answered");
}

#[test]
fn what_waits_for_space_and_then_for_a_flush_has_one_deadline() {
    // Each wait had its own: a client that gives up after some more than the timeout was lost.
    for (offset, bytes) in [(0, 2 * PAGE), (10, 20)] {
        let mut client = durable();
        client.write(0, &[1; PAGE]);
        client.take_replies();
        client.pages.put_in_store(0);
        let mut request = client.request(CMD_WRITE, FLAG_FUA, offset, bytes as u32);
        request.extend(vec![2; bytes]);
        client.pages.set_fullness(Fullness::Stalled);
        client.send(&request);
        client.fetch_all();
        client.pass(TIMEOUT / 4 * 3);
        client.pages.set_fullness(Fullness::Free);
        client.desk.space_epoch += 1;
        client.run();
        assert!(client.pages.has_flushes() && client.take_replies().is_empty());
        client.pass(TIMEOUT / 8);
        assert!(client.take_replies().is_empty());
        client.pass(TIMEOUT / 8);
        assert_eq!(client.errors(), [Errno::Io as u32]);
    }
}

#[test]
fn more_flushes_than_may_wait_are_left_in_the_input() {
    for command in [CMD_FLUSH, CMD_TRIM] {
        let mut client = durable();
        let count = WAITING_MAX + 3;
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend(client.ask(command, FLAG_FUA, 1));
        }
        client.send(&bytes);
        assert!(client.take_replies().is_empty());
        client.end(Ok(()));
        client.end(Ok(()));
        assert_eq!(client.errors(), vec![0; count]);
    }
}

#[test]
fn a_connection_is_handed_over_when_its_flush_is_answered() {
    let mut client = durable();
    let bytes = client.ask(CMD_WRITE, FLAG_FUA, 1);
    client.send(&bytes);
    client.session.begin_hand_over();
    client.run();
    assert!(!client.session.is_handed_over() && !client.session.waits_for_client());
    client.end(Ok(()));
    assert!(client.session.is_handed_over());
    assert_eq!(client.errors(), [0]);
}

#[test]
fn a_client_that_leaves_gets_the_answer_to_its_flush_first() {
    let mut client = durable();
    let mut bytes = client.ask(CMD_FLUSH, 0, 0);
    bytes.extend(client.request(CMD_DISC, 0, 0, 0));
    client.send(&bytes);
    assert_eq!(client.session.end(), None);
    client.end(Ok(()));
    assert_eq!(client.errors(), [0]);
    assert_eq!(client.session.end(), Some(&End::Disconnected));
}
