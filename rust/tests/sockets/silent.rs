//! A device that takes requests and never answers: no request and no stop waits for it, and nothing that
//! needs it not is held up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nbdswap_core::engine::Observer;
use nbdswap_core::wire::*;

use crate::client::Client;
use crate::rig::{PAGE, PATIENCE, Rig};
use crate::slow::{EIO, ENOSPC, PAGES, at, fill, noise, pooled_pages};

/// A deadline that no test lives to see: what is answered sooner did not wait for it.
const LONG: Duration = PATIENCE.saturating_mul(3);
const SHORT: Duration = Duration::from_millis(100);
/// Three connections that each ask for as many miss more than a worker has boxes.
const ASKED: usize = 100;
/// Of the one worker.
const BOXES: usize = 256;

fn stored_pages(rig: &Rig) -> Vec<u32> {
    (0..PAGES).filter(|page| rig.is_stored(*page)).collect()
}

/// A rig whose pages do not move, and clients that wait for more than all readers and boxes can take.
fn all_stuck(request_timeout: Duration) -> (Rig, Vec<Client>, Vec<u32>) {
    let mut rig = Rig::new(1, request_timeout);
    fill(&rig);
    rig.stop_background();
    let stored = stored_pages(&rig);
    assert!(stored.len() >= ASKED);
    rig.device.close_gate();
    let mut clients: Vec<_> = [false, false, true]
        .map(|structured| rig.connect(0, structured, false))
        .into();
    for client in &mut clients {
        for page in &stored[..ASKED] {
            client.ask(CMD_READ, 0, (at(*page), PAGE as u32), &[]);
        }
        client.push();
    }
    rig.device.wait_for_waiting(2);
    (rig, clients, stored)
}

#[test]
fn hits_go_on_misses_fail_at_once_and_late_answers_are_right() {
    let (rig, mut clients, stored) = all_stuck(LONG);
    let mut other = rig.connect(0, true, false);
    let pooled: Vec<u32> = pooled_pages(&rig).collect();
    for page in &pooled {
        assert!(other.read(at(*page), PAGE) == noise(*page), "page {page}");
    }
    assert_eq!(other.call(CMD_FLUSH, (0, 0), &[]).error, 0);

    let mut observer = Observer::new(PATIENCE);
    assert!(!rig.engine.observe(&mut observer, Duration::ZERO));
    assert!(rig.engine.observe(&mut observer, PATIENCE));
    for page in &stored[ASKED..] {
        let done = other.call(CMD_READ, (at(*page), PAGE as u32), &[]);
        assert_eq!((done.error, done.error_at), (EIO, Some(at(*page))));
        assert_eq!(
            other.call(CMD_WRITE, (at(*page) + 9, 10), &[1; 10]).error,
            EIO
        );
    }
    let done = other.call(CMD_WRITE, (at(pooled[0]), PAGE as u32), &noise(pooled[0]));
    assert!([0, ENOSPC].contains(&done.error));

    rig.device.open_gate();
    let mut failed = 0;
    for client in &mut clients {
        for _ in 0..ASKED {
            let done = client.next();
            let page = (done.request.offset / PAGE as u64) as u32;
            assert!(done.error == EIO || done.data == noise(page), "page {page}");
            failed += usize::from(done.error != 0);
        }
    }
    // Those that had a box are answered; the others were not sent after them.
    assert!(failed <= 3 * ASKED - BOXES, "{failed} failed");
    assert!(rig.engine.observe(&mut observer, 2 * PATIENCE));
    for page in 0..PAGES {
        assert!(other.read(at(page), PAGE) == noise(page), "page {page}");
    }
    rig.engine.check();
}

#[test]
fn every_request_fails_at_its_deadline_also_those_that_found_no_box() {
    let (rig, mut clients, stored) = all_stuck(SHORT);
    for client in &mut clients {
        for _ in 0..ASKED {
            assert_eq!(client.next().error, EIO);
        }
    }
    // Their boxes are still out: these wait for one, and not for ever.
    for client in &mut clients {
        let page = stored[0];
        assert_eq!(
            client.call(CMD_WRITE, (at(page) + 9, 10), &[1; 10]).error,
            EIO
        );
        assert_eq!(
            client.call(CMD_READ, (at(page), PAGE as u32), &[]).error,
            EIO
        );
        let hit = pooled_pages(&rig).next().expect("some are");
        assert!(client.read(at(hit), PAGE) == noise(hit));
    }
    rig.device.open_gate();
    let began = Instant::now();
    let mut page = 0;
    while page < PAGES {
        // Behind all the late ones it may take longer than this rig allows.
        let done = clients[0].call(CMD_READ, (at(page), PAGE as u32), &[]);
        assert!(done.error == EIO && began.elapsed() < PATIENCE || done.data == noise(page));
        page += u32::from(done.error == 0);
    }
    rig.engine.check();
}

#[test]
fn writes_behind_a_writer_that_never_returns_are_refused_at_once() {
    let rig = Rig::with_patience(1, LONG, SHORT);
    let mut client = rig.connect(0, false, false);
    rig.device.close_write_gate();
    let mut held = Vec::new();
    for page in 0..PAGES {
        let done = client.call(CMD_WRITE, (at(page), PAGE as u32), &noise(page));
        assert!([0, ENOSPC].contains(&done.error), "error {}", done.error);
        if done.error == 0 {
            held.push(page);
        }
    }
    assert!(held.len() < PAGES as usize / 2, "{} fitted", held.len());
    assert!(rig.engine.snapshot().is_store_silent);
    for page in 0..PAGES {
        let wanted = if held.contains(&page) {
            noise(page)
        } else {
            vec![0; PAGE]
        };
        assert!(client.read(at(page), PAGE) == wanted, "page {page}");
    }
    rig.device.open_gate();
    let began = Instant::now();
    for page in 0..PAGES {
        while client
            .call(CMD_WRITE, (at(page), PAGE as u32), &noise(page))
            .error
            != 0
        {
            assert!(
                began.elapsed() < PATIENCE,
                "it is not noticed that it answers"
            );
        }
    }
    assert!(!rig.engine.snapshot().is_store_silent);
    for page in 0..PAGES {
        assert!(client.read(at(page), PAGE) == noise(page), "page {page}");
    }
}

#[test]
fn a_server_ends_although_reader_and_writer_never_return() {
    let rig = Rig::with_patience(1, SHORT, SHORT);
    fill(&rig);
    let stored = stored_pages(&rig);
    let device = Arc::clone(&rig.device);
    let (mut client, mut other) = (rig.connect(0, false, false), rig.connect(0, false, false));
    device.close_gate();
    device.close_write_gate();
    client.ask(CMD_READ, 0, (at(stored[0]), PAGE as u32), &[]);
    client.push();
    device.wait_for_waiting(1);
    for page in 0..PAGES {
        other.call(CMD_WRITE, (at(page), PAGE as u32), &noise(page + PAGES));
    }
    device.wait_for_waiting(2);
    let began = Instant::now();
    drop(rig);
    assert!(began.elapsed() < PATIENCE, "it waited for the device");
    device.open_gate();
}
