//! In steady state a request asks the system for no memory: the client may be swapping because this
//! very host has none left.
//!
//! This counts allocations of all threads of the process, so it is a test binary of its own with
//! one test.

#![cfg(feature = "testing")]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nbdswap_core::engine::ExportId;
use nbdswap_core::session::fake::FakePages;
use nbdswap_core::session::{Negotiated, Unfinished};
use nbdswap_core::wire::*;
use nbdswap_core::worker::{Polling, Workers, WorkersOptions};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `alloc` above, that is, from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PAGES: u32 = 64;
const PAGE: usize = 4096;

/// Writes, reads, patches, discards, and reads from the store, until every buffer was used.
fn round(client: &mut UnixStream, pages: &FakePages, out: &mut [u8], back: &mut [u8]) {
    for page in 0..u64::from(PAGES) {
        let offset = page * PAGE as u64;
        let mut call = |command, offset, length: u32, payload: usize, data: usize| {
            let request = Request {
                flags: 0,
                command,
                cookie: page,
                offset,
                length,
            };
            out[..REQUEST_BYTES].copy_from_slice(&request.encode());
            client
                .write_all(&out[..REQUEST_BYTES + payload])
                .expect("the server reads");
            client
                .read_exact(&mut back[..SIMPLE_REPLY_BYTES + data])
                .expect("the server answers");
            assert_eq!(back[4..8], [0; 4], "command {command} at {offset}");
        };
        call(CMD_WRITE, offset, PAGE as u32, PAGE, 0);
        call(CMD_READ, offset, PAGE as u32, 0, PAGE);
        pages.put_in_store(page as u32);
        call(CMD_READ, offset, PAGE as u32, 0, PAGE);
        call(CMD_WRITE, offset + 100, 200, 200, 0);
        call(CMD_WRITE_ZEROES, offset + 100, 300, 0, 0);
        call(CMD_FLUSH, 0, 0, 0, 0);
        call(CMD_TRIM, offset, PAGE as u32, 0, 0);
    }
}

#[test]
fn requests_allocate_nothing_after_warm_up() {
    let pages = Arc::new(FakePages::new(PAGE, PAGES));
    let options = WorkersOptions {
        workers: 1,
        readers: 1,
        polling: Polling::Off,
        request_timeout: Duration::from_secs(30),
        connections_max: 2,
    };
    let workers = Workers::start(pages.clone(), options).expect("threads start");
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    let negotiated = Negotiated {
        structured: false,
        base_allocation: None,
    };
    workers
        .attach(
            server.into(),
            ExportId(0),
            negotiated,
            &Unfinished::default(),
        )
        .expect("a free place");
    let mut out = vec![7; REQUEST_BYTES + PAGE];
    let mut back = vec![0; SIMPLE_REPLY_BYTES + PAGE];
    round(&mut client, &pages, &mut out, &mut back);
    let before = ALLOCATIONS.load(SeqCst);
    for _ in 0..10 {
        round(&mut client, &pages, &mut out, &mut back);
    }
    assert_eq!(
        ALLOCATIONS.load(SeqCst) - before,
        0,
        "allocations in {} requests",
        10 * 7 * PAGES
    );
}
