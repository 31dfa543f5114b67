//! The rule of one open batch a page, in the two cases that it is for.

use std::time::Duration;

use super::*;
use crate::age::Clock;
use crate::incident::Incidents;
use crate::stats::LaneStats;
use crate::store::{Device, ReadBuffer, StoreOptions};
use crate::table::Table;
use crate::testing::sim_device::SimDevice;
use crate::tiers::{Marks, Tiers};
use crate::writeback::WritebackStats;
use crate::zpool::mapping::SYSTEM_PAGE_BYTES;
use crate::zpool::words::SharedWords;
use crate::zpool::{Arena, ArenaOptions, Pools, Tag, ZpoolKind};

const PAGE: PageId = PageId(7);
const OTHER: PageId = PageId(8);
const BYTES: usize = 900;

struct Scene {
    tiers: Tiers,
    lane: LaneStats,
    stats: WritebackStats,
    incidents: Incidents,
    streams: Streams,
}

impl Scene {
    fn new() -> Scene {
        let arena = Arena::create(ArenaOptions {
            path: None,
            instance: 1,
            frame_bytes: 4096,
            pool_bytes_max: 1 << 20,
            chain_frames_max: 8,
            populate: false,
            unit_bytes: SYSTEM_PAGE_BYTES,
        });
        let device: Box<dyn Device> = Box::new(SimDevice::new(20 * (16 << 10), 1));
        let options = StoreOptions {
            id: 1,
            generation: 1,
            segment_bytes: 16 << 10,
            ..StoreOptions::default()
        };
        let tiers = Tiers::new(
            Table::new(SharedWords::create(None, 100, false).unwrap()),
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
        for page in [PAGE, OTHER] {
            tiers.table.reserve(page).unwrap();
        }
        let streams = Streams::new(tiers.store.as_ref().unwrap(), Arc::default());
        Scene {
            tiers,
            lane: LaneStats::new(1),
            stats: WritebackStats::default(),
            incidents: Incidents::default(),
            streams,
        }
    }

    /// A client writes the page: its old place is free before it gets a new one.
    fn write(&self, page: PageId, version: u8) -> Victim {
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

    fn set(&self, page: PageId, place: Place) {
        let guard = self.tiers.table.lock(page);
        self.tiers.replace(&guard, Word::of(place), &self.lane);
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Streams, &Context<'_>, &Store) -> T) -> T {
        let context = Context {
            tiers: &self.tiers,
            lane: &self.lane,
            stats: &self.stats,
            incidents: &self.incidents,
            now: Duration::ZERO,
        };
        call(
            &mut self.streams,
            &context,
            self.tiers.store.as_ref().unwrap(),
        )
    }

    fn push(&mut self, victim: &Victim, to: Stream) -> Push {
        self.with(|streams, context, store| {
            streams.push_victim(context, store, victim, to, &mut [0; 4096])
        })
    }

    fn send(&mut self, stream: Stream) {
        self.with(|streams, context, store| streams.send(context, store, stream));
    }

    /// The record that the page is.
    fn record(&self, page: PageId) -> RecordRef {
        let Place::Store(object) = self.tiers.table.peek(page).place() else {
            panic!("{page} is not stored");
        };
        RecordRef {
            page: page.0,
            codec: object.codec as u8,
            bytes: object.bytes as u32,
            location: object.at,
            sequence: self.tiers.store.as_ref().unwrap().sequence(object.at),
        }
    }

    /// The version of a page, wherever it is.
    fn read(&self, page: PageId) -> u8 {
        match self.tiers.table.peek(page).place() {
            Place::Pool(object) => self.tiers.pool.load(object.at, BYTES, &mut [0; 4096])[0],
            _ => {
                let (record, mut found) = (self.record(page), 0);
                let store = self.tiers.store.as_ref().unwrap();
                store.read(&mut ReadBuffer::new(), &[record], &mut |_, object| {
                    found = object.unwrap()[0];
                });
                found
            }
        }
    }
}

#[test]
fn a_page_that_got_its_slot_back_is_not_mistaken_for_what_was_copied() {
    let mut scene = Scene::new();
    let first = scene.write(PAGE, 1);
    assert_eq!(scene.push(&first, Stream::Read), Push::Done);
    let second = scene.write(PAGE, 2);
    assert_eq!(second.object, first.object, "the case needs the same slot");
    // Marked now, it would look as it did when it was copied.
    assert_eq!(scene.push(&second, Stream::Old), Push::Stale);
    let sequence_before = {
        scene.send(Stream::Read);
        assert_eq!(scene.read(PAGE), 2);
        assert_eq!(scene.stats.pages_overtaken.get(), 1);
        // Version 1 is on the device, in a segment that this one shall come after.
        let other = scene.write(OTHER, 9);
        assert_eq!(scene.push(&other, Stream::Old), Push::Done);
        scene.send(Stream::Old);
        scene.record(OTHER).sequence
    };
    assert_eq!(scene.push(&second, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert_eq!(scene.read(PAGE), 2);
    assert!(scene.record(PAGE).sequence > sequence_before);
    scene.tiers.check();
}

#[test]
fn a_page_that_came_to_lie_where_it_lay_is_not_mistaken_for_what_was_copied() {
    let mut scene = Scene::new();
    for (page, version) in [(PAGE, 1), (OTHER, 1)] {
        let victim = scene.write(page, version);
        assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    }
    scene.send(Stream::Old);
    let record = scene.record(PAGE);
    // Cleaning copies version 1.
    scene.with(|streams, context, store| {
        assert!(streams.open_survivors(store));
        let pushed = streams.push_record(context, store, (&record, &[1; BYTES]), Stream::Survivors);
        assert_eq!(pushed, Push::Done);
    });
    // The page is rewritten, and its segment is free.
    let second = scene.write(PAGE, 2);
    scene.set(OTHER, Place::Hole);
    assert_eq!(scene.push(&second, Stream::Old), Push::Stale);
    scene.send(Stream::Survivors);
    assert_eq!(scene.read(PAGE), 2);
    // And this is how it would have come to lie there.
    assert_eq!(scene.push(&second, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert_eq!(scene.read(PAGE), 2);
    assert_ne!(scene.record(PAGE).sequence, record.sequence);
    scene.tiers.check();
}

#[test]
fn what_is_given_up_stays_in_the_pool_and_can_be_taken_again() {
    let mut scene = Scene::new();
    let victim = scene.write(PAGE, 1);
    assert_eq!(scene.push(&victim, Stream::Read), Push::Done);
    assert!(scene.tiers.table.peek(PAGE).is_moving());
    scene.with(|streams, context, store| streams.abandon(context, store));
    assert!(!scene.tiers.table.peek(PAGE).is_moving());
    assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert_eq!(scene.read(PAGE), 1);
    scene.tiers.check();
}
