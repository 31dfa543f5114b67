//! Requests that wait: for the store, for boxes, for space; and what happens when they wait in
//! vain.

use super::*;
use crate::session::End;
use crate::session::fake::Fullness;

/// A client whose pages 0..count hold a pattern and are in the store.
fn stored(mut client: Client, count: u32) -> (Client, Vec<u8>) {
    let data = pattern(count as usize * PAGE, 11);
    client.write(0, &data);
    client.replies.clear();
    for page in 0..count {
        client.pages.put_in_store(page);
    }
    (client, data)
}

#[test]
fn a_read_of_a_stored_page_waits_and_holds_up_nobody() {
    let (mut client, data) = stored(Client::simple(), 1);
    client.read(10, 100);
    let slow = client.cookie();
    client.read(PAGE as u64, 100);
    let quick = client.cookie();
    assert_eq!(client.take_replies()[0].cookie, quick);
    client.fetch_all();
    let replies = client.take_replies();
    assert_eq!((replies[0].cookie, replies[0].error), (slow, 0));
    assert_eq!(replies[0].data, data[10..110]);
    client.check_at_rest();
}

#[test]
fn fetches_may_come_back_in_any_order() {
    for seed in 1..50 {
        let (mut client, data) = stored(Client::simple(), 16);
        let mut random = Random(seed);
        for page in 0..16 {
            client.read(page * PAGE as u64, PAGE as u32);
        }
        client.read(100, 15 * PAGE as u32);
        assert_eq!(client.lent.len(), 32);
        while !client.lent.is_empty() {
            let at = random.below(client.lent.len() as u64) as usize;
            client.fetch(at);
        }
        for reply in client.take_replies() {
            let (from, bytes) = match reply.cookie {
                18 => (100, 15 * PAGE),
                cookie => ((cookie as usize - 2) * PAGE, PAGE),
            };
            assert!(
                reply.data == data[from..from + bytes],
                "seed {seed} cookie {}",
                reply.cookie
            );
        }
        client.check_at_rest();
    }
}

#[test]
fn a_page_that_was_rewritten_during_its_fetch_is_read_anew() {
    let (mut client, _) = stored(Client::simple(), 2);
    client.read(0, 2 * PAGE as u32);
    client.write(0, &[7; PAGE]);
    client.take_replies();
    client.fetch_all();
    let replies = client.take_replies();
    assert_eq!(replies[0].error, 0);
    assert_eq!(replies[0].data[..PAGE], [7; PAGE]);
    client.check_at_rest();
}

#[test]
fn a_page_that_moved_in_the_store_during_its_fetch_is_fetched_again() {
    let (mut client, data) = stored(Client::simple(), 1);
    client.read(0, PAGE as u32);
    client.pages.put_in_store(0);
    client.fetch(0);
    assert_eq!(client.lent.len(), 1, "from its new place");
    client.fetch_all();
    assert!(client.take_replies()[0].data == data);
    client.check_at_rest();
}

#[test]
fn a_failed_fetch_is_eio_for_its_request_only() {
    let (mut client, _) = stored(Client::simple(), 2);
    client.read(0, 10);
    client.write(PAGE as u64 + 5, &[1; 10]);
    client.pages.set_fetches_fail(true);
    client.fetch_all();
    let errors: Vec<u32> = client
        .take_replies()
        .iter()
        .map(|reply| reply.error)
        .collect();
    assert_eq!(errors, [5, 5]);
    assert_eq!(client.error_of(CMD_READ, 0, 100_000, 10), 0);
    client.check_at_rest();
}

#[test]
fn two_patches_of_a_stored_page_both_end_up_in_it() {
    for first in [0, 1] {
        let (mut client, mut data) = stored(Client::simple(), 1);
        client.write(10, &[0xaa; 20]);
        client.write(2000, &[0xbb; 20]);
        assert!(client.take_replies().is_empty());
        client.fetch(first);
        client.fetch(0);
        data[10..30].fill(0xaa);
        data[2000..2020].fill(0xbb);
        assert!(client.pages.bytes(0) == data, "fetch {first} first");
        assert_eq!(client.take_replies().len(), 2);
        client.check_at_rest();
    }
}

