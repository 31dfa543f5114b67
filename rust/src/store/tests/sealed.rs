//! A store that is encrypted: as right as one in clear, and silent about what it holds.

use std::collections::HashSet;

use super::*;
use crate::testing::random::{Random, seeds};
use crate::testing::sim_device::{Fault, Op};

const SALT: [u8; 16] = [5; 16];

fn sealed(generation: u64, key: u8, salt: [u8; 16]) -> StoreOptions {
    StoreOptions {
        generation,
        encryption: Some(Encryption {
            key: MasterKey::new([key; KEY_BYTES]),
            salt,
        }),
        ..options()
    }
}

fn sealed_store(segments: usize) -> (Store, Arc<SimDevice>) {
    let device = Arc::new(SimDevice::new((segments + 1) * SEGMENT_BYTES as usize, 1));
    let store = open(&device, sealed(1, 1, SALT)).unwrap();
    assert!(store.is_encrypted());
    (store, device)
}

fn adopting(options: StoreOptions) -> StoreOptions {
    StoreOptions {
        adopt: true,
        ..options
    }
}

/// Page numbers that no chance puts into an image.
const PAGES: [(u32, usize); 5] = [
    (0xa1b2_c3d4, 1),
    (0x9182_7364, 700),
    (0xfedc_ba98, 4096),
    (0x8765_4321, 7),
    (0xdead_beef, 1500),
];

#[test]
fn nothing_of_pages_or_their_numbers_is_on_the_device_but_they_come_back() {
    for (store, device, is_sealed) in [
        {
            let (store, device) = sealed_store(3);
            (store, device, true)
        },
        {
            let (store, device) = store_of(3);
            (store, device, false)
        },
    ] {
        let mut batch = store.batch();
        let records = put(&store, &mut batch, &PAGES);
        let mut buffer = ReadBuffer::new();
        let image = device.image();
        let holds = |bytes: &[u8]| image.windows(bytes.len()).any(|window| window == bytes);
        for (record, (page, bytes)) in records.iter().zip(PAGES) {
            let object = object(page, 0, bytes);
            assert_eq!(get(&store, &mut buffer, record).unwrap(), object);
            // In clear both are found, so the search is not blind.
            assert_eq!(holds(&page.to_le_bytes()), !is_sealed, "page {page:#x}");
            for part in object.chunks_exact(7) {
                assert_eq!(holds(part), !is_sealed, "page {page:#x}");
            }
        }
        // Twice in one read: the second is not decrypted again.
        let twice = [records[1], records[2], records[1]];
        for answer in get_all(&store, &mut buffer, &twice) {
            assert!(answer.is_ok());
        }
        assert_eq!(records_of(&store, &mut buffer, SegmentIndex(0)), records);
    }
}

#[test]
fn every_flipped_byte_costs_its_page_alone_and_the_next_process_too() {
    let (store, device) = sealed_store(2);
    let mut batch = store.batch();
    let records = put(&store, &mut batch, &PAGES);
    let mut buffer = ReadBuffer::new();
    let mut errors = 0;
    for at in SEGMENT_BYTES as usize..2 * SEGMENT_BYTES as usize {
        device.flip(at, 1 << (at % 8));
        let hit: Vec<_> = records
            .iter()
            .filter(|record| {
                let begin = record.location.offset() as usize;
                (begin..begin + 24 + record.bytes as usize).contains(&at)
            })
            .collect();
        for (record, answer) in records.iter().zip(get_all(&store, &mut buffer, &records)) {
            assert_eq!(answer.is_err(), hit.contains(&record), "byte {at}");
        }
        errors += hit.len();
        for found in records_of(&store, &mut buffer, SegmentIndex(0)) {
            assert!(records.contains(&found), "byte {at} invented {found:?}");
        }
        if at % 5 == 0 {
            let heir = open(&device, adopting(sealed(1, 1, [6; 16]))).unwrap();
            for record in &records {
                let sequence = heir.adopt_record(&mut buffer, record.location, record.bytes);
                assert_eq!(sequence.unwrap(), record.sequence, "byte {at}");
            }
            heir.adopted();
            heir.check();
        }
        device.flip(at, 1 << (at % 8));
    }
    let covered: usize = PAGES.iter().map(|(_, bytes)| 24 + bytes).sum();
    assert_eq!(errors, covered);
}

#[test]
fn a_wrong_key_no_key_and_a_key_too_many_are_refused_before_anything_is_touched() {
    let (store, device) = sealed_store(3);
    let records = put(&store, &mut store.batch(), &PAGES);
    let clear = options();
    let image = device.image();
    for (options, words) in [
        (sealed(1, 2, SALT), "encrypted with another key"),
        (clear.clone(), "is encrypted, and no key was given"),
    ] {
        let refusal = open(&device, adopting(options)).err().unwrap().to_string();
        assert!(refusal.contains(words), "{refusal}");
        assert!(device.image() == image, "{words}: it was touched");
    }
    let heir = open(&device, adopting(sealed(1, 1, [9; 16]))).unwrap();
    let mut buffer = ReadBuffer::new();
    for record in &records {
        heir.adopt_record(&mut buffer, record.location, record.bytes)
            .unwrap();
    }
    heir.adopted();
    for (record, (page, bytes)) in records.iter().zip(PAGES) {
        assert_eq!(
            get(&heir, &mut buffer, record).unwrap(),
            object(page, 0, bytes)
        );
    }

    let (_, device) = store_of(3);
    let refusal = open(&device, adopting(sealed(1, 1, SALT))).err().unwrap();
    assert!(refusal.to_string().contains("is in clear"), "{refusal}");
    // Nothing is to be taken over: it begins anew, with whatever key.
    assert!(open(&device, sealed(2, 1, SALT)).unwrap().is_encrypted());
    assert!(open(&device, sealed(3, 2, SALT)).unwrap().is_encrypted());
    assert!(
        !open(
            &device,
            StoreOptions {
                generation: 4,
                ..clear
            }
        )
        .unwrap()
        .is_encrypted()
    );
}

