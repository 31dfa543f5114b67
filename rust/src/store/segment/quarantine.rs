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
//! Then nobody needs it, but its head still stands. If the next write to it were torn by loss of power so that
//! this head is all that is left of the former use, a recovery would take it for a segment that was whole and
//! is damaged, and pages that the new bytes happen to name for lost. So the head is written over first (a
//! `tombstone`), and the segment waits for the sync that begins after that:
//!
//! ```text
//! in use --freed--> held --sync, checkpoint--> spent --tombstone--> buried --sync--> free
//! ```
//!
//! Not here: what a checkpoint is (`writeback`). Locking: the mutex of the lists; numbers are atomics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::geometry::SegmentIndex;
use super::{Lists, Segment, Segments};

/// A freed segment that waits.
pub(super) struct Held {
    pub number: u32,
    /// The sync that has to succeed first.
    sync: u64,
    /// Of the use that is over.
    pub sequence: u64,
}

/// A freed segment whose head still stands.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub number: u32,
    /// Of the use that is over.
    pub sequence: u64,
}

impl Spent {
    pub fn index(self) -> SegmentIndex {
        SegmentIndex(self.number)
    }
}

impl Lists {
    /// Freed segments that cannot be taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.held.len() + self.spent.len() + self.buried.len()
    }

    fn spend(&mut self, held: &Held) {
        let Held {
            number, sequence, ..
        } = *held;
        self.spent.push_back(Spent { number, sequence });
    }
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

    /// The same for a segment in which nothing lived when the store was taken over: what superseded it is covered by
    /// the sync that taking over began with.
    pub(super) fn hold_since_start(&self, index: SegmentIndex, sequence: u64) {
        let sync = self.epochs.syncs_begun.load(Ordering::SeqCst);
        let number = index.0;
        self.lists().held.push_back(Held {
            number,
            sync,
            sequence,
        });
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
    /// those that are freed later too, unless they are [`relieve`](Self::relieve)d. The others do not: they are what there is to write into, and in doubt.
    pub fn doubt_sync(&self) {
        let next = self.epochs.checkpoints_begun.load(Ordering::SeqCst) + 1;
        let promised = self.epochs.promised.load(Ordering::SeqCst);
        let mut lists = self.lists();
        let held = (lists.held.iter()).map(|held| (held.sequence, held.number));
        let used = (self.all.iter()).map(|one| one.sequence.load(Ordering::SeqCst));
        for (sequence, number) in used.zip(0..).chain(held) {
            if (1..promised).contains(&sequence) {
                let wanted = &self.all[number as usize].checkpoint_wanted;
                wanted.fetch_max(next, Ordering::SeqCst);
            } else if sequence > 0 {
                self.doubt(SegmentIndex(number), sequence);
            }
        }
        // Their tombstones may never land.
        while let Some(buried) = lists.buried.pop_front() {
            lists.spend(&buried);
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

    /// What a recovery would need instead of this use of a segment is on the device: it waits for no checkpoint any
    /// more. False: it is not freed.
    pub fn relieve(&self, index: SegmentIndex, sequence: u64) -> bool {
        let is_it = |held: &Held| (held.number, held.sequence) == (index.0, sequence);
        if !self.lists().held.iter().any(is_it) {
            return false;
        }
        self.at(index).checkpoint_wanted.store(0, Ordering::SeqCst);
        self.let_go();
        true
    }

    /// Lets what has waited long enough go on.
    pub(super) fn let_go(&self) {
        let synced = self.epochs.syncs_done.load(Ordering::SeqCst);
        let done = self.epochs.checkpoints_done.load(Ordering::SeqCst);
        let mut lists = self.lists();
        for _ in 0..lists.held.len() {
            let held = lists.held.pop_front().expect("it was counted");
            let wanted = &self.all[held.number as usize].checkpoint_wanted;
            if held.sync <= synced && wanted.load(Ordering::SeqCst) <= done {
                lists.spend(&held);
            } else {
                lists.held.push_back(held);
            }
        }
        for _ in 0..lists.buried.len() {
            let buried = lists.buried.pop_front().expect("it was counted");
            if buried.sync <= synced {
                let segment = &self.all[buried.number as usize];
                segment.trust();
                match segment.failed.load(Ordering::Relaxed) {
                    true => lists.suspect.push_back(buried.number),
                    false => lists.freed.push_back(buried.number),
                }
            } else {
                lists.buried.push_back(buried);
            }
        }
    }

    /// A segment whose head is to be written over; to be given back with `buried` or `unburied`. A suspect one
    /// too, if the write that failed may have left a head in it.
    pub fn take_spent(&self) -> Option<Spent> {
        let mut lists = self.lists();
        let spent = lists.spent.pop_front().or_else(|| {
            let is_doubted = |number: &u32| self.all[*number as usize].is_doubted();
            let number = lists.suspect.iter().position(is_doubted)?;
            let number = lists.suspect.remove(number)?;
            let sequence = self.all[number as usize].doubted();
            Some(Spent { number, sequence })
        })?;
        lists.away += 1;
        Some(spent)
    }

    /// The segment's head was written over: it is free after the next sync.
    pub fn buried(&self, spent: Spent) {
        let mut lists = self.lists();
        lists.away -= 1;
        let Spent { number, sequence } = spent;
        let sync = self.epochs.syncs_begun.load(Ordering::SeqCst) + 1;
        lists.buried.push_back(Held {
            number,
            sync,
            sequence,
        });
    }

    /// The segment's head could not be written over: to be tried again, or if it was suspect broken.
    pub fn unburied(&self, spent: Spent) {
        let mut lists = self.lists();
        lists.away -= 1;
        let has_failed = self.all[spent.number as usize]
            .failed
            .load(Ordering::Relaxed);
        match (has_failed, lists.is_device_in_doubt) {
            (true, true) => lists.suspect.push_back(spent.number),
            (true, false) => lists.broken.push_back(spent.number),
            (false, _) => lists.spent.push_back(spent),
        }
    }

    /// Segments that are freed and wait.
    pub fn held_count(&self) -> usize {
        self.lists().waiting()
    }

    /// Of these, the ones that wait for nothing but syncs.
    pub fn released_count(&self) -> usize {
        let done = self.epochs.checkpoints_done.load(Ordering::SeqCst);
        let lists = self.lists();
        let wanted = |held: &&Held| &self.all[held.number as usize].checkpoint_wanted;
        let is_released = |held: &&Held| wanted(held).load(Ordering::SeqCst) <= done;
        let released = lists.held.iter().filter(is_released).count();
        released + lists.spent.len() + lists.buried.len()
    }

    /// Of these, the ones that nobody needs and whose heads stand.
    pub fn spent_count(&self) -> usize {
        self.lists().spent.len()
    }
}
