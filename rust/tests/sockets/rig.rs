//! A server without its Python half, small enough that most pages are in the store.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nbdswap_core::background::Background;
use nbdswap_core::codec::CodecChoice;
use nbdswap_core::engine::*;
use nbdswap_core::page::PageId;
use nbdswap_core::session::{Negotiated, Unfinished};
use nbdswap_core::testing::sim_device::SimDevice;
use nbdswap_core::worker::{Polling, Workers, WorkersOptions};
use nbdswap_core::zpool::{CHAIN_FRAMES_MAX_DEFAULT, ZpoolKind};

use crate::client::Client;

pub const PAGE: usize = 4096;
/// A test that waits longer for something has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of the exports; the second ends inside a page.
pub const SIZES: [u64; 2] = [240 * PAGE as u64, 160 * PAGE as u64 - 1000];

pub struct Rig {
    background: Option<Background>,
    pub workers: Arc<Workers<Engine>>,
    pub engine: Arc<Engine>,
    pub device: Arc<SimDevice>,
}

impl Rig {
    pub fn new(workers: usize, request_timeout: Duration) -> Rig {
        Rig::with_patience(workers, request_timeout, 3 * PATIENCE)
    }

    /// One that calls a device silent after `patience`.
    pub fn with_patience(workers: usize, request_timeout: Duration, patience: Duration) -> Rig {
        let device = Arc::new(SimDevice::new(4 << 20, 1));
        let (engine, _) = Engine::open(options(device.clone())).expect("the options are good");
        let engine = Arc::new(engine);
        let options = WorkersOptions {
            workers,
            readers: 2,
            polling: Polling::Auto,
            request_timeout,
            connections_max: 16,
        };
        let workers = Arc::new(Workers::start(engine.clone(), options).expect("threads start"));
        let announce = {
            let workers = workers.clone();
            move || workers.space_available()
        };
        let background =
            Background::start(engine.clone(), patience, announce).expect("threads start");
        Rig {
            background: Some(background),
            workers,
            engine,
            device,
        }
    }

    /// A client on export number `export`, over TCP or a unix socket.
    pub fn connect(&self, export: u16, structured: bool, tcp: bool) -> Client {
        let (client, server): (OwnedFd, OwnedFd) = if tcp {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            let client = TcpStream::connect(address).expect("it listens");
            let (server, _) = listener.accept().expect("somebody connected");
            for socket in [&client, &server] {
                socket.set_nodelay(true).expect("TCP has it");
            }
            (client.into(), server.into())
        } else {
            let (client, server) = UnixStream::pair().expect("a pair of sockets");
            (client.into(), server.into())
        };
        let negotiated = Negotiated {
            structured,
            base_allocation: structured.then_some(1),
        };
        self.workers
            .attach(server, ExportId(export), negotiated, &Unfinished::default())
            .expect("a free place");
        Client::new(client, structured)
    }

    /// From here on no page moves by itself.
    pub fn stop_background(&mut self) {
        self.background = None;
    }

    /// How many pages are in the store.
    pub fn stored_pages(&self) -> u64 {
        let snapshot = self.engine.snapshot();
        let exports = snapshot.exports.iter();
        exports
            .map(|export| export.pages[Tier::Store as usize])
            .sum()
    }

    /// True if a read of the page would have to wait for the device.
    pub fn is_stored(&self, page: u32) -> bool {
        let mut lane = self.engine.lane();
        let read = self.engine.read(&mut lane, PageId(page), &mut [0; PAGE]);
        matches!(read, Ok(Read::Fetch(_)))
    }
}

fn options(device: Arc<SimDevice>) -> EngineOptions {
    let export = |(name, size_bytes): (&str, u64)| ExportOptions {
        name: name.into(),
        size_bytes,
        read_only: false,
        is_lost: false,
        is_durable: false,
        is_recovered: false,
    };
    EngineOptions {
        instance: 7,
        memory_dir: None,
        adopt: false,
        exports: ["first", "second"]
            .into_iter()
            .zip(SIZES)
            .map(export)
            .collect(),
        page_bytes: PAGE,
        zpool: ZpoolKind::Zsmalloc,
        frame_bytes: PAGE,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        codec: CodecChoice::named("lz4").expect("a codec"),
        pool_bytes_max: 256 << 10,
        high_mark_percent: 90,
        low_mark_percent: 70,
        populate: false,
        store: Some(StoreSource {
            backing: Backing::Device(Box::new(device)),
            segment_bytes: 32 << 10,
            punch: true,
            budget: None,
            scrub_bytes_per_s: 0,
            encryption: None,
        }),
        generation: 1,
    }
}
