//! Changing codec and zpool while pages are served.
//!
//! A change moves nothing by itself. New pages go to the new zpool and are compressed by the new codec;
//! an object says in its word how it is compressed and by its frame whose it is, so old ones stay
//! valid. `writeback` moves those of a former zpool; nobody compresses a page anew.
//!
//! Each lane has a mailbox. Whoever changes the codec makes a compressor for every lane and puts it
//! there; the lane takes it at its next write and leaves its old one, which a later step drops: the
//! page path neither allocates nor frees nor waits.
//!
//! Locking: mailboxes -> one mailbox, and mailboxes -> choice; none of them together with a page. A
//! lane only ever tries its own, and steps only try.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Engine;
use crate::codec::{CodecChoice, Compressor};
use crate::zpool::ZpoolKind;

const EMPTY: u8 = 0;
const NEW: u8 = 1;
const OLD: u8 = 2;

/// A compressor on its way to a lane, or the one that the lane had before.
pub(super) struct Mailbox {
    /// What is in it: lets a lane skip the lock.
    content: AtomicU8,
    compressor: Mutex<Option<Compressor>>,
}

impl Mailbox {
    fn new() -> Mailbox {
        Mailbox {
            content: AtomicU8::new(EMPTY),
            compressor: Mutex::new(None),
        }
    }

    /// The lane's next compressor; what nobody took is dropped.
    fn put(&self, compressor: Compressor) {
        let mut place = lock(&self.compressor);
        let replaced = place.replace(compressor);
        self.content.store(NEW, Ordering::Release);
        drop(place);
        drop(replaced);
    }

    /// Gives a lane its new compressor, if there is one and nobody else is looking.
    #[inline]
    pub(super) fn exchange(&self, compressor: &mut Compressor) {
        if self.content.load(Ordering::Acquire) == NEW
            && let Ok(mut place) = self.compressor.try_lock()
            && let Some(new) = place.as_mut()
        {
            std::mem::swap(new, compressor);
            self.content.store(OLD, Ordering::Release);
        }
    }

    /// Drops what a lane left. False: the lane has not taken its new one yet.
    fn empty(&self) -> bool {
        if self.content.load(Ordering::Acquire) == OLD {
            let mut place = lock(&self.compressor);
            // A change may just have put a newer one there.
            if self.content.load(Ordering::Acquire) == OLD {
                let old = place.take();
                self.content.store(EMPTY, Ordering::Release);
                drop(place);
                drop(old);
            }
        }
        self.content.load(Ordering::Acquire) == EMPTY
    }
}

/// The codec of new pages, and the way of its compressors to the lanes.
pub(super) struct CodecSwitch {
    choice: Mutex<CodecChoice>,
    mailboxes: Mutex<Vec<Arc<Mailbox>>>,
    /// Compressors are on their way, to lanes or back.
    is_under_way: AtomicBool,
}

impl CodecSwitch {
    pub(super) fn new(choice: CodecChoice) -> CodecSwitch {
        CodecSwitch {
            choice: Mutex::new(choice),
            mailboxes: Mutex::new(Vec::new()),
            is_under_way: AtomicBool::new(false),
        }
    }

    /// The codec of new pages.
    pub(super) fn choice(&self) -> CodecChoice {
        *lock(&self.choice)
    }

    /// A compressor for a new lane, and the mailbox where its next one will be.
    pub(super) fn join(&self, page_bytes: usize) -> (Compressor, Arc<Mailbox>) {
        let mut mailboxes = lock(&self.mailboxes);
        let mailbox = Arc::new(Mailbox::new());
        mailboxes.push(Arc::clone(&mailbox));
        (Compressor::new(self.choice(), page_bytes), mailbox)
    }

