//! The load generator against the floor, in one process: both ends keep the protocol, and wrong
//! data does not go unnoticed.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use nbdswap_bench::PAGE_BYTES;
use nbdswap_bench::chance::Chance;
use nbdswap_bench::floor::{self, Pages};
use nbdswap_bench::image::Image;
use nbdswap_bench::load::{self, Action, Order, Outcome, Test};
use nbdswap_bench::sample::Sample;

const PAGE_COUNT: usize = 2048;

/// A floor on a socket of its own, and what it should hold.
struct Stage {
    socket: PathBuf,
    sample: Sample,
    image: Image,
    chance: Chance,
}

impl Stage {
    fn new(name: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("nbdfloor-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&socket).unwrap();
        let pages = Arc::new(Pages::new((PAGE_COUNT * PAGE_BYTES) as u64));
        thread::spawn(move || {
            for socket in listener.incoming() {
                let pages = Arc::clone(&pages);
                thread::spawn(move || floor::serve(socket.unwrap(), &pages).unwrap());
            }
        });
        let mut chance = Chance::new(11);
        let bytes = (0..64 * PAGE_BYTES).map(|at| (at / PAGE_BYTES * chance.below(4)) as u8);
        let sample = Sample::new(bytes.collect()).unwrap();
        let image = Image::new(PAGE_COUNT, &sample, &mut chance);
        Self {
            socket,
            sample,
            image,
            chance,
        }
    }

    fn run(
        &mut self,
        action: Action,
        connections: usize,
        pages_each: usize,
    ) -> io::Result<Outcome> {
        let test = Test {
            action,
            order: if pages_each > 1 {
                Order::Sequential
            } else {
                Order::Random
            },
            block_bytes: pages_each * PAGE_BYTES,
            depth: 32,
            connections,
            seconds: None,
        };
        load::run(
            &self.socket,
            "any",
            &test,
            &self.image,
            &self.sample,
            &mut self.chance,
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}

#[test]
fn what_was_written_in_any_way_is_read_again() {
    let mut stage = Stage::new("written");
    let filled = stage.run(Action::Fill, 1, 16).unwrap();
    assert_eq!((filled.requests, filled.pages), (128, 2048));
    for (action, connections, pages_each) in [
        (Action::Read, 1, 8),
        (Action::Write, 1, 1),
        (Action::Mix, 2, 1),
        (Action::Write, 1, 16),
        (Action::Mix, 2, 1),
        (Action::Read, 1, 8),
    ] {
        let outcome = stage.run(action, connections, pages_each).unwrap();
        assert_eq!(outcome.pages, 2048, "{action:?}");
    }
}

#[test]
fn a_server_that_lost_a_write_is_caught() {
    let mut stage = Stage::new("lost");
    stage.run(Action::Fill, 1, 16).unwrap();
    // As if the server had acknowledged one more write and kept the old page.
    stage.image.change(777, &stage.sample, &mut stage.chance);
    let error = stage.run(Action::Read, 1, 8).unwrap_err();
    assert_eq!(error.to_string(), "WRONG DATA in page 777");
}

#[test]
fn an_export_that_is_too_small_is_refused() {
    let mut stage = Stage::new("small");
    stage.image = Image::new(PAGE_COUNT + 1, &stage.sample, &mut stage.chance);
    assert!(
        stage
            .run(Action::Fill, 1, 1)
            .unwrap_err()
            .to_string()
            .contains("must be")
    );
}
