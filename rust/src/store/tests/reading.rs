//! Reading: which reads the device sees, and what a record's neighbours cost.

use std::thread;

use super::*;
use crate::testing::sim_device::{Fault, Op};

/// A store with segments of 1 MiB.
fn large_store() -> (Store, Arc<SimDevice>) {
    let device = Arc::new(SimDevice::new(8 << 20, 1));
    let store = open(
        &device,
        StoreOptions {
            segment_bytes: 1 << 20,
            ..options()
        },
    )
    .unwrap();
    (store, device)
}

fn many(store: &Store, count: u32, bytes: usize) -> Vec<RecordRef> {
    let pages: Vec<_> = (0..count).map(|page| (page, bytes)).collect();
    put(store, &mut store.batch(), &pages)
}

fn reads_for(store: &Store, device: &SimDevice, records: &[RecordRef]) -> u64 {
    let before = device.counts().reads;
    let answers = get_all(store, &mut ReadBuffer::new(), records);
    for (record, answer) in records.iter().zip(answers) {
        let wanted = object(record.page, 0, record.bytes as usize);
        assert_eq!(answer.unwrap(), wanted, "{record:?}");
    }
    device.counts().reads - before
}

#[test]
fn neighbours_are_one_read_in_any_order() {
    let (store, device) = large_store();
    let records = many(&store, 100, 2000);
    assert_eq!(reads_for(&store, &device, &records[..1]), 1);
    assert_eq!(reads_for(&store, &device, &records[..30]), 1);
    let mut shuffled = records[..30].to_vec();
    shuffled.reverse();
    shuffled.swap(3, 17);
    shuffled.push(shuffled[0]);
    assert_eq!(reads_for(&store, &device, &shuffled), 1);
}

#[test]
fn a_read_is_128_kib_at_most_and_gaps_up_to_16_kib_are_read_over() {
    let (store, device) = large_store();
    let records = many(&store, 200, 2032);
    // 200 records of 2048 bytes are 400 KiB: 4 reads of up to 128 KiB.
    assert_eq!(reads_for(&store, &device, &records), 4);
    assert_eq!(reads_for(&store, &device, &[records[0], records[8]]), 1);
    assert_eq!(reads_for(&store, &device, &[records[0], records[12]]), 2);
    assert_eq!(reads_for(&store, &device, &[]), 0);
}

#[test]
fn more_records_than_one_pass_sorts_are_all_answered() {
    let (store, device) = large_store();
    let mut records = many(&store, 1000, 500);
    records.reverse();
    assert!(reads_for(&store, &device, &records) < 20);
}

#[test]
fn a_bad_block_costs_only_the_records_in_it() {
    let (store, device) = large_store();
    let records = many(&store, 60, 2032);
    let bad = records[30].location.offset() / 4096 * 4096;
    device.break_range(bad..bad + 4096);
    let mut failed = Vec::new();
    let answers = get_all(&store, &mut ReadBuffer::new(), &records);
    for (record, answer) in records.iter().zip(answers) {
        let start = record.location.offset();
        match answer {
            Ok(bytes) => assert_eq!(bytes, object(record.page, 0, 2032)),
            Err(Error::Io { at, .. }) => {
                assert_eq!(at, start);
                assert!(
                    start < bad + 4096 && bad < start + 2048,
                    "{record:?} is not there"
                );
                failed.push(record.page);
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!((2..=3).contains(&failed.len()), "{failed:?}");
    assert_eq!(store.stats().read_errors, failed.len() as u64);
}

#[test]
fn reads_that_end_in_any_order_give_each_record_its_own_bytes() {
    let (store, device) = large_store();
    let records = many(&store, 400, 2032);
    device.mix_reads();
    // Every twelfth is too far from the last for one read; 34 of them are two groups.
    let far: Vec<_> = records.iter().step_by(12).copied().collect();
    let mut order = Vec::new();
    store.read(&mut ReadBuffer::new(), &far, &mut |index, answer| {
        assert_eq!(answer.unwrap(), object(far[index].page, 0, 2032));
        order.push(index);
    });
    assert!(!order.is_sorted(), "as they end and not as they lie");
    order.sort_unstable();
    assert!(order.into_iter().eq(0..far.len()));
    assert_eq!(store.stats().device_reads, 34);
}

#[test]
fn a_failed_read_among_others_costs_none_of_them() {
    let (store, device) = large_store();
    let records = many(&store, 400, 2032);
    device.mix_reads();
    let bad = records[120].location.offset() / 4096 * 4096;
    device.break_range(bad..bad + 4096);
    // Pairs of neighbours, of which one has the bad block in one record.
    let pairs: Vec<_> = (0..400).step_by(20).flat_map(|at| [at, at + 3]).collect();
    let wanted: Vec<_> = pairs.iter().map(|at| records[*at]).collect();
    let answers = get_all(&store, &mut ReadBuffer::new(), &wanted);
    for (record, answer) in wanted.iter().zip(answers) {
        if record.page == 120 {
            assert!(matches!(answer, Err(Error::Io { .. })), "{answer:?}");
        } else {
            assert_eq!(answer.unwrap(), object(record.page, 0, 2032));
        }
    }
    let stats = store.stats();
    // Twenty together, and the two records of the one that failed.
    assert_eq!((stats.device_reads, stats.read_errors), (22, 1));
}

#[test]
fn one_failed_read_of_many_neighbours_is_made_good_one_by_one() {
    let (store, device) = large_store();
    let records = many(&store, 20, 2000);
    device.inject(Op::Read, 0, Fault::Fail);
    assert_eq!(reads_for(&store, &device, &records), 21);
    assert_eq!(store.stats().read_errors, 0);
}

#[test]
fn a_read_that_outlives_its_segment_is_stale_and_not_a_fault() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    let old = put(&store, &mut batch, &[(1, 1000)])[0];
    device.close_gate();
    thread::scope(|scope| {
        let reader = scope.spawn(|| get(&store, &mut ReadBuffer::new(), &old));
        device.wait_for_waiting(1);
        // Meanwhile the page is rewritten, its segment freed, and used for another page.
        store.release(old.location, old.bytes);
        assert_eq!(store.sequence(old.location), 0);
        let new = put(&store, &mut batch, &[(2, 1000)])[0];
        assert_eq!(new.location, old.location);
        assert_ne!(new.sequence, old.sequence);
        device.open_gate();
        let error = reader.join().unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                Error::Corrupt {
                    what: "segment sequence",
                    ..
                }
            ),
            "{error}"
        );
    });
    let stats = store.stats();
    assert_eq!((stats.stale_reads, stats.checksum_errors), (1, 0));
}

