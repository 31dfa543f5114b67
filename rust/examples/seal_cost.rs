//! What encryption costs the store: write-back and read-back of records in clear and sealed, in turn, in
//! one run, on a device that is memory. Prints medians of rounds and their ratios.
//!
//! `make bench-encryption`, or `cargo run --release --example seal_cost [ROUNDS]`.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nbdswap_core::random::Random;
use nbdswap_core::store::{
    Device, Encryption, KEY_BYTES, MasterKey, ReadBuffer, Reason, RecordRef, Store, StoreOptions,
};

const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 16;
/// A page of 4 KiB that shrank to its half.
const OBJECT_BYTES: usize = 2048;

/// Memory that is read and written as a disk is.
struct Memory(Mutex<Vec<u8>>);

impl Device for Memory {
    fn len(&self) -> u64 {
        self.0.lock().expect("no panic").len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (memory, at) = (self.0.lock().expect("no panic"), offset as usize);
        buffer.copy_from_slice(&memory[at..at + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut memory, at) = (self.0.lock().expect("no panic"), offset as usize);
        memory[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn store(encryption: Option<Encryption>) -> Store {
    // A new store wants zeros.
    let memory = vec![0; (SEGMENTS + 1) * SEGMENT_BYTES];
    let options = StoreOptions {
        id: 1,
        generation: 1,
        segment_bytes: SEGMENT_BYTES as u32,
        punch: false,
        encryption,
        ..StoreOptions::default()
    };
    Store::open(Box::new(Arc::new(Memory(Mutex::new(memory)))), options).expect("an empty device")
}

/// Nanoseconds a record to write back, to read one by one, and to read neighbours together.
fn round(store: &Store, object: &[u8]) -> [f64; 3] {
    let mut batch = store.batch();
    let mut records: Vec<RecordRef> = Vec::new();
    let started = Instant::now();
    for _ in 0..SEGMENTS - 4 {
        store.begin(&mut batch, Reason::WriteBack).expect("room");
        let first = records.len();
        while let Some(location) = batch.push(records.len() as u32, 1, object) {
            records.push(RecordRef {
                page: records.len() as u32,
                codec: 1,
                bytes: OBJECT_BYTES as u32,
                location,
                sequence: 0,
            });
        }
        store.commit(&mut batch).expect("memory does not fail");
        for record in &mut records[first..] {
            record.sequence = store.sequence(record.location);
            store.retain(record.location, record.bytes);
        }
        store.seal(&mut batch);
    }
    let written = started.elapsed();
    let mut buffer = ReadBuffer::new();
    let mut count = 0;
    let mut each = |_, object: Result<&[u8], _>| count += usize::from(object.is_ok());
    let started = Instant::now();
    for record in &records {
        store.read(&mut buffer, std::slice::from_ref(record), &mut each);
    }
    let singly = started.elapsed();
    let started = Instant::now();
    for neighbours in records.chunks(32) {
        store.read(&mut buffer, neighbours, &mut each);
    }
    let together = started.elapsed();
    assert_eq!(count, 2 * records.len(), "a record did not come back");
    for record in &records {
        store.release(record.location, record.bytes);
    }
    [written, singly, together].map(|time| time.as_nanos() as f64 / records.len() as f64)
}

/// Times of both stores in one round.
type Pair = ([f64; 3], [f64; 3]);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(21, |count| count.parse().expect("a number"));
    let mut random = Random::new(1);
    let object: Vec<u8> = (0..OBJECT_BYTES).map(|_| random.bits() as u8).collect();
    let clear = store(None);
    let sealed = store(Some(Encryption {
        key: MasterKey::new([7; KEY_BYTES]),
        salt: [1; 16],
    }));
    // Once to touch all memory.
    let _ = (round(&clear, &object), round(&sealed, &object));
    // In turn, so that what else the machine does meets both.
    let times: Vec<Pair> = (0..rounds)
        .map(|_| (round(&clear, &object), round(&sealed, &object)))
        .collect();
    println!("{rounds} rounds, records of {OBJECT_BYTES} bytes, medians in ns a record");
    println!("{:<28} {:>8} {:>8} {:>7}", "", "clear", "sealed", "ratio");
    for (index, what) in ["written back", "read one by one", "read 32 together"]
        .iter()
        .enumerate()
    {
        let of = |pick: &dyn Fn(&Pair) -> f64| median(times.iter().map(pick).collect());
        let (clear, sealed) = (
            of(&|(clear, _)| clear[index]),
            of(&|(_, sealed)| sealed[index]),
        );
        let ratio = of(&|(clear, sealed)| sealed[index] / clear[index]);
        println!("{what:<28} {clear:>8.0} {sealed:>8.0} {ratio:>7.2}");
    }
}
