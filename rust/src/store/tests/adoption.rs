//! Opening: whose device it is, and taking over what a predecessor left.

use super::*;
use crate::testing::sim_device::{Fault, Op};

fn adopt(device: &Arc<SimDevice>) -> Result<Store> {
    open(
        device,
        StoreOptions {
            adopt: true,
            ..options()
        },
    )
}

#[test]
fn what_lives_is_taken_over_and_the_rest_is_free() {
    let (first, device) = store_of(6);
    let mut batch = first.batch();
    let mut live = put(&first, &mut batch, &[(1, 1000), (2, 1000)]);
    let dead = put(&first, &mut batch, &[(3, 1000)])[0];
    live.extend(put(&first, &mut batch, &[(4, 1000)]));
    first.release(dead.location, dead.bytes);
    let before = first.stats();
    drop(first);

    let store = adopt(&device).unwrap();
    let mut buffer = ReadBuffer::new();
    for record in &live {
        let sequence = store
            .adopt_record(&mut buffer, record.location, record.bytes)
            .unwrap();
        assert_eq!(sequence, record.sequence);
    }
    assert_eq!(store.stats().device_reads, 2, "one head a segment");
    store.adopted();
    store.check();
    let stats = store.stats();
    assert_eq!(stats.live_bytes, before.live_bytes);
    assert_eq!(stats.segments_free, before.segments_free);
    for (record, answer) in live.iter().zip(get_all(&store, &mut buffer, &live)) {
        assert_eq!(answer.unwrap(), object(record.page, 0, 1000));
    }
    assert_eq!(records_of(&store, &mut buffer, SegmentIndex(0)), live[..2]);

    // The log goes on: new sequences, and what was taken over dies like the rest.
    let mut batch = store.batch();
    let new = put(&store, &mut batch, &[(9, 500)])[0];
    assert!(
        live.iter()
            .all(|record| record.sequence < new.sequence && record.location != new.location)
    );
    for record in &live {
        store.release(record.location, record.bytes);
    }
    assert_eq!(store.stats().segments_free, 5);
    store.check();
    while store.tidy() {}
    store.check();
}

#[test]
fn a_sequence_is_not_used_again_by_any_successor() {
    let (store, device) = store_of(4);
    let mut newest = put(&store, &mut store.batch(), &[(1, 100)])[0].sequence;
    drop(store);
    for _ in 0..3 {
        // Nothing is claimed, so the segment is used again, at the same place.
        let store = adopt(&device).unwrap();
        store.adopted();
        let record = put(&store, &mut store.batch(), &[(1, 100)])[0];
        assert!(record.sequence > newest);
        newest = record.sequence;
    }
}

#[test]
fn a_damaged_head_is_replaced_by_the_tail() {
    let (first, device) = store_of(4);
    let mut batch = first.batch();
    // A longer use of the segment leaves its tail behind the one that counts.
    let long = put(&first, &mut batch, &[(1, 4000), (2, 4000), (3, 4000)]);
    for record in &long {
        first.release(record.location, record.bytes);
    }
    let live = put(&first, &mut batch, &[(4, 4100), (5, 1000)]);
    assert_eq!(live[0].location, long[0].location, "the same segment");
    drop(first);
    let block = u64::from(SEGMENT_BYTES);
    for broken in [false, true] {
        let device = Arc::new(SimDevice::from_image(device.image(), 1));
        match broken {
            true => device.break_range(block..block + 4096),
            false => device.flip(block as usize + 20, 1),
        }
        let store = adopt(&device).unwrap();
        let mut buffer = ReadBuffer::new();
        for record in &live {
            let sequence = store.adopt_record(&mut buffer, record.location, record.bytes);
            assert_eq!(sequence.unwrap(), record.sequence);
        }
        store.adopted();
        store.check();
        assert_eq!(
            get(&store, &mut buffer, &live[1]).unwrap(),
            object(5, 0, 1000)
        );
        // Record 4 begins in the block that cannot be read.
        assert_eq!(get(&store, &mut buffer, &live[0]).is_err(), broken);
    }
}