#[test]
fn a_segment_that_is_freed_while_its_summary_is_read_has_no_records() {
    let (store, device) = store_of(4);
    let mut batch = store.batch();
    let old = put(&store, &mut batch, &[(1, 1000)])[0];
    device.close_gate();
    thread::scope(|scope| {
        let cleaner = scope.spawn(|| records_of(&store, &mut ReadBuffer::new(), SegmentIndex(0)));
        device.wait_for_waiting(1);
        store.release(old.location, old.bytes);
        put(&store, &mut batch, &[(2, 1000)]);
        device.open_gate();
        assert_eq!(cleaner.join().unwrap(), []);
    });
    assert_eq!(store.stats().summary_errors, 0);
}

#[test]
fn readers_and_a_writer_at_once_never_see_wrong_bytes() {
    let (store, _) = store_of(6);
    let mut batch = store.batch();
    let mut records = Vec::new();
    for page in 0..4 {
        records.push(put(&store, &mut batch, &[(page, 3000)])[0]);
    }
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut buffer = ReadBuffer::new();
                for _ in 0..200 {
                    for (page, answer) in get_all(&store, &mut buffer, &records).iter().enumerate()
                    {
                        if let Ok(bytes) = answer {
                            assert_eq!(*bytes, object(page as u32, 0, 3000));
                        }
                    }
                }
            });
        }
        // Pages 0 and 1 die, and their segments are used again and again.
        store.release(records[0].location, records[0].bytes);
        store.release(records[1].location, records[1].bytes);
        for page in 100..200 {
            let new = put(&store, &mut batch, &[(page, 3000)])[0];
            store.release(new.location, new.bytes);
            store.tidy();
        }
    });
    store.check();
    assert_eq!(store.stats().checksum_errors, 0);
    assert_eq!(
        get(&store, &mut ReadBuffer::new(), &records[3]).unwrap(),
        object(3, 0, 3000)
    );
}

#[test]
fn a_segment_is_one_write_and_in_pieces_while_there_are_readers() {
    let (store, device) = large_store();
    let mut batch = store.batch();
    // With headers and summary 602 KiB.
    let pages: Vec<_> = (0..300).map(|page| (page, 2032)).collect();
    let mut writes_of = |store: &Store| {
        let before = device.counts().writes;
        let records = put(store, &mut batch, &pages);
        (device.counts().writes - before, records)
    };
    assert_eq!(writes_of(&store).0, 1);
    let (writes, records) = writes_of(&store);
    assert_eq!(writes, 1);
    // What cleaning and the scrub read is nothing that a client waits for.
    get_all(&store, &mut ReadBuffer::new(), &records[..1]);
    assert!(!store.has_readers() && writes_of(&store).0 == 1);
    read_back_all(&store, &mut ReadBuffer::new(), &records[..1]);
    let (writes, records) = writes_of(&store);
    assert_eq!(writes, 3);
    assert!(store.has_readers());
    reads_for(&store, &device, &records);
    // A piece that fails fails them all.
    store.begin(&mut batch, Reason::WriteBack).unwrap();
    for page in 0..300 {
        batch.push(page, 3, &object(page, 1, 2032)).unwrap();
    }
    device.inject(Op::Write, 1, Fault::Fail);
    let free = store.segments_free();
    store.commit(&mut batch).unwrap_err();
    assert_eq!(store.stats().write_errors, 1);
    assert!(store.segments_free() >= free, "it is not in use");
}
