//! The canary: a pool that gives one byte of one object back wrong.

use crate::error::Result;
use crate::zpool::{
    AdoptError, AllocError, Arena, ClassStats, Handle, Resident, Sweep, Tag, Zpool, ZpoolKind,
    ZpoolStats,
};

/// Owner of the object.
const FORGOTTEN: u32 = 700;

/// Another pool, but for one byte of one object.
pub struct Forgetful(pub Box<dyn Zpool>);

impl Zpool for Forgetful {
    fn kind(&self) -> ZpoolKind {
        self.0.kind()
    }

    fn arena(&self) -> &Arena {
        self.0.arena()
    }

    fn slot_bytes(&self, bytes: usize) -> usize {
        self.0.slot_bytes(bytes)
    }

    fn alloc(&self, bytes: usize, tag: Tag) -> std::result::Result<Handle, AllocError> {
        self.0.alloc(bytes, tag)
    }

    fn free(&self, handle: Handle, bytes: usize) {
        self.0.free(handle, bytes);
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        self.0.store(handle, object);
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, scratch: &'a mut [u8]) -> &'a [u8] {
        let is_victim = self.0.tag(handle, bytes).owner == FORGOTTEN;
        let mut copy = vec![0; bytes];
        copy.copy_from_slice(self.0.load(handle, bytes, scratch));
        copy[bytes / 2] ^= u8::from(is_victim);
        scratch[..bytes].copy_from_slice(&copy);
        &scratch[..bytes]
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        self.0.prefetch(handle, bytes);
    }

    fn tag(&self, handle: Handle, bytes: usize) -> Tag {
        self.0.tag(handle, bytes)
    }

    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool {
        self.0.sweep(sweep, frames, visit)
    }

    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        self.0.isolate(visit)
    }

    fn settle(&self) {
        self.0.settle();
    }

    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> std::result::Result<(), AdoptError> {
        self.0.adopt(handle, bytes, tag)
    }

    fn adopted(&self) -> Result<()> {
        self.0.adopted()
    }

    fn stats(&self) -> ZpoolStats {
        self.0.stats()
    }

    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        self.0.classes(visit);
    }

    fn check(&self) {
        self.0.check();
    }
}
