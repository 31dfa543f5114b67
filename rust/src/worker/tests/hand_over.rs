//! Connections that change workers: through the same socket, with nothing lost or done twice.

use super::*;
use crate::worker::HandedOver;

fn give_up(workers: &Workers<FakePages>) -> Vec<HandedOver> {
    let (handed_over, late) = workers.hand_over(PATIENCE);
    assert_eq!(late, 0);
    assert_eq!(workers.connections().0, 0);
    handed_over
}

fn go_on(workers: &Workers<FakePages>, connections: Vec<HandedOver>) {
    for one in connections {
        workers
            .attach(one.socket, one.export, one.negotiated, &one.unfinished)
            .expect("a free place");
    }
}

#[test]
fn connections_go_on_at_other_workers() {
    let (pages, workers) = start(OPTIONS);
    let next = Workers::start(pages, OPTIONS).expect("threads start");
    let mut clients = [Client::attach(&workers, &[]), Client::attach(&workers, &[])];
    for (at, client) in clients.iter_mut().enumerate() {
        client.write(at as u64 * 100, &[at as u8; 100]);
    }
    go_on(&next, give_up(&workers));
    drop(workers);
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(at as u64 * 100, 100), vec![at as u8; 100]);
    }
    assert_eq!(next.connections(), (2, 2));
}

#[test]
fn a_write_that_came_in_part_is_finished_by_the_same_workers_again() {
    let (_, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    let raw = Request {
        flags: 0,
        command: CMD_WRITE,
        cookie: 9,
        offset: 0,
        length: 3 * PAGE as u32,
    }
    .encode();
    client.socket.write_all(&raw).expect("the server reads");
    for part in 0..6 {
        client
            .socket
            .write_all(&[part; PAGE / 2])
            .expect("the server reads");
        go_on(&workers, give_up(&workers));
    }
    assert_eq!(client.reply(), (9, 0));
    let data = client.read(0, 3 * PAGE);
    assert!(
        (0..6).all(|part| data[part * PAGE / 2..(part + 1) * PAGE / 2] == [part as u8; PAGE / 2])
    );
}

#[test]
fn what_waits_for_the_store_beyond_the_deadline_stays() {
    let (pages, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    let mut other = Client::attach(&workers, &[]);
    client.write(0, &[5; PAGE]);
    pages.put_in_store(0);
    pages.set_gate_closed(true);
    client.send(CMD_READ, 7, 0, PAGE as u32, &[]);
    client.read(8192, 10);
    let (handed_over, late) = workers.hand_over(Duration::from_millis(50));
    assert_eq!((handed_over.len(), late), (1, 1));
    go_on(&workers, handed_over);
    assert_eq!(other.read(8192, 10), vec![0; 10]);
    assert_eq!(client.read(8192, 10), vec![0; 10], "it is served again");
    pages.set_gate_closed(false);
    assert_eq!(client.reply(), (7, 0));
    client.data(PAGE);
    assert!(workers.take_ended().is_empty());
}

#[test]
fn a_client_that_takes_no_replies_is_closed_at_the_deadline() {
    let (_, workers) = start(OPTIONS);
    let mut deaf = Client::attach(&workers, &[]);
    // More than the socket and the send buffer take, under one header.
    deaf.send(CMD_READ, 1, 0, 256 * PAGE as u32, &[]);
    let mut first = [0];
    deaf.socket.read_exact(&mut first).expect("it has begun");
    let (handed_over, late) = workers.hand_over(Duration::from_millis(50));
    assert_eq!((handed_over.len(), late), (0, 0));
    let ended = wait_for_end(&workers);
    assert_eq!(ended.len(), 1);
    assert!(ended[0].1.contains("took no replies"), "{}", ended[0].1);
}

#[test]
fn one_that_is_leaving_is_not_handed_over() {
    let (_, workers) = start(OPTIONS);
    let mut client = Client::attach(&workers, &[]);
    client.send(CMD_DISC, 0, 0, 0, &[]);
    client.assert_closed();
    // It waits for us to close our side.
    assert!(give_up(&workers).is_empty());
    assert_eq!(wait_for_end(&workers), [(client.number, String::new())]);
}
