//! Damage: whatever happens to the bytes, a record is right or an error, never wrong.

use super::*;
use crate::testing::sim_device::{Fault, Op};

/// Two segments: one with records of many sizes, one sparse. And their records.
fn small_store() -> (Store, Arc<SimDevice>, Vec<RecordRef>) {
    let (store, device) = store_of(3);
    let mut batch = store.batch();
    let pages: Vec<_> = (0..9)
        .map(|page| (page, 100 * (page as usize + 1) + 3))
        .collect();
    let mut records = put(&store, &mut batch, &pages);
    records.extend(put(&store, &mut batch, &[(20, 1), (21, 8)]));
    (store, device, records)
}

/// Asserts that each record reads right or not at all; gives how many could not be read.
fn count_errors(store: &Store, buffer: &mut ReadBuffer, records: &[RecordRef], why: &str) -> usize {
    let answers = get_all(store, buffer, records);
    let mut errors = 0;
    for (record, answer) in records.iter().zip(answers) {
        match answer {
            Ok(bytes) => {
                assert_eq!(
                    bytes,
                    object(record.page, 0, record.bytes as usize),
                    "{why} {record:?}"
                );
            }
            Err(_) => errors += 1,
        }
    }
    errors
}

#[test]
fn every_flipped_byte_gives_right_data_or_an_error_for_every_record() {
    let (store, device, records) = small_store();
    let mut buffer = ReadBuffer::new();
    let mut errors = 0;
    for at in 0..device.image().len() {
        let mask = 1 << (at % 8);
        device.flip(at, mask);
        let lost = count_errors(&store, &mut buffer, &records, &format!("byte {at}"));
        assert!(lost <= 1, "one byte at {at} cost {lost} records");
        errors += lost;
        // Whatever is reported to cleaning reads right or not at all as well.
        for segment in [SegmentIndex(0), SegmentIndex(1)] {
            let found = records_of(&store, &mut buffer, segment);
            for record in &found {
                assert!(records.contains(record), "byte {at} invented {record:?}");
            }
        }
        device.flip(at, mask);
    }
    // Headers and objects are covered to the last byte, padding needs no cover.
    let covered: usize = records
        .iter()
        .map(|record| 16 + record.bytes as usize)
        .sum();
    assert_eq!(errors, covered);
    assert_eq!(count_errors(&store, &mut buffer, &records, "healed"), 0);
}

#[test]
fn every_flipped_byte_of_a_segment_is_harmless_to_a_successor_too() {
    let (_, device, records) = small_store();
    let mut buffer = ReadBuffer::new();
    for at in SEGMENT_BYTES as usize..3 * SEGMENT_BYTES as usize {
        device.flip(at, 0x20);
        let store = open(
            &device,
            StoreOptions {
                adopt: true,
                ..options()
            },
        )
        .unwrap();
        for record in &records {
            // One damaged byte hides no segment: its head has a copy.
            let sequence = store.adopt_record(&mut buffer, record.location, record.bytes);
            assert_eq!(sequence.unwrap(), record.sequence, "byte {at}");
        }
        store.adopted();
        store.check();
        let lost = count_errors(&store, &mut buffer, &records, &format!("byte {at}"));
        assert!(lost <= 1, "one byte at {at} cost {lost} records");
        device.flip(at, 0x20);
    }
}

/// Together with the bytes that the tests of `layout` spell out. If it changes, `VERSION` has to.
#[test]
fn an_image_of_version_3_is_what_it_always_was() {
    let (_, device, _) = small_store();
    assert_eq!(
        xxhash_rust::xxh3::xxh3_64(&device.image()),
        0x06323718d5739b85
    );
}

#[test]
fn a_damaged_summary_or_tail_costs_cleaning_no_record() {
    let (store, device, records) = small_store();
    let mut buffer = ReadBuffer::new();
    let start = SEGMENT_BYTES as usize;
    let last = &records[8];
    let summary = last.location.offset() as usize + 16 + last.bytes.next_multiple_of(8) as usize;
    let end = (summary + 9 * 8 + 48).next_multiple_of(BLOCK_BYTES);
    for at in (summary..summary + 72).chain(end - 48..end) {
        device.flip(at, 0x40);
        assert_eq!(
            records_of(&store, &mut buffer, SegmentIndex(0)),
            records[..9],
            "byte {at}"
        );
        device.flip(at, 0x40);
    }
    assert_eq!(store.stats().summary_errors, 72 + 48);

    // With a damaged record besides, the others are still found.
    device.flip(summary, 1);
    device.flip(records[3].location.offset() as usize + 4, 0xff);
    let found = records_of(&store, &mut buffer, SegmentIndex(0));
    let others: Vec<_> = records[..9]
        .iter()
        .filter(|record| record.page != 3)
        .copied()
        .collect();
    assert_eq!(found, others);
    device.flip(start, 0xff);
    assert_eq!(
        records_of(&store, &mut buffer, SegmentIndex(0)),
        others,
        "the head is not needed"
    );
}