/// What the nonces of all records of a life are made of: the salt of the keys, sequence, place.
#[derive(Default)]
struct Nonces(HashSet<([u8; 16], u64, u64)>);

impl Nonces {
    /// A batch was handed to the device, whatever came of it.
    fn take(&mut self, salt: [u8; 16], batch: &Batch) {
        for (record, _) in batch.records() {
            let nonce = (salt, record.sequence, record.location.0 & 0xffff_ffff);
            assert!(self.0.insert(nonce), "{record:?} repeats a nonce");
        }
    }
}

#[test]
fn no_nonce_comes_back_over_cleaning_failures_adoptions_and_new_generations() {
    for seed in seeds(6) {
        let mut random = Random::new(seed);
        let device = Arc::new(SimDevice::new(9 * SEGMENT_BYTES as usize, seed));
        let (mut salt, mut generation) = ([0; 16], 1);
        let mut store = open(&device, sealed(generation, 1, salt)).unwrap();
        let mut batch = store.batch();
        let mut buffer = ReadBuffer::new();
        let mut nonces = Nonces::default();
        let mut living: Vec<RecordRef> = Vec::new();
        for step in 0..3000 {
            match random.below(100) {
                0..70 => {
                    let reason = [Reason::WriteBack, Reason::Cleaning][random.below(2) as usize];
                    if store.begin(&mut batch, reason).is_err() {
                        continue;
                    }
                    let moved: Vec<_> = victim(&store, 80)
                        .into_iter()
                        .flat_map(|victim| records_of(&store, &mut buffer, victim))
                        .filter(|record| living.contains(record))
                        .collect();
                    for record in &moved {
                        let object = get(&store, &mut buffer, record).unwrap();
                        batch.push(record.page, 3, &object).unwrap();
                    }
                    let page = random.below(40) as u32;
                    let bytes = 1 + random.below(3000) as usize;
                    batch.push(page, 3, &object(page, step, bytes));
                    if batch.is_empty() {
                        store.cancel(&mut batch);
                        continue;
                    }
                    if random.chance(10) {
                        let faults = [Fault::Fail, Fault::Short(4096), Fault::Lose];
                        device.inject(Op::Write, 0, faults[random.below(2) as usize]);
                    }
                    let is_written = store.commit(&mut batch).is_ok();
                    nonces.take(salt, &batch);
                    if is_written {
                        living.extend(publish(&store, &mut batch));
                        for record in moved {
                            living.retain(|known| *known != record);
                            store.release(record.location, record.bytes);
                        }
                    }
                }
                70..94 if !living.is_empty() => {
                    let record = living.swap_remove(random.below(living.len() as u64) as usize);
                    store.release(record.location, record.bytes);
                }
                94..98 => {
                    // A death and an heir, whose own salt must not count.
                    let heir = adopting(sealed(generation, 1, [0xff; 16]));
                    store = open(&device, heir).unwrap();
                    for record in &living {
                        let sequence =
                            store.adopt_record(&mut buffer, record.location, record.bytes);
                        assert_eq!(sequence.unwrap(), record.sequence);
                    }
                    store.adopted();
                    batch = store.batch();
                }
                98 => {
                    // Begun anew, half of the time under the generation that it had, as after a
                    // removed file.
                    salt = std::array::from_fn(|_| random.bits() as u8);
                    generation += random.below(2);
                    store = open(&device, sealed(generation, 1, salt)).unwrap();
                    batch = store.batch();
                    living.clear();
                }
                _ => {
                    store.tidy();
                }
            }
            store.check();
        }
        assert!(
            nonces.0.len() > 2000,
            "only {} records, seed {seed}",
            nonces.0.len()
        );
        for record in &living {
            assert!(get(&store, &mut buffer, record).is_ok(), "seed {seed}");
        }
    }
}

#[test]
fn a_damaged_summary_hides_no_sealed_record() {
    let (store, device) = sealed_store(2);
    let records = put(&store, &mut store.batch(), &PAGES);
    let mut buffer = ReadBuffer::new();
    let last = records.last().unwrap();
    let summary = last.location.offset() as usize + store.record_bytes(last.bytes) as usize;
    device.flip(summary, 1);
    assert_eq!(records_of(&store, &mut buffer, SegmentIndex(0)), records);
    device.flip(records[2].location.offset() as usize + 10, 1);
    let others: Vec<_> = records
        .iter()
        .filter(|r| r.page != PAGES[2].0)
        .copied()
        .collect();
    assert_eq!(records_of(&store, &mut buffer, SegmentIndex(0)), others);
    assert_eq!(store.stats().summary_errors, 2);
}

#[test]
fn the_copy_of_the_superblock_is_there_and_never_older() {
    let (_, device) = sealed_store(2);
    let copy = SEGMENT_BYTES as usize - BLOCK_BYTES;
    let image = device.image();
    assert_eq!(image[..BLOCK_BYTES], image[copy..copy + BLOCK_BYTES]);
    // The second write of an opening fails: the copy knows of it, the superblock does not.
    device.inject(Op::Write, 1, Fault::Fail);
    assert!(open(&device, adopting(sealed(1, 1, SALT))).is_err());
    let image = device.image();
    assert_ne!(image[..BLOCK_BYTES], image[copy..copy + BLOCK_BYTES]);
    assert!(open(&device, adopting(sealed(1, 1, SALT))).is_ok());
    let image = device.image();
    assert_eq!(image[..BLOCK_BYTES], image[copy..copy + BLOCK_BYTES]);
}
