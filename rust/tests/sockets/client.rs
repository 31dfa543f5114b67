//! An NBD client that keeps many requests under way: it sends and receives whatever the socket takes
//! and has, so neither side ever waits for the other's buffers.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nbdswap_core::wire::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::rig::PATIENCE;

/// A request and what came of it.
#[derive(Debug)]
pub struct Done {
    pub request: Request,
    pub error: u32,
    /// Where, if the server said so.
    pub error_at: Option<u64>,
    /// READ: its data.
    pub data: Vec<u8>,
    /// BLOCK_STATUS: length and flags of each extent.
    pub extents: Vec<(u32, u32)>,
    received: usize,
}

pub struct Client {
    socket: OwnedFd,
    structured: bool,
    out: Vec<u8>,
    input: Vec<u8>,
    waiting: HashMap<u64, Done>,
    done: VecDeque<Done>,
    next_cookie: u64,
    is_closed: bool,
}

impl Client {
    pub fn new(socket: OwnedFd, structured: bool) -> Client {
        Client {
            socket,
            structured,
            out: Vec::new(),
            input: Vec::new(),
            waiting: HashMap::new(),
            done: VecDeque::new(),
            next_cookie: 1,
            is_closed: false,
        }
    }

    /// Puts a request on its way and returns its cookie.
    pub fn ask(&mut self, command: u16, flags: u16, range: (u64, u32), payload: &[u8]) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let request = Request {
            flags,
            command,
            cookie,
            offset: range.0,
            length: range.1,
        };
        let data_bytes = if command == CMD_READ {
            range.1 as usize
        } else {
            0
        };
        self.out.extend_from_slice(&request.encode());
        self.out.extend_from_slice(payload);
        let done = Done {
            request,
            error: 0,
            error_at: None,
            data: vec![0xee; data_bytes],
            extents: Vec::new(),
            received: 0,
        };
        self.waiting.insert(cookie, done);
        self.exchange();
        cookie
    }

    /// Requests that are under way.
    pub fn waiting(&self) -> impl Iterator<Item = &Request> {
        let done = self.done.iter().map(|done| &done.request);
        self.waiting.values().map(|done| &done.request).chain(done)
    }

    /// The next request that is answered, in the order of the answers.
    pub fn next(&mut self) -> Done {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = self.done.pop_front() {
                return done;
            }
            assert!(!self.is_closed, "the server closed: {:?}", self.waiting);
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no answer in time: {:?}", self.waiting);
            let mut events = PollFlags::IN;
            events.set(PollFlags::OUT, !self.out.is_empty());
            let left = Timespec::try_from(left).expect("seconds");
            poll(&mut [PollFd::new(&self.socket, events)], Some(&left)).expect("poll");
            self.exchange();
        }
    }

    /// Asks and waits for the answer, the only one that is due.
    pub fn call(&mut self, command: u16, range: (u64, u32), payload: &[u8]) -> Done {
        let cookie = self.ask(command, 0, range, payload);
        let done = self.next();
        assert_eq!(done.request.cookie, cookie);
        done
    }

    pub fn read(&mut self, offset: u64, bytes: usize) -> Vec<u8> {
        let done = self.call(CMD_READ, (offset, bytes as u32), &[]);
        assert_eq!(done.error, 0, "read of {bytes} at {offset}");
        done.data
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let done = self.call(CMD_WRITE, (offset, data.len() as u32), data);
        assert_eq!(done.error, 0, "write of {} at {offset}", data.len());
    }

    /// Says goodbye and waits until the server has closed.
    pub fn leave(mut self) {
        self.ask(CMD_DISC, 0, (0, 0), &[]);
        let until = Instant::now() + PATIENCE;
        while !self.is_closed {
            assert!(Instant::now() < until, "the server does not close");
            let left = Timespec::try_from(PATIENCE).expect("seconds");
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)).expect("poll");
            self.exchange();
        }
        assert_eq!(self.waiting.len(), 1, "only DISC is unanswered");
    }

    /// True if nothing has come that was not taken; does not wait.
    pub fn is_silent(&mut self) -> bool {
        self.exchange();
        self.done.is_empty()
    }

    /// Sends what the socket takes.
    pub fn push(&mut self) {
        while !self.out.is_empty() {
            match send(
                &self.socket,
                &self.out,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(Errno::AGAIN) => return,
                Err(error) => panic!("send: {error}"),
            }
        }
    }

    fn exchange(&mut self) {
        self.push();
        let mut bytes = [0; 64 << 10];
        while !self.is_closed {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.is_closed = true,
                Ok((_, count)) => self.input.extend_from_slice(&bytes[..count]),
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("receive: {error}"),
            }
        }
        let mut taken = 0;
        while let Some(bytes) = self.take_reply(taken) {
            taken += bytes;
        }
        self.input.drain(..taken);
    }

    /// Takes the reply or chunk at `at` of the input; its length, or None if it is not all there.
    fn take_reply(&mut self, at: usize) -> Option<usize> {
        let raw = &self.input[at..];
        let cookie = u64::from_be_bytes(raw.get(8..16)?.try_into().unwrap());
        let magic = word(raw, 0);
        if magic == CHUNK_MAGIC {
            assert!(self.structured, "a chunk without leave");
            let bytes = CHUNK_BYTES + word(raw.get(..CHUNK_BYTES)?, 16) as usize;
            let payload = raw.get(CHUNK_BYTES..bytes)?;
            let (flags, kind) = (word(raw, 4) >> 16, word(raw, 4) as u16);
            let waiting = self.waiting.get_mut(&cookie).expect("it was asked for");
            waiting.take_chunk(kind, payload);
            if flags == u32::from(CHUNK_FLAG_DONE) {
                self.finish(cookie);
            }
            return Some(bytes);
        }
        assert_eq!(magic, SIMPLE_REPLY_MAGIC);
        let waiting = self.waiting.get_mut(&cookie).expect("it was asked for");
        let is_read = waiting.request.command == CMD_READ;
        assert!(!(is_read && self.structured), "a simple reply to a read");
        let error = word(raw, 4);
        let data_bytes = if error == 0 { waiting.data.len() } else { 0 };
        let data = raw.get(SIMPLE_REPLY_BYTES..SIMPLE_REPLY_BYTES + data_bytes)?;
        waiting.error = error;
        waiting.data[..data_bytes].copy_from_slice(data);
        waiting.received = data_bytes;
        self.finish(cookie);
        Some(SIMPLE_REPLY_BYTES + data_bytes)
    }

    fn finish(&mut self, cookie: u64) {
        let done = self.waiting.remove(&cookie).expect("it waits");
        let all = done.received == done.data.len();
        assert!(
            done.error != 0 || all,
            "holes in the answer to {:?}",
            done.request
        );
        self.done.push_back(done);
    }
}