#[test]
fn a_write_with_two_stored_edges_is_answered_when_both_are_done() {
    let (mut client, mut data) = stored(Client::simple(), 3);
    let new = pattern(2 * PAGE, 12);
    client.write(100, &new);
    client.fetch(1);
    assert!(client.take_replies().is_empty());
    client.fetch(0);
    assert_eq!(client.take_replies()[0].error, 0);
    data[100..100 + 2 * PAGE].copy_from_slice(&new);
    for page in 0..3 {
        assert!(
            client.pages.bytes(page) == data[page as usize * PAGE..][..PAGE],
            "page {page}"
        );
    }
    client.check_at_rest();
}

#[test]
fn zeroes_over_stored_edges_wait_for_them() {
    let (mut client, mut data) = stored(Client::simple(), 3);
    let bytes = client.request(CMD_WRITE_ZEROES, 0, 100, 2 * PAGE as u32);
    client.send(&bytes);
    client.fetch_all();
    data[100..100 + 2 * PAGE].fill(0);
    for page in 0..3 {
        assert!(
            client.pages.bytes(page) == data[page as usize * PAGE..][..PAGE],
            "page {page}"
        );
    }
    assert_eq!(client.take_replies()[0].error, 0);
    client.check_at_rest();
}

#[test]
fn long_reads_from_the_store_come_in_pieces() {
    for simple in [true, false] {
        let client = if simple {
            Client::simple()
        } else {
            Client::structured()
        };
        let (mut client, data) = stored(client, 200);
        client.read(100, 199 * PAGE as u32);
        assert!(
            client.lent.len() <= 33,
            "{} pages at a time",
            client.lent.len()
        );
        client.fetch_all();
        if simple {
            let replies = client.take_replies();
            assert!(replies[0].data == data[100..100 + 199 * PAGE]);
        } else {
            let mut next = 100;
            for chunk in client.take_chunks() {
                assert!(chunk.payload[..8] == (next as u64).to_be_bytes());
                assert!(chunk.payload[8..] == data[next..next + chunk.payload.len() - 8]);
                next += chunk.payload.len() - 8;
            }
            assert_eq!(next, 100 + 199 * PAGE);
        }
        client.check_at_rest();
    }
}

#[test]
fn an_error_after_the_header_ends_the_connection() {
    let mut client = Client::simple();
    client.write(0, &[1; 100 * PAGE]);
    client.take_replies();
    client.pages.lose(90);
    client.read(0, 100 * PAGE as u32);
    assert_eq!(
        client.session.end(),
        Some(&End::ReadFailed {
            offset: 90 * PAGE as u64
        })
    );
}

#[test]
fn an_error_in_the_first_piece_is_an_error_reply() {
    let mut client = Client::simple();
    client.write(0, &[1; 100 * PAGE]);
    client.take_replies();
    client.pages.lose(10);
    assert_eq!(client.error_of(CMD_READ, 0, 0, 100 * PAGE as u32), 5);
    client.check_at_rest();
}

#[test]
fn more_reads_than_boxes_are_all_answered() {
    let (mut client, data) = stored(Client::simple(), 256);
    let mut bytes = Vec::new();
    for page in 0..256u64 {
        bytes.extend(client.request(CMD_READ, 0, page * PAGE as u64, PAGE as u32));
    }
    for start in [0, 100] {
        bytes.extend(client.request(CMD_READ, 0, start, 30 * PAGE as u32));
    }
    let rest = client.send(&bytes).len();
    assert_eq!(rest, 0);
    assert_eq!(client.lent.len(), BOXES);
    client.fetch_all();
    let replies = client.take_replies();
    assert_eq!(replies.len(), 258);
    for reply in &replies {
        let from = match reply.cookie {
            258 => 0,
            259 => 100,
            cookie => (cookie as usize - 2) * PAGE,
        };
        assert!(
            reply.data == data[from..from + reply.data.len()],
            "cookie {}",
            reply.cookie
        );
    }
    client.check_at_rest();
}

