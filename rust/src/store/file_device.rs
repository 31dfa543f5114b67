//! A plain file or a block device as the backing file.
//!
//! One server at a time: the file is locked while it is open, and a block device is claimed, which
//! the kernel refuses when it is mounted or swapped to. Direct I/O where the file system has it, so
//! that write-back at the edge of memory needs no page cache. Nothing is written by opening; sizes
//! change only in [`FileDevice::resize`], after the caller has seen whose file it is.
//!
//! A file system that became read-only, as some do after an error, lets files be opened to read them: what is
//! there is served, and each write tries to open the file again for writing.
//!
//! Not here: the superblock (`open`). Locking: none, positional I/O on one descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, fallocate, fcntl_getfl,
    fcntl_setfl, fdatasync, flock, fstat, fsync, ftruncate, open, seek, stat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

use super::buffer::AlignedBuffer;
use super::device::{BLOCK_BYTES, Device};

/// What kind of backing file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Size; 0 takes a file or block device as it is.
    pub bytes: u64,
    /// Give the file its blocks now, so that write-back never finds the file system full.
    pub preallocate: bool,
    /// Pass the page cache by where the file system can.
    pub direct: bool,
    /// How several reads are done at once.
    pub io: Io,
    /// Threads that do so at a time.
    pub readers: usize,
}

/// How a thread does several reads at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// In an io_uring where the kernel allows it.
    Auto,
    /// In an io_uring, or not at all.
    IoUring,
    /// One after the other: other threads do others meanwhile.
    Threads,
}

impl Io {
    /// Its name in the configuration.
    pub fn parse(name: &str) -> Result<Io> {
        match name {
            "auto" => Ok(Io::Auto),
            "io_uring" => Ok(Io::IoUring),
            "threads" => Ok(Io::Threads),
            _ => Err(Error::Config(format!(
                "store.io is {name:?}, wanted auto, io_uring or threads"
            ))),
        }
    }
}

/// An open, locked backing file.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    bytes: u64,
    block_device: bool,
    direct: bool,
    /// `file` was opened to read only.
    is_read_only: bool,
    /// The same file, opened for writing since. The lock stays with the first one.
    writable: OnceLock<File>,
}

impl FileDevice {
    /// Opens and locks `path`; creates an empty file, for its owner alone, if there is none.
    pub fn open(path: &Path, options: &FileOptions) -> Result<Self> {
        Self::open_held(path, options, None)
    }

    /// The same with a predecessor's descriptor, which is taken in place of a new one if it is of
    /// that file, and its lock with it: there is no moment in which the file is nobody's.
    pub fn open_held(path: &Path, options: &FileOptions, held: Option<OwnedFd>) -> Result<Self> {
        let block_device = match stat(path) {
            Ok(found) => FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(Error::io("look at the backing file", 0, error.into())),
        };
        let file = match held.filter(|held| is_of(held, path)) {
            Some(held) => as_opened(held)?,
            None => open_locked(path, block_device)?,
        };
        if !block_device {
            sync_directory(path)?;
        }
        let found = fstat(&file).map_err(|error| Error::io("stat", 0, error.into()))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let wanted = if block_device {
            FileType::BlockDevice
        } else {
            FileType::RegularFile
        };
        if kind != wanted {
            return foreign(
                path,
                format!("is a {kind:?}, wanted a file or a block device"),
            );
        }
        if !block_device && found.st_mode & 0o077 != 0 {
            let mode = found.st_mode & 0o777;
            let why = format!("has mode {mode:o}, wanted 600: others could read swapped memory");
            return foreign(path, why);
        }
        let mut bytes = found.st_size as u64;
        if block_device {
            let end = seek(&file, SeekFrom::End(0));
            bytes = end.map_err(|error| Error::io("measure the device", 0, error.into()))?;
            if options.bytes > bytes {
                let wanted = options.bytes;
                return foreign(
                    path,
                    format!("is a device of {bytes} bytes, wanted {wanted}"),
                );
            }
            if options.bytes > 0 {
                bytes = options.bytes;
            }
        }
        Ok(FileDevice {
            path: path.to_path_buf(),
            bytes,
            block_device,
            direct: false,
            is_read_only: is_read_only(&file)?,
            file,
            writable: OnceLock::new(),
        })
    }

    /// Opens and locks a file or block device that is there, to read it only.
    pub fn open_for_reading(path: &Path) -> Result<Self> {
        Self::open_offline(path, OFlags::RDONLY)
    }

    /// Opens and locks a file or block device that is there; neither its size nor its blocks change.
    pub fn open_existing(path: &Path) -> Result<Self> {
        Self::open_offline(path, OFlags::RDWR)
    }

    fn open_offline(path: &Path, access: OFlags) -> Result<Self> {
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = match open(path, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(error) => return foreign(path, format!("cannot be opened: {error}")),
        };
        lock(&file, path)?;
        let found = fstat(&file).map_err(|error| Error::io("stat", 0, error.into()))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let block_device = kind == FileType::BlockDevice;
        if !block_device && kind != FileType::RegularFile {
            let why = format!("is a {kind:?}, wanted a file or a block device");
            return foreign(path, why);
        }
        let end = seek(&file, SeekFrom::End(0));
        let bytes = end.map_err(|error| Error::io("measure the device", 0, error.into()))?;
        Ok(FileDevice {
            file,
            path: path.to_path_buf(),
            bytes,
            block_device,
            direct: false,
            // As it was asked for.
            is_read_only: false,
            writable: OnceLock::new(),
        })
    }

