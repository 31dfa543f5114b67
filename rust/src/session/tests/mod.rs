//! Sessions driven by hand: a client's bytes in, replies out, fetches done when a test says so.

mod flush;
mod fuzz;
mod hand_over;
mod rules;
mod store;
mod streams;
mod structured;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::boxes::{Boxes, FetchBox};
use super::fake::FakePages;
use super::metrics::Shard;
use super::{Desk, Negotiated, Progress, Session};
use crate::engine::ExportId;
use crate::wire::*;

pub(super) const PAGE: usize = 4096;
pub(super) const PAGES: u32 = 1024;
pub(super) const SIZE: u64 = PAGES as u64 * PAGE as u64;
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const BOXES: usize = 64;
pub(super) const CONTEXT: u32 = 42;

/// A simple reply, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub cookie: u64,
    pub error: u32,
    pub data: Vec<u8>,
}

/// A structured reply chunk, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub done: bool,
    pub kind: u16,
    pub cookie: u64,
    pub payload: Vec<u8>,
}

/// A session with a client that reads all its replies.
pub(super) struct Client {
    pub pages: Arc<FakePages>,
    pub desk: Desk<FakePages>,
    pub session: Session,
    /// Bytes of replies that were not taken apart yet.
    pub replies: Vec<u8>,
    /// Fetches that the session lent, oldest first.
    pub lent: Vec<FetchBox>,
    reads: HashMap<u64, u32>,
    next_cookie: u64,
    structured: bool,
}

impl Client {
    /// On the writable export, with simple replies.
    pub fn simple() -> Self {
        Self::on(
            ExportId(0),
            Negotiated {
                structured: false,
                base_allocation: None,
            },
        )
    }

    /// On the writable export, with structured replies and block status.
    pub fn structured() -> Self {
        Self::on(
            ExportId(0),
            Negotiated {
                structured: true,
                base_allocation: Some(CONTEXT),
            },
        )
    }

    pub fn on(export: ExportId, negotiated: Negotiated) -> Self {
        let pages = Arc::new(FakePages::new(PAGE, PAGES));
        let now = Instant::now();
        let boxes = Boxes::new(0, BOXES, PAGE);
        let desk = Desk::new(pages.clone(), boxes, Arc::new(Shard::new(2)), now);
        let session = Session::new(&*pages, export, negotiated, TIMEOUT, now);
        Client {
            pages,
            desk,
            session,
            replies: Vec::new(),
            lent: Vec::new(),
            reads: HashMap::new(),
            next_cookie: 1,
            structured: negotiated.structured,
        }
    }

