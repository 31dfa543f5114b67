//! Requests as a stream of bytes: however they are cut, however many there are, whoever reads.

use super::*;
use crate::session::{INPUT_BYTES, OUTPUT_BYTES};

/// A script with every kind of request, and its bytes. The chunks of a long structured read may
/// come between later replies, so there all reads but the last are short: then the order is one.
fn script(client: &mut Client) -> Vec<u8> {
    let long = if client.structured { 100_000 } else { 200_000 };
    let mut bytes = Vec::new();
    for (seed, (offset, length)) in [
        (0, 4096),
        (5000, 100),
        (8000, 40_000),
        (4095, 2),
        (100_000, long),
    ]
    .into_iter()
    .enumerate()
    {
        bytes.extend(client.request(CMD_WRITE, 0, offset, length));
        bytes.extend(pattern(length as usize, seed as u64 + 7));
        bytes.extend(client.request(CMD_READ, 0, offset / 2, length));
    }
    bytes.extend(client.request(CMD_WRITE, 0, SIZE, 3000));
    bytes.extend(pattern(3000, 99));
    bytes.extend(client.request(CMD_FLUSH, 0, 0, 0));
    bytes.extend(client.request(CMD_TRIM, 0, 0, 50_000));
    bytes.extend(client.request(CMD_WRITE_ZEROES, 0, 120_000, 50_000));
    bytes.extend(client.request(CMD_READ, 0, 0, 400_000));
    bytes
}

fn replies_to(cut: impl FnMut(usize) -> usize, negotiated: Negotiated) -> Vec<u8> {
    let mut cut = cut;
    let mut client = Client::on(ExportId(0), negotiated);
    let bytes = script(&mut client);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let n = cut(rest.len()).min(rest.len());
        assert!(client.send(&rest[..n]).is_empty());
        rest = &rest[n..];
    }
    client.check_at_rest();
    client.replies
}

#[test]
fn how_the_stream_is_cut_makes_no_difference() {
    for negotiated in [
        Negotiated {
            structured: false,
            base_allocation: None,
        },
        Negotiated {
            structured: true,
            base_allocation: None,
        },
    ] {
        let whole = replies_to(|n| n, negotiated);
        assert!(whole.len() > 300_000);
        assert!(replies_to(|_| 1, negotiated) == whole, "byte by byte");
        for seed in 1..20 {
            let mut random = Random(seed);
            let cut = |_| 1 + random.below(1 << (1 + seed % 16)) as usize;
            assert!(replies_to(cut, negotiated) == whole, "seed {seed}");
        }
    }
}

#[test]
fn many_requests_of_one_receive_are_answered_in_order() {
    let mut client = Client::simple();
    let data = pattern(128 * PAGE, 5);
    let mut bytes = Vec::new();
    for at in 0..128 {
        bytes.extend(client.request(CMD_WRITE, 0, (at * PAGE) as u64, PAGE as u32));
        bytes.extend(&data[at * PAGE..(at + 1) * PAGE]);
    }
    for at in 0..128 {
        bytes.extend(client.request(CMD_READ, 0, (at * PAGE) as u64, PAGE as u32));
    }
    client.send(&bytes);
    let replies = client.take_replies();
    assert_eq!(replies.len(), 256);
    for (at, reply) in replies.iter().enumerate() {
        assert_eq!((reply.cookie, reply.error), (at as u64 + 1, 0));
        if at >= 128 {
            assert!(reply.data == data[(at - 128) * PAGE..][..PAGE], "read {at}");
        }
    }
}

#[test]
fn sixty_four_mib_go_in_and_out() {
    let bytes = 64 << 20;
    let pages = Arc::new(FakePages::new(65536, 1025));
    let now = Instant::now();
    let mut client = Client::simple();
    client.desk = Desk::new(
        pages.clone(),
        Boxes::new(0, BOXES, 65536),
        Arc::new(Shard::new(2)),
        now,
    );
    let negotiated = Negotiated {
        structured: false,
        base_allocation: None,
    };
    client.session = Session::new(&*pages, ExportId(0), negotiated, TIMEOUT, now);
    let data = pattern(bytes, 6);
    client.write(1000, &data);
    client.read(1000, bytes as u32);
    let replies = client.take_replies();
    assert_eq!((replies[0].error, replies[1].error), (0, 0));
    assert!(replies[1].data == data, "the bytes are the same");
    client.check_at_rest();
}

#[test]
fn a_client_that_never_reads_costs_two_buffers_and_loses_nothing() {
    let mut client = Client::simple();
    client.write(0, &pattern(64 * PAGE, 8));
    client.take_replies();
    client.pages.put_in_store(3);
    let mut taken = 0;
    let mut asked = Vec::new();
    for at in 0..100_000u64 {
        asked.extend(client.request(CMD_READ, 0, at % 64 * PAGE as u64, PAGE as u32));
    }
    // Feed until the session takes no more; send nothing of its output.
    while let Some(space) = client.session.input() {
        let n = space.len().min(asked.len() - taken);
        space[..n].copy_from_slice(&asked[taken..taken + n]);
        client.session.received(n);
        taken += n;
        while client.session.advance(&mut client.desk) == Progress::More {}
        client.lent.append(client.desk.boxes.outgoing());
    }
    assert!(
        taken <= INPUT_BYTES + 28 * OUTPUT_BYTES / PAGE,
        "{taken} bytes were taken"
    );
    assert!(client.session.waits().output);
    assert!(client.session.output().len() <= OUTPUT_BYTES);
    // What the store has for it can be answered even now, so it keeps no box from others.
    assert!(!client.lent.is_empty());
    while let Some(mut fetch) = client.lent.pop() {
        client.pages.fetch_one(&mut fetch);
        client.session.fetched(&mut client.desk, fetch);
        while client.session.advance(&mut client.desk) == Progress::More {}
    }
    assert_eq!(client.desk.boxes.free_count(), BOXES);
    // It begins to read after all.
    client.run();
    let mut rest = &asked[taken..];
    while !rest.is_empty() {
        rest = client.send(rest);
        client.fetch_all();
    }
    let replies = client.take_replies();
    assert_eq!(replies.len(), 100_000);
    assert!(replies.iter().all(|reply| reply.error == 0));
    client.check_at_rest();
}

#[test]
fn long_spans_yield_between_slices() {
    let pages = Arc::new(FakePages::new(PAGE, 100_000));
    let now = Instant::now();
    let mut client = Client::simple();
    client.desk = Desk::new(
        pages.clone(),
        Boxes::new(0, 1, PAGE),
        Arc::new(Shard::new(2)),
        now,
    );
    let negotiated = Negotiated {
        structured: false,
        base_allocation: None,
    };
    client.session = Session::new(&*pages, ExportId(0), negotiated, TIMEOUT, now);
    for (command, flags) in [
        (CMD_TRIM, 0),
        (CMD_WRITE_ZEROES, 0),
        (CMD_WRITE_ZEROES, FLAG_NO_HOLE),
    ] {
        let bytes = client.request(command, flags, 0, 100_000 * PAGE as u32);
        client.session.input().unwrap()[..28].copy_from_slice(&bytes);
        client.session.received(28);
        let mut turns = 1;
        while client.session.advance(&mut client.desk) == Progress::More {
            turns += 1;
        }
        assert!(
            turns >= 100_000 / 4096,
            "{turns} turns for command {command}"
        );
        client.run();
        assert_eq!(client.take_replies()[0].error, 0);
    }
}
