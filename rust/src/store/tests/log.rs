//! Writing: space, reserve, the life of segments, and writes that fail.

use super::*;
use crate::testing::sim_device::{Fault, Op};

#[test]
fn a_batch_is_one_aligned_write_of_the_blocks_that_it_needs() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    put(&store, &mut batch, &[(1, 100)]);
    put(&store, &mut batch, &[(2, 4096), (3, 4096), (4, 4096)]);
    let writes = device.writes();
    let copy = u64::from(SEGMENT_BYTES) - BLOCK_BYTES as u64;
    let superblocks = [(0, BLOCK_BYTES), (copy, BLOCK_BYTES)];
    assert_eq!(writes[..2], superblocks, "the superblock and its copy");
    assert_eq!(writes[2..], [(16 << 10, 4096), (32 << 10, 16 << 10)]);
    store.check();
}

#[test]
fn overhead_of_a_record_of_2048_bytes_is_under_40_bytes() {
    let device = Arc::new(SimDevice::new(8 << 20, 1));
    let store = open(
        &device,
        StoreOptions {
            segment_bytes: 1 << 20,
            ..options()
        },
    )
    .unwrap();
    let mut batch = store.batch();
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    // Sizes around 2048, so that padding takes its average share.
    let mut object_bytes = 0;
    for page in 0.. {
        let bytes = 2048 - 32 + (page as usize * 37) % 64;
        if batch.push(page, 1, &object(page, 0, bytes)).is_none() {
            break;
        }
        object_bytes += bytes;
    }
    store.commit(&mut batch).unwrap();
    // The whole segment counts, its unused end too.
    let overhead = ((1 << 20) - object_bytes) as f64 / batch.len() as f64;
    assert!(
        overhead < 40.0,
        "{overhead} bytes a record of {} records",
        batch.len()
    );
}

#[test]
fn the_largest_object_fits_and_a_full_segment_refuses_more() {
    let (store, _) = store_of(4);
    let mut batch = store.batch();
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    let largest = object(7, 0, store.object_bytes_max() as usize);
    assert!(batch.push(7, 0, &largest).is_some());
    assert_eq!(batch.push(8, 0, &[1]), None);
    store.commit(&mut batch).unwrap();
    let records = publish(&store, &mut batch);
    assert_eq!(
        get(&store, &mut ReadBuffer::new(), &records[0]).unwrap(),
        largest
    );
}

#[test]
fn objects_of_one_byte_are_as_many_as_a_summary_that_is_read_at_once_can_name() {
    let device = Arc::new(SimDevice::new(8 << 20, 1));
    let store = open(
        &device,
        StoreOptions {
            segment_bytes: 1 << 20,
            ..options()
        },
    )
    .unwrap();
    let mut batch = store.batch();
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    while batch
        .push(batch.len() as u32, 0, &[batch.len() as u8])
        .is_some()
    {}
    assert_eq!(batch.len(), layout::RECORDS_MAX as usize);
    store.commit(&mut batch).unwrap();
    let records = publish(&store, &mut batch);
    let mut buffer = ReadBuffer::new();
    let segment = SegmentIndex(0);
    assert_eq!(records_of(&store, &mut buffer, segment), records);
    assert_eq!(store.stats().summary_errors, 0);
}