    fn change(&self, choice: CodecChoice, page_bytes: usize) {
        // Held until the end: of two changes at a time, one comes after the other for every lane.
        let mailboxes = lock(&self.mailboxes);
        let compressors: Vec<_> = mailboxes
            .iter()
            .map(|_| Compressor::new(choice, page_bytes))
            .collect();
        *lock(&self.choice) = choice;
        for (mailbox, compressor) in mailboxes.iter().zip(compressors) {
            mailbox.put(compressor);
        }
        self.is_under_way.store(true, Ordering::Release);
    }

    /// Drops the compressors that lanes have left.
    pub(super) fn tidy(&self) {
        if self.is_under_way.load(Ordering::Acquire)
            && let Ok(mailboxes) = self.mailboxes.try_lock()
        {
            let left = mailboxes.iter().filter(|mailbox| !mailbox.empty()).count();
            self.is_under_way.store(left > 0, Ordering::Release);
        }
    }
}

impl Engine {
    /// New pages are compressed by `choice` from now on; pages that are there stay as they are. Makes
    /// the compressors of all lanes here, on the caller's thread.
    pub fn set_codec(&self, choice: CodecChoice) {
        self.codec.change(choice, self.page_bytes());
    }

    /// New pages go to `zpool` from now on; [`step`](Engine::step) moves the others there, as far as
    /// they have room.
    pub fn set_zpool(&self, zpool: ZpoolKind) {
        // Of two changes at a time one is the last, in both respects.
        let _one_at_a_time = lock(&self.zpool_switch);
        let pools = &self.tiers.pool;
        pools.set_current(zpool);
        let most = pools.pool(zpool).accept_bytes_max(self.page_bytes());
        self.accept_bytes_max.store(most, Ordering::Relaxed);
        self.bell.ring();
    }
}

/// A panic under one of these locks was reported where it happened, and leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressor(codec: &str) -> Compressor {
        Compressor::new(CodecChoice::named(codec).unwrap(), 4096)
    }

    #[test]
    fn a_lane_gets_the_newest_compressor_once_and_its_old_one_is_dropped() {
        let mailbox = Mailbox::new();
        let mut own = compressor("lz4");
        mailbox.exchange(&mut own);
        assert!(mailbox.empty(), "nothing was ever in it");
        let id = own.id();
        mailbox.put(compressor("none"));
        mailbox.put(compressor("zstd"));
        assert!(!mailbox.empty(), "the lane has not come yet");
        mailbox.exchange(&mut own);
        assert_ne!(own.id(), id);
        assert_eq!(
            lock(&mailbox.compressor).as_ref().map(Compressor::id),
            Some(id)
        );
        let id = own.id();
        mailbox.exchange(&mut own);
        assert_eq!(own.id(), id, "it got its old one back");
        assert!(mailbox.empty() && lock(&mailbox.compressor).is_none());
    }

    #[test]
    fn a_lane_does_not_wait_for_whoever_looks_into_its_mailbox() {
        let mailbox = Mailbox::new();
        let mut own = compressor("lz4");
        let id = own.id();
        mailbox.put(compressor("zstd"));
        let looking = lock(&mailbox.compressor);
        mailbox.exchange(&mut own);
        assert_eq!(own.id(), id);
        drop(looking);
        mailbox.exchange(&mut own);
        assert_ne!(own.id(), id, "the next write gets it");
    }

    #[test]
    fn steps_look_into_mailboxes_until_every_lane_has_changed() {
        let switch = CodecSwitch::new(CodecChoice::named("lz4").unwrap());
        let (mut first, first_box) = switch.join(4096);
        let (mut second, second_box) = switch.join(4096);
        switch.change(CodecChoice::named("zstd").unwrap(), 4096);
        first_box.exchange(&mut first);
        switch.tidy();
        assert!(lock(&first_box.compressor).is_none());
        assert!(lock(&second_box.compressor).is_some());
        second_box.exchange(&mut second);
        assert_eq!(first.id(), second.id());
        switch.tidy();
        assert!(lock(&second_box.compressor).is_none());
        assert!(!switch.is_under_way.load(Ordering::Relaxed));
    }
}
