//! The client's end of one NBD connection: handshake, then requests out and replies in.
//!
//! Made to cost little and the same against every server: all requests of a turn leave in one
//! send, all replies that have arrived are taken by one receive. It sleeps in the kernel while it
//! waits, as the kernel's own client does.
//! Not here: which requests. Locking: none, one thread owns a connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::wire::{self, Request};

/// A server that is silent for longer than this has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Bytes received at once; the room behind is for the reply that was cut off by the end.
const RECEIVE_BYTES: usize = 256 << 10;
const BUFFER_BYTES: usize = 2 * RECEIVE_BYTES;

/// A connection in the transmission phase.
pub struct Connection {
    socket: UnixStream,
    /// Received bytes that wait are `incoming[start..end]`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes to send are `outgoing[sent..]`.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes of the export.
    pub export_bytes: u64,
}

impl Connection {
    /// Connects and takes `export` with a bare GO, as `nbd-client` does.
    pub fn open(path: &Path, export: &str) -> io::Result<Self> {
        let mut socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let export_bytes = negotiate(&mut socket, export)?;
        Ok(Self {
            socket,
            incoming: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            outgoing: Vec::with_capacity(BUFFER_BYTES),
            sent: 0,
            export_bytes,
        })
    }

    /// Adds a request to what the next turn sends; the payload of a write is added by
    /// [`Self::push_payload`].
    pub fn push(&mut self, request: &Request) {
        self.outgoing.extend_from_slice(&request.encode());
    }

    /// Adds payload to what the next turn sends.
    pub fn push_payload(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Received bytes that were not consumed.
    pub fn received(&self) -> &[u8] {
        &self.incoming[self.start..self.end]
    }

    /// Drops the first `count` received bytes.
    pub fn consume(&mut self, count: usize) {
        assert!(
            count <= self.end - self.start,
            "{count} of {}",
            self.end - self.start
        );
        self.start += count;
    }

    /// Sends what is to be sent and waits for bytes to arrive.
    ///
    /// While a send would block, it receives too: a client that insisted on sending could wait for
    /// ever for a server that insists on sending.
    pub fn turn(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match send(
                &self.socket,
                &self.outgoing[self.sent..],
                SendFlags::DONTWAIT,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => {
                    let events = PollFlags::IN | PollFlags::OUT;
                    let mut ready = [PollFd::new(&self.socket, events)];
                    poll(&mut ready, None)?;
                    if ready[0].revents().contains(PollFlags::IN) {
                        return self.receive(RecvFlags::DONTWAIT);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        self.receive(RecvFlags::empty())
    }

    fn receive(&mut self, flags: RecvFlags) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end + RECEIVE_BYTES > self.incoming.len() {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = (self.end + RECEIVE_BYTES).min(self.incoming.len());
        match recv(&self.socket, &mut self.incoming[self.end..room], flags) {
            Ok((_, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, count)) => {
                self.end += count;
                Ok(())
            }
            Err(Errno::AGAIN) => {
                let seconds = SILENCE_MAX.as_secs();
                Err(io::Error::other(format!("no reply for {seconds} s")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves, as a client does that is done.
    pub fn close(mut self) -> io::Result<()> {
        let request = Request {
            kind: wire::CMD_DISC,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        self.socket.write_all(&request.encode())
    }
}

/// The client's half of the handshake. Returns the size of the export in bytes.
fn negotiate(socket: &mut UnixStream, export: &str) -> io::Result<u64> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    let magics = (wire::u64_at(&greeting, 0), wire::u64_at(&greeting, 8));
    if magics != (wire::GREETING_MAGIC, wire::OPTION_MAGIC) {
        return Err(io::Error::other(format!(
            "greeting {greeting:x?} is not fixed newstyle"
        )));
    }
    let mut hello = u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES)
        .to_be_bytes()
        .to_vec();
    hello.extend(wire::OPTION_MAGIC.to_be_bytes());
    hello.extend(wire::OPT_GO.to_be_bytes());
    hello.extend((export.len() as u32 + 6).to_be_bytes());
    hello.extend((export.len() as u32).to_be_bytes());
    hello.extend(export.as_bytes());
    hello.extend(0_u16.to_be_bytes());
    socket.write_all(&hello)?;
    let mut export_bytes = None;
    loop {
        let mut header = [0; 20];
        socket.read_exact(&mut header)?;
        let kind = wire::u32_at(&header, 12);
        let mut data = vec![0; (wire::u32_at(&header, 16) as usize).min(1 << 16)];
        socket.read_exact(&mut data)?;
        match (kind, export_bytes) {
            (wire::REP_INFO, _) if data.len() == 12 && wire::u16_at(&data, 0) == 0 => {
                export_bytes = Some(wire::u64_at(&data, 2));
            }
            (wire::REP_INFO, _) => {}
            (wire::REP_ACK, Some(bytes)) => return Ok(bytes),
            _ => {
                let found = String::from_utf8_lossy(&data);
                return Err(io::Error::other(format!("answer {kind:#x} to GO: {found}")));
            }
        }
    }
}
