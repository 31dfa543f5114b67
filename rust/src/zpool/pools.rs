//! All zpools over one arena: a current one that takes new objects, and others that still hold some.
//!
//! The side word of an object's frame says whose it is, so the pools share the arena's frames and
//! its limit, and an object is found wherever it was put. Changing the current pool moves nothing:
//! whoever sweeps moves objects from the others when there is time.
//!
//! A former pool that holds nothing any more is retired: nobody looks at it until it gets an object
//! again, which a writer that has not heard of the change yet may still give it.
//!
//! Not here: how any pool places objects; who moves them (`writeback`).
//! Locking: none of its own. Which pool is current, and which hold objects, are atomics that only
//! say where to look first: a stale value costs a place in another pool, nothing else.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8,
    Ordering::{Relaxed, SeqCst},
};

use super::side::owner_of;
use super::{
    AdoptError, AllocError, Arena, ClassStats, Handle, Resident, Sweep, Tag, Zpool, ZpoolKind,
    ZpoolStats,
};
use crate::error;

const COUNT: usize = ZpoolKind::ALL.len();

/// One pool of each kind, over one arena.
pub struct Pools {
    arena: Arc<Arena>,
    /// By number of the kind.
    pools: [Box<dyn Zpool>; COUNT],
    current: AtomicU8,
    /// Bit k: pool k is current or may hold objects.
    active: AtomicU8,
}

impl Pools {
    /// The pools of `arena`, which is empty, or to be adopted if it was opened.
    pub fn new(arena: Arena, current: ZpoolKind) -> Self {
        Self::of(arena, current, ZpoolKind::make)
    }

    /// As [`new`](Self::new), with pools that `make` makes.
    pub fn of(
        arena: Arena,
        current: ZpoolKind,
        make: impl Fn(ZpoolKind, Arc<Arena>) -> Box<dyn Zpool>,
    ) -> Self {
        let arena = Arc::new(arena);
        Self {
            pools: ZpoolKind::ALL.map(|kind| make(kind, Arc::clone(&arena))),
            arena,
            current: AtomicU8::new(current as u8),
            active: AtomicU8::new(1 << current as u8),
        }
    }

    /// The pool that new objects go to.
    pub fn current(&self) -> ZpoolKind {
        ZpoolKind::ALL[usize::from(self.current.load(Relaxed))]
    }

    /// New objects go to `kind` from now on.
    pub fn set_current(&self, kind: ZpoolKind) {
        self.active.fetch_or(1 << kind as u8, SeqCst);
        self.current.store(kind as u8, Relaxed);
    }

    /// One pool.
    pub fn pool(&self, kind: ZpoolKind) -> &dyn Zpool {
        &*self.pools[kind as usize]
    }

    /// The pools other than the current one that may hold objects.
    pub fn former(&self) -> impl Iterator<Item = ZpoolKind> {
        let active = self.active.load(Relaxed) & !(1 << self.current.load(Relaxed));
        ZpoolKind::ALL
            .into_iter()
            .filter(move |&kind| active & 1 << kind as u8 != 0)
    }

    /// A place in the current pool and in no other one.
    ///
    /// # Errors
    /// As [`Zpool::alloc`].
    pub fn alloc_in_current(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        self.alloc_in(self.current(), bytes, tag)
    }

    fn alloc_in(&self, kind: ZpoolKind, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        let place = self.pool(kind).alloc(bytes, tag)?;
        // Its being looked at may have ended before this object came: see `retire`.
        let bit = 1 << kind as u8;
        if self.active.load(SeqCst) & bit == 0 {
            self.active.fetch_or(bit, SeqCst);
        }
        Ok(place)
    }

    /// As [`sweep`](Zpool::sweep), over the former pools alone.
    pub fn sweep_former(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
        sweep_all(
            self.former().map(|kind| self.pool(kind)),
            sweep,
            frames,
            visit,
        )
    }

    /// Looks no more at former pools that hold nothing.
    ///
    /// First the bit goes, then the pool is looked at. An object that is put into it before that look
    /// is seen by it, and the bit comes back; whoever puts one there afterwards finds the bit gone
    /// and sets it. One of both is true because what a pool counts is changed and summed under its
    /// locks, or, as the bits, in one order that all threads agree on (`SeqCst`).
    pub fn retire(&self) {
        for kind in self.former() {
            let (bit, pool) = (1 << kind as u8, self.pool(kind));
            if pool.stats() == ZpoolStats::default() {
                self.active.fetch_and(!bit, SeqCst);
                if pool.stats() != ZpoolStats::default() {
                    self.active.fetch_or(bit, SeqCst);
                }
            }
        }
    }

