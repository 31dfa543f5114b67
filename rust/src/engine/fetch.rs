//! Reads of stored pages: lent by a worker to a reader thread, filled there, given back.
//!
//! A fetch that comes back says what the device held at a place. Whether that is still the page is
//! asked afterwards, under the page's lock ([`Engine::confirm`]): the place may have been given up
//! and used again meanwhile, by another page or by a newer version of the same one.
//! Locking: a fetch has one owner at a time; it travels as a box and is never shared.

use super::Engine;
use crate::codec::{CodecId, Decompressor};
use crate::error::{Error, Result};
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::store::{Announced, ReadBuffer, RecordRef};
use crate::table::{Place, Word};

/// Fetches that one call may read together.
pub const FETCH_BATCH_MAX: usize = 64;

/// Where a stored page is, and what tells later that it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorePlace {
    pub(crate) word: Word,
    /// Sequence of the segment when the word was read: a segment is written once under one sequence,
    /// so word and sequence together stand for bytes that never change.
    pub(crate) sequence: u64,
}

/// Whose fetch it is: the session's words, opaque here.
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

/// A read of one stored page. Made once, reused for ever.
#[derive(Debug)]
pub struct Fetch {
    /// The page.
    pub page: PageId,
    /// Where it is.
    pub place: StorePlace,
    /// The page's bytes after a successful read.
    pub buffer: Box<[u8]>,
    /// How the read went; set by the reader.
    pub result: Result<()>,
    /// The session's.
    pub ticket: Ticket,
    /// Bytes of a write that covers part of the page.
    pub payload: Box<[u8]>,
    /// Where in the page the payload goes.
    pub payload_offset: u32,
    /// How many bytes of `payload` count; 0 for a plain read.
    pub payload_len: u32,
}

impl Fetch {
    /// An idle box for pages of `page_bytes`; its memory is touched, so that using it asks for none.
    pub fn new(page_bytes: usize) -> Box<Fetch> {
        Box::new(Fetch {
            page: PageId(0),
            place: StorePlace {
                word: Word::default(),
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

/// A reader thread's equipment.
pub struct ReaderLane {
    buffer: ReadBuffer,
    decompressor: Decompressor,
    records: Vec<RecordRef>,
    /// Fetches that the device has not given yet, by the number of their record.
    waiting: Vec<Option<Box<Fetch>>>,
    /// What the last fetch says will be asked for next.
    announced: Option<Announced>,
}

impl Engine {
    /// Equipment for one reader thread.
    pub fn reader_lane(&self) -> ReaderLane {
        ReaderLane {
            buffer: ReadBuffer::new(),
            decompressor: Decompressor::new(),
            records: Vec::with_capacity(FETCH_BATCH_MAX),
            waiting: Vec::with_capacity(FETCH_BATCH_MAX),
            announced: None,
        }
    }

    /// Reads up to [`FETCH_BATCH_MAX`] stored pages, neighbours with one read of the device, and hands
    /// each over with its result as soon as it is there. `batch` is empty then. Blocks for the device;
    /// call it on a reader thread.
    pub fn fetch(
        &self,
        reader: &mut ReaderLane,
        batch: &mut Vec<Box<Fetch>>,
        done: &mut dyn FnMut(Box<Fetch>),
    ) {
        assert!(batch.len() <= FETCH_BATCH_MAX, "{} fetches", batch.len());
        let ReaderLane {
            buffer,
            decompressor,
            records,
            waiting,
            announced,
        } = reader;
        records.clear();
        records.extend(batch.iter().map(|fetch| fetch.place.record(fetch.page)));
        waiting.clear();
        waiting.extend(batch.drain(..).map(Some));
        let store = self.tiers.store_of_a_stored_page();
        *announced = store.read_back(buffer, records, &mut |index, object| {
            let mut fetch = waiting[index].take().expect("one answer a record");
            if let Err(error) = &object {
                self.name(fetch.page, fetch.place, error);
            }
            fetch.result = object.and_then(|object| {
                let codec = fetch.place.codec();
                if decompressor.decompress(codec, object, &mut fetch.buffer) {
                    return Ok(());
                }
                // The checksum was right, so these are the bytes that were written: they were not
                // a page then. Only damaged memory does that.
                Err(Error::Corrupt {
                    what: "decompressed length",
                    at: records_offset(&fetch.place),
                    wanted: fetch.buffer.len() as u64,
                    found: 0,
                })
            });
            done(fetch);
        });
    }

    /// Reads ahead what the last [`fetch`](Self::fetch) with this equipment announced, if it did. Blocks
    /// for the device; call it when the fetched pages are on their way.
    pub fn read_ahead(&self, reader: &mut ReaderLane) {
        if let Some(announced) = reader.announced.take() {
            self.tiers.store_of_a_stored_page().read_ahead(announced);
        }
    }

    /// Leaves the name of a page that could not be fetched, unless it had only moved on: then there is
    /// nothing wrong with the disk.
    fn name(&self, page: PageId, place: StorePlace, error: &Error) {
        if self.store_place(place.word) != Some(place) {
            return;
        }
        let fault = match error {
            Error::Corrupt { .. } => Fault::Damaged,
            _ => Fault::Unreadable,
        };
        let offset = records_offset(&place);
        self.incidents.add(page, offset, fault, Finder::Read);
    }

    /// Is the page still where it was fetched from? Then the fetched bytes are the page.
    pub fn confirm(&self, page: PageId, place: StorePlace) -> bool {
        let guard = self.tiers.table.lock(page);
        self.is_at(guard.word(), place)
    }

    pub(super) fn is_at(&self, word: Word, place: StorePlace) -> bool {
        word == place.word && self.store_place(word).is_some_and(|now| now == place)
    }

    /// The place of a page in the store, if that is where the word says it is.
    pub(super) fn store_place(&self, word: Word) -> Option<StorePlace> {
        let Place::Store(object) = word.place() else {
            return None;
        };
        let sequence = self.tiers.store_of_a_stored_page().sequence(object.at);
        Some(StorePlace { word, sequence })
    }
}

impl StorePlace {
    fn codec(self) -> CodecId {
        match self.word.place() {
            Place::Store(object) => object.codec,
            place => unreachable!("a stored page at {place:?}"),
        }
    }

    fn record(self, page: PageId) -> RecordRef {
        let Place::Store(object) = self.word.place() else {
            unreachable!("a stored page at {:?}", self.word.place())
        };
        RecordRef {
            page: page.0,
            codec: object.codec as u8,
            bytes: object.bytes as u32,
            location: object.at,
            sequence: self.sequence,
        }
    }
}

fn records_offset(place: &StorePlace) -> u64 {
    match place.word.place() {
        Place::Store(object) => object.at.0 * 8,
        _ => 0,
    }
}
