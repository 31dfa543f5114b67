use proptest::prelude::*;

use super::super::geometry::SEGMENT_BYTES_MAX;
use super::*;

const KEY: Key = Key {
    id: 0x1122_3344_5566_7788,
    generation: 3,
};

fn form() -> Form {
    Form::from(KEY)
}

fn write_record(raw: &mut [u8], sequence: u64, at: Location, entry: &Entry, object: &[u8]) {
    form().place_record(raw, entry, object);
    form().seal_record(raw, sequence, at, entry);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The format on disk. If one of these changes, `VERSION` has to.
#[test]
fn the_bytes_of_version_1_are_these() {
    let head = Head {
        sequence: 0x0200_0000_0005,
        shape: Shape {
            records: 2,
            records_bytes: 56,
        },
        summary_checksum: 0x0102_0304_0506_0708,
    };
    assert_eq!(
        hex(&head.encode(&form(), Location(512))),
        "6e62647377534547050000000002000003000000000000000200000038000000\
         080706050403020151a1f4f63f06336f"
    );

    let entry = Entry {
        page: 0x0a0b_0c0d,
        bytes: 5,
        codec: 2,
    };
    let mut raw = [0xee; 24];
    write_record(&mut raw, head.sequence, Location(518), &entry, b"nbdsw");
    assert_eq!(
        hex(&raw),
        "0d0c0b0a04000200b386901697847ed46e62647377000000"
    );
}

#[test]
fn no_byte_of_a_head_can_change_unnoticed() {
    let shape = Shape {
        records: 3,
        records_bytes: 4000,
    };
    let head = Head {
        sequence: 9,
        shape,
        summary_checksum: 77,
    };
    let mut raw = head.encode(&form(), Location(1024));
    assert_eq!(
        Head::decode(&raw, &form(), Location(1024), 8192).unwrap(),
        head
    );
    for at in 0..HEAD_BYTES {
        raw[at] ^= 1;
        assert!(
            Head::decode(&raw, &form(), Location(1024), 8192).is_err(),
            "byte {at}"
        );
        raw[at] ^= 1;
    }
    assert!(
        Head::decode(&raw, &form(), Location(2048), 8192).is_err(),
        "another segment"
    );
    let other = Key {
        id: KEY.id + 1,
        ..KEY
    };
    assert!(
        Head::decode(&raw, &Form::from(other), Location(1024), 8192).is_err(),
        "another store"
    );
}

#[test]
fn a_head_that_verifies_is_still_bounded() {
    for shape in [
        Shape {
            records: 0,
            records_bytes: 0,
        },
        Shape {
            records: 1,
            records_bytes: 8192,
        },
        Shape {
            records: 1,
            records_bytes: u32::MAX,
        },
        Shape {
            records: RECORDS_MAX + 1,
            records_bytes: 24,
        },
        Shape {
            records: u32::MAX,
            records_bytes: 24,
        },
    ] {
        let raw = Head {
            sequence: 1,
            shape,
            summary_checksum: 0,
        }
        .encode(&form(), Location(1024));
        assert!(
            Head::decode(&raw, &form(), Location(1024), 8192).is_err(),
            "{shape:?}"
        );
    }
}

proptest! {
    #[test]
    fn an_entry_comes_back(page: u32, bytes in 1..=OBJECT_BYTES_MAX as u32, codec: u8) {
        let entry = Entry { page, bytes, codec };
        prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    }

    #[test]
    fn entries_of_any_bytes_decode_to_what_encodes_to_them(raw: [u8; ENTRY_BYTES]) {
        match Entry::decode(&raw) {
            Some(entry) => prop_assert_eq!(entry.encode(), raw),
            None => prop_assert!(raw[7] != 0),
        }
    }

    #[test]
    fn a_head_comes_back(
        sequence in 1..u64::MAX, records in 1..1000u32, records_bytes in 0..1u32 << 20,
        summary_checksum: u64, generation: u64, start in 0..1u64 << 40,
    ) {
        let head = Head { sequence, shape: Shape { records, records_bytes }, summary_checksum };
        let key = Form::from(Key { generation, ..KEY });
        let raw = head.encode(&key, Location(start));
        let back = Head::decode(&raw, &key, Location(start), SEGMENT_BYTES_MAX).unwrap();
        prop_assert_eq!(back, head);
    }

    #[test]
    fn a_record_verifies_where_it_was_written_and_nowhere_else(
        object in proptest::collection::vec(any::<u8>(), 1..300),
        page: u32, codec: u8, sequence: u64, at in 0..1u64 << 40,
    ) {
        let entry = Entry { page, bytes: object.len() as u32, codec };
        let mut raw = vec![0xee; record_bytes(entry.bytes) as usize];
        let at = Location(at);
        write_record(&mut raw, sequence, at, &entry, &object);
        let decode = |key: Key, sequence, at, entry: Entry| {
            decode_record(&raw, &key, sequence, at, &entry).ok().map(<[u8]>::to_vec)
        };
        prop_assert_eq!(decode(KEY, sequence, at, entry), Some(object.clone()));
        prop_assert_eq!(decode(KEY, sequence.wrapping_add(1), at, entry), None);
        prop_assert_eq!(decode(KEY, sequence, Location(at.0 ^ 1), entry), None);
        prop_assert_eq!(decode(KEY, sequence, at, Entry { page: page ^ 1, ..entry }), None);
        prop_assert_eq!(decode(KEY, sequence, at, Entry { codec: codec ^ 1, ..entry }), None);
        let next = Key { generation: KEY.generation + 1, ..KEY };
        prop_assert_eq!(decode(next, sequence, at, entry), None);
        let other = Key { id: KEY.id ^ 1, ..KEY };
        prop_assert_eq!(decode(other, sequence, at, entry), None);
    }
}
