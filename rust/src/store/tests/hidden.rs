//! Damage that hits twice: a record and the list of its segment, or both heads of a segment.

use super::*;

const PAGES: [(u32, usize); 6] = [(1, 103), (2, 900), (3, 8), (4, 2000), (5, 77), (6, 300)];
const HEAD_BYTES: usize = 48;
const ENTRY_BYTES: usize = 8;

fn sealed(is_sealed: bool) -> StoreOptions {
    let encryption = is_sealed.then(|| Encryption {
        key: MasterKey::new([5; KEY_BYTES]),
        salt: [1; 16],
    });
    StoreOptions {
        encryption,
        ..options()
    }
}

/// A store with one segment written, its device and its records.
fn one_segment(options: StoreOptions) -> (Store, Arc<SimDevice>, Vec<RecordRef>) {
    let device = Arc::new(SimDevice::new(3 * SEGMENT_BYTES as usize, 1));
    let store = open(&device, options).unwrap();
    let records = put(&store, &mut store.batch(), &PAGES);
    (store, device, records)
}

/// Where the list of the segment begins.
fn list_at(store: &Store, records: &[RecordRef]) -> usize {
    let last = records.last().unwrap();
    last.location.offset() as usize + store.record_bytes(last.bytes) as usize
}

/// The first byte of an object.
fn object_at(store: &Store, record: &RecordRef) -> usize {
    let header_bytes = store.record_bytes(8) - 8;
    record.location.offset() as usize + header_bytes as usize
}

/// Pages that are named, and how many records are not.
fn hidden(store: &Store, buffer: &mut ReadBuffer) -> (Vec<u32>, u64) {
    let mut pages = Vec::new();
    let unnamed = store.hidden_records(SegmentIndex(0), buffer, &mut |record| {
        pages.push(record.page);
    });
    (pages, unnamed.unwrap())
}

#[test]
fn a_record_that_is_damaged_with_the_list_is_named_by_whichever_of_its_entries_is_whole() {
    for is_sealed in [false, true] {
        let (store, device, records) = one_segment(sealed(is_sealed));
        let mut buffer = ReadBuffer::new();
        let list = list_at(&store, &records);
        for (index, record) in records.iter().enumerate() {
            let start = record.location.offset() as usize;
            // Its entry, its checksum, its object.
            for at in (start..start + 9).chain([object_at(&store, record)]) {
                device.flip(at, 0x11);
                assert_eq!(
                    hidden(&store, &mut buffer),
                    (vec![], 0),
                    "the list is whole"
                );
                for in_list in 0..PAGES.len() * ENTRY_BYTES {
                    device.flip(list + in_list, 0x24);
                    let (pages, unnamed) = hidden(&store, &mut buffer);
                    let is_own_whole = at >= start + ENTRY_BYTES;
                    let is_listed = in_list / ENTRY_BYTES != index;
                    let why =
                        format!("{is_sealed} {record:?} byte {at} list byte {in_list}: {pages:?}");
                    if is_own_whole || is_listed {
                        assert!(pages.contains(&record.page) || unnamed > 0, "{why}");
                    }
                    if is_own_whole {
                        assert!(pages.contains(&record.page), "{why}");
                    }
                    assert!(!pages.is_empty() || unnamed == 1, "{why}");
                    assert!(pages.len() <= 2, "{why}");
                    device.flip(list + in_list, 0x24);
                }
                device.flip(at, 0x11);
            }
        }
        assert_eq!(hidden(&store, &mut buffer), (vec![], 0));
    }
}

#[test]
fn several_records_that_are_damaged_with_the_list_are_all_named() {
    for is_sealed in [false, true] {
        let (store, device, records) = one_segment(sealed(is_sealed));
        let mut buffer = ReadBuffer::new();
        let list = list_at(&store, &records);
        device.flip(list + 2 * ENTRY_BYTES, 1);
        for first in 0..PAGES.len() {
            for second in first + 1..PAGES.len() {
                let both = [&records[first], &records[second]];
                let flip = || {
                    for record in both {
                        device.flip(object_at(&store, record), 1);
                    }
                };
                flip();
                let (pages, unnamed) = hidden(&store, &mut buffer);
                for record in both {
                    assert!(pages.contains(&record.page), "{both:?}: {pages:?}");
                }
                assert_eq!(unnamed, 0);
                flip();
            }
        }
    }
}

#[test]
fn two_damaged_heads_come_to_a_whole_one() {
    let (_, device, records) = one_segment(options());
    let mut buffer = ReadBuffer::new();
    let (head, end) = (SEGMENT_BYTES as usize, list_at_end(&device));
    for in_head in 0..HEAD_BYTES {
        device.flip(head + in_head, 0x42);
        for in_tail in 0..HEAD_BYTES {
            device.flip(end - HEAD_BYTES + in_tail, 0x18);
            let store = open(&device, adopting()).unwrap();
            let found = store
                .find_segments(&mut buffer, &mut |_, error| Err(error))
                .unwrap();
            if in_head == in_tail {
                // Nobody knows what that byte was.
                assert_eq!(found, [], "byte {in_head}");
                let is_told = store.heads_damaged() == 1;
                // Not where it says that it is no head of ours.
                assert_eq!(
                    is_told,
                    !(0..8).contains(&in_head) && !(16..24).contains(&in_head)
                );
            } else {
                let sequence = records[0].sequence;
                assert_eq!(
                    found,
                    [(sequence, SegmentIndex(0))],
                    "bytes {in_head} and {in_tail}"
                );
            }
            device.flip(end - HEAD_BYTES + in_tail, 0x18);
        }
        device.flip(head + in_head, 0x42);
    }
}

#[test]
fn what_another_generation_left_is_not_searched_and_no_damage() {
    let (_, device, _) = one_segment(options());
    let newer = StoreOptions {
        generation: 2,
        punch: false,
        ..options()
    };
    drop(open(&device, newer.clone()).unwrap());
    let adopting = StoreOptions {
        adopt: true,
        ..newer
    };
    let store = open(&device, adopting).unwrap();
    let reads = store.stats().device_reads;
    assert_eq!(
        store
            .find_segments(&mut ReadBuffer::new(), &mut |_, error| Err(error))
            .unwrap(),
        []
    );
    // Of two segments the first blocks, and of the one that was written the tail.
    assert_eq!(store.stats().device_reads - reads, 3);
    assert_eq!(store.heads_damaged(), 0);
}

fn adopting() -> StoreOptions {
    StoreOptions {
        adopt: true,
        ..options()
    }
}

/// Where the write of the only segment ends.
fn list_at_end(device: &SimDevice) -> usize {
    let image = device.image();
    let last = image.iter().rposition(|byte| *byte != 0).unwrap();
    (last + 1).next_multiple_of(BLOCK_BYTES)
}
