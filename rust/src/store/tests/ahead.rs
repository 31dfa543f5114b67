//! Reading ahead: how often the device is asked, when it ends itself, and that no byte of it is old.

use std::thread;

use super::*;
use crate::store::ahead::{PROBE, RUN_LENGTH, SPAN_BYTES};

const OBJECT: usize = 2000;

/// A store with segments of 1 MiB, and records in one of them.
fn filled(seed: u64, count: u32) -> (Store, Arc<SimDevice>, Vec<RecordRef>) {
    let device = Arc::new(SimDevice::new(8 << 20, seed));
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        ..options()
    };
    let store = open(&device, options).unwrap();
    let pages: Vec<_> = (0..count).map(|page| (page, OBJECT)).collect();
    let records = put(&store, &mut store.batch(), &pages);
    (store, device, records)
}

fn read_right(store: &Store, buffer: &mut ReadBuffer, records: &[RecordRef]) {
    for (record, answer) in records.iter().zip(read_back_all(store, buffer, records)) {
        let wanted = object(record.page, 0, record.bytes as usize);
        assert_eq!(answer.unwrap(), wanted, "{record:?}");
    }
}

#[test]
fn records_in_order_cost_a_read_for_each_span() {
    let (store, device, records) = filled(1, 400);
    let before = device.counts().reads;
    read_right(&store, &mut ReadBuffer::new(), &records);
    let spans = (400 * 2016usize).div_ceil(SPAN_BYTES) as u64;
    let reads = device.counts().reads - before;
    assert!(
        (spans..=spans + 2 + u64::from(RUN_LENGTH)).contains(&reads),
        "{reads} reads for {spans} spans"
    );
    let stats = store.stats();
    assert_eq!(stats.ahead_records, 400 - u64::from(RUN_LENGTH));
    assert_eq!(stats.records_read, 400);
    // A run that ends in the middle of the log leaves half of the spans behind it at most.
    assert_eq!(stats.ahead_unused_bytes, 0);
}

#[test]
fn eight_at_once_in_order_are_read_ahead_too() {
    let (store, device, records) = filled(2, 400);
    let mut buffer = ReadBuffer::new();
    let before = device.counts().reads;
    for records in records.chunks(8) {
        let mut shuffled = records.to_vec();
        shuffled.swap(0, 5);
        let mut answers = 0;
        let announced = store.read_back(&mut buffer, &shuffled, &mut |index, found| {
            assert_eq!(found.unwrap(), object(shuffled[index].page, 0, OBJECT));
            answers += 1;
        });
        assert_eq!(answers, 8);
        announced
            .into_iter()
            .for_each(|what| store.read_ahead(what));
    }
    let reads = device.counts().reads - before;
    assert!(reads <= 16, "{reads} reads for 50 times eight records");
}

#[test]
fn records_here_and_there_are_not_read_ahead() {
    let (store, device, records) = filled(3, 500);
    let mut buffer = ReadBuffer::new();
    let before = device.counts().reads;
    // Each 100 KiB from the next, and back.
    let far = (0..500).map(|number| records[number * 53 % 500]);
    read_right(&store, &mut buffer, &far.collect::<Vec<_>>());
    assert_eq!(device.counts().reads - before, 500);
    assert_eq!(store.stats().ahead_spans, 0);
}

#[test]
fn reading_ahead_in_vain_ends_and_begins_again_when_it_pays() {
    let (store, _, records) = filled(4, 500);
    let mut buffer = ReadBuffer::new();
    // Three in order, and then somewhere else.
    let false_start = |buffer: &mut ReadBuffer, number: usize| {
        let first = number * 97 % 450;
        let few = &records[first..first + RUN_LENGTH as usize];
        read_right(&store, buffer, few);
        // What else would make it a long run is forgotten.
        for far in 0..20 {
            read_right(
                &store,
                buffer,
                &records[(first + 60 + far * 17) % 500..][..1],
            );
        }
    };
    (0..200).for_each(|number| false_start(&mut buffer, number));
    let wasted = store.stats();
    assert!(wasted.ahead_unused_bytes > 0);
    (200..200 + 4 * PROBE as usize).for_each(|number| false_start(&mut buffer, number));
    let probes = store.stats().ahead_spans - wasted.ahead_spans;
    assert!(probes <= 16, "{probes} spans for 128 false starts");
    // All that there is, over and over: the spans that are read for a trial pay.
    for _ in 0..20 {
        read_right(&store, &mut buffer, &records);
    }
    let before = store.stats().ahead_records;
    read_right(&store, &mut buffer, &records);
    let served = store.stats().ahead_records - before;
    assert!(served > 400, "{served} of 500 were read ahead");
}

