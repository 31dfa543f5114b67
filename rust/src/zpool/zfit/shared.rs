//! A shard that several threads use: its lock, and what is handed in without it.
//!
//! To free a slot needs no answer, so nobody waits for it. A slot whose shard another thread has, or
//! is at work with, is left in an inbox, and who allocates there frees some of them together. Waiting cost
//! more than all the work: two threads that overwrote at random were together not faster than one.
//! To take turns with the shard's lists from one object to the next was half as bad, for these must then
//! come from the other core's cache each time.
//!
//! A region may go to another shard (`share`) after who frees a slot has read whose it is. So whoever has the lock, of the
//! shard or of the inbox, looks again; and who moves a region says first that it is another's, then empties the inbox.
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

    /// Frees a slot, now or when somebody has the lock. False: it is another shard's by now.
    #[inline]
    pub fn free(&self, arena: &Arena, freed: (Spot, usize), is_here: impl Fn() -> bool) -> bool {
        let mut shard = match self.try_lock(arena) {
            Some(shard) => shard,
            None if self.hand_in(freed, INBOX_SLOTS, &is_here) => return true,
            None => self.lock(arena),
        };
        let is_here = is_here();
        if is_here {
            shard.free_soon(arena, freed.0, freed.1);
        }
        is_here
    }

    /// Frees a slot later, if that can be: another thread is at work here. False as in `free`.
    #[inline]
    pub fn free_later(
        &self,
        arena: &Arena,
        freed: (Spot, usize),
        is_here: impl Fn() -> bool,
    ) -> bool {
        self.hand_in(freed, INBOX_SLOTS_CROWDED, &is_here) || self.free(arena, freed, is_here)
    }

    /// Leaves a slot to who has the lock later. False: so many are there, or it is another shard's.
    fn hand_in(
        &self,
        (spot, bytes): (Spot, usize),
        slots_max: usize,
        is_here: impl Fn() -> bool,
    ) -> bool {
        let mut inbox = self.inbox.lock().expect(DIED);
        let count = inbox.count;
        if count >= slots_max || !is_here() {
            return false;
        }
        inbox.slots[count] = (spot, bytes as u32);
        inbox.count = count + 1;
        if count + 1 == INBOX_SLOTS_CROWDED {
            self.is_crowded.store(true, Relaxed);
        }
        true
    }

    /// Frees what was handed in.
    #[cold]
    pub fn empty_inbox(&self, arena: &Arena, shard: &mut Shard) {
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
