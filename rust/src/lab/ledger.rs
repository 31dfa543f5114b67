//! What a pool under test has to hold: place, size and content of every page's object.
//!
//! Stands where the page table stands in the server, and writes in the same order: a place for the
//! new object, its bytes, then the old place is freed.
//!
//! Locking: none; one thread has a ledger. Several ledgers of one pool have different owners.

use std::io;
use std::ops::Range;

use super::interrupt::Interrupt;
use super::noise::Noise;
use crate::error::{Error, Result};
use crate::zpool::{Handle, Resident, Tag, Zpool};

/// Ages that a full pool of the server spans; see `age`.
const EPOCHS_PER_POOL: u32 = 256;

/// An object in the pool. Pages that need none have size 0.
#[derive(Clone, Copy, Debug)]
struct Entry {
    handle: Handle,
    bytes: u32,
    /// Number of the write that its content follows from.
    serial: u32,
}

/// Nothing in the pool.
const NOTHING: Entry = Entry {
    handle: Handle(0),
    bytes: 0,
    serial: 0,
};

/// A page being written.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    owner: u32,
    new: Entry,
    is_placed: bool,
}

impl Write {
    /// Does the page need no object?
    pub fn is_empty(&self) -> bool {
        self.new.bytes == 0
    }
}

/// The objects of a range of owners.
pub struct Ledger<'a> {
    pool: &'a dyn Zpool,
    noise: &'a Noise,
    owners: Range<u32>,
    entries: Vec<Entry>,
    serial: u32,
    epoch_shift: u32,
    scratch: Vec<u8>,
}

impl<'a> Ledger<'a> {
    /// A ledger for `owners`, of whom none has an object yet.
    pub fn new(pool: &'a dyn Zpool, noise: &'a Noise, owners: Range<u32>) -> Ledger<'a> {
        Ledger {
            pool,
            noise,
            entries: vec![NOTHING; owners.len()],
            // Ledgers of one pool number their writes apart: equal contents would hide a mistake.
            serial: owners.start << 8,
            epoch_shift: (owners.len() as u32 / EPOCHS_PER_POOL).max(1).ilog2(),
            owners,
            scratch: vec![0; pool.object_bytes_max()],
        }
    }

    /// All owners.
    pub fn owners(&self) -> Range<u32> {
        self.owners.clone()
    }

    /// Begins to write `bytes` for `owner`.
    pub fn begin(&mut self, owner: u32, bytes: u32) -> Write {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        Write {
            owner,
            new: Entry {
                bytes,
                serial,
                ..NOTHING
            },
            is_placed: bytes == 0,
        }
    }

    /// Takes a place for the new object.
    #[inline]
    pub fn alloc(&self, write: &mut Write) {
        let tag = self.tag(write.owner, write.new);
        if let Ok(handle) = self.pool.alloc(write.new.bytes as usize, tag) {
            write.new.handle = handle;
            write.is_placed = true;
        }
    }

    /// Copies the new object into its place. There is one, or this does nothing.
    #[inline]
    pub fn store(&self, write: &Write) {
        if write.is_placed {
            let Entry { bytes, serial, .. } = write.new;
            self.pool
                .store(write.new.handle, self.noise.object(serial, bytes));
        }
    }

    /// Puts the new object in the old one's stead. Returns what is to be freed.
    ///
    /// # Errors
    /// [`Error::Io`] if there was no place: the arena has room for all, so the system had no
    /// memory.
    #[inline]
    pub fn publish(&mut self, write: &Write) -> Result<Option<(Handle, u32)>> {
        if !write.is_placed {
            let held_bytes = self.pool.arena().held_bytes();
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            return Err(Error::io("take memory for the pool", held_bytes, source));
        }
        let place = (write.owner - self.owners.start) as usize;
        let old = std::mem::replace(&mut self.entries[place], write.new);
        Ok((old.bytes > 0).then_some((old.handle, old.bytes)))
    }

    /// Writes `bytes` for `owner`, all steps at once; 0 bytes discard the page. Returns how many
    /// allocations and frees that took.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn write(&mut self, owner: u32, bytes: u32) -> Result<u64> {
        let mut write = self.begin(owner, bytes);
        if bytes > 0 {
            self.alloc(&mut write);
            self.store(&write);
        }
        let old = self.publish(&write)?;
        if let Some((handle, bytes)) = old {
            self.pool.free(handle, bytes as usize);
        }
        Ok(u64::from(bytes > 0) + u64::from(old.is_some()))
    }

    /// Moves an object to another place, as compaction does. False: it is not there any more, or
    /// no place is free.
    pub fn relocate(&mut self, resident: Resident) -> bool {
        let place = (resident.tag.owner - self.owners.start) as usize;
        let entry = self.entries[place];
        if entry.bytes == 0 || entry.handle != resident.handle {
            return false;
        }
        let bytes = entry.bytes as usize;
        let Ok(handle) = self.pool.alloc(bytes, resident.tag) else {
            return false;
        };
        let object = self.pool.load(entry.handle, bytes, &mut self.scratch);
        self.pool.store(handle, object);
        self.pool.free(entry.handle, bytes);
        self.entries[place].handle = handle;
        true
    }

    /// Owners that have an object, with its place and size.
    pub fn held(&self) -> impl Iterator<Item = (Handle, u32)> + '_ {
        let entries = self.entries.iter().filter(|entry| entry.bytes > 0);
        entries.map(|entry| (entry.handle, entry.bytes))
    }

    /// Panics unless every object has its content and owner.
    ///
    /// # Errors
    /// That of `interrupt`.
    pub fn verify(&mut self, interrupt: &mut Interrupt<'_>) -> Result<()> {
        for (owner, entry) in self.owners.clone().zip(&self.entries) {
            interrupt.poll()?;
            if entry.bytes == 0 {
                continue;
            }
            let bytes = entry.bytes as usize;
            let found = self.pool.load(entry.handle, bytes, &mut self.scratch);
            assert!(
                found == self.noise.object(entry.serial, entry.bytes),
                "content of {entry:?}, owner {owner}"
            );
            let tag = self.pool.tag(entry.handle, bytes);
            assert_eq!(tag, self.tag(owner, *entry), "tag of {entry:?}");
        }
        Ok(())
    }

    fn tag(&self, owner: u32, entry: Entry) -> Tag {
        Tag {
            owner,
            stamp: (entry.serial >> self.epoch_shift) as u16,
        }
    }
}
