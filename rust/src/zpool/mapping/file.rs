//! The file behind a mapping: how it comes to be, whose it is, which parts of it have memory.
//!
//! On hugetlbfs a file is as long as whole huge pages, and memory comes and goes by them.
//!
//! Not here: the mapping itself.
//! Locking: none, system calls.
#![deny(unsafe_code)]

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{HUGE_PAGE_BYTES, SYSTEM_PAGE_BYTES};
use crate::error::{Error, Result};
use crate::hugetlbfs;

/// What is read at once to see whether a huge page holds anything.
const PEEK_BYTES: usize = 64 << 10;

/// A file in memory, open.
pub struct MemoryFile {
    pub(super) file: OwnedFd,
    /// Length of the file.
    pub(super) bytes: usize,
    /// Memory comes and goes by so much.
    pub(super) unit_bytes: usize,
    path: Option<PathBuf>,
}

impl MemoryFile {
    /// A file without a name, of `bytes` zeros.
    pub fn nameless(bytes: usize) -> Result<Self> {
        let file = fs::memfd_create("nbdswap", fs::MemfdFlags::CLOEXEC)
            .map_err(|e| Error::io("make nameless memory", 0, e.into()))?;
        Self::sized(file, bytes, None)
    }

    /// A file of `bytes` zeros under a temporary name; [`name`](Self::name) gives it the right one.
    pub fn unfinished(path: &Path, bytes: usize) -> Result<Self> {
        let temporary = temporary_name(path);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        // A predecessor that died before it had named it left its temporary file; it is nobody's.
        match fs::unlink(&temporary) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("remove an unfinished memory file", errno)),
        }
        let file = fs::open(&temporary, flags, mode)
            .map_err(|errno| failed("create the memory file", errno))?;
        Self::sized(file, bytes, Some(path.to_owned())).inspect_err(|_| forget(path))
    }

    /// A predecessor's file; what is refused is said at [`Mapping::open`](super::Mapping::open).
    pub fn open(path: &Path, bytes: usize) -> Result<Self> {
        let foreign = |why| Error::Foreign {
            path: path.display().to_string(),
            why,
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::LOOP => foreign("found a symbolic link, wanted a file".into()),
            errno => failed("open the memory file", errno),
        })?;
        let stat = fs::fstat(&file).map_err(|e| failed("stat the memory file", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(foreign(
                "found something else, wanted a regular file".into(),
            ));
        }
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user || stat.st_mode & 0o077 != 0 {
            let mode = stat.st_mode & 0o777;
            let owner = stat.st_uid;
            return Err(foreign(format!(
                "found owner {owner} and mode {mode:o}, wanted owner {user} and mode 600"
            )));
        }
        let found = stat.st_size;
        let opened = Self::of(file, bytes, Some(path.to_owned()))?;
        if found as u64 != opened.bytes as u64 {
            let wanted = opened.bytes;
            return Err(Error::Misfit {
                path: path.display().to_string(),
                why: format!("found {found} bytes, wanted {wanted}"),
            });
        }
        Ok(opened)
    }

    fn sized(file: OwnedFd, bytes: usize, path: Option<PathBuf>) -> Result<Self> {
        let made = Self::of(file, bytes, path)?;
        fs::ftruncate(&made.file, made.bytes as u64)
            .map_err(|e| Error::io("size the memory file", made.bytes as u64, e.into()))?;
        // The owner's header: it is written by whoever made the file, and read by the next process
        // whatever else is there.
        made.reserve(0..made.bytes.min(SYSTEM_PAGE_BYTES))?;
        Ok(made)
    }

    fn of(file: OwnedFd, bytes: usize, path: Option<PathBuf>) -> Result<Self> {
        assert!(bytes > 0, "a file of nothing");
        let huge = hugetlbfs::page_bytes(&file)
            .map_err(|e| Error::io("look at the file system of the memory file", 0, e))?;
        let (bytes, unit_bytes) = match huge {
            Some(unit_bytes) => (bytes.next_multiple_of(unit_bytes), unit_bytes),
            None => (bytes, SYSTEM_PAGE_BYTES),
        };
        Ok(Self {
            file,
            bytes,
            unit_bytes,
            path,
        })
    }

    /// Gives an unfinished file its name, in one step in place of one that has it.
    pub fn name(&self) -> Result<()> {
        let path = self.path.as_deref().expect("a file that has a name");
        fs::rename(temporary_name(path), path).map_err(|e| failed("name the memory file", e))
    }

    /// Whether it is worth asking for huge pages: on hugetlbfs there are no others.
    pub fn may_have_huge_pages(&self) -> bool {
        self.unit_bytes == SYSTEM_PAGE_BYTES && self.bytes >= HUGE_PAGE_BYTES
    }

    /// Bytes of memory that the system has given for the file.
    pub fn held_bytes(&self) -> u64 {
        let stat = fs::fstat(&self.file).expect("a file that is open");
        // In units of 512 whatever the file system's block is.
        stat.st_blocks as u64 * 512
    }

    /// Takes memory for `range`; content stays.
    pub fn reserve(&self, range: Range<usize>) -> Result<()> {
        assert!(
            range.start < range.end && range.end <= self.bytes,
            "reserve {range:?}"
        );
        let start = range.start as u64;
        self.allocate(FallocateFlags::empty(), &range)
            .map_err(|e| Error::io("take memory", start, e.into()))
    }

    /// Gives the memory of `range`, whole units, back. False if the file system cannot.
    pub fn punch(&self, range: &Range<usize>) -> bool {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(mode, range).is_ok()
    }

    fn allocate(&self, mode: FallocateFlags, range: &Range<usize>) -> rustix::io::Result<()> {
        let (start, len) = (range.start as u64, (range.end - range.start) as u64);
        loop {
            match fs::fallocate(&self.file, mode, start, len) {
                Err(Errno::INTR) => continue,
                outcome => return outcome,
            }
        }
    }

    /// Parts that may hold anything but zeros, as whole units, in order.
    pub fn populated(&self) -> Vec<Range<usize>> {
        if self.unit_bytes != SYSTEM_PAGE_BYTES {
            return self.populated_units();
        }
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < self.bytes {
            let start = match fs::seek(&self.file, SeekFrom::Data(at as u64)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break, // Only holes from here on.
                // Whoever cannot tell may not say "zeros": they would be served as if they were.
                Err(_) => at as u64,
            };
            let end = fs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.bytes as u64);
            at = (end as usize).min(self.bytes);
            ranges.push(start as usize..at);
        }
        ranges
    }

    /// On hugetlbfs, which calls all of a file data. To look through the mapping would take memory for
    /// every hole, and where there is none it would be a SIGBUS; reading the file takes none.
    fn populated_units(&self) -> Vec<Range<usize>> {
        let mut buffer = vec![0; PEEK_BYTES];
        let units = (0..self.bytes).step_by(self.unit_bytes);
        let mut held = |&unit: &usize| {
            let mut parts = (unit..unit + self.unit_bytes).step_by(PEEK_BYTES);
            parts.any(|at| !self.is_zero(at, &mut buffer))
        };
        units
            .filter(|unit| held(unit))
            .map(|unit| unit..unit + self.unit_bytes)
            .collect()
    }

    fn is_zero(&self, at: usize, buffer: &mut [u8]) -> bool {
        let read = rustix::io::pread(&self.file, &mut *buffer, at as u64);
        // What could not be read may hold anything.
        read == Ok(buffer.len()) && buffer.iter().all(|&byte| byte == 0)
    }

    /// Removes the file's name.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // Gone already or a directory that turned read-only: the file stays as it is, and the
            // next start replaces it.
            let _ = fs::unlink(path);
        }
    }
}

fn failed(what: &'static str, errno: Errno) -> Error {
    Error::io(what, 0, errno.into())
}

/// Removes an unfinished file.
pub(super) fn forget(path: &Path) {
    // What failed before is the error to report; a second here would only hide it.
    let _ = fs::unlink(temporary_name(path));
}

pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}
