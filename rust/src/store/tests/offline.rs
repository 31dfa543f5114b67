//! A look at a store that no server has: it finds what is wrong, and changes nothing but a superblock.

use std::path::{Path, PathBuf};

use super::*;
use crate::store::key_file;

struct Image(PathBuf);

impl Image {
    fn new(name: &str, bytes: &[u8]) -> Image {
        let name = format!("nbdswap-{}-offline-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Image(path)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Its record is a mark.
const MARKED: u32 = 9;
const PAGES: [(u32, usize); 4] = [(1, 10), (2, 3000), (70_000, 4096), (9, 500)];

/// A store of four segments, two of them written, and the records in these.
fn image(key: Option<u8>) -> (Vec<u8>, Vec<RecordRef>) {
    let device = Arc::new(SimDevice::new(5 * SEGMENT_BYTES as usize, 1));
    let encryption = key.map(|key| Encryption {
        key: MasterKey::new([key; KEY_BYTES]),
        salt: [3; 16],
    });
    let options = StoreOptions {
        encryption,
        ..options()
    };
    let store = open(&device, options).unwrap();
    let mut batch = store.batch();
    let mut records = put(&store, &mut batch, &PAGES);
    records.extend(put(&store, &mut batch, &[(5, 100)]));
    (device.image(), records)
}

fn verify(path: &Path, key: Option<u8>) -> Result<Verdict> {
    let key = key.map(|key| MasterKey::new([key; KEY_BYTES]));
    verify_store(path, key.as_ref(), &|page, _| match page {
        MARKED => RecordKind::Mark,
        _ => RecordKind::Object,
    })
}

#[test]
fn a_whole_store_is_whole_and_stays_as_it_is() {
    for key in [None, Some(4)] {
        let (bytes, records) = image(key);
        let file = Image::new(&format!("whole-{}", key.is_some()), &bytes);
        let labels = inspect_store(&file.0).unwrap();
        let label = labels.superblock.unwrap();
        assert_eq!((label.id, label.generation, label.opens), (ID, 1, 1));
        assert_eq!(label.segment_bytes, SEGMENT_BYTES);
        assert_eq!(label.is_encrypted, key.is_some());
        let copy_at = u64::from(SEGMENT_BYTES) - BLOCK_BYTES as u64;
        assert_eq!(labels.copy, Some((copy_at, label)));
        let verdict = verify(&file.0, key).unwrap();
        assert_eq!((verdict.segments, verdict.segments_written), (4, 2));
        assert_eq!((verdict.records, verdict.marks), (4, 1));
        assert_eq!((verdict.records_damaged, verdict.records_missing), (0, 0));
        let pages = records.iter().filter(|record| record.page != MARKED);
        let sum: u64 = pages.map(|record| u64::from(record.bytes)).sum();
        assert_eq!(verdict.object_bytes, sum);
        assert_eq!(repair_store(&file.0, false).unwrap(), None);
        assert!(file.bytes() == bytes, "it was touched");
    }
}

#[test]
fn damage_is_found_where_it_is() {
    for key in [None, Some(4)] {
        let (mut bytes, records) = image(key);
        for record in [&records[1], &records[4]] {
            bytes[record.location.offset() as usize + 30] ^= 1;
        }
        let file = Image::new(&format!("damaged-{}", key.is_some()), &bytes);
        let verdict = verify(&file.0, key).unwrap();
        let damage = |record: &RecordRef| Damage {
            offset: record.location.offset(),
            page: record.page,
            kind: RecordKind::Object,
            is_unreadable: false,
        };
        assert_eq!(verdict.damaged, [damage(&records[1]), damage(&records[4])]);
        assert_eq!(
            (verdict.records, verdict.marks, verdict.records_damaged),
            (2, 1, 2)
        );

        // Without the summary the damaged record is named by itself, or by what else the summary has.
        let header = if key.is_some() { 24 } else { 16 };
        let last = &records[3];
        let end = last.location.offset() as usize + header + last.bytes as usize;
        bytes[end.next_multiple_of(8)] ^= 1;
        std::fs::write(&file.0, &bytes).unwrap();
        let verdict = verify(&file.0, key).unwrap();
        assert_eq!((verdict.summaries_damaged, verdict.records_missing), (1, 0));
        assert_eq!(verdict.damaged, [damage(&records[1]), damage(&records[4])]);
        assert!(file.bytes() == bytes, "it was touched");

        // Where neither says whose it was, it is counted.
        bytes[records[1].location.offset() as usize + 7] ^= 1;
        bytes[end.next_multiple_of(8) + 8 + 7] ^= 1;
        std::fs::write(&file.0, &bytes).unwrap();
        let verdict = verify(&file.0, key).unwrap();
        assert_eq!((verdict.records_damaged, verdict.records_missing), (1, 1));
        assert_eq!(verdict.damaged, [damage(&records[4])]);
    }
}

#[test]
fn a_write_that_was_cut_short_is_not_taken_for_records_of_page_zero() {
    // Zeros look like the entry of page 0, every 24 bytes of them: they filled the report.
    for key in [None, Some(4)] {
        let (mut bytes, records) = image(key);
        let start = SEGMENT_BYTES as usize;
        bytes[start + BLOCK_BYTES..2 * start].fill(0);
        bytes[records[4].location.offset() as usize + 30] ^= 1;
        let file = Image::new(&format!("cut-{}", key.is_some()), &bytes);
        let verdict = verify(&file.0, key).unwrap();
        let named: Vec<_> = verdict.damaged.iter().map(|one| one.page).collect();
        // The write ended in the third record, and the fourth is not to be had.
        assert_eq!(named, [70_000, 5]);
        assert_eq!((verdict.records_damaged, verdict.records_missing), (2, 1));
        assert_eq!(verdict.damaged_left_out, 0);
    }
}

#[test]
fn names_that_are_left_out_are_counted() {
    let device = Arc::new(SimDevice::new(5 * SEGMENT_BYTES as usize, 1));
    let store = open(&device, options()).unwrap();
    let mut records = Vec::new();
    for first in [1, 401, 801] {
        let pages: Vec<_> = (first..first + 400).map(|page| (page, 8)).collect();
        records.extend(put(&store, &mut store.batch(), &pages));
    }
    let mut bytes = device.image();
    for record in &records {
        bytes[record.location.offset() as usize + 16] ^= 1;
    }
    let file = Image::new("many", &bytes);
    let verdict = verify(&file.0, None).unwrap();
    assert_eq!(verdict.records_damaged, 1200);
    assert_eq!(
        (verdict.damaged.len(), verdict.damaged_left_out),
        (1000, 200)
    );
}

#[test]
fn a_superblock_comes_back_from_its_copy_and_the_copy_from_it() {
    let (bytes, records) = image(None);
    let copy_at = SEGMENT_BYTES as usize - BLOCK_BYTES;
    for (place, what) in [(0, "restore the superblock"), (copy_at, "write the copy")] {
        let mut damaged = bytes.clone();
        damaged[place..place + BLOCK_BYTES].fill(0x5a);
        let file = Image::new(&format!("superblock-{place}"), &damaged);
        assert_eq!(verify(&file.0, None).is_err(), place == 0);
        let would = repair_store(&file.0, true).unwrap().unwrap();
        assert!(would.starts_with(what), "{would}");
        assert!(file.bytes() == damaged, "a dry run wrote");
        assert_eq!(repair_store(&file.0, false).unwrap(), Some(would));
        assert!(file.bytes() == bytes, "it is as it was");
        assert_eq!(repair_store(&file.0, false).unwrap(), None);
        let verdict = verify(&file.0, None).unwrap();
        assert_eq!(verdict.records + verdict.marks, records.len() as u64);
    }
    let mut damaged = bytes;
    damaged[0] ^= 1;
    damaged[copy_at] ^= 1;
    let file = Image::new("both", &damaged);
    assert_eq!(repair_store(&file.0, false).unwrap(), None);
    let labels = inspect_store(&file.0).unwrap();
    assert!(labels.superblock.is_err() && labels.copy.is_none());
    assert!(file.bytes() == damaged, "it was touched");
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let (bytes, _) = image(Some(4));
    let file = Image::new("refused", &bytes);
    for (key, words) in [(None, "no key was given"), (Some(5), "another key")] {
        let refusal = verify(&file.0, key).unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
    let absent = file.0.with_extension("absent");
    assert!(
        inspect_store(&absent)
            .unwrap_err()
            .to_string()
            .contains("cannot be opened")
    );
    assert!(!absent.exists());
    let short = Image::new("short", &[0; 100]);
    let labels = inspect_store(&short.0).unwrap();
    assert!(labels.superblock.unwrap_err().contains("too short"));
    let locked = std::fs::File::open(&file.0).unwrap();
    locked.try_lock().unwrap();
    let refusal = inspect_store(&file.0).unwrap_err().to_string();
    assert!(refusal.contains("in use by another server"), "{refusal}");
    let key = key_file::read_key(&file.0, None).unwrap_err().to_string();
    assert!(key.contains("wanted"), "{key}");
}

/// The copy of a time of smaller segments stays where it was, before the one of today.
#[test]
fn repair_takes_the_copy_of_this_store_and_not_one_of_an_older_generation() {
    for (former, current) in [(1, 2), (2, 1)] {
        let device = Arc::new(SimDevice::new(20 * SEGMENT_BYTES as usize, 1));
        for (generation, segments) in [(1, former), (2, current)] {
            let options = StoreOptions {
                generation,
                segment_bytes: segments * SEGMENT_BYTES,
                ..options()
            };
            drop(open(&device, options).unwrap());
        }
        let whole = device.image();
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        let file = Image::new(&format!("older-copy-{former}"), &damaged);
        let did = repair_store(&file.0, false).unwrap();
        let label = inspect_store(&file.0).unwrap().superblock.unwrap();
        let found = (label.generation, label.segment_bytes);
        assert_eq!(found, (2, current * SEGMENT_BYTES), "{did:?}");
        assert!(file.bytes() == whole);
    }
}
