//! A shard that several threads use: its lock, and what is handed in without it.
//!
//! To free a slot needs no answer, so nobody waits for it. A slot whose shard another thread has, or
//! is at work with, is left in an inbox, and who allocates there frees some of them together. Waiting cost
//! more than all the work: two threads that overwrote at random were together not faster than one.
//! To take turns with the shard's lists from one object to the next was half as bad, for these must then
//! come from the other core's cache each time.
//!
//! Not here: what a shard does (`shard`), which one a thread is at work with (`turn`).
//! Locking: the shard's lock, and inside it for some moves the inbox's; who holds an inbox takes
//! no other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::bins::Spot;
use super::shard::Shard;
use crate::zpool::Arena;

/// Slots that an inbox takes while its shard is busy: few enough to be missed by nobody.
const INBOX_SLOTS: usize = 16;

/// With so many it is emptied by the next one who has the lock, be it another one who frees.
const INBOX_SLOTS_CROWDED: usize = INBOX_SLOTS / 2;

const DIED: &str = "a thread died while it changed a shard";

/// A shard with its lock. Aligned, so that two of them share no cache line nor a pair of lines, which
/// processors fetch together.
#[repr(align(128))]
pub struct SharedShard {
    shard: Mutex<Shard>,
    /// A hint that saves taking the inbox's lock.
    is_crowded: AtomicBool,
    inbox: Mutex<Inbox>,
}

/// Freed slots, with the lengths of their objects. On lines of its own, which are others' than the
/// shard's.
#[repr(align(128))]
struct Inbox {
    slots: [(Spot, u32); INBOX_SLOTS],
    count: usize,
}

impl SharedShard {
    /// For a shard that nobody uses yet.
    pub fn new(shard: Shard) -> Self {
        let inbox = Inbox {
            slots: [(0, 0); INBOX_SLOTS],
            count: 0,
        };
        Self {
            shard: Mutex::new(shard),
            is_crowded: AtomicBool::new(false),
            inbox: Mutex::new(inbox),
        }
    }

    /// The shard, with all that was freed before.
    pub fn lock(&self, arena: &Arena) -> MutexGuard<'_, Shard> {
        let mut shard = self.shard.lock().expect(DIED);
        self.empty_inbox(arena, &mut shard);
        shard
    }

    /// The shard, with most of what was freed before, unless another thread has it.
    #[inline]
    pub fn try_lock(&self, arena: &Arena) -> Option<MutexGuard<'_, Shard>> {
        match self.shard.try_lock() {
            Ok(mut shard) => {
                if self.is_crowded.load(Relaxed) {
                    self.empty_inbox(arena, &mut shard);
                }
                Some(shard)
            }
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("{DIED}"),
        }
    }

    /// Frees a slot, now or when somebody has the lock.
    #[inline]
    pub fn free(&self, arena: &Arena, spot: Spot, bytes: usize) {
        if let Some(mut shard) = self.try_lock(arena) {
            shard.free_soon(arena, spot, bytes);
        } else if !self.hand_in(spot, bytes, INBOX_SLOTS) {
            self.lock(arena).free_soon(arena, spot, bytes);
        }
    }

    /// Frees a slot later, if that can be: another thread is at work here.
    #[inline]
    pub fn free_later(&self, arena: &Arena, spot: Spot, bytes: usize) {
        if !self.hand_in(spot, bytes, INBOX_SLOTS_CROWDED) {
            self.free(arena, spot, bytes);
        }
    }

    /// Leaves a slot to who has the lock later. False: so many are there.
    fn hand_in(&self, spot: Spot, bytes: usize, slots_max: usize) -> bool {
        let mut inbox = self.inbox.lock().expect(DIED);
        let count = inbox.count;
        if count >= slots_max {
            return false;
        }
        inbox.slots[count] = (spot, bytes as u32);
        inbox.count = count + 1;
        if count + 1 == INBOX_SLOTS_CROWDED {
            self.is_crowded.store(true, Relaxed);
        }
        true
    }

    #[cold]
    fn empty_inbox(&self, arena: &Arena, shard: &mut Shard) {
        let (slots, count) = {
            let mut inbox = self.inbox.lock().expect(DIED);
            self.is_crowded.store(false, Relaxed);
            (inbox.slots, std::mem::take(&mut inbox.count))
        };
        let slots = &slots[..count];
        for &(spot, bytes) in slots {
            shard.free_soon(arena, spot, bytes as usize);
        }
    }
}
