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

mod file;
mod smaps;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};

use self::file::MemoryFile;
use crate::error::{Error, Result};
use crate::hugetlbfs;

/// Bytes that the system gives out and takes back at least. Larger on some machines, where a
/// punched 4096-byte page is zeroed and the memory stays: correct, only less thrifty.
pub const SYSTEM_PAGE_BYTES: usize = 4096;

/// Bytes that a CPU fetches at once.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

/// What an entry above the lowest page table maps. A page of that size saves a table, and the CPU a
/// step of each walk. On machines where it is another size the system refuses, and pages are small.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Huge pages that are asked for at once: each time the system first gathers all processors' pages.
const HUGE_PAGES_AT_ONCE: usize = 16;

/// So often in a row the system may find no huge page until it is not asked any more: it looks hard.
const HUGE_REFUSALS_MAX: u32 = 4;

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

/// Addresses that are ours alone, whatever is mapped there.
struct Addresses {
    start: NonNull<u8>,
    bytes: usize,
}

impl Addresses {
    /// At least `bytes` from a multiple of the huge page, which only such mappings get on a tmpfs.
    fn reserve(bytes: usize) -> Result<(Self, usize)> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the system's choice overlaps nothing of ours.
        let start = unsafe { mm::mmap_anonymous(null_mut(), bytes, ProtFlags::empty(), flags) }
            .map_err(|e| Error::io("reserve addresses for a memory file", 0, e.into()))?;
        // After mlockall they count against the limit, and what is mapped over them would be counted
        // beside them. Where nothing is locked this does nothing, so it cannot fail for a reason.
        // SAFETY: the range is ours, and nothing is there.
        let _ = unsafe { mm::munlock(start, bytes) };
        let start = NonNull::new(start.cast::<u8>()).expect("mmap gives no null");
        let into = start.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok((Self { start, bytes }, into))
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        // SAFETY: the range is ours and whole, and every borrow of what is mapped there has ended.
        // A failure would leave it mapped, which harms nobody.
        let _ = unsafe { mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A shared mapping of a whole file, or of nameless memory that dies with the process.
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    file: MemoryFile,
    _addresses: Addresses,
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
        match path {
            None => Self::map(MemoryFile::nameless(bytes)?),
            Some(path) => Self::create_file(path, bytes, &[]),
        }
    }

    /// Makes a file that begins with `content` and is not longer than it has to be: whole under its
    /// name, or not there.
    pub fn keep(path: &Path, content: &[u8]) -> Result<()> {
        Self::create_file(path, content.len(), content).map(drop)
    }

    fn create_file(path: &Path, bytes: usize, head: &[u8]) -> Result<Self> {
        let unfinished = MemoryFile::unfinished(path, bytes)?;
        let named = Self::map(unfinished).and_then(|mapping| {
            mapping.store_bytes(0, head);
            mapping.file.name()?;
            Ok(mapping)
        });
        named.inspect_err(|_| file::forget(path))
    }

    /// Maps a predecessor's file that was made for `bytes`; [`Error::Misfit`] if it has others. Refuses, and
    /// does not touch, anything that is not a private file of this user: in a directory that others may write to, such a file
    /// could be planted, and whoever owns it could cut it short under the running server.
    pub fn open(path: &Path, bytes: usize) -> Result<Self> {
        Self::map(MemoryFile::open(path, bytes)?)
    }

    fn map(file: MemoryFile) -> Result<Self> {
        let bytes = file.bytes;
        let failed = |errno: Errno| Error::io("map the memory file", bytes as u64, errno.into());
        // With no access at first: after mlockall the system would else fill the whole mapping here, with
        // small pages, and on hugetlbfs even if only what is touched is to be locked. Who wants that asks.
        let none = ProtFlags::empty();
        // NORESERVE matters on hugetlbfs alone: else every huge page would be put aside at once.
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let (base, addresses) = if file.may_have_huge_pages() {
            let (addresses, into) = Addresses::reserve(bytes)?;
            // SAFETY: `bytes` from `into` on lie inside the addresses, by their making.
            let at = unsafe { addresses.start.add(into) };
            let flags = flags | MapFlags::FIXED;
            // SAFETY: what is replaced are addresses of our own at which nothing is.
            unsafe { mm::mmap(at.as_ptr().cast(), bytes, none, flags, &file.file, 0) }
                .map_err(failed)?;
            (at, addresses)
        } else {
            // SAFETY: a new mapping at an address of the system's choice overlaps nothing of ours.
            let start = unsafe { mm::mmap(null_mut(), bytes, none, flags, &file.file, 0) }
                .map_err(failed)?;
            let start = NonNull::new(start.cast::<u8>()).expect("mmap gives no null");
            (start, Addresses { start, bytes })
        };
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is our own mapping, to which nobody has a reference yet.
        unsafe { mm::mprotect(base.as_ptr().cast(), bytes, access) }.map_err(failed)?;
        Ok(Self {
            base,
            bytes,
            file,
            _addresses: addresses,
        })
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
        self.file.held_bytes()
    }

