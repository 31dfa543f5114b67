//! Connections that take all they can get: others on the same worker have their turn.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nbdswap_core::wire::*;

use crate::client::Client;
use crate::rig::{PAGE, PATIENCE, Rig, SIZES};

/// Command, flags, offset and length.
type Fields = (u16, u16, u64, u32);

/// Sends its requests until it is told to stop, taking its answers or not.
fn attack(mut client: Client, requests: &[Fields], reads: bool, stop: &AtomicBool) {
    let payload = [1];
    for request in requests.iter().cycle() {
        if stop.load(SeqCst) {
            return;
        }
        let (command, flags, offset, length) = *request;
        let payload = if command == CMD_WRITE {
            &payload[..]
        } else {
            &[]
        };
        if !reads {
            // What does not fit into the socket is sent no more: the server has enough to do.
            if client.waiting().count() < 1000 {
                client.ask(command, flags, (offset, length), payload);
            } else {
                std::thread::yield_now();
            }
            continue;
        }
        client.ask(command, flags, (offset, length), payload);
        if client.waiting().count() > 200 {
            client.next();
        }
    }
}

#[test]
fn greedy_connections_leave_others_their_turn() {
    let rig = Rig::new(1, PATIENCE);
    let all = SIZES[1] as u32;
    let attacks: [(&[Fields], bool); 4] = [
        (
            &[
                (CMD_TRIM, 0, 0, all),
                (CMD_WRITE_ZEROES, FLAG_NO_HOLE, 0, all),
            ],
            true,
        ),
        (
            &[(CMD_BLOCK_STATUS, 0, 0, all), (CMD_CACHE, 0, 0, all)],
            true,
        ),
        (&[(CMD_READ, 0, 0, all)], false),
        (&[(CMD_WRITE, 0, 77, 1), (CMD_FLUSH, 0, 0, 0)], true),
    ];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (at, (requests, reads)) in attacks.into_iter().enumerate() {
            let client = rig.connect(1, true, at == 2);
            let stop = &stop;
            scope.spawn(move || attack(client, requests, reads, stop));
        }
        // Stops the others when the assertions below fail, too.
        let _stop = OnDrop(&stop);
        let mut client = rig.connect(0, false, false);
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        for round in 0..100u64 {
            let one = Instant::now();
            let page = round % 20 * PAGE as u64;
            client.write(page, &[round as u8; PAGE]);
            assert_eq!(client.read(page, PAGE), [round as u8; PAGE]);
            longest = longest.max(one.elapsed());
        }
        println!(
            "100 rounds in {:?}, the longest {longest:?}",
            began.elapsed()
        );
    });
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