#[test]
fn a_bad_block_with_the_summary_costs_cleaning_only_the_records_in_it() {
    let (store, device, records) = small_store();
    let mut buffer = ReadBuffer::new();
    let bad = u64::from(SEGMENT_BYTES) + 4096;
    device.break_range(bad..bad + 4096);
    let mut found = Vec::new();
    let segment = SegmentIndex(0);
    let outcome = store.segment_records(segment, &mut buffer, &mut |record| found.push(record));
    assert!(matches!(outcome, Err(Error::Io { .. })), "{outcome:?}");
    let outside = |record: &&RecordRef| {
        record.location.offset() + u64::from(store.record_bytes(record.bytes)) <= bad
    };
    let outside: Vec<_> = records[..9].iter().filter(outside).copied().collect();
    assert!((1..9).contains(&outside.len()));
    assert_eq!(found, outside);
    device.heal();
    assert_eq!(records_of(&store, &mut buffer, segment), records[..9]);
}

#[test]
fn a_write_that_was_lost_never_verifies_although_older_bytes_are_there() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    let mut buffer = ReadBuffer::new();
    let old = put(&store, &mut batch, &[(1, 1000)])[0];
    store.release(old.location, old.bytes);
    // The same page, place and length, but the write never reaches the platter.
    device.inject(Op::Write, 0, Fault::Lose);
    let new = put(&store, &mut batch, &[(1, 1000)])[0];
    assert_eq!((new.location, new.bytes), (old.location, old.bytes));
    assert!(get(&store, &mut buffer, &new).is_err());
    assert_eq!(store.stats().checksum_errors, 1);
    assert_eq!(records_of(&store, &mut buffer, SegmentIndex(0)), []);
}

#[test]
fn a_misdirected_write_costs_two_segments_and_fools_neither() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    let mut buffer = ReadBuffer::new();
    let victim = put(&store, &mut batch, &[(1, 1000)])[0];
    device.inject(Op::Write, 0, Fault::Misdirect(u64::from(SEGMENT_BYTES)));
    let astray = put(&store, &mut batch, &[(1, 1000)])[0];
    assert_ne!(victim.location, astray.location);
    assert!(get(&store, &mut buffer, &victim).is_err());
    assert!(get(&store, &mut buffer, &astray).is_err());
}

#[test]
fn a_segment_moved_to_another_place_of_the_file_does_not_verify() {
    let (store, device, records) = small_store();
    let mut image = device.image();
    let segment = SEGMENT_BYTES as usize;
    image.copy_within(segment..2 * segment, 2 * segment);
    let copy = Arc::new(SimDevice::from_image(image, 1));
    let moved = open(
        &copy,
        StoreOptions {
            adopt: true,
            ..options()
        },
    )
    .unwrap();
    let mut buffer = ReadBuffer::new();
    let first = records[0];
    let there = Location(first.location.0 + u64::from(SEGMENT_BYTES) / 8);
    assert!(moved.adopt_record(&mut buffer, there, first.bytes).is_err());
    let lured = RecordRef {
        location: there,
        ..first
    };
    assert!(get(&store, &mut buffer, &lured).is_err());
}

#[test]
fn records_of_an_older_generation_never_verify() {
    let (_, device, records) = small_store();
    let newer = StoreOptions {
        generation: 2,
        punch: false,
        ..options()
    };
    let store = open(&device, newer).unwrap();
    let mut buffer = ReadBuffer::new();
    for record in &records {
        assert_eq!(store.sequence(record.location), 0);
        assert!(get(&store, &mut buffer, record).is_err(), "{record:?}");
    }
}

#[test]
fn a_generation_that_is_begun_anew_uses_no_sequence_twice() {
    let (_, device, records) = small_store();
    let store = open(
        &device,
        StoreOptions {
            punch: false,
            ..options()
        },
    )
    .unwrap();
    let mut batch = store.batch();
    let new = put(&store, &mut batch, &[(0, 103)])[0];
    assert_eq!(new.location, records[0].location);
    assert!(new.sequence > records.iter().map(|record| record.sequence).max().unwrap());
}
