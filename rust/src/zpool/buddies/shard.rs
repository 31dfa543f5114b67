//! A share of the frames under a lock of its own: which of them have room, and what they hold.
//!
//! Frames with room are in lists by the size of the largest object that they would take, and by how
//! many objects they have. Which lists are not empty can be read without the lock, so an allocation
//! finds the tightest frame of all shards and then locks one.
//!
//! Not here: what is in a frame (`header`).
//! Locking: [`Shard::lock`]; whoever holds it may also change the headers of the shard's frames.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use super::lists::Lists;
use super::merging::Rooms;
use super::occupancy::{CHUNKS, CHUNKS_FREE, Occupancy, PLACES};
use crate::zpool::{Arena, FULLNESS_GROUPS};

/// On cache lines of its own: two threads in two shards do not disturb each other.
#[repr(align(128))]
pub struct Shard {
    /// Bit n: there is a frame with room for n chunks and no more. Changes under the lock.
    room: AtomicU64,
    state: Mutex<ShardState>,
}

/// What the lock covers.
pub struct ShardState {
    /// Frames with room, by objects less one.
    lists: [Lists; PLACES - 1],
    /// What the frames hold.
    pub counts: Counts,
}

/// What frames hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Shared frames, by objects less one, then by how full they are.
    pub frames: [[u64; FULLNESS_GROUPS]; PLACES],
    /// Chunks of the objects in them.
    pub chunks: u64,
    /// Frames that are one object.
    pub whole: u64,
    /// Bytes asked for, in both.
    pub object_bytes: u64,
}

impl Counts {
    /// Counts a shared frame in. One without objects is none.
    pub fn add(&mut self, frame: &Occupancy) {
        if let Some(objects) = frame.count().checked_sub(1) {
            self.frames[objects][fullness(frame.chunks_used())] += 1;
            self.chunks += u64::from(frame.chunks_used());
        }
    }

    /// Takes it out again.
    pub fn subtract(&mut self, frame: &Occupancy) {
        if let Some(objects) = frame.count().checked_sub(1) {
            self.frames[objects][fullness(frame.chunks_used())] -= 1;
            self.chunks -= u64::from(frame.chunks_used());
        }
    }

    /// Shared frames of so many objects, all of them together.
    pub fn frames_of(&self, objects: usize) -> u64 {
        self.frames[objects - 1].iter().sum()
    }
}

/// Ten equal shares of fullness, between none (0) and full.
fn fullness(chunks_used: u32) -> usize {
    if chunks_used == CHUNKS_FREE {
        FULLNESS_GROUPS - 1
    } else {
        (chunks_used * 10 / CHUNKS_FREE) as usize + 1
    }
}

/// A frame's place in the lists: its objects and its room in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Objects in the frame.
    pub objects: usize,
    /// The largest object that it would take.
    pub room: u32,
}

/// A locked shard.
pub struct Locked<'a> {
    shard: &'a Shard,
    state: MutexGuard<'a, ShardState>,
}

impl Shard {
    /// A shard without frames.
    pub fn new() -> Self {
        let state = ShardState {
            lists: std::array::from_fn(|_| Lists::new()),
            counts: Counts::default(),
        };
        Self {
            room: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    /// Takes the lock.
    pub fn lock(&self) -> Locked<'_> {
        let state = self.state.lock();
        Locked {
            shard: self,
            state: state.expect("a thread died while it changed a shard"),
        }
    }

    /// The least room of at least `chunks` that some frame has. By the time it is looked for, it
    /// may be gone.
    pub fn room_for(&self, chunks: u32) -> Option<u32> {
        lowest(self.room.load(Relaxed), chunks)
    }

    /// The most room that a frame has.
    pub fn room_max(&self) -> Option<u32> {
        self.room.load(Relaxed).checked_ilog2()
    }
}

impl Locked<'_> {
    /// The frame with the least room of at least `chunks`; of two such, one with more objects.
    pub fn tightest(&self, chunks: u32) -> Option<u32> {
        let lists = self.lists.iter().rev();
        let rooms = lists.filter_map(|lists| Some((lowest(lists.filled(), chunks)?, lists)));
        let (room, lists) = rooms.min_by_key(|&(room, _)| room)?;
        lists.first(room)
    }

    /// The frame with the most room among those of one object.
    pub fn emptiest(&self) -> Option<u32> {
        let lone = &self.lists[0];
        lone.first(lone.filled().checked_ilog2()?)
    }

    /// Puts a frame into the lists.
    pub fn list(&mut self, arena: &Arena, listing: Listing, frame: u32) {
        let list = &mut self.lists[listing.objects - 1];
        list.push(arena, listing.room, frame);
        self.announce();
    }

    /// Takes a frame out of the lists.
    pub fn unlist(&mut self, arena: &Arena, listing: Listing, frame: u32) {
        let list = &mut self.lists[listing.objects - 1];
        list.remove(arena, listing.room, frame);
        self.announce();
    }

    fn announce(&self) {
        let filled = self.lists.iter().fold(0, |all, lists| all | lists.filled());
        if self.shard.room.load(Relaxed) != filled {
            self.shard.room.store(filled, Relaxed);
        }
    }

    /// Adds the frames with room to those of other shards, by objects less one.
    pub fn add_rooms(&self, sum: &mut [Rooms; PLACES - 1]) {
        for (sum, lists) in sum.iter_mut().zip(&self.lists) {
            let lengths = sum.iter_mut().zip(lists.lengths());
            lengths.for_each(|(sum, &length)| *sum += u64::from(length));
        }
    }

    /// All listed frames.
    pub fn listed<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = (Listing, u32)> + 'a {
        let filled = self.lists.iter().fold(0, |all, lists| all | lists.filled());
        assert_eq!(self.shard.room.load(Relaxed), filled, "announced room");
        (1..PLACES).flat_map(move |objects| {
            (0..CHUNKS).flat_map(move |room| {
                let frames = self.lists[objects - 1].list(arena, room);
                frames.map(move |frame| (Listing { objects, room }, frame))
            })
        })
    }
}

impl Deref for Locked<'_> {
    type Target = ShardState;

    fn deref(&self) -> &ShardState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut ShardState {
        &mut self.state
    }
}

/// The lowest bit that is set, from bit `from` on.
fn lowest(bits: u64, from: u32) -> Option<u32> {
    let bits = bits & (!0 << from);
    (bits != 0).then(|| bits.trailing_zeros())
}