    /// A request's bytes, with a cookie of its own.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if command == CMD_READ {
            self.reads.insert(cookie, length);
        }
        Request {
            flags,
            command,
            cookie,
            offset,
            length,
        }
        .encode()
        .to_vec()
    }

    /// The cookie of the last request.
    pub fn cookie(&self) -> u64 {
        self.next_cookie - 1
    }

    /// Sends `bytes` as the session takes them; what it does not take is returned.
    pub fn send<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        loop {
            let taken = match self.session.input() {
                Some(space) => {
                    let taken = space.len().min(bytes.len());
                    space[..taken].copy_from_slice(&bytes[..taken]);
                    taken
                }
                None => 0,
            };
            self.session.received(taken);
            bytes = &bytes[taken..];
            self.run();
            if bytes.is_empty() || taken == 0 {
                return bytes;
            }
        }
    }

    /// Lets the session work until it waits, and takes its replies and fetches.
    pub fn run(&mut self) {
        loop {
            let progress = self.session.advance(&mut self.desk);
            let sent = self.session.output().len();
            self.replies.extend_from_slice(self.session.output());
            self.session.sent(sent);
            self.lent.append(self.desk.boxes.outgoing());
            let freed = self.desk.boxes.take_freed() && self.session.waits().boxes;
            if progress == Progress::Waiting && sent == 0 && !freed {
                return;
            }
        }
    }

    /// Does the fetch at `at` among those lent.
    pub fn fetch(&mut self, at: usize) {
        let mut fetch = self.lent.remove(at);
        self.pages.fetch_one(&mut fetch);
        self.session.fetched(&mut self.desk, fetch);
        self.run();
    }

    /// Does all fetches, and those that come of them.
    pub fn fetch_all(&mut self) {
        while !self.lent.is_empty() {
            self.fetch(0);
        }
    }

    /// Sends one request (and payload) and returns its simple reply's error.
    pub fn error_of(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> u32 {
        let mut bytes = self.request(command, flags, offset, length);
        if command == CMD_WRITE {
            bytes.resize(bytes.len() + length as usize, 0x77);
        }
        assert!(self.send(&bytes).is_empty(), "the session takes it");
        let replies = self.take_replies();
        assert_eq!(replies.len(), 1, "one reply to command {command}");
        assert_eq!(replies[0].cookie, self.cookie());
        replies[0].error
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = self.request(CMD_WRITE, 0, offset, data.len() as u32);
        bytes.extend_from_slice(data);
        self.send(&bytes);
    }

    pub fn read(&mut self, offset: u64, length: u32) {
        let bytes = self.request(CMD_READ, 0, offset, length);
        self.send(&bytes);
    }

    /// The simple replies that came.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        assert!(!self.structured, "replies are simple");
        let bytes = std::mem::take(&mut self.replies);
        let mut rest = &bytes[..];
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
            let error = u32::from_be_bytes(rest[4..8].try_into().unwrap());
            let cookie = u64::from_be_bytes(rest[8..16].try_into().unwrap());
            let bytes = if error == 0 {
                *self.reads.get(&cookie).unwrap_or(&0) as usize
            } else {
                0
            };
            let data = rest[16..16 + bytes].to_vec();
            replies.push(Reply {
                cookie,
                error,
                data,
            });
            rest = &rest[16 + bytes..];
        }
        replies
    }

    /// The chunks that came, and simple replies to other commands as chunks of kind `u16::MAX` with
    /// the error.
    pub fn take_chunks(&mut self) -> Vec<Chunk> {
        let bytes = std::mem::take(&mut self.replies);
        let mut rest = &bytes[..];
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let simple = rest[..4] == SIMPLE_REPLY_MAGIC.to_be_bytes();
            if !simple {
                assert_eq!(rest[..4], CHUNK_MAGIC.to_be_bytes());
            }
            let cookie = u64::from_be_bytes(rest[8..16].try_into().unwrap());
            let chunk = if simple {
                let payload = rest[4..8].to_vec();
                rest = &rest[16..];
                Chunk {
                    done: true,
                    kind: u16::MAX,
                    cookie,
                    payload,
                }
            } else {
                let bytes = u32::from_be_bytes(rest[16..20].try_into().unwrap()) as usize;
                let flags = u16::from_be_bytes(rest[4..6].try_into().unwrap());
                assert!(flags <= 1, "flags {flags:#x}");
                let kind = u16::from_be_bytes(rest[6..8].try_into().unwrap());
                let payload = rest[20..20 + bytes].to_vec();
                rest = &rest[20 + bytes..];
                Chunk {
                    done: flags == 1,
                    kind,
                    cookie,
                    payload,
                }
            };
            chunks.push(chunk);
        }
        chunks
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.desk.now += time;
        if self
            .session
            .deadline()
            .is_some_and(|deadline| deadline <= self.desk.now)
        {
            self.session.expire(&mut self.desk);
        }
        self.run();
    }

    /// All boxes are free again and nothing waits.
    pub fn check_at_rest(&self) {
        assert_eq!(
            self.desk.boxes.free_count() + self.lent.len(),
            BOXES,
            "boxes were lost"
        );
        assert_eq!(self.session.deadline(), None, "a request still waits");
        assert_eq!(self.session.promised, 0, "room is still promised");
    }
}

/// `bytes` bytes that differ from page to page and from byte to byte.
pub(super) fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut data = vec![0; bytes];
    for chunk in data.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    data
}

/// xorshift64*: the tests' dice, the same for the same seed.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}
