//! A device in memory that fails as disks do, when it is told to.
//!
//! The fault model, beside the rules of direct I/O, which it asserts:
//!
//! * an operation fails and nothing happens: [`Fault::Fail`];
//! * a write fails after a part of it landed: [`Fault::Short`], or all but a part: [`Fault::Hole`];
//! * a write is acknowledged and lands elsewhere: [`Fault::Misdirect`];
//! * a write is acknowledged and lands nowhere: [`Fault::Lose`];
//! * the device is full after so many bytes written: [`SimDevice::set_room`];
//! * a range cannot be read: [`SimDevice::break_range`];
//! * a range cannot be written: [`SimDevice::break_writes`];
//! * bytes change while they lie there: [`SimDevice::flip`];
//! * operations fail by chance, from a seed: [`SimDevice::set_error_rate`];
//! * reads that are under way together end in any order: [`SimDevice::mix_reads`];
//! * reads, or writes and discards, take as long as the test wants: [`SimDevice::close_gate`],
//!   [`SimDevice::close_write_gate`].
//!
//! Not here: loss of power; a write that was acknowledged stays.
//! Locking: one mutex around everything; who waits at a gate does not hold it.

use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::{BLOCK_BYTES, Device, ReadDone, Span};

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `read_at`
    Read,
    /// `write_at`
    Write,
    /// `discard`
    Discard,
    /// `sync`
    Sync,
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO, nothing read or written.
    Fail,
    /// The operation is not supported.
    Unsupported,
    /// A write of which this many bytes land before EIO.
    Short(usize),
    /// A write of which all but these bytes land before EIO: one bad block among many.
    Hole(usize, usize),
    /// A write that lands at this offset instead, and is acknowledged.
    Misdirect(u64),
    /// A write that is acknowledged and never lands.
    Lose,
}

/// How often each operation was asked for, failed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `read_at`.
    pub reads: u64,
    /// Calls of `write_at`.
    pub writes: u64,
    /// Calls of `discard`.
    pub discards: u64,
    /// Calls of `sync`.
    pub syncs: u64,
}

struct State {
    bytes: Vec<u8>,
    counts: Counts,
    /// Operations still to pass before the fault happens, counted per kind.
    faults: Vec<(Op, u64, Fault)>,
    broken: Vec<Range<u64>>,
    broken_writes: Vec<Range<u64>>,
    room_bytes: Option<u64>,
    error_rate_permille: u64,
    random: u64,
    writes: Vec<(u64, usize)>,
    mixes_reads: bool,
    gate_closed: bool,
    write_gate_closed: bool,
    waiting: usize,
}

/// The simulated device. Share it as `Arc<SimDevice>`, which is a [`Device`] too.
pub struct SimDevice {
    state: Mutex<State>,
    gate: Condvar,
}

impl SimDevice {
    /// A device of zeros. `seed` decides the errors of chance alone.
    pub fn new(bytes: usize, seed: u64) -> Self {
        Self::from_image(vec![0; bytes], seed)
    }

    /// A device with this content.
    pub fn from_image(bytes: Vec<u8>, seed: u64) -> Self {
        let state = State {
            bytes,
            counts: Counts::default(),
            faults: Vec::new(),
            broken: Vec::new(),
            broken_writes: Vec::new(),
            room_bytes: None,
            error_rate_permille: 0,
            random: seed,
            writes: Vec::new(),
            mixes_reads: false,
            gate_closed: false,
            write_gate_closed: false,
            waiting: 0,
        };
        SimDevice {
            state: Mutex::new(state),
            gate: Condvar::new(),
        }
    }

    /// Waits while a gate is closed.
    fn pass<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        is_closed: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        if is_closed(&state) {
            state.waiting += 1;
            self.gate.notify_all();
            let waited = self.gate.wait_while(state, |state| is_closed(state));
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies on the device.
    pub fn image(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Lets the `nth` operation of this kind from now, from 0, go wrong. Each fault happens once.
    pub fn inject(&self, op: Op, nth: u64, fault: Fault) {
        let write_only = matches!(
            fault,
            Fault::Short(_) | Fault::Hole(..) | Fault::Misdirect(_) | Fault::Lose
        );
        assert!(op == Op::Write || !write_only, "{fault:?} is for writes");
        self.state().faults.push((op, nth, fault));
    }

    /// Changes the bits of `mask` in one byte.
    pub fn flip(&self, at: usize, mask: u8) {
        self.state().bytes[at] ^= mask;
    }

    /// Lets reads that touch this range fail, until [`heal`](Self::heal).
    pub fn break_range(&self, range: Range<u64>) {
        self.state().broken.push(range);
    }

    /// Lets writes that touch this range fail, until [`heal`](Self::heal).
    pub fn break_writes(&self, range: Range<u64>) {
        self.state().broken_writes.push(range);
    }

    /// Lets writes fail with ENOSPC once so many more bytes were written.
    pub fn set_room(&self, bytes: u64) {
        self.state().room_bytes = Some(bytes);
    }

    /// Lets reads and writes fail by chance, so many in 1000.
    pub fn set_error_rate(&self, permille: u64) {
        self.state().error_rate_permille = permille;
    }

    /// Lets reads that are asked for together end in an order of chance.
    pub fn mix_reads(&self) {
        self.state().mixes_reads = true;
    }

    /// Ends all faults; what was damaged stays so.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.broken.clear();
        state.broken_writes.clear();
        state.room_bytes = None;
        state.error_rate_permille = 0;
    }

    /// Lets reads wait until [`open_gate`](Self::open_gate).
    pub fn close_gate(&self) {
        self.state().gate_closed = true;
    }

    /// Lets writes and discards wait until [`open_gate`](Self::open_gate).
    pub fn close_write_gate(&self) {
        self.state().write_gate_closed = true;
    }

    /// Lets all that waits go on.
    pub fn open_gate(&self) {
        let mut state = self.state();
        (state.gate_closed, state.write_gate_closed) = (false, false);
        drop(state);
        self.gate.notify_all();
    }

    /// Returns once so many operations wait at the gates.
    pub fn wait_for_waiting(&self, reads: usize) {
        let state = self.state();
        let reached = self.gate.wait_while(state, |state| state.waiting < reads);
        drop(reached.unwrap_or_else(PoisonError::into_inner));
    }

    /// Operations so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Offset and length of every write so far, in order.
    pub fn writes(&self) -> Vec<(u64, usize)> {
        self.state().writes.clone()
    }
}

impl State {
    fn range(&self, offset: u64, bytes: usize) -> io::Result<Range<usize>> {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64),
            "offset {offset} is not of a block"
        );
        assert!(
            bytes.is_multiple_of(BLOCK_BYTES),
            "length {bytes} is not of blocks"
        );
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let inside = start
            .checked_add(bytes)
            .is_some_and(|end| end <= self.bytes.len());
        inside
            .then_some(start..start + bytes)
            .ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// xorshift64; a seed of 0 would stay 0.
    fn chance(&mut self) -> u64 {
        let mut x = self.random | 1 << 63;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }

