//! The store on a real file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::store::ring_device::Rings;

pub(super) const FILE_BYTES: u64 = 9 << 20;

/// A directory of its own, gone with the test.
pub(super) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nbdswap-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        TestDirectory(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        // A directory that stays behind is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn file_options() -> FileOptions {
    FileOptions {
        bytes: FILE_BYTES,
        preallocate: false,
        direct: true,
        io: Io::Auto,
        readers: 2,
    }
}

pub(super) fn store_options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 1 << 20,
        ..options()
    }
}

/// The ways of reading that the kernel allows here.
pub(super) fn ios() -> Vec<Io> {
    match Rings::new(1) {
        Ok(_) => vec![Io::Threads, Io::IoUring],
        Err(why) => {
            eprintln!("SKIPPED for io_uring: {why}");
            vec![Io::Threads]
        }
    }
}

fn why<T>(outcome: Result<T>) -> String {
    match outcome {
        Err(Error::Foreign { path, why }) => format!("{path}: {why}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_file_is_created_for_its_owner_alone_written_adopted_and_punched() {
    for io in ios() {
        created_written_adopted_and_punched(io);
    }
}

fn created_written_adopted_and_punched(io: Io) {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let file = FileOptions {
        io,
        ..file_options()
    };
    let store = Store::open_file(&path, &file, store_options()).unwrap();
    assert_eq!(store.reading() == &Reading::IoUring, io == Io::IoUring);
    assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(store.stats().segments, 8);
    let pages: Vec<_> = (0..400).map(|page| (page, 2400)).collect();
    let records = put(&store, &mut store.batch(), &pages);
    drop(store);

    let adopt = StoreOptions {
        adopt: true,
        ..store_options()
    };
    let store = Store::open_file(&path, &file, adopt).unwrap();
    let mut buffer = ReadBuffer::new();
    for record in &records {
        store
            .adopt_record(&mut buffer, record.location, record.bytes)
            .unwrap();
    }
    store.adopted();
    for (record, answer) in records.iter().zip(get_all(&store, &mut buffer, &records)) {
        assert_eq!(answer.unwrap(), object(record.page, 0, 2400));
    }
    while store.tidy() {}
    let full = disk_bytes(&path);
    assert!(full >= 900 << 10, "{full} bytes on disk");
    for record in &records {
        store.release(record.location, record.bytes);
    }
    while store.tidy() {}
    let punched = disk_bytes(&path);
    assert!(
        punched < 100 << 10,
        "{punched} of {full} bytes still on disk"
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES);
    store.check();
}

#[test]
fn direct_io_is_used_where_it_works_and_buffered_io_is_as_good() {
    let directory = TestDirectory::new();
    for direct in [true, false] {
        let path = directory.join(if direct { "direct" } else { "buffered" });
        let options = FileOptions {
            direct,
            ..file_options()
        };
        let mut device = FileDevice::open(&path, &options).unwrap();
        device.resize(&options).unwrap();
        device.go_direct(&options);
        assert!(direct || !device.direct());
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        block.fill(7);
        device.write_at(&block, FILE_BYTES - 4096).unwrap();
        device.sync().unwrap();
        block.fill(0);
        device.read_at(&mut block, FILE_BYTES - 4096).unwrap();
        assert!(block.iter().all(|byte| *byte == 7));
        assert!(device.write_at(&block, FILE_BYTES).is_err(), "past the end");
        assert!(
            device.read_at(&mut block, FILE_BYTES).is_err(),
            "past the end"
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES);
    }
}

#[test]
fn a_preallocated_file_has_its_blocks_from_the_start() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let file = FileOptions {
        preallocate: true,
        ..file_options()
    };
    Store::open_file(
        &path,
        &file,
        StoreOptions {
            punch: false,
            ..store_options()
        },
    )
    .unwrap();
    assert!(disk_bytes(&path) >= FILE_BYTES);
}

#[test]
fn only_one_server_has_the_file() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let first = Store::open_file(&path, &file_options(), store_options()).unwrap();
    let second = why(Store::open_file(&path, &file_options(), store_options()));
    assert!(second.contains("in use by another server"), "{second}");
    drop(first);
    Store::open_file(&path, &file_options(), store_options()).unwrap();
}