    /// Bytes that are mapped by huge pages now. Slow: the system walks through all memory of the
    /// process.
    pub fn huge_bytes(&self) -> u64 {
        smaps::huge_bytes(self.base.addr().get())
    }

    /// Takes memory for `range` from the system, whole units of it, so that touching it later cannot
    /// fail: a full tmpfs says so here, instead of with a SIGBUS at the first store. Content stays.
    pub fn reserve(&self, range: Range<usize>) -> Result<()> {
        self.file.reserve(range)
    }

    /// Reserves the whole mapping and maps every page of it, so that no later access faults. By huge
    /// pages where there is nothing yet and the system has some.
    pub fn populate(&self) -> Result<()> {
        self.take_huge_pages();
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

    /// Takes as much as can be had by huge pages. What has data is left as it is: it would be copied.
    /// Whatever is refused here is taken by small pages, or refused again with a reason.
    fn take_huge_pages(&self) {
        if !self.file.may_have_huge_pages() {
            return;
        }
        let mut refusals = 0;
        for part in empty_huge_parts(&self.file.populated(), self.bytes) {
            match self.take_huge(part) {
                Ok(()) => refusals = 0,
                // Kernels before 6.1 do not know it, an administrator may have forbidden it, or a tmpfs
                // is full.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                Err(_) => refusals += 1,
            }
            if refusals == HUGE_REFUSALS_MAX {
                return;
            }
        }
    }

    fn take_huge(&self, part: Range<usize>) -> io::Result<()> {
        for huge_page in part.clone().step_by(HUGE_PAGE_BYTES) {
            // The first of its pages has to be there; the others are made with it, in one.
            let first = huge_page..huge_page + SYSTEM_PAGE_BYTES;
            self.reserve(first).map_err(io::Error::other)?;
        }
        // SAFETY: in bounds, as a part of the mapping.
        let at = unsafe { self.base.as_ptr().add(part.start) };
        let mut attempts_left = 3;
        loop {
            attempts_left -= 1;
            // rustix has no name for this advice.
            // SAFETY: the range is part of our own mapping, and its content does not change.
            if unsafe { libc::madvise(at.cast(), part.len(), libc::MADV_COLLAPSE) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // Somebody has just looked at a page of them. What was done is not done again.
            if error.raw_os_error() != Some(libc::EAGAIN) || attempts_left == 0 {
                return Err(error);
            }
        }
    }

    /// Gives the memory of the whole units inside `range` back; they read as zeros.
    pub fn punch(&self, range: Range<usize>) {
        assert!(range.end <= self.bytes, "punch {range:?} of {}", self.bytes);
        let unit_bytes = self.file.unit_bytes;
        let start = range.start.next_multiple_of(unit_bytes);
        let end = range.end / unit_bytes * unit_bytes;
        // Only a file system that cannot punch holes refuses it: the memory stays taken and the
        // promise "reads as zeros" has to be kept by hand.
        if start < end && !self.file.punch(&(start..end)) {
            self.zero(start..end);
        }
    }

    fn zero(&self, range: Range<usize>) {
        for word in self.atomic_u64s(range.start, (range.end - range.start) / 8) {
            word.store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Parts of the file that may hold anything but zeros, as whole units, in order.
    pub fn populated(&self) -> Vec<Range<usize>> {
        self.file.populated()
    }

    /// Removes the file's name; the memory lives until this mapping is dropped.
    pub fn remove(&self) {
        self.file.remove();
    }
}

/// Whole huge pages of a file of `bytes` in which nothing is populated, some at once.
fn empty_huge_parts(populated: &[Range<usize>], bytes: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut hole_start: usize = 0;
    for data in populated.iter().chain([&(bytes..bytes)]) {
        let start = hole_start.next_multiple_of(HUGE_PAGE_BYTES);
        let end = data.start / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        let step = HUGE_PAGES_AT_ONCE * HUGE_PAGE_BYTES;
        let starts = (start..end).step_by(step);
        parts.extend(starts.map(|start| start..end.min(start + step)));
        hole_start = data.end;
    }
    parts
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
