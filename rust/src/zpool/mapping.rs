//! A file in memory, mapped: bytes that several threads and the next process share.
//!
//! The only `unsafe` of the pool is here. What the types cannot carry is one promise of the
//! callers: bytes that are reached through [`Mapping::bytes`] and [`Mapping::store_bytes`] have
//! one user at a time, because whoever holds the place of an object in the page table holds that
//! page's lock (see the head of `zpool/mod.rs`). Everything that threads share without that lock
//! is an atomic.
//!
//! Not here: what the bytes mean (`arena`, `words`).
//! Locking: none; system calls on the file are safe from any thread.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::fd::OwnedFd;
use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::hugetlbfs;

/// Bytes that the system gives out and takes back at least. Larger on some machines, where a
/// punched 4096-byte page is zeroed and the memory stays: correct, only less thrifty.
pub const SYSTEM_PAGE_BYTES: usize = 4096;

/// Bytes of memory that files in `dir` get and give back at once, always whole and aligned: 4096, on
/// hugetlbfs a huge page. None: nameless memory.
pub fn unit_bytes_in(dir: Option<&Path>) -> Result<usize> {
    let Some(dir) = dir else {
        return Ok(SYSTEM_PAGE_BYTES);
    };
    let huge = hugetlbfs::page_bytes_in(dir)
        .map_err(|e| Error::io("look at the file system for memory files", 0, e))?;
    Ok(huge.unwrap_or(SYSTEM_PAGE_BYTES))
}

/// Bytes that a CPU fetches at once.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

/// What is read at once to see whether a huge page holds anything.
const PEEK_BYTES: usize = 64 << 10;

/// A shared mapping of a whole file, or of nameless memory that dies with the process.
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    unit_bytes: usize,
    file: OwnedFd,
    path: Option<PathBuf>,
}