#[test]
fn a_foreign_file_is_refused_and_keeps_every_byte_and_its_length() {
    let directory = TestDirectory::new();
    let path = directory.join("thesis.txt");
    let text = "not a store\n".repeat(1000);
    fs::write(&path, &text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    for adopt in [false, true] {
        let options = StoreOptions {
            adopt,
            ..store_options()
        };
        let refused = why(Store::open_file(&path, &file_options(), options));
        assert!(
            refused.contains("thesis.txt: begins with bytes"),
            "{refused}"
        );
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn nothing_is_taken_over_from_a_file_that_is_not_there_or_too_short() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    for adopt in [true, false] {
        if !adopt {
            fs::write(&path, "short").unwrap();
        }
        let options = StoreOptions {
            adopt,
            ..store_options()
        };
        let refused = why(Store::open_file(&path, &file_options(), options));
        assert!(refused.contains("too short"), "{refused}");
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            if adopt { 0 } else { 5 }
        );
    }
}

#[test]
fn what_is_no_private_file_is_refused_by_its_name() {
    let directory = TestDirectory::new();
    let target = directory.join("target");
    fs::write(&target, "").unwrap();
    symlink(&target, directory.join("link")).unwrap();
    for (path, word) in [
        (directory.0.clone(), "is a directory"),
        (directory.join("link"), "is a symbolic link"),
        (target, "has mode 644, wanted 600"),
        (PathBuf::from("/dev/null"), "is a CharacterDevice"),
    ] {
        if word.contains("644") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let refused = why(FileDevice::open(&path, &file_options()));
        assert!(refused.contains(word), "{refused}");
    }
    let nowhere = FileDevice::open(&directory.join("no/such"), &file_options());
    assert!(matches!(nowhere, Err(Error::Io { .. })));
}

#[test]
fn a_file_that_was_opened_to_read_only_is_written_as_soon_as_it_can_be_and_stays_locked() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let store = Store::open_file(&path, &file_options(), store_options()).unwrap();
    let records = put(&store, &mut store.batch(), &[(1, 2000), (2, 3000)]);
    drop(store);
    let file = FileOptions {
        bytes: 2 * FILE_BYTES,
        ..file_options()
    };
    let options = StoreOptions {
        adopt: true,
        ..store_options()
    };
    let held = fs::File::open(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let store = Store::open_held_file(&path, &file, Some(held.into()), options).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 * FILE_BYTES);
    let mut buffer = ReadBuffer::new();
    for record in &records {
        let claimed = store.adopt_record(&mut buffer, record.location, record.bytes);
        assert_eq!(claimed.unwrap(), record.sequence);
        get(&store, &mut buffer, record).unwrap();
    }
    store.adopted();
    let new = put(&store, &mut store.batch(), &[(3, 2500)]);
    store.sync().unwrap();
    assert_eq!(
        get(&store, &mut buffer, &new[0]).unwrap(),
        object(3, 0, 2500)
    );
    let second = why(Store::open_file(&path, &file, store_options()));
    assert!(second.contains("in use by another server"), "{second}");
}

#[test]
fn a_new_generation_takes_the_new_size_and_an_adopted_one_only_grows() {
    let directory = TestDirectory::new();
    let path = directory.join("store");
    let open = |mebibytes: u64, generation, adopt| {
        let file = FileOptions {
            bytes: mebibytes << 20,
            ..file_options()
        };
        let options = StoreOptions {
            generation,
            adopt,
            ..store_options()
        };
        let store = Store::open_file(&path, &file, options).unwrap();
        store.stats().segments
    };
    assert_eq!(open(9, 1, false), 8);
    assert_eq!(open(5, 1, true), 8, "what is at the end may live");
    assert_eq!(open(12, 1, true), 11);
    assert_eq!(open(5, 2, false), 4);
    assert_eq!(open(0, 2, true), 4, "0 takes the file as it is");
}
