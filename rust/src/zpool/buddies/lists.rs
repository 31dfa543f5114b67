//! Frames with room, in lists by the size of the largest object that they would take.
//!
//! All moves are O(1): links lie in the headers of the frames, and a bitmap says which lists are
//! not empty, so the tightest frame is found without a search.
//!
//! Locking: none, the shard's lock is held.

use super::header::Header;
use super::occupancy::CHUNKS;
use crate::zpool::Arena;
use crate::zpool::side::NONE;

/// Lists by room, 0 to 63 chunks.
pub const LISTS: usize = CHUNKS as usize;

/// Heads and lengths of the lists.
pub struct Lists {
    heads: [u32; LISTS],
    lengths: [u32; LISTS],
    /// Bit n is set when list n is not empty.
    filled: u64,
}

impl Lists {
    /// Lists of nothing.
    pub fn new() -> Self {
        Self {
            heads: [NONE; LISTS],
            lengths: [0; LISTS],
            filled: 0,
        }
    }

    /// Bit n is set when list n is not empty.
    pub fn filled(&self) -> u64 {
        self.filled
    }

    /// How many frames each list has.
    pub fn lengths(&self) -> &[u32; LISTS] {
        &self.lengths
    }

    /// The first frame of a list.
    pub fn first(&self, room: u32) -> Option<u32> {
        let head = self.heads[room as usize];
        (head != NONE).then_some(head)
    }

    /// Puts a frame at the front of a list.
    pub fn push(&mut self, arena: &Arena, room: u32, frame: u32) {
        let list = room as usize;
        let head = std::mem::replace(&mut self.heads[list], frame);
        Header::of(arena, frame).set_links(head, NONE);
        if head != NONE {
            Header::of(arena, head).set_previous(frame);
        }
        self.lengths[list] += 1;
        self.filled |= 1 << room;
    }

    /// Takes a frame out of the list that it is in.
    pub fn remove(&mut self, arena: &Arena, room: u32, frame: u32) {
        let list = room as usize;
        let (next, previous) = Header::of(arena, frame).links();
        if next != NONE {
            Header::of(arena, next).set_previous(previous);
        }
        if previous != NONE {
            Header::of(arena, previous).set_next(next);
        } else {
            let head = std::mem::replace(&mut self.heads[list], next);
            assert_eq!(head, frame, "frame {frame} is not the head of list {room}");
        }
        self.lengths[list] -= 1;
        if self.lengths[list] == 0 {
            self.filled &= !(1 << room);
        }
    }

    /// The frames of one list, front to back.
    pub fn list<'a>(&'a self, arena: &'a Arena, room: u32) -> impl Iterator<Item = u32> + 'a {
        std::iter::successors(self.first(room), move |&frame| {
            let (next, _) = Header::of(arena, frame).links();
            (next != NONE).then_some(next)
        })
    }
}
