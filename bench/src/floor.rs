//! The floor: the least that a server of lz4 pages has to do. An upper bound, not a server.
//!
//! Receive, lz4, send; polls the socket for a short time after activity before it sleeps. Each
//! page has a fixed place with room for the worst case. No pool, no table, no check of what a
//! client may not do. The one thing it pays beyond that is an uncontended lock a page, because
//! this crate forbids `unsafe`.
//! Locking: a mutex a page; a thread a connection; never two locks.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lzzzz::lz4;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::PAGE_BYTES;
use crate::wire::{self, Reply, Request};

/// How long a thread asks its socket again and again before it sleeps on it.
const POLLING: Duration = Duration::from_micros(50);

const BLOCK_BYTES: usize = lz4::max_compressed_size(PAGE_BYTES);
/// Largest payload, either way.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Bytes received at once: little enough to stay in the cache until they are compressed.
const RECEIVE_BYTES: usize = 256 << 10;
const INCOMING_BYTES: usize = PAYLOAD_BYTES_MAX + 2 * RECEIVE_BYTES;
const OUTGOING_BYTES: usize = 2 * PAYLOAD_BYTES_MAX;

/// A page: an lz4 block, or nothing if it was never written.
struct Place {
    length: u16,
    block: [u8; BLOCK_BYTES],
}

/// The pages of the only export.
pub struct Pages(Vec<Mutex<Place>>);

impl Pages {
    /// Pages for an export of `bytes` bytes, all memory taken at once.
    pub fn new(bytes: u64) -> Self {
        let place = || {
            Mutex::new(Place {
                length: 0,
                block: [0; BLOCK_BYTES],
            })
        };
        Self((0..bytes as usize / PAGE_BYTES).map(|_| place()).collect())
    }

    fn bytes(&self) -> u64 {
        (self.0.len() * PAGE_BYTES) as u64
    }

    fn lock(&self, page: usize) -> MutexGuard<'_, Place> {
        self.0[page].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, first: usize, bytes: &[u8]) {
        for (page, bytes) in bytes.chunks_exact(PAGE_BYTES).enumerate() {
            let mut place = self.lock(first + page);
            let length = lz4::compress(bytes, &mut place.block, lz4::ACC_LEVEL_DEFAULT)
                .expect("lz4 with an output of the largest size");
            place.length = length as u16;
        }
    }

    fn read(&self, first: usize, bytes: &mut [u8]) {
        for (page, bytes) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
            let place = self.lock(first + page);
            match usize::from(place.length) {
                0 => bytes.fill(0),
                length => {
                    lz4::decompress(&place.block[..length], bytes).expect("a block of our own");
                }
            }
        }
    }
}

/// Serves one connection to its end.
pub fn serve(mut socket: UnixStream, pages: &Pages) -> io::Result<()> {
    if !negotiate(&mut socket, pages.bytes())? {
        return Ok(());
    }
    Session {
        socket,
        pages,
        incoming: vec![0; INCOMING_BYTES],
        start: 0,
        end: 0,
        outgoing: vec![0; OUTGOING_BYTES],
        filled: 0,
    }
    .run()
}

struct Session<'a> {
    socket: UnixStream,
    pages: &'a Pages,
    /// Received bytes that wait are `incoming[start..end]`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Replies that wait are `outgoing[..filled]`.
    outgoing: Vec<u8>,
    filled: usize,
}