#[test]
fn a_segment_without_head_and_tail_is_looked_for_once_and_its_records_are_errors() {
    let (first, device) = store_of(4);
    let records = put(&first, &mut first.batch(), &[(1, 1000), (2, 1000)]);
    drop(first);
    // The same byte of both, or the two would come to a whole one.
    device.flip(SEGMENT_BYTES as usize, 1);
    device.flip(SEGMENT_BYTES as usize + 4096 - 48, 2);
    let store = adopt(&device).unwrap();
    let mut buffer = ReadBuffer::new();
    assert!(
        store
            .adopt_record(&mut buffer, records[0].location, records[0].bytes)
            .is_err()
    );
    let reads = device.counts().reads;
    assert!(
        store
            .adopt_record(&mut buffer, records[1].location, records[1].bytes)
            .is_err()
    );
    assert_eq!(device.counts().reads, reads);
    store.adopted();
    store.check();
    assert_eq!(store.stats().segments_free, 4);
}

#[test]
fn claims_that_cannot_be_true_are_errors_and_not_panics() {
    let (first, device) = store_of(4);
    let record = put(&first, &mut first.batch(), &[(1, 1000)])[0];
    drop(first);
    let store = adopt(&device).unwrap();
    let mut buffer = ReadBuffer::new();
    let segment = u64::from(SEGMENT_BYTES);
    for (offset, bytes) in [
        (0, 1000),
        (segment - 8, 1000),
        (segment, 1000),
        (segment + 40, 1000),
        (record.location.offset(), 1001),
        (record.location.offset() + 8, 1000),
        (2 * segment + 48, 1000),
        (5 * segment, 1000),
        (1 << 42, 1000),
        (1 << 43, 1000),
        (1 << 63, 1000),
        (record.location.offset(), 0),
        (record.location.offset(), 65537),
        (record.location.offset(), u32::MAX),
    ] {
        let claim = store.adopt_record(&mut buffer, Location(offset / 8), bytes);
        assert!(
            matches!(claim, Err(Error::Corrupt { .. })),
            "{offset} {bytes}: {claim:?}"
        );
    }
    assert!(
        store
            .adopt_record(&mut buffer, record.location, 1000)
            .is_ok()
    );
    let twice = store.adopt_record(&mut buffer, record.location, 1000);
    assert!(
        matches!(
            twice,
            Err(Error::Corrupt {
                what: "living bytes",
                ..
            })
        ),
        "{twice:?}"
    );
    store.adopted();
    store.check();
}

#[test]
fn a_device_that_is_not_ours_is_refused_and_not_touched() {
    let bytes = 8 * SEGMENT_BYTES as usize;
    let foreign_at = |at: usize| {
        let mut image = vec![0; bytes];
        image[at] = 1;
        image
    };
    let ours = |change: fn(&mut StoreOptions)| {
        let device = Arc::new(SimDevice::new(bytes, 1));
        let mut options = options();
        change(&mut options);
        open(&device, options).unwrap();
        device.image()
    };
    let mut newer = ours(|_| ());
    newer[8] = 4;
    let mut rotten = ours(|_| ());
    rotten[30] ^= 1;
    for (image, word) in [
        (foreign_at(0), "begins with bytes"),
        (foreign_at(4096), "begins with zeros"),
        (foreign_at(100_000), "begins with zeros"),
        (foreign_at(bytes - 1), "begins with zeros"),
        (
            ours(|options| options.id = 5),
            "belongs to instance 0x5, wanted 0xabcd",
        ),
        (newer, "version 4, wanted 2 to 3"),
        (rotten, "checksum"),
    ] {
        for adopt in [false, true] {
            let device = Arc::new(SimDevice::from_image(image.clone(), 1));
            let outcome = open(&device, StoreOptions { adopt, ..options() });
            let Err(Error::Foreign { why, .. }) = outcome else {
                panic!("{word}: not refused");
            };
            assert!(why.contains(word), "{why}");
            let counts = device.counts();
            assert_eq!((counts.writes, counts.discards), (0, 0), "{word}");
            assert_eq!(device.image(), image, "{word}");
        }
    }
}

