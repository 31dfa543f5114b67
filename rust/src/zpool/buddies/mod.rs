//! A pool of frames that a few objects share: what zbud and z3fold have in common.
//!
//! A frame is 64 chunks. The first holds the header: links, extents and tags; the others hold at
//! most two or three objects, each a run of chunks. The first object of a frame lies at its front,
//! the second at its end, a third behind the one before it. An object takes the frame with the
//! least room that is enough, else a new frame, so nothing is ever searched. An object that leaves
//! no chunk for a companion is a whole frame, with its tag in the side word. The length of an
//! object says which of the two it is, and its handle where it starts: a load reads no header.
//!
//! Not here: how many objects share a frame (`zbud`, `z3fold`, behind the trait [`Rule`]).
//! Locking: one lock a shard, over the lists of its frames, their headers and side words. Frames
//! are dealt to the shards by number, and an allocation starts to look at a shard that its owner
//! picks. Order: shard -> arena; never two shards, but in `check`. All that grows with the pool
//! lies inside the frames, so the arena's limit covers it.

mod adopt;
mod check;
mod header;
mod lists;
mod merging;
mod occupancy;
mod shard;
mod upkeep;
mod zpool;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use self::header::{HEADER_BYTES, Header};
use self::occupancy::{
    CHUNK_FIRST, CHUNKS, CHUNKS_FREE, Extent, OBJECT_CHUNKS_MAX, Occupancy, PLACES,
};
use self::shard::{Listing, Locked, Shard};
use super::side::{NONE, Side};
use super::{Arena, HANDLE_BITS, Handle, Resident, SIDE_BYTES, Tag, ZpoolKind};

/// Enough that two threads seldom meet; a few cache lines to look at for an allocation.
const SHARDS: usize = 8;

/// What a frame that several objects share says in its side word.
const SHARED: Side = Side::Head {
    class: 0,
    free: 0,
    next: NONE,
};

/// How objects share a frame.
pub trait Rule: Send + Sync + 'static {
    /// Which pool it is.
    const KIND: ZpoolKind;

    /// Objects of a frame at most: 2 or 3.
    const OBJECTS_MAX: usize;

    /// Where in a gap an object starts: in front, but at the end of the frame behind others.
    fn start_in(gap: &Range<u32>, chunks: u32) -> u32 {
        if gap.end == CHUNKS && gap.start > CHUNK_FIRST {
            gap.end - chunks
        } else {
            gap.start
        }
    }
}

/// A pool whose frames are shared by `R`.
pub struct Buddies<R> {
    arena: Arc<Arena>,
    chunk_bytes: usize,
    shards: [Shard; SHARDS],
    /// The frame that is out of allocation, or NONE. Changes under the lock of the frame's shard.
    isolated: AtomicU32,
    rule: PhantomData<R>,
}

impl<R: Rule> Buddies<R> {
    /// A pool that takes frames of `arena`: empty, or to be adopted if the arena was opened.
    pub fn new(arena: Arc<Arena>) -> Self {
        const { assert!(R::OBJECTS_MAX >= 2 && R::OBJECTS_MAX <= PLACES) };
        let chunk_bytes = arena.frame_bytes() / CHUNKS as usize;
        assert!(HEADER_BYTES <= chunk_bytes, "chunks of {chunk_bytes} bytes");
        Self {
            arena,
            chunk_bytes,
            shards: std::array::from_fn(|_| Shard::new()),
            isolated: AtomicU32::new(NONE),
            rule: PhantomData,
        }
    }

