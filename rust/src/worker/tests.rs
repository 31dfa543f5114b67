//! Workers with real sockets: a client on the other end of a socket pair.

mod hand_over;
mod leaving;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Polling, Workers, WorkersOptions};
use crate::engine::ExportId;
use crate::session::fake::{FakePages, Fullness};
use crate::session::{Negotiated, Unfinished, metrics};
use crate::wire::*;

const PAGE: usize = 4096;
/// A test that waits longer for something has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const SIMPLE: Negotiated = Negotiated {
    structured: false,
    base_allocation: None,
};

const OPTIONS: WorkersOptions = WorkersOptions {
    workers: 1,
    readers: 1,
    polling: Polling::Auto,
    request_timeout: Duration::from_secs(30),
    connections_max: 4,
};

fn start(options: WorkersOptions) -> (Arc<FakePages>, Workers<FakePages>) {
    let pages = Arc::new(FakePages::new(PAGE, 256));
    let workers = Workers::start(pages.clone(), options).expect("threads start");
    (pages, workers)
}

struct Client {
    socket: UnixStream,
    number: u64,
}

impl Client {
    fn attach(workers: &Workers<FakePages>, received: &[u8]) -> Client {
        let (socket, server) = UnixStream::pair().expect("a pair of sockets");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time above zero");
        socket
            .set_write_timeout(Some(PATIENCE))
            .expect("a time above zero");
        let number = workers
            .attach(
                server.into(),
                ExportId(0),
                SIMPLE,
                &Unfinished {
                    received: received.to_vec(),
                    ..Unfinished::default()
                },
            )
            .expect("a free place");
        Client { socket, number }
    }

    fn send(&mut self, command: u16, cookie: u64, offset: u64, length: u32, payload: &[u8]) {
        let mut bytes = Request {
            flags: 0,
            command,
            cookie,
            offset,
            length,
        }
        .encode()
        .to_vec();
        bytes.extend_from_slice(payload);
        self.socket.write_all(&bytes).expect("the server reads");
    }

