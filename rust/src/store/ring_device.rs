//! A backing file whose reads, where several are wanted at once, are under way together in an io_uring.
//!
//! A few rings are made at start and lent to whoever reads; when all are lent, and for a single read,
//! which gains nothing, it is [`FileDevice`]'s `pread`. So is a read that came back short or
//! interrupted: what it says counts, and both ways give the same errors.
//!
//! Containers often forbid io_uring, and administrators may. Nothing is known by asking a version: the
//! rings are made, and each proves that it works.
//!
//! Locking: none; the rings are in a queue without a lock.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use crossbeam_queue::ArrayQueue;
use rustix::io::Errno;

use super::device::{Device, ReadDone, Span, read_in_turn};
use super::file_device::FileDevice;
use super::ring::Ring;

/// Set to 1 or 2 by an administrator who forbids io_uring to many or to all (Linux 6.6).
const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Rings that nobody uses at the moment.
pub(super) struct Rings(ArrayQueue<Ring>);

impl Rings {
    /// Makes rings that so many threads can read with at a time; or says in one line why there are none.
    pub fn new(threads: usize) -> Result<Rings, String> {
        let rings = ArrayQueue::new(threads);
        for _ in 0..threads {
            let ring = Ring::new().map_err(|error| words(&error))?;
            assert!(rings.push(ring).is_ok(), "room for {threads} rings");
        }
        Ok(Rings(rings))
    }
}

/// A file and the rings to read it with.
pub struct RingDevice {
    pub(super) file: FileDevice,
    pub(super) rings: Rings,
}

/// Why there are no rings.
fn words(error: &io::Error) -> String {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::NOSYS) {
        return "the kernel has no io_uring, or a seccomp filter says so".into();
    }
    if is(Errno::PERM) {
        return match fs::read_to_string(DISABLED).as_deref().map(str::trim) {
            Ok(number @ ("1" | "2")) => format!("forbidden by kernel.io_uring_disabled={number}"),
            _ => "forbidden by a seccomp filter, as containers have one".into(),
        };
    }
    if error.kind() == io::ErrorKind::Unsupported {
        return "the kernel's io_uring cannot read, Linux 5.6 can".into();
    }
    format!("io_uring cannot be set up: {error}")
}

impl Device for RingDevice {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn read_many(&self, buffer: &mut [u8], spans: &[Span], done: &mut ReadDone<'_>) {
        let several = spans.len() > 1;
        let Some(mut ring) = several.then(|| self.rings.0.pop()).flatten() else {
            return read_in_turn(&self.file, buffer, spans, done);
        };
        let file = self.file.as_fd();
        ring.read(file, buffer, spans, &mut |number, bytes, read| {
            let result = match read {
                Ok(count) if count == bytes.len() => Ok(()),
                Err(error) if !is_passing(&error) => Err(error),
                _ => self.file.read_at(bytes, spans[number].start),
            };
            done(number, bytes, result);
        });
        // It came from there, so there is room; without it, reads would only go one by one.
        drop(self.rings.0.push(ring));
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.discard(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Does it say nothing of the device?
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
