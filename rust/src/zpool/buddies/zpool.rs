//! The trait's side of a pool of shared frames.
//!
//! Locking: as the trait says; content and tag of a live object belong to who holds its handle.

use super::lists::LISTS;
use super::occupancy::{CHUNKS_FREE, OBJECT_CHUNKS_MAX, PLACES};
use super::shard::Counts;
use super::{Buddies, Rule, SHARED, merging};
use crate::error;
use crate::zpool::side::Side;
use crate::zpool::{
    AdoptError, AllocError, Arena, ClassStats, FULLNESS_GROUPS, Handle, Resident, Sweep, Tag,
    Zpool, ZpoolKind, ZpoolStats,
};

/// Bytes of an object that are fetched ahead; the CPU follows a run of lines by itself.
const PREFETCH_BYTES: usize = 512;

impl<R: Rule> Zpool for Buddies<R> {
    fn kind(&self) -> ZpoolKind {
        R::KIND
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn slot_bytes(&self, bytes: usize) -> usize {
        let bytes = match self.shared_chunks(bytes) {
            Some(chunks) => self.packed_bytes(1, chunks.into()),
            None => self.frame_cost_bytes(),
        };
        bytes as usize
    }

    fn alloc(&self, bytes: usize, tag: Tag) -> Result<Handle, AllocError> {
        assert!(bytes > 0, "an object of no bytes");
        if bytes > self.object_bytes_max() {
            return Err(AllocError::TooLarge);
        }
        let found = match self.shared_chunks(bytes) {
            Some(chunks) => self.alloc_shared(bytes, chunks, tag),
            None => self.alloc_whole(bytes, tag),
        };
        found.ok_or(AllocError::Full)
    }

    fn free(&self, handle: Handle, bytes: usize) {
        match self.shared_chunks(bytes) {
            Some(chunks) => self.free_shared(handle, bytes, chunks),
            None => self.free_whole(handle, bytes),
        }
    }

    fn store(&self, handle: Handle, object: &[u8]) {
        self.arena.store_bytes(self.place(handle), object);
    }

    fn load<'a>(&'a self, handle: Handle, bytes: usize, _: &'a mut [u8]) -> &'a [u8] {
        self.arena.bytes(self.place(handle), bytes)
    }

    fn prefetch(&self, handle: Handle, bytes: usize) {
        if handle.frame() < self.arena.frames() {
            let offset = handle.low() as usize * self.chunk_bytes;
            let at = self.arena.frame_at(handle.frame()) + offset;
            if at < self.arena.end() {
                self.arena.prefetch(at, bytes.min(PREFETCH_BYTES));
            }
        }
    }

    fn tag(&self, handle: Handle, _: usize) -> Tag {
        match self.side(handle.frame()) {
            Side::Whole(tag) => tag,
            SHARED => {
                let header = self.header(handle.frame());
                match header.occupancy().at(handle.low()) {
                    Some((place, _)) => header.tag(place),
                    None => panic!("{handle:?} was freed"),
                }
            }
            other => panic!("{handle:?} leads to {other:?}: freed, or not of this pool"),
        }
    }

    fn sweep(&self, sweep: &mut Sweep, frames: u32, visit: &mut dyn FnMut(Resident)) -> bool {
        self.sweep_frames(sweep, frames, visit)
    }

    fn isolate(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        self.isolate_frame(visit)
    }

    fn settle(&self) {
        self.settle_frame();
    }

    fn adopt(&self, handle: Handle, bytes: usize, tag: Tag) -> Result<(), AdoptError> {
        self.adopt_object(handle, bytes, tag)
    }

    /// Frames are in their lists as soon as they are claimed, so nothing is left to do.
    fn adopted(&self) -> error::Result<()> {
        Ok(())
    }

    fn stats(&self) -> ZpoolStats {
        let counts = self.counts();
        let of_count = (1..=PLACES).map(|objects| (objects as u64, counts.frames_of(objects)));
        let (shared, objects) = of_count.fold((0, 0), |(shared, all), (objects, frames)| {
            (shared + frames, all + objects * frames)
        });
        let whole_bytes = counts.whole * self.frame_cost_bytes();
        ZpoolStats {
            objects: objects + counts.whole,
            object_bytes: counts.object_bytes,
            slot_bytes: self.packed_bytes(objects, counts.chunks) + whole_bytes,
            block_bytes: shared * self.frame_cost_bytes() + whole_bytes,
            index_bytes: 0,
        }
    }

    /// A class is a number of objects that share a frame: the most of them first, which are the
    /// smallest; the last class is that of whole frames. Its largest object is the largest of which
    /// that many have room. What can be freed are frames of one object, by merging them.
    fn classes(&self, visit: &mut dyn FnMut(ClassStats)) {
        let counts = self.counts();
        for objects in (1..=R::OBJECTS_MAX).rev() {
            let chunks = (CHUNKS_FREE / objects as u32).min(OBJECT_CHUNKS_MAX);
            let blocks = counts.frames_of(objects);
            visit(ClassStats {
                object_bytes_max: chunks * self.chunk_bytes as u32,
                block_frames: 1,
                block_slots: R::OBJECTS_MAX as u32,
                blocks,
                frames: blocks,
                slots: blocks * R::OBJECTS_MAX as u64,
                slots_used: blocks * objects as u64,
                freeable_frames: if objects == 1 { self.freeable() } else { 0 },
                fullness: counts.frames[objects - 1],
            });
        }
        let mut fullness = [0; FULLNESS_GROUPS];
        fullness[FULLNESS_GROUPS - 1] = counts.whole;
        visit(ClassStats {
            object_bytes_max: self.arena.frame_bytes() as u32,
            block_frames: 1,
            block_slots: 1,
            blocks: counts.whole,
            frames: counts.whole,
            slots: counts.whole,
            slots_used: counts.whole,
            freeable_frames: 0,
            fullness,
        });
    }

    fn check(&self) {
        self.check_all();
    }
}

impl<R: Rule> Buddies<R> {
    /// What all frames hold.
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in &self.shards {
            let counts = shard.lock().counts;
            let frames = sum.frames.iter_mut().flatten();
            let more = counts.frames.iter().flatten();
            frames.zip(more).for_each(|(sum, more)| *sum += more);
            sum.chunks += counts.chunks;
            sum.whole += counts.whole;
            sum.object_bytes += counts.object_bytes;
        }
        sum
    }

    /// Frames that merging would give back, near enough.
    fn freeable(&self) -> u64 {
        let mut rooms = [[0; LISTS]; PLACES - 1];
        for shard in &self.shards {
            shard.lock().add_rooms(&mut rooms);
        }
        let [lone, paired] = rooms;
        merging::freeable(lone, paired, R::OBJECTS_MAX > 2)
    }
}