    /// Cookie and error of the next reply.
    fn reply(&mut self) -> (u64, u32) {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        self.socket
            .read_exact(&mut head)
            .expect("the server answers");
        assert_eq!(head[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        (u64::from_be_bytes(head[8..].try_into().unwrap()), error)
    }

    fn data(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.socket
            .read_exact(&mut data)
            .expect("the server sends data");
        data
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.send(CMD_WRITE, 1, offset, data.len() as u32, data);
        assert_eq!(self.reply(), (1, 0));
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Vec<u8> {
        self.send(CMD_READ, 2, offset, bytes as u32, &[]);
        assert_eq!(self.reply(), (2, 0));
        self.data(bytes)
    }

    /// The server closed the connection properly, after `self.reply()`s that were due.
    fn assert_closed(&mut self) {
        assert_eq!(
            self.socket.read(&mut [0]).expect("no reset"),
            0,
            "nothing follows"
        );
    }
}

/// Waits until connections have ended.
fn wait_for_end(workers: &Workers<FakePages>) -> Vec<(u64, String)> {
    let patience = Timespec::try_from(PATIENCE).expect("seconds");
    let fd = workers.ended_fd();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).expect("poll");
    assert_eq!(ready, 1, "a connection ends in time");
    workers.take_ended()
}

#[test]
fn every_way_of_polling_serves() {
    for polling in [Polling::Auto, Polling::Off, Polling::Fixed(20)] {
        let (_, workers) = start(WorkersOptions { polling, ..OPTIONS });
        let mut client = Client::attach(&workers, &[]);
        for at in 0..100 {
            client.write(at * 100, &[at as u8; 100]);
            assert_eq!(client.read(at * 100, 100), vec![at as u8; 100]);
        }
        client.send(CMD_DISC, 0, 0, 0, &[]);
        client.assert_closed();
        let number = client.number;
        drop(client);
        assert_eq!(
            wait_for_end(&workers),
            [(number, String::new())],
            "{polling:?}"
        );
        assert_eq!(workers.stats()[0].requests, 200);
        assert_eq!(workers.connections(), (0, 1));
    }
}

#[test]
fn bytes_that_came_after_the_handshake_come_first() {
    let (_, workers) = start(OPTIONS);
    let raw = Request {
        flags: 0,
        command: CMD_FLUSH,
        cookie: 9,
        offset: 0,
        length: 0,
    }
    .encode();
    let mut client = Client::attach(&workers, &raw[..10]);
    client
        .socket
        .write_all(&raw[10..])
        .expect("the server reads");
    assert_eq!(client.reply(), (9, 0));
}

#[test]
fn an_idle_worker_sleeps() {
    let (_, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    client.read(0, PAGE);
    // It looks for work a few times more at most, so its counts come to rest and stay.
    let mut before = workers.stats();
    let began = Instant::now();
    loop {
        // Another connection's round trip, on another thread's time: the worker is given a while.
        let patience = Timespec::try_from(Duration::from_millis(20)).expect("milliseconds");
        poll(
            &mut [PollFd::new(&workers.ended_fd(), PollFlags::IN)],
            Some(&patience),
        )
        .expect("poll");
        let now = workers.stats();
        if now == before {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it is still looking: {now:?}");
        before = now;
    }
    assert!(before[0].sleeps > 0);
}

#[test]
fn stored_pages_come_through_the_readers_and_hits_pass_them() {
    let (pages, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    client.write(0, &[5; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_READ, 7, 0, PAGE as u32, &[]);
    assert_eq!(client.read(8192, 10), vec![0; 10]);
    pages.set_gate_closed(false);
    assert_eq!(client.reply(), (7, 0));
    assert_eq!(client.data(PAGE), vec![5; PAGE]);
    let latency = metrics::sum_latency(workers.shards());
    assert!(
        latency
            .iter()
            .any(|one| (one.op, one.tier) == (metrics::Op::Read, "store"))
    );
}

#[test]
fn the_deadline_is_kept_without_any_event() {
    let timeout = Duration::from_millis(50);
    let (pages, workers) = start(WorkersOptions {
        request_timeout: timeout,
        ..OPTIONS
    });
    let mut client = Client::attach(&workers, &[]);
    client.write(0, &[5; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_READ, 7, 0, PAGE as u32, &[]);
    assert_eq!(client.reply(), (7, 5));
    pages.set_gate_closed(false);
    assert_eq!(
        client.read(8192, 10),
        vec![0; 10],
        "the late fetch troubles nobody"
    );
}

#[test]
fn stalled_connections_are_woken_by_space() {
    let (pages, workers) = start(OPTIONS);
    let mut clients = [Client::attach(&workers, &[]), Client::attach(&workers, &[])];
    pages.set_fullness(Fullness::Stalled);
    for client in &mut clients {
        client.send(CMD_WRITE, 3, 0, PAGE as u32, &[1; PAGE]);
    }
    pages.set_fullness(Fullness::Free);
    for client in &mut clients {
        client
            .socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("above zero");
        let mut first = [0];
        // The write may have come before or after the pool was free again: then it is done already.
        let come = client.socket.read(&mut first);
        if come.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            workers.space_available();
            client
                .socket
                .set_read_timeout(Some(PATIENCE))
                .expect("above zero");
            assert_eq!(client.socket.read(&mut first).expect("an answer"), 1);
        }
        assert_eq!(client.data(15)[3..7], [0; 4], "no error");
    }
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_another() {
    let (pages, workers) = start(OPTIONS);
    let mut deaf = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    other.write(0, &[3; 64 * PAGE]);
    pages.put_in_store(1);
    deaf.socket.set_nonblocking(true).expect("sockets can");
    let read = Request {
        flags: 0,
        command: CMD_READ,
        cookie: 1,
        offset: 0,
        length: 128 << 10,
    };
    let mut asked = 0;
    let began = Instant::now();
    loop {
        match deaf.socket.write(&read.encode()) {
            Ok(_) => asked += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < PATIENCE, "{asked} requests were taken");
    }
    assert_eq!(other.read(0, PAGE), vec![3; PAGE]);
    pages.put_in_store(2);
    assert_eq!(other.read(2 * PAGE as u64, PAGE), vec![3; PAGE]);
}

#[test]
fn a_bug_in_one_session_closes_only_its_connection() {
    let (pages, workers) = start(OPTIONS);
    let mut victim = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    pages.set_trap(9);
    victim.send(CMD_READ, 1, 9 * PAGE as u64, PAGE as u32, &[]);
    let ended = wait_for_end(&workers);
    assert_eq!(
        ended,
        [(
            victim.number,
            "bug in the server: a trap in page 9".to_string()
        )]
    );
    assert_eq!(other.read(0, 10), vec![0; 10]);
}

#[test]
fn garbage_is_answered_by_closing_without_reset() {
    let (_, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    client
        .socket
        .write_all(&[0x55; 1000])
        .expect("the server reads");
    client.assert_closed();
    let number = client.number;
    drop(client);
    let ended = wait_for_end(&workers);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].0, number);
    assert!(ended[0].1.contains("0x55555555"), "{}", ended[0].1);
}

#[test]
fn write_disc_and_read_in_one_segment_get_one_reply_and_no_reset() {
    let (_, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    let mut bytes = Vec::new();
    for (command, length) in [(CMD_WRITE, 512), (CMD_DISC, 0), (CMD_READ, 512)] {
        let request = Request {
            flags: 0,
            command,
            cookie: 4,
            offset: 0,
            length,
        };
        bytes.extend_from_slice(&request.encode());
        if command == CMD_WRITE {
            bytes.extend_from_slice(&[1; 512]);
        }
    }
    client.socket.write_all(&bytes).expect("the server reads");
    assert_eq!(client.reply(), (4, 0));
    client.assert_closed();
}

#[test]
fn detaching_finishes_what_is_begun() {
    let (pages, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    let mut idle = Client::attach(&workers, &[]);
    client.write(0, &[5; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_READ, 7, 0, PAGE as u32, &[]);
    // A hit on the same connection shows that the read before it has begun.
    client.read(8192, 10);
    std::thread::scope(|scope| {
        let detach = scope.spawn(|| workers.detach_all(PATIENCE));
        idle.assert_closed();
        drop(idle);
        pages.set_gate_closed(false);
        assert_eq!(client.reply(), (7, 0));
        client.data(PAGE);
        client.assert_closed();
        drop(client);
        detach.join().expect("detaching ends");
    });
    assert_eq!(workers.connections().0, 0);
    assert!(
        workers
            .take_ended()
            .iter()
            .all(|(_, reason)| reason.is_empty())
    );
}

#[test]
fn detaching_cuts_off_what_is_not_done_by_the_deadline() {
    let (pages, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    client.write(0, &[5; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_READ, 7, 0, PAGE as u32, &[]);
    client.read(8192, 10);
    workers.detach_all(Duration::from_millis(50));
    let ended = wait_for_end(&workers);
    assert_eq!(ended.len(), 1);
    assert!(ended[0].1.contains("unanswered"), "{}", ended[0].1);
    pages.set_gate_closed(false);
}

#[test]
fn connections_are_spread_and_limited() {
    let (_, workers) = start(WorkersOptions {
        workers: 2,
        ..OPTIONS
    });
    let mut clients: Vec<Client> = (0..4).map(|_| Client::attach(&workers, &[])).collect();
    for client in &mut clients {
        client.read(0, 10);
    }
    let requests: Vec<u64> = workers.stats().iter().map(|stats| stats.requests).collect();
    assert_eq!(requests, [2, 2]);
    assert_eq!(workers.thread_ids().len(), 3);
    let (_socket, server) = UnixStream::pair().expect("a pair of sockets");
    let refused = workers.attach(server.into(), ExportId(0), SIMPLE, &Unfinished::default());
    assert_eq!(
        refused.unwrap_err().to_string(),
        "4 connections are open, no more may be"
    );
}

#[test]
fn more_connections_than_are_watched_closely_are_all_served() {
    let (_, workers) = start(OPTIONS);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::attach(&workers, &[])).collect();
    for round in 0..200u64 {
        for client in &mut clients {
            client.send(CMD_READ, round, 0, 10, &[]);
        }
        for client in &mut clients {
            assert_eq!(client.reply(), (round, 0));
            client.data(10);
        }
    }
}
