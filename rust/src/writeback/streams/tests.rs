//! The rule of one open batch a page, in the two cases that it is for.

use super::*;
use crate::testing::sim_device::SimDevice;
use crate::writeback::scene::{self, BYTES, SEGMENT};

const PAGE: PageId = PageId(7);
const OTHER: PageId = PageId(8);

/// A scene with streams.
struct Scene {
    scene: scene::Scene,
    streams: Streams,
}

impl std::ops::Deref for Scene {
    type Target = scene::Scene;

    fn deref(&self) -> &scene::Scene {
        &self.scene
    }
}

impl Scene {
    fn new() -> Scene {
        Scene::served_by(Arc::default())
    }

    fn served_by(dispatch: Arc<Dispatch>) -> Scene {
        let scene = scene::Scene::new(Box::new(SimDevice::new(20 * SEGMENT, 1)));
        let streams = Streams::new(&scene.tiers, dispatch);
        Scene { scene, streams }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Streams, &Context<'_>, &Store) -> T) -> T {
        let (context, store) = (self.scene.context(), self.scene.store());
        call(&mut self.streams, &context, store)
    }

    fn push(&mut self, victim: &Victim, to: Stream) -> Push {
        self.with(|streams, context, store| streams.push_victim(context, store, victim, to))
    }

    fn send(&mut self, stream: Stream) {
        self.with(|streams, context, store| streams.send(context, store, stream));
    }

    fn land(&mut self) -> bool {
        self.with(|streams, context, store| streams.land(context, store))
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
    scene.with(|streams, context, store| streams.abandon(context, store, &Stream::OF_WRITE_BACK));
    assert!(!scene.tiers.table.peek(PAGE).is_moving());
    assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert_eq!(scene.read(PAGE), 1);
    scene.tiers.check();
}

#[test]
fn what_was_changed_before_it_was_copied_is_not_written() {
    let mut scene = Scene::new();
    let victim = scene.write(PAGE, 1);
    assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    let other = scene.write(OTHER, 2);
    assert_eq!(scene.push(&other, Stream::Old), Push::Done);
    let again = scene.write(PAGE, 3);
    assert_eq!(again.object, victim.object, "the case needs the same slot");
    let planned = scene.streams.shipment(Stream::Old).records_bytes();
    scene.send(Stream::Old);
    assert_eq!((scene.read(PAGE), scene.read(OTHER)), (3, 2));
    let stats = scene.store().stats();
    assert_eq!(
        (stats.records_written, scene.stats.pages_overtaken.get()),
        (1, 1)
    );
    assert_eq!(u64::from(planned), 2 * stats.live_bytes);
    scene.tiers.check();
}

#[test]
fn nothing_is_written_when_all_was_changed_before_it_was_copied() {
    let mut scene = Scene::new();
    let free = scene.store().segments_free();
    for stream in [Stream::Old, Stream::Read] {
        let victim = scene.write(PAGE, 1);
        assert_eq!(scene.push(&victim, stream), Push::Done);
        scene.set(PAGE, Place::Hole);
        scene.send(stream);
        assert!(!scene.streams.holds(PAGE) && !scene.streams.is_under_way());
    }
    assert_eq!(scene.store().segments_free(), free);
    assert_eq!(scene.store().stats().records_written, 0);
    // The same batches take others.
    let victim = scene.write(PAGE, 4);
    assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert_eq!(
        (scene.read(PAGE), scene.record(PAGE).bytes),
        (4, BYTES as u32)
    );
    scene.tiers.check();
}

#[test]
fn what_is_copied_stays_what_it_was_when_its_page_changes_before_the_write_lands() {
    // Somebody is said to serve: nothing is written before it is taken back.
    let dispatch = Arc::new(Dispatch::default());
    dispatch.open();
    let mut scene = Scene::served_by(Arc::clone(&dispatch));
    let victim = scene.write(PAGE, 1);
    assert_eq!(scene.push(&victim, Stream::Old), Push::Done);
    scene.send(Stream::Old);
    assert!(scene.streams.is_under_way());
    // Read meanwhile, it is still the same; rewritten, it is not.
    let other = scene.write(OTHER, 2);
    assert_eq!(scene.push(&other, Stream::Read), Push::Done);
    scene.send(Stream::Read);
    let word = scene.tiers.table.peek(PAGE).with_read();
    scene.tiers.table.lock(PAGE).publish(word);
    scene.write(OTHER, 3);
    assert!(scene.land() && scene.land() && !scene.land());
    assert_eq!((scene.read(PAGE), scene.read(OTHER)), (1, 3));
    assert!(matches!(
        scene.tiers.table.peek(OTHER).place(),
        Place::Pool(_)
    ));
    assert_eq!(scene.store().stats().records_written, 1);
    scene.tiers.check();
}

#[test]
fn room_is_kept_for_what_was_chosen() {
    let mut scene = Scene::new();
    let mut chosen = 0u32;
    loop {
        let victim = scene.write(PageId(chosen), chosen as u8);
        match scene.push(&victim, Stream::Old) {
            Push::Done => chosen += 1,
            Push::Full(Stream::Old) => break,
            other => panic!("{other:?}"),
        }
    }
    let shipment = scene.streams.shipment(Stream::Old);
    assert!(!shipment.fits(1, scene.store().record_bytes(BYTES as u32)));
    let planned = shipment.written_bytes();
    assert!(planned > SEGMENT as u64 - BYTES as u64 - 100 && planned <= SEGMENT as u64);
    scene.send(Stream::Old);
    assert!((0..chosen).all(|page| scene.read(PageId(page)) == page as u8));
    let stats = scene.store().stats();
    assert_eq!(
        (stats.records_written, stats.written_bytes),
        (chosen.into(), planned)
    );
    scene.tiers.check();
}