impl Session<'_> {
    fn run(mut self) -> io::Result<()> {
        loop {
            if !self.receive()? {
                return Ok(());
            }
            while let Some(request) = self.next_request()? {
                if request.kind == wire::CMD_DISC {
                    return Ok(());
                }
                self.answer(&request)?;
            }
            self.send()?;
        }
    }

    fn receive(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end + RECEIVE_BYTES > self.incoming.len() {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.incoming[self.end..self.end + RECEIVE_BYTES];
        let count = receive_polling(&mut self.socket, room)?;
        self.end += count;
        Ok(count > 0)
    }

    /// The next request that has arrived whole, with its payload.
    fn next_request(&mut self) -> io::Result<Option<Request>> {
        let waiting = &self.incoming[self.start..self.end];
        if waiting.len() < wire::REQUEST_BYTES {
            return Ok(None);
        }
        let request = Request::decode(waiting)
            .ok_or_else(|| io::Error::other(format!("{:x?} is no request", &waiting[..28])))?;
        let length = request.length as usize;
        if request.kind == wire::CMD_WRITE {
            if length > PAYLOAD_BYTES_MAX {
                return Err(io::Error::other(format!("a write of {length} bytes")));
            }
            if waiting.len() < wire::REQUEST_BYTES + length {
                return Ok(None);
            }
        }
        Ok(Some(request))
    }

    fn answer(&mut self, request: &Request) -> io::Result<()> {
        let length = request.length as usize;
        let payload = self.start + wire::REQUEST_BYTES;
        self.start = payload;
        if request.kind == wire::CMD_WRITE {
            self.start += length;
        }
        if self.filled + wire::REPLY_BYTES + length > self.outgoing.len() {
            self.send()?;
        }
        let first = request.offset as usize / PAGE_BYTES;
        let allowed = length <= PAYLOAD_BYTES_MAX
            && (request.offset as usize | length).is_multiple_of(PAGE_BYTES)
            && first + length / PAGE_BYTES <= self.pages.0.len();
        let reply = self.filled + wire::REPLY_BYTES;
        let (error, sent) = match request.kind {
            wire::CMD_READ if allowed => {
                self.pages
                    .read(first, &mut self.outgoing[reply..reply + length]);
                (0, length)
            }
            wire::CMD_WRITE if allowed => {
                self.pages
                    .write(first, &self.incoming[payload..payload + length]);
                (0, 0)
            }
            wire::CMD_FLUSH => (0, 0),
            _ => (wire::EINVAL, 0),
        };
        let header = Reply {
            error,
            cookie: request.cookie,
        }
        .encode();
        self.outgoing[self.filled..reply].copy_from_slice(&header);
        self.filled = reply + sent;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        self.socket.write_all(&self.outgoing[..filled])
    }
}

/// Receives at once, or polls for a short time, or sleeps.
fn receive_polling(socket: &mut UnixStream, room: &mut [u8]) -> io::Result<usize> {
    let begun = Instant::now();
    loop {
        match recv(&*socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, count)) => return Ok(count),
            Err(Errno::AGAIN) if begun.elapsed() < POLLING => std::thread::yield_now(),
            Err(Errno::AGAIN) => return socket.read(room),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The server's half of the handshake. False if the client left.
fn negotiate(socket: &mut UnixStream, export_bytes: u64) -> io::Result<bool> {
    let mut greeting = wire::GREETING_MAGIC.to_be_bytes().to_vec();
    greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    socket.write_all(&greeting)?;
    let mut flags = [0; 4];
    socket.read_exact(&mut flags)?;
    loop {
        let mut header = [0; 16];
        socket.read_exact(&mut header)?;
        let (option, length) = (wire::u32_at(&header, 8), wire::u32_at(&header, 12));
        let mut data = vec![0; (length as usize).min(1 << 16)];
        socket.read_exact(&mut data)?;
        let mut size = export_bytes.to_be_bytes().to_vec();
        size.extend(wire::FLOOR_FLAGS.to_be_bytes());
        match option {
            wire::OPT_EXPORT_NAME => {
                if wire::u32_at(&flags, 0) & u32::from(wire::NO_ZEROES) == 0 {
                    size.extend([0; 124]);
                }
                socket.write_all(&size)?;
                return Ok(true);
            }
            wire::OPT_GO => {
                let info = [&wire::INFO_EXPORT.to_be_bytes()[..], &size].concat();
                reply_option(socket, option, wire::REP_INFO, &info)?;
                reply_option(socket, option, wire::REP_ACK, &[])?;
                return Ok(true);
            }
            wire::OPT_ABORT => {
                reply_option(socket, option, wire::REP_ACK, &[])?;
                return Ok(false);
            }
            _ => reply_option(socket, option, wire::REP_ERR_UNSUP, &[])?,
        }
    }
}

fn reply_option(socket: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend((data.len() as u32).to_be_bytes());
    reply.extend(data);
    socket.write_all(&reply)
}
