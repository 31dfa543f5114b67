//! A device in memory that loses power: what was not synced then is there or not, sector by sector.
//!
//! The fault model, beside the rules of direct I/O:
//!
//! * until a sync succeeds, each sector that was written or discarded since the last one holds, after a
//!   loss of power, any of the versions that it had since, chosen by a seed: nothing keeps their order;
//! * a sync that fails leaves some sectors for clean that never landed, and no later sync brings them to
//!   the medium, though reads still find them: [`PowerDevice::fail_sync`];
//! * the power goes in the middle of something: after so many operations all others fail, and nothing of
//!   theirs happens: [`PowerDevice::die_after`];
//! * a sync that says it succeeded and did nothing: [`PowerDevice::lie`];
//! * a write of one block with a certain beginning that is acknowledged and never lands:
//!   [`PowerDevice::lose_blocks`].
//!
//! Not here: wrong bytes, errors of reads and writes (`sim_device`). Locking: one mutex around everything.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::random::Random;
use crate::store::{BLOCK_BYTES, Device};

/// What is written wholly or not at all.
const SECTOR_BYTES: usize = 512;

struct State {
    /// What reads find.
    current: Vec<u8>,
    /// What is on the medium for certain.
    medium: Vec<u8>,
    /// The versions of sectors since they were last synced, the present one last.
    pending: BTreeMap<usize, Vec<Vec<u8>>>,
    random: Random,
    syncs: u64,
    failing_syncs: u64,
    operations_left: Option<u64>,
    lies: bool,
    lost_beginning: Option<[u8; 8]>,
    repeated: Vec<[u8; 8]>,
}

/// The simulated device. Share it as `Arc<PowerDevice>`, which is a [`Device`] too.
pub struct PowerDevice {
    state: Mutex<State>,
}

impl PowerDevice {
    /// A device of zeros.
    pub fn new(bytes: usize, seed: u64) -> PowerDevice {
        PowerDevice::from_image(vec![0; bytes], seed)
    }

    /// A device with this content, all of it on the medium.
    pub fn from_image(bytes: Vec<u8>, seed: u64) -> PowerDevice {
        PowerDevice {
            state: Mutex::new(State {
                current: bytes.clone(),
                medium: bytes,
                pending: BTreeMap::new(),
                random: Random::new(seed),
                syncs: 0,
                failing_syncs: 0,
                operations_left: None,
                lies: false,
                lost_beginning: None,
                repeated: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes now: what is found when it is back.
    pub fn lose_power(&self) -> Vec<u8> {
        let mut state = self.state();
        let mut image = state.medium.clone();
        let pending = std::mem::take(&mut state.pending);
        // Often everything or nothing landed, which chance alone would never do.
        let mood = state.random.below(4);
        for (sector, versions) in pending {
            let landed = match mood {
                0 => 0,
                1 => versions.len(),
                _ => state.random.below(versions.len() as u64 + 1) as usize,
            };
            if landed > 0 {
                let at = sector * SECTOR_BYTES;
                image[at..at + SECTOR_BYTES].copy_from_slice(&versions[landed - 1]);
            }
        }
        image
    }

    /// Lets the next `count` syncs fail.
    pub fn fail_sync(&self, count: u64) {
        self.state().failing_syncs = count;
    }

    /// Lets all operations fail after so many more.
    pub fn die_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// Lets syncs succeed and do nothing.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Lets writes of one block that begins like this succeed and do nothing.
    pub fn lose_blocks(&self, beginning: [u8; 8]) {
        self.state().lost_beginning = Some(beginning);
    }

    /// Writes that began like this where the medium had something that begins so.
    pub fn repeated(&self, beginning: [u8; 8]) -> usize {
        let state = self.state();
        state
            .repeated
            .iter()
            .filter(|one| **one == beginning)
            .count()
    }

    /// Syncs that succeeded.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

impl State {
    fn begin(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(eio()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        assert!(
            at.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "{} bytes at {offset} are not of blocks",
            bytes.len()
        );
        let range = self.current.get_mut(at..at + bytes.len());
        range
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(bytes);
        if let Some(beginning) = bytes.first_chunk()
            && self.medium[at..].starts_with(beginning)
        {
            self.repeated.push(*beginning);
        }
        for (number, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let versions = self.pending.entry(at / SECTOR_BYTES + number).or_default();
            versions.push(sector.to_vec());
        }
        Ok(())
    }
}

fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl Device for PowerDevice {
    fn len(&self) -> u64 {
        self.state().current.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let at = offset as usize;
        let range = state.current.get(at..at + buffer.len());
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let lost = state.lost_beginning;
        if bytes.len() == BLOCK_BYTES && lost.is_some_and(|lost| bytes.starts_with(&lost)) {
            return Ok(());
        }
        state.put(offset, bytes)
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        state.put(offset, &vec![0; bytes as usize])
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        if state.lies {
            return Ok(());
        }
        let is_failing = state.failing_syncs > 0;
        let pending = std::mem::take(&mut state.pending);
        for (sector, versions) in pending {
            if is_failing && state.random.below(2) == 0 {
                continue;
            }
            let at = sector * SECTOR_BYTES;
            let newest = versions.last().expect("a version was pushed");
            state.medium[at..at + SECTOR_BYTES].copy_from_slice(newest);
        }
        if is_failing {
            state.failing_syncs -= 1;
            return Err(eio());
        }
        state.syncs += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::AlignedBuffer;

    fn block(byte: u8) -> AlignedBuffer {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        block.fill(byte);
        block
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_any_version_of_each_sector() {
        let mut mixtures = 0;
        for seed in 0..50 {
            let device = PowerDevice::new(2 * BLOCK_BYTES, seed);
            device.write_at(&block(1), 0).unwrap();
            device.sync().unwrap();
            device.write_at(&block(2), 0).unwrap();
            device.write_at(&block(3), 0).unwrap();
            device.write_at(&block(4), BLOCK_BYTES as u64).unwrap();
            let image = device.lose_power();
            let (first, second) = image.split_at(BLOCK_BYTES);
            for sector in first.chunks(SECTOR_BYTES) {
                assert!((1..=3).contains(&sector[0]) && sector.iter().all(|b| *b == sector[0]));
            }
            assert!(second.iter().all(|byte| matches!(byte, 0 | 4)));
            mixtures += u64::from(first.iter().any(|byte| *byte != first[0]));
        }
        assert!(mixtures > 10, "{mixtures} torn blocks in 50");
    }

    #[test]
    fn what_a_failed_sync_left_out_no_later_one_makes_good() {
        let lost = (0..20).filter(|seed| {
            let device = PowerDevice::new(BLOCK_BYTES, *seed);
            device.write_at(&block(1), 0).unwrap();
            device.fail_sync(1);
            device.sync().unwrap_err();
            device.sync().unwrap();
            let mut found = block(0);
            device.read_at(&mut found, 0).unwrap();
            assert!(found.iter().all(|byte| *byte == 1), "reads find it");
            device.lose_power().contains(&0)
        });
        assert!(lost.count() > 15);
    }
}
