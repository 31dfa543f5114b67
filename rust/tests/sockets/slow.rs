//! A device that hangs, is full or rots: what its requests are told, and that others do not care.

use std::time::{Duration, Instant};

use nbdswap_core::testing::random::Random;
use nbdswap_core::wire::*;

use crate::client::Client;
use crate::rig::{PAGE, PATIENCE, Rig};

pub const EIO: u32 = 5;
pub const ENOSPC: u32 = 28;
pub const PAGES: u32 = 200;

/// The noise that page `page` holds after [`fill`].
pub fn noise(page: u32) -> Vec<u8> {
    let mut random = Random::new(page.into());
    (0..PAGE / 8)
        .flat_map(|_| random.bits().to_le_bytes())
        .collect()
}

pub fn at(page: u32) -> u64 {
    u64::from(page) * PAGE as u64
}

/// Fills the first export with noise, most of which has to go to the store.
pub fn fill(rig: &Rig) -> Client {
    let mut client = rig.connect(0, false, false);
    for page in 0..PAGES {
        client.write(at(page), &noise(page));
    }
    assert!(rig.stored_pages() > u64::from(PAGES) / 2);
    client
}

/// A rig that is filled, and nothing moves.
fn filled(request_timeout: Duration) -> (Rig, Client) {
    let mut rig = Rig::new(1, request_timeout);
    let client = fill(&rig);
    rig.stop_background();
    (rig, client)
}

fn stored_page(rig: &Rig) -> u32 {
    (0..PAGES)
        .find(|page| rig.is_stored(*page))
        .expect("most are")
}

pub fn pooled_pages(rig: &Rig) -> impl Iterator<Item = u32> {
    (0..PAGES).filter(|page| !rig.is_stored(*page))
}

#[test]
fn hits_are_answered_while_a_miss_before_them_waits_for_the_device() {
    let (rig, mut client) = filled(PATIENCE);
    let missing = stored_page(&rig);
    rig.device.close_gate();
    let read = client.ask(CMD_READ, 0, (at(missing), PAGE as u32), &[]);
    rig.device.wait_for_waiting(1);
    for page in pooled_pages(&rig).take(10) {
        client.ask(CMD_READ, 0, (at(page), PAGE as u32), &[]);
        let done = client.next();
        assert_eq!((done.request.offset, done.error), (at(page), 0));
        assert!(done.data == noise(page), "page {page}");
    }
    // Zeros take no room, however full the pool is.
    client.ask(CMD_WRITE, 0, (at(PAGES), PAGE as u32), &[0; PAGE]);
    assert_eq!(client.next().request.command, CMD_WRITE);
    assert!(client.is_silent());
    rig.device.open_gate();
    let done = client.next();
    assert_eq!((done.request.cookie, done.error), (read, 0));
    assert!(done.data == noise(missing));
}

#[test]
fn a_request_that_the_device_never_answers_fails_at_its_deadline() {
    let (rig, mut client) = filled(Duration::from_millis(100));
    let missing = stored_page(&rig);
    let hit = pooled_pages(&rig).next().expect("some are");
    rig.device.close_gate();
    let done = client.call(CMD_READ, (at(missing), PAGE as u32), &[]);
    assert_eq!(done.error, EIO);
    let done = client.call(CMD_WRITE, (at(missing) + 100, 10), &[1; 10]);
    assert_eq!(done.error, EIO);
    assert!(client.read(at(hit), PAGE) == noise(hit));
    rig.device.open_gate();
    // The late fetches come back before this one: the refused write must not have landed.
    assert!(client.read(at(missing), PAGE) == noise(missing));
    rig.engine.check();
}

#[test]
fn writes_of_a_client_that_left_do_not_land_when_the_device_answers() {
    let (rig, mut client) = filled(PATIENCE);
    let missing = stored_page(&rig);
    rig.device.close_gate();
    client.ask(CMD_WRITE, 0, (at(missing) + 100, 10), &[1; 10]);
    rig.device.wait_for_waiting(1);
    drop(client);
    let began = Instant::now();
    while rig.workers.connections().0 > 0 {
        assert!(began.elapsed() < PATIENCE, "its end is not noticed");
        std::thread::yield_now();
    }
    rig.device.open_gate();
    let mut other = rig.connect(0, false, false);
    assert!(other.read(at(missing), PAGE) == noise(missing));
}

#[test]
fn a_full_device_refuses_writes_at_once_and_all_pages_stay_readable() {
    let rig = Rig::new(1, PATIENCE * 2);
    let mut client = rig.connect(0, false, true);
    rig.device.set_room(0);
    let began = Instant::now();
    let mut refused = 0;
    for page in 0..PAGES {
        let done = client.call(CMD_WRITE, (at(page), PAGE as u32), &noise(page));
        assert!([0, ENOSPC].contains(&done.error), "error {}", done.error);
        refused += u32::from(done.error == ENOSPC);
        let wanted = if done.error == 0 {
            noise(page)
        } else {
            vec![0; PAGE]
        };
        assert!(client.read(at(page), PAGE) == wanted, "page {page}");
    }
    assert!(refused > PAGES / 2, "{refused} were refused");
    assert!(
        began.elapsed() < PATIENCE,
        "they waited for their deadlines"
    );
}

#[test]
fn a_rotten_page_fails_its_reads_and_leaves_its_neighbours_alone() {
    let (rig, mut simple) = filled(PATIENCE);
    let mut structured = rig.connect(0, true, true);
    let run = (0..PAGES - 4).find(|page| (*page..page + 4).all(|page| rig.is_stored(page)));
    let first = run.expect("four neighbours are in the store");
    let rotten = first + 2;
    let (image, wanted) = (rig.device.image(), noise(rotten));
    let places: Vec<usize> = (0..image.len() - 64)
        .filter(|at| image[*at..at + 64] == wanted[..64])
        .collect();
    assert!(!places.is_empty(), "noise is stored as it is");
    for place in places {
        rig.device.flip(place + 5, 1);
    }
    let four = (at(first), 4 * PAGE as u32);
    assert_eq!(simple.call(CMD_READ, four, &[]).error, EIO);
    let done = structured.call(CMD_READ, four, &[]);
    assert_eq!((done.error, done.error_at), (EIO, Some(at(rotten))));
    for page in first..first + 4 {
        for client in [&mut simple, &mut structured] {
            let done = client.call(CMD_READ, (at(page), PAGE as u32), &[]);
            assert_eq!(done.error != 0, page == rotten, "page {page}");
            assert!(page == rotten || done.data == noise(page), "page {page}");
        }
    }
    // Part of it cannot be changed, all of it can.
    assert_eq!(
        simple.call(CMD_WRITE, (at(rotten), 10), &[1; 10]).error,
        EIO
    );
    simple.write(at(rotten), &[0; PAGE]);
    assert_eq!(structured.read(at(rotten), PAGE), [0; PAGE]);
}