#[test]
fn what_cannot_be_adopted_is_refused_with_the_difference() {
    let (_, device) = store_of(7);
    for (change, word) in [
        (
            (|options| options.generation = 9) as fn(&mut StoreOptions),
            "generation 1, wanted 9",
        ),
        (
            |options| options.segment_bytes = 8192,
            "segments of 16384 bytes, wanted 8192",
        ),
    ] {
        let mut options = StoreOptions {
            adopt: true,
            ..options()
        };
        change(&mut options);
        let Err(Error::Foreign { why, .. }) = open(&device, options) else {
            panic!("{word}")
        };
        assert!(why.contains(word), "{why}");
    }
    let shorter = device.image()[..6 * SEGMENT_BYTES as usize].to_vec();
    let outcome = adopt(&Arc::new(SimDevice::from_image(shorter, 1)));
    let Err(Error::Foreign { why, .. }) = outcome else {
        panic!("a shorter device")
    };
    assert!(why.contains("98304 bytes long, wanted the 131072"), "{why}");
    let outcome = adopt(&Arc::new(SimDevice::new(8 * SEGMENT_BYTES as usize, 1)));
    assert!(
        matches!(outcome, Err(Error::Foreign { .. })),
        "an empty one"
    );
}

#[test]
fn a_device_that_grew_is_adopted_with_its_new_segments() {
    let (first, device) = store_of(4);
    let record = put(&first, &mut first.batch(), &[(1, 1000)])[0];
    drop(first);
    let mut image = device.image();
    image.resize(9 * SEGMENT_BYTES as usize + 5000, 0);
    image.truncate(9 * SEGMENT_BYTES as usize + 4096);
    let store = adopt(&Arc::new(SimDevice::from_image(image, 1))).unwrap();
    let mut buffer = ReadBuffer::new();
    store
        .adopt_record(&mut buffer, record.location, record.bytes)
        .unwrap();
    store.adopted();
    assert_eq!(
        (store.stats().segments, store.stats().segments_free),
        (8, 7)
    );
    assert_eq!(
        get(&store, &mut buffer, &record).unwrap(),
        object(1, 0, 1000)
    );
}

#[test]
fn beginning_anew_lets_the_device_forget_what_was_there() {
    let (first, device) = store_of(4);
    put(&first, &mut first.batch(), &[(1, 1000)]);
    drop(first);
    let store = open(
        &device,
        StoreOptions {
            generation: 2,
            ..options()
        },
    )
    .unwrap();
    while store.tidy() {}
    assert!(
        device.image()[SEGMENT_BYTES as usize..]
            .iter()
            .all(|byte| *byte == 0)
    );
    assert_eq!(store.stats().segments_free, 4);
    store.check();
}

#[test]
fn errors_of_the_device_are_errors_of_open() {
    for (op, fault) in [
        (Op::Read, Fault::Fail),
        (Op::Write, Fault::Fail),
        (Op::Sync, Fault::Fail),
    ] {
        let device = Arc::new(SimDevice::new(8 * SEGMENT_BYTES as usize, 1));
        device.inject(op, 0, fault);
        assert!(
            matches!(open(&device, options()), Err(Error::Io { .. })),
            "{op:?}"
        );
        open(&device, options()).expect("it works the next time");
    }
}

#[test]
fn sizes_that_cannot_work_are_errors_of_the_configuration() {
    let device = Arc::new(SimDevice::new(2 * SEGMENT_BYTES as usize, 1));
    assert!(
        matches!(open(&device, options()), Err(Error::Config(_))),
        "no room for the reserve"
    );
    let device = Arc::new(SimDevice::new(8 * SEGMENT_BYTES as usize, 1));
    let none = StoreOptions {
        reserve_segments: 0,
        ..options()
    };
    assert!(
        matches!(open(&device, none), Err(Error::Config(_))),
        "no reserve"
    );
    assert_eq!(device.counts().writes, 0);
}

#[test]
fn a_device_that_went_back_to_an_older_superblock_gets_no_sequence_twice() {
    let device = Arc::new(SimDevice::new(5 * SEGMENT_BYTES as usize, 1));
    let older = |device: &SimDevice| device.image()[..SEGMENT_BYTES as usize].to_vec();
    drop(open(&device, options()).unwrap());
    let superblocks = older(&device);
    let adopting = || StoreOptions {
        adopt: true,
        ..options()
    };
    let store = open(&device, adopting()).unwrap();
    store.adopted();
    let records = put(&store, &mut store.batch(), &[(1, 100)]);
    drop(store);
    let mut image = device.image();
    image[..SEGMENT_BYTES as usize].copy_from_slice(&superblocks);
    let device = Arc::new(SimDevice::from_image(image, 1));
    let store = open(&device, adopting()).unwrap();
    let found = store
        .find_segments(&mut ReadBuffer::new(), &mut |_, error| Err(error))
        .unwrap();
    assert_eq!(found.len(), 1);
    assert!(store.sequence_next() > records[0].sequence);
}
