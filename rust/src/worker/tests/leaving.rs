//! Clients that leave in every way: what they asked for, what they hear, and what they leave behind.

use std::net::Shutdown;

use super::*;

/// Waits until the only worker sleeps and stays asleep.
fn wait_for_rest(workers: &Workers<FakePages>) {
    let began = Instant::now();
    let mut before = workers.stats();
    loop {
        // Time for a worker that does not rest to show it.
        let patience = Timespec::try_from(Duration::from_millis(20)).expect("milliseconds");
        poll(&mut [], Some(&patience)).expect("poll");
        let now = workers.stats();
        if now == before && now[0].sleeps > 0 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it does not rest: {now:?}");
        before = now;
    }
}

/// More replies of this size than a socket takes fit into the send buffer.
const LARGE: usize = 128 << 10;

/// Asks for as many replies as fit into the send buffer.
fn ask_for_much(client: &mut Client) {
    for cookie in 0..5 {
        client.send(CMD_READ, cookie, 0, LARGE as u32, &[]);
    }
}

fn quiet() -> WorkersOptions {
    WorkersOptions {
        polling: Polling::Off,
        ..OPTIONS
    }
}

#[test]
fn replies_owed_at_disc_reach_a_client_that_closed_its_side() {
    let (_, workers) = start(quiet());
    let mut client = Client::attach(&workers, &[]);
    client.write(0, &[7; LARGE]);
    ask_for_much(&mut client);
    client.send(CMD_DISC, 0, 0, 0, &[]);
    client
        .socket
        .shutdown(Shutdown::Write)
        .expect("it is connected");
    wait_for_rest(&workers);
    for cookie in 0..5 {
        assert_eq!(client.reply(), (cookie, 0));
        assert!(client.data(LARGE).iter().all(|byte| *byte == 7));
    }
    client.assert_closed();
}

#[test]
fn a_client_that_neither_reads_nor_sends_lets_its_worker_sleep() {
    for last in [&[0x55; REQUEST_BYTES][..], &[]] {
        let (_, workers) = start(quiet());
        let mut client = Client::attach(&workers, &[]);
        ask_for_much(&mut client);
        if last.is_empty() {
            client.send(CMD_DISC, 0, 0, 0, &[]);
        } else {
            client.socket.write_all(last).expect("the server reads");
        }
        // Its other direction is full of replies that it does not read.
        wait_for_rest(&workers);
        client
            .socket
            .shutdown(Shutdown::Write)
            .expect("it is connected");
        wait_for_rest(&workers);
        drop(client);
        assert_eq!(wait_for_end(&workers).len(), 1);
    }
}

#[test]
fn writes_before_disc_are_done_though_nobody_waits_for_their_replies() {
    let (pages, workers) = start(quiet());
    let mut client = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    client.write(0, &[1; 4 * PAGE]);
    pages.set_gate_closed(true);
    for page in 0..4 {
        pages.put_in_store(page);
        client.send(CMD_WRITE, 3, u64::from(page) * PAGE as u64, 10, &[9; 10]);
    }
    client.send(CMD_DISC, 0, 0, 0, &[]);
    drop(client);
    wait_for_rest(&workers);
    pages.set_gate_closed(false);
    assert_eq!(wait_for_end(&workers).len(), 1);
    for page in 0..4 {
        assert_eq!(other.read(page * PAGE as u64, 10), [9; 10], "page {page}");
    }
}

#[test]
fn a_write_that_waits_for_its_page_does_not_land_after_its_client_left() {
    let (pages, workers) = start(quiet());
    let mut client = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    client.write(0, &[1; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_WRITE, 3, 100, 10, &[9; 10]);
    client.read(8192, 10);
    drop(client);
    assert_eq!(wait_for_end(&workers).len(), 1);
    pages.set_gate_closed(false);
    assert_eq!(other.read(0, PAGE), [1; PAGE]);
}

#[test]
fn stalled_writes_do_not_land_after_their_client_left() {
    let (pages, workers) = start(quiet());
    let mut client = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    client.write(0, &[1; 3 * PAGE]);
    pages.set_fullness(Fullness::Stalled);
    for page in 0..3 {
        client.send(CMD_WRITE, 3, page * PAGE as u64, PAGE as u32, &[9; PAGE]);
    }
    wait_for_rest(&workers);
    drop(client);
    assert_eq!(wait_for_end(&workers).len(), 1);
    pages.set_fullness(Fullness::Free);
    workers.space_available();
    assert_eq!(other.read(0, 3 * PAGE), [1; 3 * PAGE]);
}

#[test]
fn a_signal_that_comes_when_the_worker_is_awake_does_not_keep_it_awake() {
    let (_, workers) = start(WorkersOptions {
        // Long enough that the signal below comes while it looks for work.
        polling: Polling::Fixed(50_000),
        ..OPTIONS
    });
    let mut clients: Vec<Client> = (0..4).map(|_| Client::attach(&workers, &[])).collect();
    clients[0].read(0, 10);
    let before = workers.stats()[0].sleeps;
    let wake = workers.threads[0].port.wake_fd();
    rustix::io::write(wake, &1u64.to_ne_bytes()).expect("an eventfd takes it");
    let began = Instant::now();
    while workers.stats()[0].sleeps == before {
        let patience = Timespec::try_from(Duration::from_millis(20)).expect("milliseconds");
        poll(&mut [], Some(&patience)).expect("poll");
        assert!(
            began.elapsed() < PATIENCE / 2,
            "it never sleeps: {:?}",
            workers.stats()
        );
    }
}
