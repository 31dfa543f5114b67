//! NOT TO BE MERGED: the types of the engine that `session` and `worker` use, nothing else.

use crate::error::Result;
use crate::page::PageId;

/// Number of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExportId(pub u16);

/// What an export is.
#[derive(Clone, Debug)]
pub struct ExportInfo {
    /// Name that clients ask for.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Its first page.
    pub first: PageId,
    /// How many pages.
    pub pages: u32,
}

/// Which tier answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Zeros.
    Zero,
    /// One repeated word.
    Same,
    /// Compressed in the pool.
    Pool,
    /// Incompressible in the pool.
    Raw,
    /// The backing file.
    Store,
}

/// Outcome of a read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// The page is in `out`.
    Ready(Tier),
    /// The page is in the store.
    Fetch(StorePlace),
}

/// Outcome of a write.
#[derive(Clone, Copy, Debug)]
pub enum Write {
    /// Written.
    Done(Tier),
    /// Pool full, write-back is under way.
    Stall,
    /// The rest of the page is in the store.
    Fetch(StorePlace),
}

/// Where a stored page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorePlace {
    pub(crate) word: u64,
    pub(crate) sequence: u64,
}

/// For BLOCK_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nothing there.
    Hole,
    /// Zeros.
    Zero,
    /// Anything.
    Data,
}

/// Whose fetch it is: opaque to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Worker that lent the box.
    pub worker: u16,
    /// The request's place in its connection.
    pub request: u16,
    /// The connection's place in its worker.
    pub connection: u32,
    /// Never used twice by a worker: tells late fetches from expected ones.
    pub serial: u64,
}

/// A read of one stored page.
#[derive(Debug)]
pub struct Fetch {
    /// Which page.
    pub page: PageId,
    /// Where it is.
    pub place: StorePlace,
    /// One page.
    pub buffer: Box<[u8]>,
    /// Set by the reader.
    pub result: Result<()>,
    /// The session's.
    pub ticket: Ticket,
    /// Bytes of a patch, at most a page.
    pub payload: Box<[u8]>,
    /// Where in the page they go.
    pub payload_offset: u32,
    /// How many they are.
    pub payload_len: u32,
}

impl Fetch {
    /// An idle box for pages of `page_bytes`; its memory is touched, so that using it asks for none.
    pub fn new(page_bytes: usize) -> Box<Fetch> {
        Box::new(Fetch {
            page: PageId(0),
            place: StorePlace {
                word: 0,
                sequence: 0,
            },
            buffer: vec![0xff; page_bytes].into_boxed_slice(),
            result: Ok(()),
            ticket: Ticket::default(),
            payload: vec![0xff; page_bytes].into_boxed_slice(),
            payload_offset: 0,
            payload_len: 0,
        })
    }
}
