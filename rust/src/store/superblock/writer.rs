//! Writing the superblock, which comes before anything else that is written.
//!
//! It says how often the store was opened, and so which sequences nobody has used. Before that is on the device no
//! segment may be written, or the next process would use its sequence again; nor is anything else. A device that
//! refuses it need not be refused for that: what is on it can be read, and whoever is about to write tries again.
//!
//! Locking: one mutex, held while it is written, so that who comes meanwhile waits for the outcome. Afterwards it is
//! one atomic load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::buffer::AlignedBuffer;
use super::super::device::{BLOCK_BYTES, Device};
use super::super::stats::Counters;
use super::Superblock;
use crate::error::{Error, Result};

/// The superblock of one opening.
pub struct SuperblockWriter {
    superblock: Superblock,
    /// The device was blank.
    is_blank: bool,
    is_written: AtomicBool,
    has_failed_to_sync: AtomicBool,
    block: Mutex<AlignedBuffer>,
}

impl SuperblockWriter {
    /// `is_blank`: there was nothing on the device. Nothing is written yet.
    pub fn new(superblock: Superblock, is_blank: bool) -> SuperblockWriter {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        superblock.encode(&mut block);
        SuperblockWriter {
            superblock,
            is_blank,
            is_written: AtomicBool::new(false),
            has_failed_to_sync: AtomicBool::new(false),
            block: Mutex::new(block),
        }
    }

    /// Is it on the device?
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Acquire)
    }

    /// Has a sync failed that came with it? Then what somebody else wrote before may be lost too.
    pub fn has_failed_to_sync(&self) -> bool {
        self.has_failed_to_sync.load(Ordering::Acquire)
    }

    /// Writes it with its copy, lasting, unless that is done. After a failure both are written again: what a sync that
    /// failed should have covered may be nowhere.
    pub fn write(&self, device: &dyn Device, counters: &Counters) -> Result<()> {
        if self.is_written() {
            return Ok(());
        }
        let block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_written() {
            return Ok(());
        }
        // The copy first: whatever dies in between, it is at least as new as the superblock. But on an empty
        // device, where a copy alone would look like somebody else's data.
        let mut places = [self.superblock.copy_at(), 0];
        if self.is_blank {
            places.reverse();
        }
        for at in places {
            device.write_at(&block, at).map_err(|source| {
                counters.write_errors.add(1);
                Error::io("write superblock", at, source)
            })?;
            device.sync().map_err(|source| {
                self.has_failed_to_sync.store(true, Ordering::Release);
                Error::io("sync superblock", at, source)
            })?;
        }
        self.is_written.store(true, Ordering::Release);
        Ok(())
    }
}