    /// The current pool, and then the others that may hold objects; each once, though another may
    /// become the current one meanwhile.
    pub fn active(&self) -> impl Iterator<Item = &dyn Zpool> {
        let current = self.current();
        let active = self.active.load(Relaxed);
        let others = ZpoolKind::ALL
            .into_iter()
            .filter(move |&kind| kind != current && active & 1 << kind as u8 != 0);
        std::iter::once(current)
            .chain(others)
            .map(|kind| self.pool(kind))
    }

    /// Whose object it is. Panics on a handle that leads to no pool: it did not come from here, or
    /// was freed.
    fn holder(&self, handle: Handle) -> &dyn Zpool {
        match self.find(handle) {
            Some(kind) => self.pool(kind),
            None => panic!("{handle:?} leads to no pool: freed, or not of this arena"),
        }
    }

    fn find(&self, handle: Handle) -> Option<ZpoolKind> {
        let frame = handle.frame();
        (frame < self.arena.frames()).then(|| owner_of(self.arena.side(frame).load(Relaxed)))?
    }
}

impl Zpool for Pools {
    fn kind(&self) -> ZpoolKind {
        self.current()
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn slot_bytes(&self, bytes: usize) -> usize {
        self.pool(self.current()).slot_bytes(bytes)
    }

    /// In the current pool; when that has no room, in what another one has free.
    fn alloc(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        match self.alloc_in_current(bytes, tag) {
            Err(AllocError::Full) => self
                .former()
                .find_map(|kind| self.alloc_in(kind, bytes, tag).ok())
                .ok_or(AllocError::Full),
            other => other,
        }
    }

    fn free(&self, handle: Handle, bytes: usize) {
        self.holder(handle).free(handle, bytes);
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        self.holder(handle).store(handle, object);
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, scratch: &'a mut [u8]) -> &'a [u8] {
        self.holder(handle).load(handle, bytes, scratch)
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        if let Some(kind) = self.find(handle) {
            self.pool(kind).prefetch(handle, bytes);
        }
    }

    fn tag(&self, handle: Handle, bytes: usize) -> Tag {
        self.holder(handle).tag(handle, bytes)
    }

    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool {
        sweep_all(self.active(), sweep, frames, visit)
    }

    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        self.active().any(|pool| pool.isolate(visit))
    }

    fn settle(&self) {
        self.active().for_each(Zpool::settle);
    }

    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> Result<(), AdoptError> {
        let kind = self.find(handle).ok_or(AdoptError::BadHandle)?;
        self.active.fetch_or(1 << kind as u8, SeqCst);
        self.pool(kind).adopt(handle, bytes, tag)
    }

    fn adopted(&self) -> error::Result<()> {
        for pool in &self.pools {
            pool.adopted()?;
        }
        self.arena.adopted()
    }

    fn stats(&self) -> ZpoolStats {
        let sums = self.active().map(Zpool::stats);
        sums.fold(ZpoolStats::default(), |sum, pool| ZpoolStats {
            objects: sum.objects + pool.objects,
            object_bytes: sum.object_bytes + pool.object_bytes,
            slot_bytes: sum.slot_bytes + pool.slot_bytes,
            block_bytes: sum.block_bytes + pool.block_bytes,
            index_bytes: sum.index_bytes + pool.index_bytes,
        })
    }

    /// The classes of the current pool, and then those of the others that may hold objects.
    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        self.active().for_each(|pool| pool.classes(visit));
    }

    fn check(&self) {
        let mut block_bytes = 0;
        for (pool, kind) in self.pools.iter().zip(ZpoolKind::ALL) {
            pool.check();
            let stats = pool.stats();
            block_bytes += stats.block_bytes;
            let is_active = self.active.load(Relaxed) & 1 << kind as u8 != 0;
            assert!(
                is_active || stats == ZpoolStats::default(),
                "{} holds {stats:?} and is not looked at",
                kind.name()
            );
        }
        let frame_bytes = self.arena.frame_bytes() as u64 + super::SIDE_BYTES;
        assert_eq!(
            block_bytes,
            u64::from(self.arena.used_frames()) * frame_bytes,
            "frames of blocks, frames in use"
        );
        self.arena.check();
    }
}

/// Sweeps the same frames in all of these pools; each knows its own.
fn sweep_all<'a>(
    pools: impl Iterator<Item = &'a dyn Zpool>,
    sweep: &mut Sweep,
    frames: u32,
    visit: &mut dyn FnMut(Resident),
) -> bool {
    let start = *sweep;
    let mut at_end = true;
    for pool in pools {
        *sweep = start;
        at_end &= pool.sweep(sweep, frames, visit);
    }
    at_end
}

#[cfg(test)]
mod tests;