#[test]
fn damage_that_was_read_ahead_costs_its_page_alone_and_what_is_mended_is_read_again() {
    let (store, device, records) = filled(5, 100);
    let mut buffer = ReadBuffer::new();
    let at = records[10].location.offset() as usize + 100;
    device.flip(at, 4);
    read_right(&store, &mut buffer, &records[..10]);
    let answers = read_back_all(&store, &mut buffer, &records[10..20]);
    assert!(matches!(answers[0], Err(Error::Corrupt { .. })));
    assert!(answers[1..].iter().all(Result::is_ok));
    assert_eq!(store.stats().checksum_errors, 1);
    // The span still has the wrong bytes.
    device.flip(at, 4);
    read_right(&store, &mut buffer, &records[10..11]);
}

#[test]
fn a_place_that_cannot_be_read_ahead_is_read_record_by_record() {
    let (store, device, records) = filled(6, 100);
    let mut buffer = ReadBuffer::new();
    let bad = records[40].location.offset();
    device.break_range(bad..bad + 1);
    let answers = read_back_all(&store, &mut buffer, &records);
    let failed: Vec<usize> = (0..100).filter(|&at| answers[at].is_err()).collect();
    assert!(failed.contains(&40) && failed.len() <= 4, "{failed:?}");
}

#[test]
fn a_span_never_outlives_its_segment() {
    let (store, _, old) = filled(7, 100);
    let mut buffer = ReadBuffer::new();
    read_right(&store, &mut buffer, &old[..10]);
    assert!(store.stats().ahead_spans > 0);
    for record in &old {
        store.release(record.location, record.bytes);
    }
    // The place is used again, for other pages, of which the same are read.
    let pages: Vec<_> = (500..600).map(|page| (page, OBJECT)).collect();
    let mut batch = store.batch();
    let new = loop {
        let new = put(&store, &mut batch, &pages);
        if new[0].location == old[0].location {
            break new;
        }
    };
    let served = store.stats().ahead_records;
    read_right(&store, &mut buffer, &new[5..7]);
    assert_eq!(
        store.stats().ahead_records,
        served,
        "old bytes were looked at"
    );
    // Who still has the old place gets an error and not the bytes that lay there.
    let answer = read_back_all(&store, &mut buffer, &old[50..51]).remove(0);
    assert!(answer.is_ok() || store.sequence(old[50].location) != old[50].sequence);
}

#[test]
fn a_segment_that_is_used_again_while_it_is_read_ahead_leaves_nothing_behind() {
    let (store, device, old) = filled(8, 100);
    let mut buffer = ReadBuffer::new();
    let mut announced = None;
    for record in &old[..RUN_LENGTH as usize] {
        let record = std::slice::from_ref(record);
        announced = store.read_back(&mut buffer, record, &mut |_, object| {
            object.unwrap();
        });
    }
    let announced = announced.expect("a run");
    device.close_gate();
    thread::scope(|scope| {
        let reader = scope.spawn(|| store.read_ahead(announced));
        device.wait_for_waiting(1);
        for record in &old {
            store.release(record.location, record.bytes);
        }
        let pages: Vec<_> = (500..600).map(|page| (page, OBJECT)).collect();
        let mut batch = store.batch();
        while put(&store, &mut batch, &pages)[0].location != old[0].location {}
        device.open_gate();
        reader.join().unwrap();
    });
    let served = store.stats().ahead_records;
    let answer = read_back_all(&store, &mut buffer, &old[10..11]).remove(0);
    assert!(answer.is_err(), "the page's old place is another's");
    assert_eq!(store.stats().ahead_records, served);
    assert_eq!(store.stats().checksum_errors, 0);
}

#[test]
fn sealed_records_are_read_ahead_as_they_lie_and_opened_one_by_one() {
    let device = Arc::new(SimDevice::new(8 << 20, 9));
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        encryption: Some(Encryption {
            key: MasterKey::new([7; KEY_BYTES]),
            salt: [1; 16],
        }),
        ..options()
    };
    let store = open(&device, options).unwrap();
    let pages: Vec<_> = (0..300).map(|page| (page, OBJECT)).collect();
    let records = put(&store, &mut store.batch(), &pages);
    read_right(&store, &mut ReadBuffer::new(), &records);
    assert_eq!(store.stats().ahead_records, 300 - u64::from(RUN_LENGTH));
}