#[test]
fn a_hung_store_is_eio_at_the_deadline_and_late_fetches_are_ignored() {
    let (mut client, data) = stored(Client::simple(), 2);
    client.read(0, 100);
    client.write(PAGE as u64 + 1, &[9; 10]);
    client.pass(TIMEOUT / 2);
    assert!(client.take_replies().is_empty());
    client.pass(TIMEOUT / 2);
    let errors: Vec<u32> = client
        .take_replies()
        .iter()
        .map(|reply| reply.error)
        .collect();
    assert_eq!(errors, [5, 5]);
    client.check_at_rest();
    client.fetch_all();
    assert!(client.take_replies().is_empty(), "the answer was given");
    assert!(
        client.pages.bytes(1) == data[PAGE..2 * PAGE],
        "a failed write does not land later"
    );
    assert_eq!(client.desk.boxes.free_count(), BOXES);
}

#[test]
fn a_client_may_take_its_time_to_read_a_long_reply() {
    let (mut client, data) = stored(Client::simple(), 400);
    let bytes = client.request(CMD_READ, 0, 0, 400 * PAGE as u32);
    client.session.input().unwrap()[..28].copy_from_slice(&bytes);
    client.session.received(28);
    // Until the send buffer is full, of which nothing is sent.
    loop {
        while client.session.advance(&mut client.desk) == Progress::More {}
        client.lent.append(client.desk.boxes.outgoing());
        let Some(mut fetch) = client.lent.pop() else {
            break;
        };
        client.pages.fetch_one(&mut fetch);
        client.session.fetched(&mut client.desk, fetch);
    }
    assert!(client.session.waits().output);
    client.pass(10 * TIMEOUT);
    client.fetch_all();
    let replies = client.take_replies();
    assert!(replies[0].data == data);
    client.check_at_rest();
}

#[test]
fn pages_in_memory_are_served_while_the_store_hangs() {
    let (mut client, _) = stored(Client::simple(), 100);
    for page in 0..100 {
        client.read(page * PAGE as u64, PAGE as u32);
    }
    assert_eq!(client.lent.len(), BOXES);
    assert_eq!(
        client.error_of(CMD_READ, 0, 200 * PAGE as u64, PAGE as u32),
        0
    );
    assert_eq!(
        client.error_of(CMD_WRITE, 0, 200 * PAGE as u64, PAGE as u32),
        0
    );
}

#[test]
fn a_stalled_write_goes_on_when_space_comes() {
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Stalled);
    client.write(0, &[5; 2 * PAGE]);
    client.read(0, 1);
    assert!(client.take_replies().is_empty(), "the connection waits");
    assert!(client.session.waits().space);
    client.pages.set_fullness(Fullness::Free);
    client.run();
    assert!(client.take_replies().is_empty(), "nobody announced space");
    client.desk.space_epoch += 1;
    client.run();
    let replies = client.take_replies();
    assert_eq!((replies[0].error, &replies[1].data[..]), (0, &[5][..]));
    client.check_at_rest();
}

#[test]
fn a_stalled_write_is_enospc_at_the_deadline() {
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Stalled);
    client.write(0, &[5; 2 * PAGE]);
    client.read(0, 1);
    client.pass(TIMEOUT);
    let errors: Vec<u32> = client
        .take_replies()
        .iter()
        .map(|reply| reply.error)
        .collect();
    assert_eq!(errors, [28, 0]);
    client.check_at_rest();
}

#[test]
fn a_write_that_stalls_at_each_page_has_one_deadline() {
    let mut client = Client::simple();
    let mut request = client.request(CMD_WRITE, 0, 0, 3 * PAGE as u32);
    request.extend(vec![5; 3 * PAGE]);
    client.pages.set_fullness(Fullness::Stalled);
    client.send(&request[..28 + PAGE]);
    for page in 1..3 {
        client.pass(TIMEOUT / 2 - TIMEOUT / 100);
        client.pages.set_fullness(Fullness::Free);
        client.desk.space_epoch += 1;
        client.run();
        // It is the client's time until it sends more.
        client.pass(10 * TIMEOUT);
        client.pages.set_fullness(Fullness::Stalled);
        client.send(&request[28 + page * PAGE..28 + (page + 1) * PAGE]);
        assert!(client.take_replies().is_empty());
    }
    client.pass(TIMEOUT / 50);
    assert_eq!(client.take_replies()[0].error, 28);
    client.check_at_rest();
}

