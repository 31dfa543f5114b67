//! Tests of the store as a whole, on the simulated device. What they share is here.

mod adoption;
mod ahead;
mod damage;
mod file;
mod hidden;
mod log;
mod model;
mod offline;
mod reading;
mod ring;
mod sealed;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::testing::sim_device::SimDevice;

use super::*;

const SEGMENT_BYTES: u32 = 16 << 10;
const ID: u64 = 0xabcd;

fn options() -> StoreOptions {
    StoreOptions {
        id: ID,
        generation: 1,
        segment_bytes: SEGMENT_BYTES,
        reserve_segments: 1,
        ..StoreOptions::default()
    }
}

/// A store of so many tiny segments, and its device.
fn store_of(segments: usize) -> (Store, Arc<SimDevice>) {
    let device = Arc::new(SimDevice::new((segments + 1) * SEGMENT_BYTES as usize, 1));
    let store = open(&device, options()).unwrap();
    (store, device)
}

fn open(device: &Arc<SimDevice>, options: StoreOptions) -> Result<Store> {
    Store::open(Box::new(Arc::clone(device)), options)
}

/// An object that tells its page and version, and looks like nothing else.
fn object(page: u32, version: u32, bytes: usize) -> Vec<u8> {
    let mut word = u64::from(page) << 32 | u64::from(version) | 1 << 63;
    let mut object = Vec::with_capacity(bytes + 8);
    while object.len() < bytes {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ u64::from(page);
        object.extend(word.to_le_bytes());
    }
    object.truncate(bytes);
    object
}

/// Writes these pages as one segment, all of them alive, and gives their records.
fn put(store: &Store, batch: &mut Batch, pages: &[(u32, usize)]) -> Vec<RecordRef> {
    store.begin(batch, Reason::WriteBack).unwrap();
    for (page, bytes) in pages {
        batch
            .push(*page, 3, &object(*page, 0, *bytes))
            .expect("the segment has room");
    }
    store.commit(batch).unwrap();
    publish(store, batch)
}

/// Retains and seals all of a committed batch.
fn publish(store: &Store, batch: &mut Batch) -> Vec<RecordRef> {
    let records: Vec<_> = batch.records().map(|(record, _)| record).collect();
    for record in &records {
        assert_eq!(store.sequence(record.location), record.sequence);
        store.retain(record.location, record.bytes);
    }
    store.seal(batch);
    records
}

/// The emptiest segment of which at most `percent` lives.
fn victim(store: &Store, percent: u32) -> Option<SegmentIndex> {
    store.victim(&mut Candidates::default(), Choice::Emptiest, percent)
}

/// Reads one record.
fn get(store: &Store, buffer: &mut ReadBuffer, record: &RecordRef) -> Result<Vec<u8>> {
    let mut answers = get_all(store, buffer, std::slice::from_ref(record));
    answers.remove(0)
}

/// Reads many, and asserts that each got one answer.
fn get_all(store: &Store, buffer: &mut ReadBuffer, records: &[RecordRef]) -> Vec<Result<Vec<u8>>> {
    let mut answers: Vec<Option<Result<Vec<u8>>>> = records.iter().map(|_| None).collect();
    store.read(buffer, records, &mut |index, object| {
        let first = answers[index].replace(object.map(<[u8]>::to_vec)).is_none();
        assert!(first, "record {index} was answered twice");
    });
    answers
        .into_iter()
        .map(|answer| answer.expect("every record is answered"))
        .collect()
}

/// Reads many one by one as somebody does who waits for each, and reads ahead in between.
fn read_back_all(
    store: &Store,
    buffer: &mut ReadBuffer,
    records: &[RecordRef],
) -> Vec<Result<Vec<u8>>> {
    let read = |record| {
        let mut answer = None;
        let announced = store.read_back(buffer, std::slice::from_ref(record), &mut |_, object| {
            let first = answer.replace(object.map(<[u8]>::to_vec)).is_none();
            assert!(first, "a record was answered twice");
        });
        if let Some(announced) = announced {
            store.read_ahead(announced);
        }
        answer.expect("every record is answered")
    };
    records.iter().map(read).collect()
}

/// All records of a segment.
fn records_of(store: &Store, buffer: &mut ReadBuffer, segment: SegmentIndex) -> Vec<RecordRef> {
    let mut records = Vec::new();
    store
        .segment_records(segment, buffer, &mut |record| records.push(record))
        .unwrap();
    records
}
