//! Freed segments that are not reused yet, since loss of power could bring back what they hold.
//!
//! A record is superseded by another one in the log, or by something that is not in the log yet: a page
//! in the pool, zeros, a discard. What superseded it is on the device after the next sync in the one
//! case, after the next checkpoint in the other. Until then the old record is all that a recovery would
//! find of its page, so the segment around it is neither written nor discarded.
//!
//! Syncs and checkpoints have numbers. A segment waits for the sync that begins after it was freed, and
//! for the checkpoint that begins after the last of its records was outlived by something outside the
//! log.
//!
//! Not here: what a checkpoint is (`writeback`). Locking: the mutex of the lists; numbers are atomics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::geometry::SegmentIndex;
use super::{Segment, Segments};

/// A freed segment that waits.
pub(super) struct Held {
    pub number: u32,
    /// The sync that has to succeed first.
    sync: u64,
    /// Of the use that is over.
    sequence: u64,
}

/// How far syncs and checkpoints have come.
#[derive(Default)]
pub(super) struct Epochs {
    syncs_begun: AtomicU64,
    syncs_done: AtomicU64,
    checkpoints_begun: AtomicU64,
    checkpoints_done: AtomicU64,
    /// What flushes were answered with, or what superseded that, is in segments of smaller sequences.
    promised: AtomicU64,
}

impl Segments {
    /// The segment was freed, after the use of `sequence`: it waits if this store keeps what a recovery would
    /// need.
    pub(super) fn hold_or_free(&self, index: SegmentIndex, sequence: u64) {
        let mut lists = self.lists();
        if self.keeps_freed {
            let sync = self.epochs.syncs_begun.load(Ordering::SeqCst) + 1;
            let number = index.0;
            lists.held.push_back(Held {
                number,
                sync,
                sequence,
            });
        } else {
            lists.freed.push_back(index.0);
        }
    }

    /// What superseded a record of this segment is not in the log yet. The record is not released
    /// before.
    pub fn outlived(&self, index: SegmentIndex) {
        let next = self.epochs.checkpoints_begun.load(Ordering::SeqCst) + 1;
        let wanted = &self.at(index).checkpoint_wanted;
        wanted.fetch_max(next, Ordering::SeqCst);
    }

    /// Would the segment wait for a checkpoint if it were freed now?
    pub(super) fn waits(&self, segment: &Segment) -> bool {
        let done = self.epochs.checkpoints_done.load(Ordering::SeqCst);
        segment.checkpoint_wanted.load(Ordering::SeqCst) > done
    }

    /// A sync begins; its number.
    pub fn begin_sync(&self) -> u64 {
        self.epochs.syncs_begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// That sync succeeded.
    pub fn end_sync(&self, number: u64) {
        self.epochs.syncs_done.store(number, Ordering::SeqCst);
        self.let_go();
    }

    /// What flushes were answered with, or what superseded that, is in segments of smaller sequences.
    pub fn set_promised(&self, sequence: u64) {
        self.epochs.promised.store(sequence, Ordering::SeqCst);
    }

    /// A sync failed: what superseded records since the last checkpoint may never be on the device, whatever the
    /// next sync says, and is to be written again. Until then segments with anything that was promised wait,
    /// those that are freed later too. The others do not: they are what there is to write into.
    pub fn doubt_sync(&self) {
        let next = self.epochs.checkpoints_begun.load(Ordering::SeqCst) + 1;
        let promised = 1..self.epochs.promised.load(Ordering::SeqCst);
        let lists = self.lists();
        let held = (lists.held.iter()).map(|held| (held.sequence, &self.all[held.number as usize]));
        let used = (self.all.iter()).map(|one| (one.sequence.load(Ordering::SeqCst), one));
        for (sequence, segment) in used.chain(held) {
            if promised.contains(&sequence) {
                segment.checkpoint_wanted.fetch_max(next, Ordering::SeqCst);
            }
        }
    }

    /// A checkpoint begins; its number.
    pub fn begin_checkpoint(&self) -> u64 {
        self.epochs.checkpoints_begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// That checkpoint succeeded.
    pub fn end_checkpoint(&self, number: u64) {
        self.epochs.checkpoints_done.store(number, Ordering::SeqCst);
        self.let_go();
    }

    /// Frees what has waited long enough.
    fn let_go(&self) {
        let synced = self.epochs.syncs_done.load(Ordering::SeqCst);
        let done = self.epochs.checkpoints_done.load(Ordering::SeqCst);
        let mut lists = self.lists();
        for _ in 0..lists.held.len() {
            let held = lists.held.pop_front().expect("it was counted");
            let wanted = &self.all[held.number as usize].checkpoint_wanted;
            if held.sync <= synced && wanted.load(Ordering::SeqCst) <= done {
                lists.freed.push_back(held.number);
            } else {
                lists.held.push_back(held);
            }
        }
    }

    /// Segments that are freed and wait.
    pub fn held_count(&self) -> usize {
        self.lists().held.len()
    }
}
