//! zfit: regions of neighbouring frames, cut into slots as long as their objects.
//!
//! Size classes waste memory twice: an object is shorter than its slot, and every class has blocks
//! that are not full. Here a slot is cut to the length of its object out of a hole, the smallest
//! hole that is long enough, so that each length that is really seen has its own class for as long
//! as it is seen. A freed slot waits a little to be taken again as it is, then it joins the holes beside
//! it. Objects never cross the edge of a region: a place is one addition, a load never copies. Raw
//! pages take a frame of their own.
//!
//! Regions have no fixed length: one takes the frames behind it when no hole is long enough, and gives back those
//! that a hole has all of, which parts it in two if they lie inside (`shard::frames`).
//!
//! Every slot carries one word in front: its length and its object's owner and stamp. With the owner
//! a sparse region, or the emptiest frame of one, can be emptied into the holes of others, which is how the pool gives more memory back;
//! and an object that keeps short holes apart can go where it fits exactly, which makes a long one of them (`merging`).
//! How much of a region is in slots stands in the side word of its first frame. Regions are in no
//! list by that: to keep lists touched a third region in one of ten overwrites; instead the emptiest ones
//! are looked for, when one is to be emptied, in the side words of a part of the pool.
//!
//! Best fit with boundary tags is Knuth's (The Art of Computer Programming, 2.5) with the exact bins
//! of D. Lea's malloc. What a kernel cannot have is the rest: neighbouring frames by the dozen, and
//! objects that move because a table says whose they are.
//!
//! Measured on 360 MiB of lz4 objects of 4 KiB pages of real programs (`bench/pools`): the pool takes
//! 1.008 bytes a byte when it is filled, 1.021 after random overwrites, 1.65 when half of the objects were freed at random, and
//! 1.012 when compaction is through.
//!
//! Locking: one lock a shard, over its holes, regions and the words in front of its slots. Order: shard ->
//! arena. Of several shards at once all are locked in their order (`check`, sums), or one and then another that
//! nobody has (`share`). Threads use one shard until they meet too often, then one more (two from 256 MiB on, one
//! more for each GiB). Who finds a lock taken goes on in another shard that is in use, or leaves what is freed in an inbox
//! (`shared`).

mod adopt;
mod bins;
mod check;
mod links;
mod merging;
mod nodes;
mod quick;
mod region;
mod shard;
mod share;
mod shared;
#[cfg(test)]
mod tests;
mod turn;
mod upkeep;
mod waiting;
mod walk;
mod window;
mod word;
mod zpool;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use super::mapping::SYSTEM_PAGE_BYTES;
use super::side::Side;
use super::{Arena, Handle, SIDE_BYTES, Tag, ZpoolKind};
use adopt::Claims;
use region::{Grain, Region};
use shard::Shard;
use shared::SharedShard;

/// A pool of this size may have two shards, and so two locks. In more shards fewer holes fit well: two for
/// 360 MiB of objects cost 0.002 bytes a byte, three cost 0.004, twelve 0.009.
const TWO_SHARDS_BYTES: u64 = 256 << 20;

/// For each whole one of these it may have another one.
const SHARD_BYTES: u64 = 1 << 30;

/// Shards at most: the bits that a side word has for them.
const SHARDS_MAX: usize = 8;

/// A hole in so many bytes that are held has a node, of 16 bytes: 1 MiB in use for each GiB. There are a third as many
/// of them for each object of a page of 16 KiB, and a seventh of a page of 4 KiB: more than half a hole and
/// a little more than one in so many bytes.
const BYTES_PER_NODE: u64 = 16 << 10;

/// Bytes of a small page that are fetched before an object is copied there; the CPU follows a run of lines by
/// itself.
const FETCHED_BYTES: usize = 512;

/// A pool of regions with slots as long as their objects.
pub struct Zfit {
    arena: Arc<Arena>,
    grain: Grain,
    shards: Box<[SharedShard]>,
    /// So many of them threads take turns with; the others have no regions.
    in_use: AtomicUsize,
    /// Raw pages: each has a frame of its own, so no shard is needed.
    whole: Whole,
    /// The frame from which the next region to be emptied is looked for.
    looked_to: AtomicU32,
    /// The frame from which the next objects between short holes are looked for.
    merged_to: AtomicU32,
    /// The frame from which the next region for another shard is looked for.
    shared_to: AtomicU32,
    /// What a predecessor's table has claimed; None after adoption.
    claims: Mutex<Option<Claims>>,
}