#[test]
fn a_full_store_refuses_write_back_and_still_has_its_reserve_for_cleaning() {
    let (store, _) = store_of(4);
    let mut batch = store.batch();
    let mut kept = Vec::new();
    for page in 0..3 {
        kept.push(put(&store, &mut batch, &[(page, 3000), (page + 10, 3000)]));
    }
    assert!(matches!(
        store.begin(&mut batch, Reason::WriteBack),
        Err(Error::StoreFull)
    ));
    assert_eq!(store.stats().segments_free, 1);

    // Half of each dies; cleaning one frees it.
    for records in &kept {
        store.release(records[1].location, records[1].bytes);
    }
    let victim = victim(&store, 50).expect("half empty segments");
    let mut buffer = ReadBuffer::new();
    let moving = records_of(&store, &mut buffer, victim)[0];
    let bytes = get(&store, &mut buffer, &moving).unwrap();
    store
        .begin(&mut batch, Reason::Cleaning)
        .expect("the reserve");
    batch.push(moving.page, moving.codec, &bytes).unwrap();
    store.commit(&mut batch).unwrap();
    let moved = publish(&store, &mut batch)[0];
    store.release(moving.location, moving.bytes);
    store.check();
    assert_eq!(store.sequence(moving.location), 0);
    assert_eq!(
        get(&store, &mut buffer, &moved).unwrap(),
        object(moved.page, 0, 3000)
    );
    let stats = store.stats();
    assert_eq!((stats.segments_free, stats.segments_cleaned), (1, 1));
}

#[test]
fn victim_is_the_emptiest_and_only_if_cleaning_it_pays() {
    let (store, _) = store_of(8);
    let mut batch = store.batch();
    let full = put(&store, &mut batch, &[(1, 4000), (2, 4000), (3, 4000)]);
    let sparse = put(&store, &mut batch, &[(4, 1500)]);
    put(&store, &mut batch, &[(5, 2500)]);
    assert_eq!(victim(&store, 5), None);
    assert_eq!(victim(&store, 50), Some(SegmentIndex(1)));
    store.set_aside(SegmentIndex(1));
    assert_eq!(victim(&store, 50), Some(SegmentIndex(2)));
    // What is set aside is so only until it is free.
    store.release(sparse[0].location, sparse[0].bytes);
    let again = put(&store, &mut batch, &[(6, 700)]);
    assert_eq!(victim(&store, 50), Some(SegmentIndex(1)));
    assert!(again[0].sequence > full[0].sequence);
}

#[test]
fn a_segment_whose_records_all_died_before_the_seal_is_freed_by_the_seal() {
    let (store, _) = store_of(4);
    let mut batch = store.batch();
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    let early = batch.push(1, 0, b"early").unwrap();
    batch.push(2, 0, b"never retained").unwrap();
    store.commit(&mut batch).unwrap();
    store.retain(early, 5);
    store.release(early, 5);
    store.check();
    assert_ne!(store.sequence(early), 0, "still being published");
    store.seal(&mut batch);
    assert_eq!(store.sequence(early), 0);
    assert_eq!(store.stats().segments_free, 4);
    store.check();
}

#[test]
fn a_cancelled_batch_gives_its_segment_back() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    batch.push(1, 0, b"not to be").unwrap();
    assert_eq!(store.stats().segments_free, 3);
    store.cancel(&mut batch);
    assert_eq!(store.stats().segments_free, 4);
    assert_eq!(
        device.counts().writes,
        2,
        "the superblock and its copy alone"
    );
    store.check();
}

#[test]
fn a_failed_write_publishes_nothing_keeps_the_batch_and_leaves_old_records_readable() {
    for fault in [
        Fault::Fail,
        Fault::Short(0),
        Fault::Short(4096),
        Fault::Short(5000),
    ] {
        let (store, device) = store_of(6);
        let mut batch = store.batch();
        let mut buffer = ReadBuffer::new();
        let old = put(&store, &mut batch, &[(1, 2000), (2, 2000)]);
        device.inject(Op::Write, 0, fault);
        store.begin(&mut batch, Reason::WriteBack).unwrap();
        let failed = batch.push(3, 3, &object(3, 0, 6000)).unwrap();
        assert!(
            matches!(store.commit(&mut batch), Err(Error::Io { .. })),
            "{fault:?}"
        );
        assert_eq!(store.sequence(failed), 0);
        assert_eq!(store.stats().segments_suspect, 1);
        assert_eq!(store.stats().write_errors, 1);
        let (_, kept) = batch.records().next().expect("the batch keeps its records");
        assert_eq!(kept, object(3, 0, 6000));
        store.check();

        for record in &old {
            let bytes = get(&store, &mut buffer, record).unwrap();
            assert_eq!(bytes, object(record.page, 0, 2000), "{fault:?}");
        }
        // The next one goes elsewhere; the suspect is used when nothing else is left.
        let next = put(&store, &mut batch, &[(4, 2000)]);
        assert!(next[0].location > failed);
        for page in 10..12 {
            put(&store, &mut batch, &[(page, 100)]);
        }
        store.begin(&mut batch, Reason::Cleaning).unwrap();
        batch.push(20, 0, b"last but one").unwrap();
        store.commit(&mut batch).unwrap();
        publish(&store, &mut batch);
        store.begin(&mut batch, Reason::Cleaning).unwrap();
        assert_eq!(batch.push(21, 0, b"the suspect"), Some(failed));
        store.commit(&mut batch).unwrap();
        publish(&store, &mut batch);
        assert_eq!(store.stats().segments_suspect, 0);
        store.check();
    }
}

