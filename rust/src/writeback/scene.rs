//! Small tiers and the pages in them, for tests of the parts of write-back.

use std::time::Duration;

use super::victims::Victim;
use super::{Context, WritebackStats};
use crate::age::Clock;
use crate::codec::CodecId;
use crate::incident::Incidents;
use crate::page::PageId;
use crate::stats::LaneStats;
use crate::store::{Device, ReadBuffer, RecordRef, Store, StoreOptions};
use crate::table::{ObjectAt, Place, Table, Word};
use crate::tiers::{Marks, Tiers};
use crate::zpool::mapping::SYSTEM_PAGE_BYTES;
use crate::zpool::words::SharedWords;
use crate::zpool::{Arena, ArenaOptions, Pools, Tag, Zpool, ZpoolKind};

/// Bytes of a segment.
pub(super) const SEGMENT: usize = 16 << 10;

/// Pages of the table.
pub(super) const PAGES: u32 = 100;

/// Bytes of an object.
pub(super) const BYTES: usize = 900;

/// A pool of 1 MiB before a store on `device`.
pub(super) fn tiers(device: Box<dyn Device>) -> Tiers {
    let arena = Arena::create(ArenaOptions {
        path: None,
        instance: 1,
        frame_bytes: 4096,
        pool_bytes_max: 1 << 20,
        chain_frames_max: 8,
        populate: false,
        unit_bytes: SYSTEM_PAGE_BYTES,
    });
    let options = StoreOptions {
        id: 1,
        generation: 1,
        segment_bytes: SEGMENT as u32,
        ..StoreOptions::default()
    };
    let tiers = Tiers::new(
        Table::new(SharedWords::create(None, PAGES as usize, false).unwrap()),
        Pools::new(arena.unwrap(), ZpoolKind::Zblock),
        Some(Store::open(device, options).unwrap()),
        None,
        Clock::new(1 << 20),
        Marks {
            high_bytes: 1 << 20,
            low_bytes: 0,
        },
        [0].into(),
        4096,
    );
    (0..PAGES).for_each(|page| tiers.table.reserve(PageId(page)).unwrap());
    tiers
}

/// Tiers, and what else a step needs.
pub(super) struct Scene {
    pub(super) tiers: Tiers,
    lane: LaneStats,
    pub(super) stats: WritebackStats,
    incidents: Incidents,
}

impl Scene {
    pub(super) fn new(device: Box<dyn Device>) -> Scene {
        Scene {
            tiers: tiers(device),
            lane: LaneStats::new(1),
            stats: WritebackStats::default(),
            incidents: Incidents::default(),
        }
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context {
            tiers: &self.tiers,
            lane: &self.lane,
            stats: &self.stats,
            incidents: &self.incidents,
            now: Duration::ZERO,
        }
    }

    pub(super) fn store(&self) -> &Store {
        self.tiers.store_of_a_stored_page()
    }

    /// A client writes the page: its old place is free before it gets a new one.
    pub(super) fn write(&self, page: PageId, version: u8) -> Victim {
        self.set(page, Place::Hole);
        let tag = Tag {
            owner: page.0,
            stamp: 0,
        };
        let at = self.tiers.pool.alloc(BYTES, tag).unwrap();
        self.tiers.pool.store(at, &[version; BYTES]);
        let object = ObjectAt {
            codec: CodecId::Lz4,
            bytes: BYTES,
            at,
        };
        self.set(page, Place::Pool(object));
        Victim {
            page,
            object,
            is_read: false,
        }
    }

    pub(super) fn set(&self, page: PageId, place: Place) {
        let guard = self.tiers.table.lock(page);
        self.tiers.replace(&guard, Word::of(place), &self.lane);
    }

    /// The record that the page is.
    pub(super) fn record(&self, page: PageId) -> RecordRef {
        let Place::Store(object) = self.tiers.table.peek(page).place() else {
            panic!("{page} is not stored");
        };
        RecordRef {
            page: page.0,
            codec: object.codec as u8,
            bytes: object.bytes as u32,
            location: object.at,
            sequence: self.store().sequence(object.at),
        }
    }

    /// The version of a page, wherever it is.
    pub(super) fn read(&self, page: PageId) -> u8 {
        match self.tiers.table.peek(page).place() {
            Place::Pool(object) => self.tiers.pool.load(object.at, BYTES, &mut [0; 4096])[0],
            _ => {
                let (record, mut found) = (self.record(page), 0);
                self.store()
                    .read(&mut ReadBuffer::new(), &[record], &mut |_, object| {
                        found = object.unwrap()[0];
                    });
                found
            }
        }
    }
}