    fn lock(&self, frame: u32) -> Locked<'_> {
        self.shards[frame as usize % SHARDS].lock()
    }

    fn header(&self, frame: u32) -> Header<'_> {
        Header::of(&self.arena, frame)
    }

    fn side(&self, frame: u32) -> Side {
        Side::decode(self.arena.side(frame).load(Relaxed), R::KIND)
    }

    fn set_side(&self, frame: u32, side: Side) {
        self.arena.side(frame).store(side.encode(R::KIND), Relaxed);
    }

    /// Chunks of an object that shares a frame; none for one that is a whole frame.
    fn shared_chunks(&self, bytes: usize) -> Option<u32> {
        let chunks = bytes.div_ceil(self.chunk_bytes) as u32;
        (chunks <= OBJECT_CHUNKS_MAX).then_some(chunks)
    }

    /// Where an object begins in the mapping; chunk 0 is where a whole frame does.
    fn place(&self, handle: Handle) -> usize {
        let (frame, start) = (handle.frame(), handle.low());
        assert!(
            handle.0 >> HANDLE_BITS == 0 && start < CHUNKS,
            "{handle:?} is not of this pool"
        );
        self.arena.frame_at(frame) + start as usize * self.chunk_bytes
    }

    /// Where a frame is in the lists. One without objects or without room is in none.
    fn listing(occupancy: &Occupancy) -> Option<Listing> {
        let objects = occupancy.count();
        let has_room = (1..R::OBJECTS_MAX).contains(&objects);
        let room = if has_room { occupancy.gap_max() } else { 0 };
        (room > 0).then_some(Listing { objects, room })
    }

    /// Changes what a frame holds: header, lists and counts.
    fn change(&self, shard: &mut Locked<'_>, frame: u32, before: &Occupancy, after: &Occupancy) {
        self.header(frame).set_occupancy(after);
        let (from, to) = (Self::listing(before), Self::listing(after));
        if from != to && self.isolated.load(Relaxed) != frame {
            if let Some(from) = from {
                shard.unlist(&self.arena, from, frame);
            }
            if let Some(to) = to {
                shard.list(&self.arena, to, frame);
            }
        }
        shard.counts.subtract(before);
        shard.counts.add(after);
    }

    /// Puts an object into a frame that has room for it.
    fn insert(&self, shard: &mut Locked<'_>, frame: u32, chunks: u32, tag: Tag) -> Handle {
        let header = self.header(frame);
        let before = header.occupancy();
        let gap = before.gap_for(chunks);
        let gap = gap.expect("a listed frame has the room that its list says");
        let start = R::start_in(&gap, chunks);
        let place = before.vacancy();
        header.set_tag(place, tag);
        let after = before.with(place, Extent { start, chunks });
        self.change(shard, frame, &before, &after);
        Handle::of(frame, start)
    }

    /// The shard that has the tightest frame. Of equal ones the first from `first` on, so that not
    /// all threads meet at one.
    fn tightest(&self, chunks: u32, first: usize) -> Option<usize> {
        let shards = (first..first + SHARDS).map(|shard| shard % SHARDS);
        let rooms = shards.filter_map(|at| Some((at, self.shards[at].room_for(chunks)?)));
        rooms.min_by_key(|&(_, room)| room).map(|(at, _)| at)
    }

    fn alloc_shared(&self, bytes: usize, chunks: u32, tag: Tag) -> Option<Handle> {
        // What was announced may be gone when the lock is held; then another thread got on.
        while let Some(at) = self.tightest(chunks, tag.owner as usize % SHARDS) {
            let mut shard = self.shards[at].lock();
            if let Some(frame) = shard.tightest(chunks) {
                shard.counts.object_bytes += bytes as u64;
                return Some(self.insert(&mut shard, frame, chunks, tag));
            }
        }
        let frame = self.arena.alloc_run(1)?;
        let mut shard = self.lock(frame);
        self.header(frame).set_occupancy(&Occupancy::EMPTY);
        self.set_side(frame, SHARED);
        shard.counts.object_bytes += bytes as u64;
        Some(self.insert(&mut shard, frame, chunks, tag))
    }

    fn alloc_whole(&self, bytes: usize, tag: Tag) -> Option<Handle> {
        let frame = self.arena.alloc_run(1)?;
        let mut shard = self.lock(frame);
        self.set_side(frame, Side::Whole(tag));
        shard.counts.whole += 1;
        shard.counts.object_bytes += bytes as u64;
        Some(Handle::of(frame, 0))
    }

    fn free_shared(&self, handle: Handle, bytes: usize, chunks: u32) {
        let frame = handle.frame();
        let mut shard = self.lock(frame);
        assert_eq!(self.side(frame), SHARED, "{handle:?} is freed twice");
        let before = self.header(frame).occupancy();
        let Some((place, extent)) = before.at(handle.low()) else {
            panic!("{handle:?} is freed twice");
        };
        assert_eq!(extent.chunks, chunks, "chunks of {handle:?}");
        let after = before.with(place, Extent::NONE);
        self.change(&mut shard, frame, &before, &after);
        shard.counts.object_bytes -= bytes as u64;
        if after == Occupancy::EMPTY {
            if self.isolated.load(Relaxed) == frame {
                self.isolated.store(NONE, Relaxed);
            }
            self.set_side(frame, Side::Free);
            self.arena.free_run(frame, 1);
        }
    }

    fn free_whole(&self, handle: Handle, bytes: usize) {
        let frame = handle.frame();
        let mut shard = self.lock(frame);
        let is_whole = matches!(self.side(frame), Side::Whole(_));
        assert!(is_whole && handle.low() == 0, "{handle:?} is freed twice");
        self.set_side(frame, Side::Free);
        self.arena.free_run(frame, 1);
        shard.counts.whole -= 1;
        shard.counts.object_bytes -= bytes as u64;
    }

    /// The live objects of a shared frame, whose shard is locked.
    fn residents(&self, frame: u32) -> [Option<Resident>; PLACES] {
        let header = self.header(frame);
        let mut residents = [None; PLACES];
        for (place, extent) in header.occupancy().objects() {
            residents[place] = Some(Resident {
                handle: Handle::of(frame, extent.start),
                tag: header.tag(place),
            });
        }
        residents
    }

    /// Bytes of a frame, side word included.
    fn frame_cost_bytes(&self) -> u64 {
        self.arena.frame_bytes() as u64 + SIDE_BYTES
    }

    /// Bytes of the fewest frames that hold `objects` objects of `chunks` chunks together.
    fn packed_bytes(&self, objects: u64, chunks: u64) -> u64 {
        let cost = self.frame_cost_bytes();
        let by_count = (objects * cost).div_ceil(R::OBJECTS_MAX as u64);
        by_count.max((chunks * cost).div_ceil(u64::from(CHUNKS_FREE)))
    }
}

#[cfg(test)]
mod tests;