#[test]
fn a_segment_that_fails_twice_is_broken_unless_the_whole_device_is_in_doubt() {
    for is_in_doubt in [false, true] {
        let (store, device) = store_of(4);
        let mut batch = store.batch();
        device.set_error_rate(1000);
        store.set_device_in_doubt(is_in_doubt);
        let attempt = |batch: &mut Batch, reason| -> Result<()> {
            store.begin(batch, reason)?;
            batch.push(1, 0, b"an object").unwrap();
            store.commit(batch)
        };
        // One of four is kept for cleaning.
        for suspects in 1..=3 {
            attempt(&mut batch, Reason::WriteBack).unwrap_err();
            assert_eq!(store.stats().segments_suspect, suspects);
        }
        assert_eq!((store.segments_free(), store.stats().segments_free), (1, 4));
        // Suspects are tried before the reserve is touched, and then they are broken.
        for broken in 1..=3 {
            let error = attempt(&mut batch, Reason::WriteBack).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            let stats = store.stats();
            let found = (
                stats.segments_suspect,
                stats.segments_broken,
                stats.segments_free,
            );
            let wanted = if is_in_doubt {
                (3, 0, 4)
            } else {
                (3 - broken, broken, 4 - broken)
            };
            assert_eq!(found, wanted);
            store.check();
        }
        device.heal();
        store.set_device_in_doubt(false);
        let again = attempt(&mut batch, Reason::WriteBack);
        if is_in_doubt {
            again.unwrap();
            assert_eq!(store.stats().segments_suspect, 2);
        } else {
            assert!(matches!(again, Err(Error::StoreFull)));
            // The reserve was not touched: a store with segments to clean goes on. After it, cleaning
            // takes what is broken, rather than never to free anything again.
            attempt(&mut batch, Reason::Cleaning).unwrap();
            publish(&store, &mut batch);
            attempt(&mut batch, Reason::Cleaning).unwrap();
            assert_eq!(store.stats().segments_broken, 2);
        }
        publish(&store, &mut batch);
        store.check();
    }
}

#[test]
fn a_device_without_room_fails_writes_until_it_has_room_again() {
    let (store, device) = store_of(6);
    let mut batch = store.batch();
    let mut buffer = ReadBuffer::new();
    device.set_room(10_000);
    let old = put(&store, &mut batch, &[(1, 3000)]);
    // Nothing is wrong with the place: what landed there of a write is room for the next one.
    for _ in 0..10 {
        store.begin(&mut batch, Reason::WriteBack).unwrap();
        batch.push(2, 3, &object(2, 0, 9000)).unwrap();
        let error = store.commit(&mut batch).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        store.check();
    }
    let writes = device.writes();
    assert!(
        writes[writes.len() - 10..]
            .iter()
            .all(|(at, _)| *at == writes.last().unwrap().0)
    );
    assert_eq!(store.stats().segments_suspect, 0);
    assert_eq!(
        get(&store, &mut buffer, &old[0]).unwrap(),
        object(1, 0, 3000)
    );
    device.heal();
    let new = put(&store, &mut batch, &[(2, 9000)]);
    assert_eq!(
        get(&store, &mut buffer, &new[0]).unwrap(),
        object(2, 0, 9000)
    );
}