#[test]
fn writes_behind_one_that_waited_in_vain_do_not_wait_until_space_is_announced() {
    // Each waited for its own time, after the other: the tenth was answered after ten times the timeout.
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Stalled);
    for page in 0..10 {
        client.write(page * PAGE as u64, &[5; PAGE]);
    }
    client.pass(TIMEOUT);
    let replies = client.take_replies();
    assert!(replies.len() == 10 && replies.iter().all(|reply| reply.error == 28));
    client.desk.space_epoch += 1;
    client.write(0, &[5; PAGE]);
    assert!(client.take_replies().is_empty(), "it may hope again");
    client.pages.set_fullness(Fullness::Free);
    client.desk.space_epoch += 1;
    client.run();
    assert_eq!(client.take_replies()[0].error, 0);
    client.check_at_rest();
}

#[test]
fn a_full_pool_is_enospc_at_once() {
    let mut client = Client::simple();
    client.pages.set_fullness(Fullness::Full);
    assert_eq!(client.error_of(CMD_WRITE, 0, 0, 4096), 28);
    assert_eq!(client.error_of(CMD_WRITE, 0, 0, 100), 28);
}

#[test]
fn a_stalled_patch_goes_on_when_space_comes_or_is_enospc() {
    for space_comes in [true, false] {
        let (mut client, _) = stored(Client::simple(), 1);
        client.write(10, &[5; 10]);
        client.pages.set_fullness(Fullness::Stalled);
        client.fetch_all();
        assert!(client.take_replies().is_empty());
        assert!(client.session.waits().space);
        if space_comes {
            client.pages.set_fullness(Fullness::Free);
            client.desk.space_epoch += 1;
            client.run();
            assert_eq!(client.take_replies()[0].error, 0);
            assert_eq!(client.pages.bytes(0)[10..20], [5; 10]);
        } else {
            client.pass(TIMEOUT);
            assert_eq!(client.take_replies()[0].error, 28);
        }
        client.check_at_rest();
    }
}

#[test]
fn disc_waits_for_what_is_outstanding() {
    let (mut client, data) = stored(Client::simple(), 1);
    client.read(0, 100);
    let bytes = client.request(CMD_DISC, 0, 0, 0);
    client.send(&bytes);
    assert_eq!(client.session.end(), None);
    client.fetch_all();
    assert_eq!(client.take_replies()[0].data, data[..100]);
    assert_eq!(client.session.end(), Some(&End::Disconnected));
}

#[test]
fn leaving_finishes_what_is_begun_and_begins_nothing() {
    let (mut client, _) = stored(Client::simple(), 1);
    client.read(0, 100);
    let mut bytes = client.request(CMD_WRITE, 0, 8192, 8192);
    bytes.resize(bytes.len() + 4096, 1);
    client.send(&bytes);
    client.session.leave(End::Detached);
    client.fetch_all();
    assert_eq!(client.session.end(), None, "half a payload is missing");
    let mut bytes = vec![2; 4096];
    bytes.extend(client.request(CMD_WRITE, 0, 0, 4096));
    client.send(&bytes);
    assert_eq!(client.session.end(), Some(&End::Detached));
    assert_eq!(client.take_replies().len(), 2);
    assert_eq!(client.pages.bytes(3)[0], 2);
}

#[test]
fn a_dead_clients_patch_does_not_land_later() {
    let (mut client, data) = stored(Client::simple(), 1);
    client.write(10, &[5; 10]);
    client.session.abandon(&mut client.desk, End::EndOfStream);
    client.fetch_all();
    assert!(client.pages.bytes(0) == data);
    client.check_at_rest();
}
