//! A shard that several threads use: its lock, and what is handed in while another thread has it.
//!
//! To free a slot needs no answer, so nobody waits for it: a slot whose shard is busy is left in an
//! inbox, and whoever takes the lock next frees it first. Waiting cost more than all the work: two
//! threads that overwrote at random were together not faster than one.
//!
//! Not here: what a shard does (`shard`).
//! Locking: the shard's lock, and inside it for some moves the inbox's; who holds an inbox takes
//! no other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::bins::Spot;
use super::shard::Shard;
use crate::zpool::Arena;

/// Slots that an inbox takes: more than come while a lock is held, fewer than would be missed.
const INBOX_SLOTS: usize = 16;

const DIED: &str = "a thread died while it changed a shard";

/// A shard with its lock. Aligned, so that two of them share no cache line nor a pair of lines, which
/// processors fetch together.
#[repr(align(128))]
pub struct SharedShard {
    shard: Mutex<Shard>,
    /// Slots in the inbox; a hint that saves taking its lock.
    waiting: AtomicUsize,
    inbox: Mutex<Inbox>,
}

/// Freed slots, with the lengths of their objects.
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
            waiting: AtomicUsize::new(0),
            inbox: Mutex::new(inbox),
        }
    }

    /// The shard, with all that was freed before.
    #[inline]
    pub fn lock(&self, arena: &Arena) -> MutexGuard<'_, Shard> {
        let mut shard = self.shard.lock().expect(DIED);
        self.empty_inbox(arena, &mut shard);
        shard
    }

    /// The same, unless another thread has it.
    #[inline]
    pub fn try_lock(&self, arena: &Arena) -> Option<MutexGuard<'_, Shard>> {
        match self.shard.try_lock() {
            Ok(mut shard) => {
                self.empty_inbox(arena, &mut shard);
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
        } else if !self.hand_in(spot, bytes) {
            self.lock(arena).free_soon(arena, spot, bytes);
        }
    }

    /// Leaves a slot to who has the lock next. False: there are too many.
    fn hand_in(&self, spot: Spot, bytes: usize) -> bool {
        let mut inbox = self.inbox.lock().expect(DIED);
        let count = inbox.count;
        let Some(place) = inbox.slots.get_mut(count) else {
            return false;
        };
        *place = (spot, bytes as u32);
        inbox.count = count + 1;
        self.waiting.store(count + 1, Relaxed);
        true
    }

    #[inline]
    fn empty_inbox(&self, arena: &Arena, shard: &mut Shard) {
        if self.waiting.load(Relaxed) > 0 {
            self.take_all(arena, shard);
        }
    }

    #[cold]
    fn take_all(&self, arena: &Arena, shard: &mut Shard) {
        let (slots, count) = {
            let mut inbox = self.inbox.lock().expect(DIED);
            self.waiting.store(0, Relaxed);
            (inbox.slots, std::mem::take(&mut inbox.count))
        };
        for &(spot, bytes) in &slots[..count] {
            shard.free_soon(arena, spot, bytes as usize);
        }
    }
}