impl Done {
    fn take_chunk(&mut self, kind: u16, payload: &[u8]) {
        match kind {
            CHUNK_OFFSET_DATA => {
                let data = &payload[8..];
                let at = (long(payload) - self.request.offset) as usize;
                self.data[at..at + data.len()].copy_from_slice(data);
                self.received += data.len();
            }
            CHUNK_OFFSET_HOLE => {
                let bytes = word(payload, 8) as usize;
                let at = (long(payload) - self.request.offset) as usize;
                self.data[at..at + bytes].fill(0);
                self.received += bytes;
            }
            CHUNK_BLOCK_STATUS => {
                let extents = payload[4..].chunks_exact(8);
                self.extents = extents.map(|raw| (word(raw, 0), word(raw, 4))).collect();
                assert!(!self.extents.is_empty(), "{:?}", self.request);
            }
            CHUNK_ERROR => self.error = word(payload, 0),
            CHUNK_ERROR_OFFSET => {
                self.error = word(payload, 0);
                self.error_at = Some(long(&payload[payload.len() - 8..]));
            }
            other => panic!("a chunk of kind {other}"),
        }
    }
}

fn word(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().unwrap())
}

fn long(raw: &[u8]) -> u64 {
    u64::from_be_bytes(raw[..8].try_into().unwrap())
}