    /// The file as it can be written.
    fn writable(&self) -> io::Result<&File> {
        if !self.is_read_only {
            return Ok(&self.file);
        }
        if let Some(file) = self.writable.get() {
            return Ok(file);
        }
        // Whatever the path leads to by now, this is the file that is locked.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty())?;
        if self.direct {
            fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::DIRECT)?;
        }
        Ok(self.writable.get_or_init(|| File::from(file)))
    }

    /// Gives a plain file the size and the blocks that are wanted. Not for a file that is not ours.
    pub fn resize(&mut self, options: &FileOptions) -> Result<()> {
        if self.block_device || options.bytes == 0 {
            return Ok(());
        }
        if options.bytes != self.bytes {
            self.writable()
                .and_then(|file| Ok(ftruncate(file, options.bytes)?))
                .map_err(|error| Error::io("resize the backing file", 0, error))?;
            self.bytes = options.bytes;
        }
        if options.preallocate {
            let reserve = |file| fallocate(file, FallocateFlags::empty(), 0, options.bytes);
            self.writable()
                .and_then(|file| retry(|| reserve(file)))
                .map_err(|error| {
                    Error::io("reserve room for the backing file", options.bytes, error)
                })?;
        }
        Ok(())
    }

    /// Turns on direct I/O if it is wanted and a first aligned read proves that it works.
    pub fn go_direct(&mut self, options: &FileOptions) {
        if !options.direct || self.bytes < BLOCK_BYTES as u64 {
            return;
        }
        let Ok(flags) = fcntl_getfl(&self.file) else {
            return;
        };
        if fcntl_setfl(&self.file, flags | OFlags::DIRECT).is_err() {
            return;
        }
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        self.direct = self.file.read_exact_at(&mut block, 0).is_ok();
        if !self.direct {
            // Some file systems take the flag and refuse the I/O, or want larger blocks than ours.
            // Going back cannot fail where going there did not.
            let _ = fcntl_setfl(&self.file, flags);
        }
    }

    /// Another descriptor of the open, locked file, for the next process.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        let copy = self.file.try_clone();
        let copy = copy.map_err(|error| Error::io("copy a descriptor", 0, error))?;
        Ok(copy.into())
    }

    /// Whether the page cache is passed by.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens and locks. A symbolic link is followed to a block device, as all their lasting names are
/// links, but not to a file: a link in a shared directory could make us write over somebody's data.
fn open_locked(path: &Path, block_device: bool) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = match block_device {
        // On a block device O_EXCL claims it.
        true => flags | OFlags::EXCL,
        false => flags | OFlags::CREATE | OFlags::NOFOLLOW,
    };
    let opened = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::ROFS) => {
            let flags = flags - OFlags::RDWR - OFlags::CREATE;
            open(path, flags | OFlags::RDONLY, Mode::empty()).map_err(|_| Errno::ROFS)
        }
        opened => opened,
    };
    let file = match opened {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::LOOP) => return foreign(path, "is a symbolic link, wanted a file".into()),
        Err(Errno::ISDIR) => return foreign(path, "is a directory, wanted a file".into()),
        Err(Errno::BUSY) => return foreign(path, "is a device that is in use".into()),
        Err(error) => return Err(Error::io("open the backing file", 0, error.into())),
    };
    lock(&file, path)?;
    as_opened(file.into())
}

/// Makes the file's name survive loss of power, or what is flushed to it is nowhere to be found. Each
/// time: who made the file may have died before this.
fn sync_directory(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let synced = open(parent.unwrap_or(Path::new(".")), flags, Mode::empty()).and_then(fsync);
    match synced {
        // Some network file systems cannot sync a directory, and need not. On a read-only one no name is new.
        Ok(()) | Err(Errno::INVAL | Errno::ROFS) => Ok(()),
        Err(error) => Err(Error::io(
            "sync the directory of the backing file",
            0,
            error.into(),
        )),
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => foreign(path, "is in use by another server".into()),
        Err(error) => Err(Error::io("lock the backing file", 0, error.into())),
    }
}

/// Is this an open descriptor of what the path leads to?
fn is_of(held: &OwnedFd, path: &Path) -> bool {
    match (fstat(held), stat(path)) {
        (Ok(held), Ok(found)) => (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino),
        _ => false,
    }
}

/// Without direct I/O, which may not work: the flag is the descriptor's, whoever set it. And without the
/// one with which no fifo holds up its opening: it would let an io_uring answer EAGAIN.
fn as_opened(file: OwnedFd) -> Result<File> {
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags - OFlags::DIRECT - OFlags::NONBLOCK))
        .map_err(|errno| Error::io("set a flag of the backing file", 0, errno.into()))?;
    Ok(File::from(file))
}

fn is_read_only(file: &File) -> Result<bool> {
    let flags = fcntl_getfl(file)
        .map_err(|errno| Error::io("look at a flag of the backing file", 0, errno.into()))?;
    Ok(flags & OFlags::RWMODE == OFlags::RDONLY)
}

fn foreign<T>(path: &Path, why: String) -> Result<T> {
    Err(Error::Foreign {
        path: path.display().to_string(),
        why,
    })
}

/// Calls again what a signal interrupted.
fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => continue,
            done => return done.map_err(io::Error::from),
        }
    }
}

impl AsFd for FileDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for FileDevice {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Past the end a plain file would grow, and be larger than it was said to be.
        if offset
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > self.bytes)
        {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.writable()?.write_all_at(bytes, offset)
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        // The kernel turns it into a discard or write-zeroes on block devices.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let file = self.writable()?;
        retry(|| fallocate(file, flags, offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        retry(|| fdatasync(&self.file))
    }
}