    /// The fault of this operation, if it has one.
    fn fault(&mut self, op: Op) -> Option<Fault> {
        let mut now = None;
        self.faults.retain_mut(|(kind, left, fault)| {
            if *kind != op {
                return true;
            }
            if *left == 0 {
                now = Some(*fault);
                return false;
            }
            *left -= 1;
            true
        });
        let chance = self.chance();
        let unlucky =
            matches!(op, Op::Read | Op::Write) && chance % 1000 < self.error_rate_permille;
        now.or(unlucky.then_some(Fault::Fail))
    }

    /// Where the write lands; None: nowhere.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<Option<usize>> {
        self.counts.writes += 1;
        self.writes.push((offset, bytes.len()));
        let range = self.range(offset, bytes.len())?;
        if touches(&self.broken_writes, offset..offset + bytes.len() as u64) {
            return Err(eio());
        }
        let landing = match self.fault(Op::Write) {
            None => range,
            Some(Fault::Lose) => return Ok(None),
            Some(Fault::Misdirect(elsewhere)) => self.range(elsewhere, bytes.len())?,
            Some(Fault::Short(part)) => {
                let part = part.min(bytes.len());
                self.bytes[range.start..range.start + part].copy_from_slice(&bytes[..part]);
                return Err(eio());
            }
            Some(Fault::Hole(from, to)) => {
                let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
                self.bytes[range.start..range.start + from].copy_from_slice(&bytes[..from]);
                self.bytes[range.start + to..range.end].copy_from_slice(&bytes[to..]);
                return Err(eio());
            }
            Some(Fault::Unsupported) => return Err(io::ErrorKind::Unsupported.into()),
            Some(Fault::Fail) => return Err(eio()),
        };
        if let Some(room) = &mut self.room_bytes {
            match room.checked_sub(bytes.len() as u64) {
                Some(left) => *room = left,
                None => return Err(io::ErrorKind::StorageFull.into()),
            }
        }
        Ok(Some(landing.start))
    }
}

fn touches(broken: &[Range<u64>], range: Range<u64>) -> bool {
    broken
        .iter()
        .any(|bad| bad.start < range.end && range.start < bad.end)
}

fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

fn assert_aligned(address: *const u8) {
    assert!(
        address.addr().is_multiple_of(BLOCK_BYTES),
        "the buffer is not aligned"
    );
}

impl Device for SimDevice {
    fn len(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert_aligned(buffer.as_ptr());
        let mut state = self.state();
        state.counts.reads += 1;
        state = self.pass(state, |state| state.gate_closed);
        let range = state.range(offset, buffer.len())?;
        let end = offset + buffer.len() as u64;
        let broken = touches(&state.broken, offset..end);
        match state.fault(Op::Read) {
            Some(Fault::Unsupported) => Err(io::ErrorKind::Unsupported.into()),
            Some(_) => Err(eio()),
            None if broken => Err(eio()),
            None => {
                buffer.copy_from_slice(&state.bytes[range]);
                Ok(())
            }
        }
    }

    fn read_many(&self, buffer: &mut [u8], spans: &[Span], done: &mut ReadDone<'_>) {
        let mut rest = buffer;
        let mut reads = Vec::new();
        for (number, span) in spans.iter().enumerate() {
            let (bytes, later) = rest.split_at_mut(span.len());
            reads.push((number, bytes));
            rest = later;
        }
        while !reads.is_empty() {
            let mut state = self.state();
            let next = match state.mixes_reads {
                true => state.chance() as usize % reads.len(),
                false => 0,
            };
            drop(state);
            let (number, bytes) = reads.remove(next);
            let result = self.read_at(bytes, spans[number].start);
            done(number, bytes, result);
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert_aligned(bytes.as_ptr());
        let mut state = self.pass(self.state(), |state| state.write_gate_closed);
        if let Some(at) = state.write(bytes, offset)? {
            state.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.pass(self.state(), |state| state.write_gate_closed);
        state.counts.discards += 1;
        let range = state.range(offset, bytes as usize)?;
        match state.fault(Op::Discard) {
            Some(Fault::Unsupported) => return Err(io::ErrorKind::Unsupported.into()),
            Some(_) => return Err(eio()),
            None => {}
        }
        state.bytes[range].fill(0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.counts.syncs += 1;
        match state.fault(Op::Sync) {
            Some(_) => Err(eio()),
            None => Ok(()),
        }
    }
}
