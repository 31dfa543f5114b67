//! An io_uring that does several reads of one file at once, and nothing else.
//!
//! It is here that the kernel is given addresses, so this file has `unsafe`, which no library takes
//! away: whoever owns the buffers has to see to it that they outlive the reads. A [`Flight`] does: it
//! borrows them, and it does not end, not even in a panic, before the kernel has told of every read.
//!
//! Not here: when to use it, and what a short read means (`ring_device`).
//! Locking: none, a ring is used by one thread at a time. After [`Ring::new`] nothing allocates.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::device::Span;
use super::read::GROUP_READS_MAX;

/// Room for all reads of one call.
const ENTRIES: u32 = GROUP_READS_MAX as u32;
const _: () = assert!(ENTRIES.is_power_of_two());

/// Who is told of each read: its number, its bytes, how many of them were read.
pub(super) type RingDone<'a> = dyn FnMut(usize, &mut [u8], io::Result<usize>) + 'a;

/// Made once. Between two calls nothing is under way in it.
pub(super) struct Ring(IoUring);

impl Ring {
    /// Makes one and proves that it works.
    ///
    /// Errors: whatever the system says (ENOSYS without io_uring, EPERM where it is forbidden, ENOMEM
    /// over RLIMIT_MEMLOCK on old kernels); `Unsupported` without reads, before Linux 5.6.
    pub fn new() -> io::Result<Ring> {
        // Whoever waits fetches what has ended: nobody need be interrupted for it (Linux 5.19).
        let mut ring = match IoUring::builder().setup_coop_taskrun().build(ENTRIES) {
            Err(error) if is(&error, Errno::INVAL) => IoUring::new(ENTRIES)?,
            made => made?,
        };
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // A filter may forbid to use what may be made.
        // SAFETY: it does nothing, to no memory.
        let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        pushed.expect("a ring with room");
        ring.submit_and_wait(1)?;
        ring.completion().for_each(drop);
        Ok(Ring(ring))
    }

    /// Reads `spans` of `file` into `buffer`, one behind the other, and tells of each when it has
    /// ended. There are up to [`GROUP_READS_MAX`] and the buffer has room for them.
    pub fn read(
        &mut self,
        file: BorrowedFd<'_>,
        buffer: &mut [u8],
        spans: &[Span],
        done: &mut RingDone<'_>,
    ) {
        let bytes = spans.iter().map(Span::len).sum::<usize>();
        assert!(spans.len() <= GROUP_READS_MAX && bytes <= buffer.len());
        let start = buffer.as_mut_ptr();
        let mut flight = Flight {
            ring: &mut self.0,
            pending: 0,
        };
        let mut at = 0;
        for (number, span) in spans.iter().enumerate() {
            let to = start.wrapping_add(at);
            let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), to, span.len() as u32)
                .offset(span.start)
                .build()
                .user_data((number as u64) << 32 | at as u64);
            // SAFETY: the bytes are in `buffer`, which is borrowed until `flight` has ended, as `file`
            // is; nobody looks at them before the kernel has told of this read.
            let pushed = unsafe { flight.ring.submission().push(&entry) };
            pushed.expect("a ring with room");
            flight.pending += 1;
            at += span.len();
        }
        while let Some((number, at, result)) = flight.next() {
            // SAFETY: in `buffer`, and no other read's; the kernel is through with it.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(start.add(at), spans[number].len()) };
            done(number, bytes, result);
        }
    }
}

/// Reads that are under way, or about to be.
struct Flight<'a> {
    ring: &'a mut IoUring,
    pending: usize,
}

impl Flight<'_> {
    /// Waits for the next one that ends: its number, where in the buffer it is, how it went. None: all
    /// have ended.
    fn next(&mut self) -> Option<(usize, usize, io::Result<usize>)> {
        if self.pending == 0 {
            return None;
        }
        loop {
            if let Some(ended) = self.ring.completion().next() {
                self.pending -= 1;
                let (number, at) = (ended.user_data() >> 32, ended.user_data() as u32);
                let result = usize::try_from(ended.result())
                    .map_err(|_| io::Error::from_raw_os_error(-ended.result()));
                return Some((number as usize, at as usize, result));
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                // A signal, or no memory for a moment.
                Err(error)
                    if [Errno::INTR, Errno::AGAIN, Errno::BUSY]
                        .iter()
                        .any(|errno| is(&error, *errno)) =>
                {
                    std::thread::yield_now();
                }
                // The kernel has the addresses and cannot be asked any more: to go on is to let it
                // write into memory that is somebody else's by then.
                Err(error) => {
                    eprintln!("io_uring_enter fails while reads are under way: {error}");
                    std::process::abort()
                }
            }
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