// SAFETY: the mapping is plain memory that lives until drop, and no method touches the struct
// itself after it was made. Who may touch which bytes is the promise at the head of this file.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes a file of `bytes` zeros, of which only the head is held in memory yet. A file of that name is
    /// replaced in one step, so that nobody ever opens half a file; without a name the memory is
    /// this process's own. On hugetlbfs the file is as long as whole huge pages.
    pub fn create(path: Option<&Path>, bytes: usize) -> Result<Self> {
        let Some(path) = path else {
            let file = fs::memfd_create("nbdswap", fs::MemfdFlags::CLOEXEC)
                .map_err(|e| Error::io("make nameless memory", 0, e.into()))?;
            return Self::map_new(file, bytes, None);
        };
        Self::create_file(path, bytes, &[])
    }

    /// Makes a file that begins with `content` and is not longer than it has to be: whole under its
    /// name, or not there.
    pub fn keep(path: &Path, content: &[u8]) -> Result<()> {
        Self::create_file(path, content.len(), content).map(drop)
    }

    fn create_file(path: &Path, bytes: usize, head: &[u8]) -> Result<Self> {
        let temporary = temporary_name(path);
        let failed = |what, errno: Errno| Error::io(what, 0, errno.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        // A predecessor that died between these lines left its temporary file; it is nobody's.
        match fs::unlink(&temporary) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("remove an unfinished memory file", errno)),
        }
        let file = fs::open(&temporary, flags, mode)
            .map_err(|errno| failed("create the memory file", errno))?;
        let mapping = Self::map_new(file, bytes, Some(path.to_owned())).and_then(|mapping| {
            mapping.store_bytes(0, head);
            fs::rename(&temporary, path).map_err(|e| failed("name the memory file", e))?;
            Ok(mapping)
        });
        if mapping.is_err() {
            // The first error is the one to report; a second here would only hide it.
            let _ = fs::unlink(&temporary);
        }
        mapping
    }

    /// Maps a predecessor's file that was made for `bytes`; [`Error::Misfit`] if it has others. Refuses, and
    /// does not touch, anything that is not a private file of this user: in a directory that others may write to, such a file
    /// could be planted, and whoever owns it could cut it short under the running server.
    pub fn open(path: &Path, bytes: usize) -> Result<Self> {
        let foreign = |why| Error::Foreign {
            path: path.display().to_string(),
            why,
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::LOOP => foreign("found a symbolic link, wanted a file".into()),
            errno => Error::io("open the memory file", 0, errno.into()),
        })?;
        let stat = fs::fstat(&file).map_err(|e| Error::io("stat the memory file", 0, e.into()))?;
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
        let (bytes, unit_bytes) = in_units(&file, bytes)?;
        if stat.st_size as u64 != bytes as u64 {
            return Err(Error::Misfit {
                path: path.display().to_string(),
                why: format!("found {} bytes, wanted {bytes}", stat.st_size),
            });
        }
        Self::map(file, bytes, unit_bytes, Some(path.to_owned()))
    }

    fn map_new(file: OwnedFd, bytes: usize, path: Option<PathBuf>) -> Result<Self> {
        let (bytes, unit_bytes) = in_units(&file, bytes)?;
        fs::ftruncate(&file, bytes as u64)
            .map_err(|e| Error::io("size the memory file", bytes as u64, e.into()))?;
        let mapping = Self::map(file, bytes, unit_bytes, path)?;
        // The owner's header: it is written by whoever made the file, and read by the next process
        // whatever else is there.
        mapping.reserve(0..bytes.min(SYSTEM_PAGE_BYTES))?;
        Ok(mapping)
    }

    fn map(file: OwnedFd, bytes: usize, unit_bytes: usize, path: Option<PathBuf>) -> Result<Self> {
        assert!(bytes > 0, "a mapping of nothing");
        // NORESERVE matters on hugetlbfs alone: else every huge page would be put aside at once.
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // With no access at first: after mlockall the system would else fill the whole mapping here, on
        // hugetlbfs even if only what is touched is to be locked. Who wants that asks for it.
        let none = ProtFlags::empty();
        // SAFETY: a new mapping at an address of the system's choice overlaps nothing of ours.
        let base = unsafe { mm::mmap(std::ptr::null_mut(), bytes, none, flags, &file, 0) }
            .map_err(|e| Error::io("map the memory file", bytes as u64, e.into()))?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap gives no null without MAP_FIXED");
        let mapping = Self {
            base,
            bytes,
            unit_bytes,
            file,
            path,
        };
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is our own mapping, to which nobody has a reference yet.
        unsafe { mm::mprotect(base.as_ptr().cast(), bytes, access) }
            .map_err(|e| Error::io("get access to the memory file", bytes as u64, e.into()))?;
        Ok(mapping)
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        #[cfg(test)]
        watch::access();
        assert!(
            len <= self.bytes && at <= self.bytes - len,
            "bytes {at}+{len} of a mapping of {}",
            self.bytes
        );
        // SAFETY: asserted to lie inside the mapping.
        unsafe { self.base.as_ptr().add(at) }
    }

    fn aligned<T>(&self, at: usize) -> *mut T {
        assert!(at.is_multiple_of(size_of::<T>()), "unaligned offset {at}");
        self.at(at, size_of::<T>()).cast()
    }

    /// `len` bytes from `at`. The caller has sole use of them until it lets go of the slice.
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: `at` asserts the bounds, the mapping lives as long as `self`, and nobody writes
        // these bytes meanwhile: the promise at the head of this file.
        unsafe { std::slice::from_raw_parts(self.at(at, len), len) }
    }

    /// Copies `source` to `at`. The caller has sole use of the bytes there.
    pub fn store_bytes(&self, at: usize, source: &[u8]) {
        let target = self.at(at, source.len());
        #[cfg(test)]
        let (target, source) = self.store_half(at, target, source);
        // SAFETY: `at` asserts the bounds. Nobody else reads or writes these bytes meanwhile, and
        // `source` is not among them: both are the promise at the head of this file.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) }
    }

    /// Stores the first half, so that a test can see the process die in the middle; gives the rest.
    #[cfg(test)]
    fn store_half<'a>(&self, at: usize, target: *mut u8, source: &'a [u8]) -> (*mut u8, &'a [u8]) {
        let (half, rest) = source.split_at(source.len() / 2);
        // SAFETY: as for `store_bytes`, of which this is a part.
        unsafe { std::ptr::copy_nonoverlapping(half.as_ptr(), target, half.len()) }
        (self.at(at + half.len(), rest.len()), rest)
    }

    /// The 16-bit word at `at`, which is a multiple of 2.
    pub fn atomic_u16(&self, at: usize) -> &AtomicU16 {
        // SAFETY: in bounds and aligned (asserted; the base is page-aligned), lives as long as
        // `self`, and is reached as an atomic by everybody.
        unsafe { AtomicU16::from_ptr(self.aligned(at)) }
    }

    /// The 32-bit word at `at`, which is a multiple of 4.
    pub fn atomic_u32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as for `atomic_u16`.
        unsafe { AtomicU32::from_ptr(self.aligned(at)) }
    }

    /// `count` 64-bit words from `at`, which is a multiple of 8.
    pub fn atomic_u64s(&self, at: usize, count: usize) -> &[AtomicU64] {
        assert!(at.is_multiple_of(8), "unaligned offset {at}");
        let bytes = count.checked_mul(8).expect("a word count that fits memory");
        // SAFETY: as for `atomic_u16`; an AtomicU64 has the size and, here, the alignment of u64.
        unsafe { std::slice::from_raw_parts(self.at(at, bytes).cast(), count) }
    }

    /// Tells the CPU that the bytes from `at` will be read soon. Only a hint: it reads nothing, and a
    /// place that is nobody's does no harm.
    #[inline]
    pub fn prefetch(&self, at: usize, len: usize) {
        assert!(at < self.bytes, "prefetch at {at} of {}", self.bytes);
        #[cfg(target_arch = "x86_64")]
        for line in (0..len).step_by(CACHE_LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().wrapping_add(at + line).cast())
            };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = len;
    }

    /// Bytes of memory that the system has given for the file.
    pub fn held_bytes(&self) -> u64 {
        let stat = fs::fstat(&self.file).expect("a file that is open");
        // In units of 512 whatever the file system's block is.
        stat.st_blocks as u64 * 512
    }

    /// Takes memory for `range` from the system, whole units of it, so that touching it later cannot
    /// fail: a full tmpfs says so here, instead of with a SIGBUS at the first store. Content stays.
    pub fn reserve(&self, range: Range<usize>) -> Result<()> {
        assert!(
            range.start < range.end && range.end <= self.bytes,
            "reserve {range:?}"
        );
        let (start, len) = (range.start as u64, (range.end - range.start) as u64);
        loop {
            match fs::fallocate(&self.file, FallocateFlags::empty(), start, len) {
                Err(Errno::INTR) => continue,
                outcome => return outcome.map_err(|e| Error::io("take memory", start, e.into())),
            }
        }
    }

    /// Reserves the whole mapping and maps every page of it, so that no later access faults.
    pub fn populate(&self) -> Result<()> {
        self.reserve(0..self.bytes)?;
        let base = self.base.as_ptr().cast();
        // SAFETY: the range is our own mapping, and populating it changes no content.
        match unsafe { mm::madvise(base, self.bytes, Advice::LinuxPopulateWrite) } {
            // Kernels before 5.14 do not know the advice. The memory is taken all the same; only
            // the first touch of each page costs a fault.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(Error::io("map the memory taken", 0, errno.into())),
        }
    }

    /// Gives the memory of the whole units inside `range` back; they read as zeros.
    pub fn punch(&self, range: Range<usize>) {
        assert!(range.end <= self.bytes, "punch {range:?} of {}", self.bytes);
        let start = range.start.next_multiple_of(self.unit_bytes);
        let end = range.end / self.unit_bytes * self.unit_bytes;
        if start >= end {
            return;
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fs::fallocate(&self.file, mode, start as u64, (end - start) as u64) {
                Ok(()) => return,
                Err(Errno::INTR) => continue,
                // Only a file system that cannot punch holes refuses this: the memory stays taken
                // and the promise "reads as zeros" has to be kept by hand.
                Err(_) => return self.zero(start..end),
            }
        }
    }

    fn zero(&self, range: Range<usize>) {
        for word in self.atomic_u64s(range.start, (range.end - range.start) / 8) {
            word.store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Parts of the file that may hold anything but zeros, as whole units, in order.
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

    /// Removes the file's name; the memory lives until this mapping is dropped.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // Gone already or a directory that turned read-only: the file stays as it is, and the
            // next start replaces it.
            let _ = fs::unlink(path);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and whole, and every borrow of it ends before `self` does.
        // A failure would leave it mapped, which harms nobody.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// How long a file for `bytes` is, and how much memory it gets at once.
fn in_units(file: &OwnedFd, bytes: usize) -> Result<(usize, usize)> {
    let huge = hugetlbfs::page_bytes(file)
        .map_err(|e| Error::io("look at the file system of the memory file", 0, e))?;
    Ok(match huge {
        Some(unit_bytes) => (bytes.next_multiple_of(unit_bytes), unit_bytes),
        None => (bytes, SYSTEM_PAGE_BYTES),
    })
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Lets a test see every access to shared memory: between two of them the process can die.
#[cfg(test)]
pub mod watch {
    use std::cell::Cell;

    thread_local! {
        static WATCHER: Cell<Option<Box<dyn FnMut()>>> = const { Cell::new(None) };
    }

    /// Runs `work`, with `watcher` called before every access that this thread makes in it. What
    /// the watcher itself does is not watched.
    pub fn during<T>(watcher: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
        WATCHER.set(Some(Box::new(watcher)));
        let result = work();
        WATCHER.set(None);
        result
    }

    /// Something is about to be read or stored. Tests call it for a device's blocks, too.
    pub fn access() {
        if let Some(mut watcher) = WATCHER.take() {
            watcher();
            WATCHER.set(Some(watcher));
        }
    }
}

#[cfg(test)]
mod tests;
