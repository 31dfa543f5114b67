//! Several reads at once on a real file, in an io_uring and one after the other: the same behaviour.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

use super::file::{FILE_BYTES, TestDirectory, file_options, ios, store_options};
use super::*;
use crate::store::ring_device::{RingDevice, Rings};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A file in which each block tells its number, and nothing behind `bytes`.
fn numbered(path: &Path, bytes: u64) {
    let mut content = vec![0; bytes as usize];
    for (number, block) in content.chunks_mut(BLOCK_BYTES).enumerate() {
        block.fill(number as u8);
    }
    fs::write(path, content).unwrap();
}

/// The file as a device that was opened when it was whole.
fn device(path: &Path, io: Io, rings: usize) -> Box<dyn Device> {
    let _ = fs::remove_file(path);
    let mut file = FileDevice::open(path, &file_options()).unwrap();
    file.resize(&file_options()).unwrap();
    file.go_direct(&file_options());
    match io {
        Io::IoUring => Box::new(RingDevice {
            file,
            rings: Rings::new(rings).unwrap(),
        }),
        _ => Box::new(file),
    }
}

/// Does the reads, asserts that each is told of once, and gives what they read or their errors.
fn read_many(device: &dyn Device, spans: &[Span]) -> Vec<std::result::Result<Vec<u8>, String>> {
    let bytes = spans.iter().map(Span::len).sum();
    let mut buffer = AlignedBuffer::new(bytes);
    let mut answers: Vec<_> = spans.iter().map(|_| None).collect();
    device.read_many(&mut buffer, spans, &mut |number, bytes, result| {
        assert_eq!(bytes.len(), spans[number].len());
        let answer = result.map(|()| bytes.to_vec()).map_err(|error| {
            let (kind, number) = (error.kind(), error.raw_os_error());
            format!("{kind:?} {number:?}")
        });
        assert!(answers[number].replace(answer).is_none(), "told twice");
    });
    let answers = answers.into_iter();
    answers
        .map(|answer| answer.expect("each is told of"))
        .collect()
}

fn span(block: u64, blocks: u64) -> Span {
    Span {
        start: block * BLOCK,
        end: (block + blocks) * BLOCK,
    }
}

#[test]
fn both_ways_read_the_same_bytes_and_give_the_same_errors() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let spans: Vec<_> = [
        (0, 1),
        // Across the end, from it, and far behind it.
        (98, 3),
        (5, 4),
        (100, 1),
        (101, 2),
        (99, 1),
        (2000, 1),
        (60, 20),
    ]
    .into_iter()
    .map(|(block, blocks)| span(block, blocks))
    .collect();
    let mut all = Vec::new();
    for io in ios() {
        let device = device(&path, io, 1);
        // Cut short by somebody while it was open, in the middle of block 100.
        numbered(&path, 100 * BLOCK + 700);
        let answers = read_many(&*device, &spans);
        for (span, answer) in spans.iter().zip(&answers) {
            let Ok(bytes) = answer else {
                assert!(span.end > 100 * BLOCK, "{span:?}: {answer:?}");
                continue;
            };
            assert!(span.end <= 100 * BLOCK, "{span:?}");
            for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                let wanted = (span.start / BLOCK) as u8 + number as u8;
                assert!(block.iter().all(|byte| *byte == wanted), "{span:?}");
            }
        }
        all.push(answers);
    }
    assert!(all.iter().all(|answers| *answers == all[0]), "{all:?}");
}

#[test]
fn a_full_group_and_more_readers_than_rings_get_what_is_theirs() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    for io in ios() {
        let device = device(&path, io, 2);
        numbered(&path, FILE_BYTES);
        thread::scope(|scope| {
            for reader in 0..4 {
                let device = &*device;
                scope.spawn(move || {
                    for round in 0..50 {
                        let block = |read: u64| (reader * 997 + round * 41 + read * 13) % 2000;
                        let spans: Vec<_> = (0..GROUP_READS_MAX as u64)
                            .map(|read| span(block(read), 2))
                            .collect();
                        for (span, answer) in spans.iter().zip(read_many(device, &spans)) {
                            let first = (span.start / BLOCK) as u8;
                            let bytes = answer.unwrap();
                            assert!(bytes[..BLOCK_BYTES].iter().all(|byte| *byte == first));
                            let second = first.wrapping_add(1);
                            assert!(bytes[BLOCK_BYTES..].iter().all(|byte| *byte == second));
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_panic_ends_only_when_the_kernel_is_through_with_the_buffer() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    numbered(&path, FILE_BYTES);
    if ios().len() < 2 {
        return;
    }
    let file = File::open(&path).unwrap();
    let mut ring = crate::store::ring::Ring::new().unwrap();
    let mut buffer = AlignedBuffer::new(64 * BLOCK_BYTES);
    let first: Vec<_> = (0..16).map(|read| span(read * 100, 4)).collect();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        ring.read(file.as_fd(), &mut buffer, &first, &mut |_, _, _| {
            panic!("planned")
        });
    }));
    assert!(panicked.is_err());
    // What had been left behind would be told of now, as if it were these.
    buffer.fill(0xee);
    let next: Vec<_> = (0..8).map(|read| span(7 + read * 50, 1)).collect();
    let mut told = 0;
    ring.read(
        file.as_fd(),
        &mut buffer,
        &next,
        &mut |number, bytes, result| {
            assert_eq!(result.unwrap(), BLOCK_BYTES);
            let wanted = (next[number].start / BLOCK) as u8;
            assert!(bytes.iter().all(|byte| *byte == wanted));
            told += 1;
        },
    );
    assert_eq!(told, 8);
    assert!(buffer[8 * BLOCK_BYTES..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn damage_and_a_lost_end_cost_only_the_records_in_them() {
    for io in ios() {
        let directory = TestDirectory::new();
        let path = directory.join("store");
        let file = FileOptions {
            io,
            ..file_options()
        };
        let store = Store::open_file(&path, &file, store_options()).unwrap();
        let mut batch = store.batch();
        let mut records = Vec::new();
        for segment in 0..7 {
            let pages: Vec<_> = (0..400).map(|page| (segment * 400 + page, 2400)).collect();
            records.extend(put(&store, &mut batch, &pages));
        }
        let far: Vec<_> = records.iter().step_by(37).copied().collect();
        let disk = OpenOptions::new().write(true).open(&path).unwrap();
        let rotten = far[20].location.offset() + 1000;
        disk.write_all_at(b"?", rotten).unwrap();
        disk.sync_all().unwrap();
        // All but the first blocks of the last segment are gone.
        let end = far.last().unwrap().location.offset() / BLOCK * BLOCK - 100 * BLOCK + 512;
        disk.set_len(end).unwrap();
        let answers = get_all(&store, &mut ReadBuffer::new(), &far);
        let mut lost = 0;
        for (index, (record, answer)) in far.iter().zip(answers).enumerate() {
            let own_end = record.location.offset() + 2416;
            match answer {
                Ok(bytes) => assert_eq!(bytes, object(record.page, 0, 2400)),
                Err(Error::Corrupt { .. }) => assert_eq!(index, 20),
                Err(Error::Io { source, .. }) => {
                    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
                    assert!(own_end.next_multiple_of(BLOCK) > end, "{record:?}");
                    lost += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!((2..10).contains(&lost), "{lost} lost with {io:?}");
        assert_eq!(store.stats().checksum_errors, 1);
        assert_eq!(store.stats().read_errors, lost);
    }
}