#[test]
fn freed_segments_are_discarded_a_few_at_a_time() {
    let (store, device) = store_of(20);
    let mut batch = store.batch();
    let mut records = Vec::new();
    for page in 0..12 {
        records.extend(put(&store, &mut batch, &[(page, 1000)]));
    }
    assert!(!store.tidy(), "nothing is freed");
    for record in &records {
        store.release(record.location, record.bytes);
    }
    assert!(store.tidy(), "more are waiting");
    assert_eq!(device.counts().discards, 8);
    store.check();
    assert!(!store.tidy());
    assert_eq!(device.counts().discards, 12);
    assert_eq!(store.stats().discarded_bytes, 12 * u64::from(SEGMENT_BYTES));
    assert!(
        device.image()[SEGMENT_BYTES as usize..]
            .iter()
            .all(|byte| *byte == 0)
    );
    store.check();
}

#[test]
fn a_device_that_cannot_discard_is_asked_once_and_a_failing_one_again() {
    for (fault, asked) in [(Fault::Unsupported, 1), (Fault::Fail, 2)] {
        let (store, device) = store_of(6);
        let mut batch = store.batch();
        let mut records = put(&store, &mut batch, &[(1, 1000)]);
        records.extend(put(&store, &mut batch, &[(2, 1000)]));
        device.inject(Op::Discard, 0, fault);
        for record in &records {
            store.release(record.location, record.bytes);
        }
        assert!(!store.tidy(), "{fault:?}");
        assert!(!store.tidy(), "{fault:?}");
        assert_eq!(device.counts().discards, asked, "{fault:?}");
        assert_eq!(store.stats().discard_errors, 1);
        // Discarded or not, they are free.
        store.check();
        assert_eq!(store.stats().segments_free, 6);
    }
}

#[test]
#[should_panic(expected = "bytes released")]
fn releasing_what_does_not_live_is_a_bug() {
    let (store, _) = store_of(4);
    let mut batch = store.batch();
    let records = put(&store, &mut batch, &[(1, 100), (2, 100)]);
    store.release(records[0].location, 4000);
}

#[test]
#[should_panic(expected = "is sealed")]
fn retaining_in_a_sealed_segment_is_a_bug() {
    let (store, _) = store_of(4);
    let mut batch = store.batch();
    let records = put(&store, &mut batch, &[(1, 100), (2, 100)]);
    store.retain(records[0].location, 100);
}

#[test]
fn a_segment_that_was_superseded_before_a_failed_sync_is_not_freed_by_the_next_one() {
    use crate::testing::sim_device::{Fault, Op};
    let device = Arc::new(SimDevice::new(9 * SEGMENT_BYTES as usize, 1));
    let options = StoreOptions {
        keeps_freed: true,
        ..options()
    };
    let store = open(&device, options).unwrap();
    let mut batch = store.batch();
    let old = put(&store, &mut batch, &[(1, 100), (2, 100)]);
    store.sync().unwrap();
    store.set_promised(store.sequence_next());
    // Page 1 is moved on by cleaning, and the sync that should make that last fails.
    put(&store, &mut batch, &[(1, 100)]);
    store.release(old[0].location, old[0].bytes);
    device.inject(Op::Sync, 0, Fault::Fail);
    store.sync().unwrap_err();
    // Page 2 goes too: nothing lives in the segment any more.
    put(&store, &mut batch, &[(2, 100)]);
    store.release(old[1].location, old[1].bytes);
    assert_eq!(store.segments_held(), 1);
    store.sync().unwrap();
    assert_eq!(
        store.segments_held(),
        1,
        "the only record of page 1 that is known to be on the device may be overwritten now"
    );
}
