//! Whether a file or directory is on hugetlbfs, and of what pages it is made there.
//!
//! Such a file is as long as whole huge pages, it cannot be written to but through a mapping, and its
//! memory comes and goes in whole huge pages.
//!
//! Locking: none, system calls.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{StatFs, fstatfs, statfs};

/// Linux: HUGETLBFS_MAGIC.
const MAGIC: u32 = 0x9584_58f6;

/// Bytes of the huge pages that a file is made of; None if it is on another file system.
pub fn page_bytes(file: impl AsFd) -> io::Result<Option<usize>> {
    Ok(page_bytes_of(&fstatfs(file)?))
}

/// Bytes of the huge pages that files in a directory are made of; None on another file system.
pub fn page_bytes_in(dir: &Path) -> io::Result<Option<usize>> {
    Ok(page_bytes_of(&statfs(dir)?))
}

fn page_bytes_of(found: &StatFs) -> Option<usize> {
    (found.f_type as u32 == MAGIC).then_some(found.f_bsize as usize)
}