/// Objects that are a frame of their own.
#[derive(Default)]
struct Whole {
    objects: AtomicU64,
    object_bytes: AtomicU64,
}

/// Where an object is.
enum Place {
    /// A frame of its own.
    Whole(u32),
    /// A slot, by its first granule in the region.
    Slot(Region, u32),
}

impl Zfit {
    /// A pool that takes frames of `arena`: empty, or to be adopted if the arena was opened.
    pub fn new(arena: Arc<Arena>) -> Self {
        let bytes = u64::from(arena.frames()) * arena.frame_bytes() as u64;
        let shards = 1 + u64::from(bytes >= TWO_SHARDS_BYTES) + bytes / SHARD_BYTES;
        let pool = Self::with_shards(arena, shards.min(SHARDS_MAX as u64));
        pool.in_use.store(1, Relaxed);
        pool
    }

    /// A pool with so many shards, all in use: what a predecessor has in others cannot be taken over.
    pub(super) fn with_shards(arena: Arc<Arena>, shards: u64) -> Self {
        assert!((1..=SHARDS_MAX as u64).contains(&shards), "{shards} shards");
        let grain = Grain::of(arena.frame_bytes());
        let bytes = u64::from(arena.frames()) * arena.frame_bytes() as u64;
        // When a shard comes into use its share is as large as that of each before it. Of eight together that is room
        // for 2.7 MiB for each GiB.
        let nodes = |shard: u64| bytes.div_ceil(BYTES_PER_NODE * (shard + 1)) as usize;
        turn::begin();
        Self {
            shards: (0..shards)
                .map(|index| SharedShard::new(Shard::new(grain, index as u8, nodes(index))))
                .collect(),
            in_use: AtomicUsize::new(shards as usize),
            arena,
            grain,
            whole: Whole::default(),
            looked_to: AtomicU32::new(0),
            merged_to: AtomicU32::new(0),
            shared_to: AtomicU32::new(0),
            claims: Mutex::default(),
        }
    }

