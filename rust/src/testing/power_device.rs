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
//! A process that dies leaves all that it wrote, synced or not: [`PowerDevice::fork`] is what the next one finds.
//!
//! Not here: wrong bytes, errors of reads and writes (`sim_device`). Locking: one mutex around everything,
//! which a write does not hold between two of its blocks.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use super::sim_device::Counts;
use crate::store::{BLOCK_BYTES, Device};

/// What is written wholly or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
struct State {
    /// What reads find.
    current: Vec<u8>,
    /// What is on the medium for certain.
    medium: Vec<u8>,
    /// The versions of sectors since they were last synced, the present one last.
    pending: BTreeMap<usize, Vec<Arc<[u8]>>>,
    random: Random,
    counts: Counts,
    syncs: u64,
    failing_syncs: u64,
    operations_left: Option<u64>,
    lies: bool,
    lost_beginning: Option<[u8; 8]>,
    /// How each write began, and whether the medium had something that begins so.
    begun: Vec<([u8; 8], bool)>,
    /// Times that something was stored or synced.
    changes: u64,
    before_block: fn(),
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
                counts: Counts::default(),
                syncs: 0,
                failing_syncs: 0,
                operations_left: None,
                lies: false,
                lost_beginning: None,
                begun: Vec::new(),
                changes: 0,
                before_block: || {},
            }),
        }
    }

    /// The device as it is now, with what is not synced, for the next process. It fails no more, and has a chance of its
    /// own.
    pub fn fork(&self, seed: u64) -> PowerDevice {
        let state = State {
            random: Random::new(seed),
            counts: Counts::default(),
            failing_syncs: 0,
            operations_left: None,
            before_block: || {},
            ..self.state().clone()
        };
        PowerDevice {
            state: Mutex::new(state),
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

    /// Has it come to that?
    pub fn is_dead(&self) -> bool {
        self.state().operations_left == Some(0)
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
        let begun = state.begun.iter();
        begun.filter(|one| **one == (beginning, true)).count()
    }

    /// Writes that began like this.
    pub fn begun(&self, beginning: [u8; 8]) -> usize {
        let state = self.state();
        let begun = state.begun.iter();
        begun.filter(|one| one.0 == beginning).count()
    }

    /// Operations so far, failed ones included.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Calls `watcher` before each block of a write is stored, on the writing thread.
    pub fn watch_blocks(&self, watcher: fn()) {
        self.state().before_block = watcher;
    }

    /// Times that something was stored or synced: as long as it stays the same, so does the device.
    pub fn changes(&self) -> u64 {
        self.state().changes
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

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.current[at..at + bytes.len()].copy_from_slice(bytes);
        for (number, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let versions = self.pending.entry(at / SECTOR_BYTES + number).or_default();
            versions.push(sector.into());
        }
        self.changes += 1;
    }

    /// The bytes of whole blocks.
    fn range(&self, offset: u64, bytes: usize) -> io::Result<Range<usize>> {
        let at = offset as usize;
        assert!(
            at.is_multiple_of(BLOCK_BYTES) && bytes.is_multiple_of(BLOCK_BYTES),
            "{bytes} bytes at {offset} are not of blocks"
        );
        let is_inside = at + bytes <= self.current.len();
        let range = is_inside.then_some(at..at + bytes);
        range.ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// Where a write lands; None: nowhere.
    fn begin_write(&mut self, bytes: &[u8], offset: u64) -> io::Result<Option<usize>> {
        self.counts.writes += 1;
        self.begin()?;
        let at = self.range(offset, bytes.len())?.start;
        if let Some(beginning) = bytes.first_chunk() {
            if bytes.len() == BLOCK_BYTES && self.lost_beginning == Some(*beginning) {
                return Ok(None);
            }
            let is_repeated = self.medium[at..].starts_with(beginning);
            self.begun.push((*beginning, is_repeated));
        }
        Ok(Some(at))
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
        state.counts.reads += 1;
        state.begin()?;
        let range = state.range(offset, buffer.len())?;
        buffer.copy_from_slice(&state.current[range]);
        Ok(())
    }

    /// Stores blocks one after the other, every second time from the last to the first: the process may
    /// die in between.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let Some(at) = state.begin_write(bytes, offset)? else {
            return Ok(());
        };
        let (before_block, is_backwards) =
            (state.before_block, state.counts.writes.is_multiple_of(2));
        drop(state);
        let last = bytes.len() / BLOCK_BYTES - 1;
        for number in 0..=last {
            let from = if is_backwards { last - number } else { number } * BLOCK_BYTES;
            before_block();
            self.state()
                .put(at + from, &bytes[from..from + BLOCK_BYTES]);
        }
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.counts.discards += 1;
        state.begin()?;
        let at = state.range(offset, bytes as usize)?.start;
        state.put(at, &vec![0; bytes as usize]);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.counts.syncs += 1;
        state.begin()?;
        if state.lies {
            return Ok(());
        }
        state.changes += 1;
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
