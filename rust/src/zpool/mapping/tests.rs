//! Files in memory: made, taken over, refused, given back.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::Ordering::Relaxed;

use super::file::temporary_name;
use super::*;
use crate::zpool::conformance::MemoryDir;
use crate::zpool::words::{NOTES, SharedWords};

fn why_foreign(result: Result<SharedWords>) -> String {
    match result {
        Err(Error::Foreign { why, .. }) => why,
        Err(other) => panic!("wanted Foreign, found {other}"),
        Ok(_) => panic!("wanted Foreign, found an open file"),
    }
}

#[test]
fn words_and_header_survive_into_the_next_mapping() {
    let dir = MemoryDir::new("survive");
    let path = dir.file("words");
    let first = SharedWords::create(Some(&path), 5000, false).unwrap();
    first.set_header(&[7; 4096]);
    first.words()[4999].store(42, Relaxed);
    drop(first);
    let second = SharedWords::open(&path, 5000).unwrap();
    let bytes = second.header();
    let (header, notes) = bytes.split_at(4096 - 8 * NOTES);
    assert!(header.iter().all(|&byte| byte == 7));
    assert!(notes.iter().all(|&byte| byte == 0), "notes are no header");
    assert_eq!(second.words()[4999].load(Relaxed), 42);
    assert_eq!(second.words()[0].load(Relaxed), 0);
    second.remove();
    assert!(!path.exists());
}

#[test]
fn creating_replaces_a_file_of_that_name_and_an_unfinished_one() {
    let dir = MemoryDir::new("replace");
    let path = dir.file("words");
    std::fs::write(&path, b"old").unwrap();
    std::fs::write(temporary_name(&path), b"unfinished").unwrap();
    let words = SharedWords::create(Some(&path), 8, false).unwrap();
    assert_eq!(words.words()[0].load(Relaxed), 0);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!temporary_name(&path).exists());
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let dir = MemoryDir::new("refuse");
    let path = dir.file("words");
    drop(SharedWords::create(Some(&path), 1024, false).unwrap());
    let Err(Error::Misfit { why, .. }) = SharedWords::open(&path, 2048) else {
        panic!("a file of another size was taken");
    };
    assert!(why.contains("found 12288 bytes"), "{why}");
    let link = dir.file("link");
    symlink(&path, &link).unwrap();
    assert!(why_foreign(SharedWords::open(&link, 1024)).contains("symbolic link"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(why_foreign(SharedWords::open(&path, 1024)).contains("mode 644"));
    assert!(matches!(
        SharedWords::open(&dir.file("none"), 1),
        Err(Error::Io { .. })
    ));
}

#[test]
fn only_touched_words_are_populated() {
    let words = SharedWords::create(None, 4096, false).unwrap();
    assert!(words.populated().is_empty());
    words.words()[600].store(1, Relaxed);
    words.words()[4095].store(2, Relaxed);
    let populated = words.populated();
    for touched in [600, 4095] {
        assert!(
            populated.iter().any(|range| range.contains(&touched)),
            "{populated:?}"
        );
    }
    words.populate().unwrap();
    assert_eq!(words.held_bytes(), 4096 + 4096 * 8);
    assert_eq!(words.words()[4095].load(Relaxed), 2);
}

#[test]
fn a_header_has_memory_before_it_is_written() {
    use std::os::unix::fs::MetadataExt;
    let dir = MemoryDir::new("header");
    let path = dir.file("words");
    let words = SharedWords::create(Some(&path), 5000, false).unwrap();
    // On a full tmpfs this was no error but a SIGBUS at the first store.
    assert_eq!(path.metadata().unwrap().blocks() * 512, 4096);
    words.set_header(&[7; 4096]);
    assert_eq!(path.metadata().unwrap().blocks() * 512, 4096);
}

#[test]
fn punched_pages_read_as_zeros_and_only_whole_ones_are_punched() {
    let mapping = Mapping::create(None, 4 * 4096).unwrap();
    mapping.store_bytes(0, &[7; 4 * 4096]);
    mapping.punch(1..3 * 4096);
    assert_eq!(mapping.held_bytes(), 2 * 4096);
    assert_eq!(mapping.bytes(0, 4096), [7; 4096]);
    assert_eq!(mapping.bytes(4096, 2 * 4096), [0; 2 * 4096]);
    assert_eq!(mapping.bytes(3 * 4096, 4096), [7; 4096]);
}

#[test]
fn a_small_file_is_whole_under_its_name_and_its_owners_alone() {
    let dir = MemoryDir::new("keep");
    let path = dir.file("key");
    std::fs::write(temporary_name(&path), b"unfinished").unwrap();
    Mapping::keep(&path, &[7; 32]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [7; 32]);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!temporary_name(&path).exists());
}

#[test]
#[should_panic(expected = "of a mapping of")]
fn bytes_beyond_the_end_are_out_of_reach() {
    let mapping = Mapping::create(None, 4096).unwrap();
    mapping.bytes(4090, 7);
}

#[test]
#[should_panic(expected = "unaligned")]
fn an_unaligned_word_is_refused() {
    let mapping = Mapping::create(None, 4096).unwrap();
    mapping.atomic_u32(2);
}

#[test]
fn mappings_begin_with_a_huge_page_and_leave_no_addresses_behind() {
    let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap();
    for bytes in [HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 4096] {
        let mapping = Mapping::create(None, bytes).unwrap();
        assert_eq!(mapping.base.addr().get() % HUGE_PAGE_BYTES, 0);
        let start = format!("{:08x}-", mapping._addresses.start.addr());
        assert!(mapped().contains(&start));
        drop(mapping);
        assert!(!mapped().contains(&start), "still mapped");
    }
}

#[test]
fn huge_pages_are_asked_for_where_nothing_is_and_a_few_at_once() {
    const HUGE: usize = HUGE_PAGE_BYTES;
    let parts = |populated: &[Range<usize>], bytes| empty_huge_parts(populated, bytes);
    assert!(parts(&[], HUGE - 1).is_empty());
    let (whole, with_tail) = (0..2 * HUGE, 2 * HUGE + 4096);
    let whole = std::slice::from_ref(&whole);
    assert_eq!(parts(&[], with_tail), whole);
    let (head, middle) = (0..4096, 3 * HUGE - 1..3 * HUGE + 1);
    assert_eq!(
        parts(&[head, middle], 6 * HUGE),
        [HUGE..2 * HUGE, 4 * HUGE..6 * HUGE]
    );
    let many = HUGE_PAGES_AT_ONCE * HUGE;
    assert_eq!(parts(&[], many + HUGE), [0..many, many..many + HUGE]);
    assert!(parts(whole, with_tail).is_empty());
}