    #[inline]
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock(&self.arena)
    }

    /// A slot of `granules`: from a hole of the thread's shard, or of another, or from a region that is
    /// made for it.
    fn alloc_slot(&self, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        let (index, mut shard) = self.lock_next();
        let found = shard.cut(&self.arena, granules, bytes, tag);
        drop(shard);
        found
            .or_else(|| self.alloc_in_shared(index, granules, bytes, tag))
            .or_else(|| self.alloc_in_any(index, granules, bytes, tag))
            .or_else(|| self.alloc_in_new(index, granules, bytes, tag))
            .or_else(|| self.alloc_in_last(index, granules, bytes, tag))
    }

    /// Fetches what the copy of an object to a place in the mapping would wait for: the first lines in each small
    /// page, which take a page walk each.
    fn fetch(&self, at: usize, bytes: usize) {
        let end = at + bytes;
        self.arena.prefetch(at, FETCHED_BYTES);
        let next_page = at - at % SYSTEM_PAGE_BYTES + SYSTEM_PAGE_BYTES;
        for page in (next_page..end).step_by(SYSTEM_PAGE_BYTES) {
            self.arena.prefetch(page, FETCHED_BYTES);
        }
    }

    /// The shard that this thread's next object goes to: the first one from its own on that is not busy, or
    /// else its own.
    #[inline]
    fn lock_next(&self) -> (usize, MutexGuard<'_, Shard>) {
        let count = self.in_use.load(Relaxed);
        let own = turn::current(count);
        let found = (own..count).chain(0..own).find_map(|index| {
            let shard = self.shards[index].try_lock(&self.arena)?;
            Some((index, shard))
        });
        let found = found.unwrap_or_else(|| self.lock_met(own, count));
        turn::take(found.0, self.in_use.load(Relaxed));
        found
    }

    /// The same when all shards in use are busy: waits for its own, and may have one more in use from now on.
    #[cold]
    fn lock_met(&self, own: usize, count: usize) -> (usize, MutexGuard<'_, Shard>) {
        let mut shard = self.lock(own);
        let is_more = shard.meet()
            && count < self.shards.len()
            && (self.in_use)
                .compare_exchange(count, count + 1, Relaxed, Relaxed)
                .is_ok();
        if !is_more {
            return (own, shard);
        }
        drop(shard);
        (count, self.lock(count))
    }

    /// A slot from another shard, or else from this one when all that was freed there is made holes of.
    #[cold]
    fn alloc_in_any(&self, own: usize, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        let mut others = self.others(own);
        others
            .find_map(|index| self.lock(index).cut(&self.arena, granules, bytes, tag))
            .or_else(|| (self.lock(own)).cut_joined(&self.arena, granules, bytes, tag))
    }

    /// A slot from another shard when all that was freed there is made holes of: others wait for that, and there are no
    /// more frames.
    #[cold]
    fn alloc_in_last(&self, own: usize, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        self.others(own).find_map(|index| {
            let mut shard = self.lock(index);
            shard.cut_joined(&self.arena, granules, bytes, tag)
        })
    }

    fn others(&self, own: usize) -> impl Iterator<Item = usize> {
        (own + 1..self.shards.len()).chain(0..own)
    }

    #[cold]
    fn alloc_in_new(&self, own: usize, granules: u32, bytes: usize, tag: Tag) -> Option<Handle> {
        let handle = self.lock(own).cut_new(&self.arena, granules, bytes, tag)?;
        // It may be for the objects of a region of another shard that is being emptied.
        for index in self.others(own) {
            self.lock(index).note_new_region();
        }
        Some(handle)
    }

    /// The shard of the region that a slot is in. Panics if it is in none.
    #[inline]
    fn shard_of(&self, handle: Handle) -> usize {
        if self.in_use.load(Relaxed) == 1 {
            return 0;
        }
        let region = Region::around(&self.arena, handle.frame());
        let region = region.unwrap_or_else(|| panic!("{handle:?} is in no region"));
        region.shard.into()
    }

    #[inline]
    fn side(&self, frame: u32) -> Side {
        Side::decode(self.arena.side(frame).load(Relaxed), ZpoolKind::Zfit)
    }

    fn set_side(&self, frame: u32, side: Side) {
        self.arena
            .side(frame)
            .store(side.encode(ZpoolKind::Zfit), Relaxed);
    }

    /// Where in the mapping the word of a slot is.
    #[inline]
    fn word_at(&self, handle: Handle) -> usize {
        self.arena.frame_at(handle.frame()) + self.grain.bytes(handle.low())
    }

    /// Finds a live object. Panics on a handle that leads to none: it did not come from this pool,
    /// or was freed.
    #[inline(always)]
    fn locate(&self, handle: Handle) -> Place {
        let frame = handle.frame();
        assert!(
            frame < self.arena.frames(),
            "{handle:?} is not of this pool"
        );
        if let Side::Whole(_) = self.side(frame) {
            return Place::Whole(frame);
        }
        let Some(region) = Region::around(&self.arena, frame) else {
            let side = self.side(frame);
            panic!("{handle:?} leads to {side:?}: freed, or not of this pool");
        };
        let slot = region.granule(self.grain, handle);
        Place::Slot(region, slot)
    }

    /// Granules of a slot for an object of `bytes`.
    #[inline]
    fn granules(&self, bytes: usize) -> u32 {
        self.grain.granules(bytes + word::BYTES)
    }

    /// Whether an object is better off with a frame of its own.
    fn is_whole(&self, bytes: usize) -> bool {
        self.granules(bytes) >= self.grain.per_frame
    }

    /// Bytes of memory that `granules` cost, their share of side words included.
    fn charged_bytes(&self, granules: u64) -> u64 {
        let bytes = granules * self.grain.bytes(1) as u64;
        bytes + (bytes * SIDE_BYTES).div_ceil(self.arena.frame_bytes() as u64)
    }
}
