//! The blocks of a class that have a free slot, in lists by how full they are.
//!
//! Objects go to the fullest block that has room, so that the emptiest ones drain; whoever empties
//! blocks on purpose takes from the other end. All moves are O(1): links lie in the blocks.
//!
//! Locking: none, the class's lock is held; links are atomics only because blocks are shared
//! memory.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::side::NONE;

/// Lists, each for an equal share of fullness.
pub const GROUPS: usize = 8;

/// Where the links of a block are.
pub trait Links {
    /// The block after `block` in its list.
    fn next(&self, block: u32) -> &AtomicU32;
    /// The block before `block` in its list.
    fn previous(&self, block: u32) -> &AtomicU32;
}

/// Heads of the lists.
pub struct Groups {
    heads: [u32; GROUPS],
    /// Bit g is set when list g is not empty.
    filled: u8,
}

impl Groups {
    /// Lists of nothing.
    pub fn new() -> Self {
        Self {
            heads: [NONE; GROUPS],
            filled: 0,
        }
    }

    /// The list for a block with `used` of `slots` slots in use, not all of them.
    pub fn group(used: u16, slots: u32) -> usize {
        (u32::from(used) * GROUPS as u32 / slots) as usize
    }

    /// Puts a block at the front of a list.
    pub fn push(&mut self, links: &impl Links, group: usize, block: u32) {
        let head = std::mem::replace(&mut self.heads[group], block);
        links.next(block).store(head, Relaxed);
        links.previous(block).store(NONE, Relaxed);
        if head != NONE {
            links.previous(head).store(block, Relaxed);
        }
        self.filled |= 1 << group;
    }

    /// Takes a block out of the list that it is in.
    pub fn remove(&mut self, links: &impl Links, group: usize, block: u32) {
        let (next, previous) = (
            links.next(block).load(Relaxed),
            links.previous(block).load(Relaxed),
        );
        if next != NONE {
            links.previous(next).store(previous, Relaxed);
        }
        if previous != NONE {
            links.next(previous).store(next, Relaxed);
            return;
        }
        assert_eq!(
            self.heads[group], block,
            "block {block} is not the head of list {group}"
        );
        self.heads[group] = next;
        if next == NONE {
            self.filled &= !(1 << group);
        }
    }

    /// First block of the fullest list.
    pub fn fullest(&self) -> Option<u32> {
        let group = self.filled.checked_ilog2()?;
        Some(self.heads[group as usize])
    }

    /// Blocks of the emptiest list.
    pub fn emptiest<'a>(&'a self, links: &'a impl Links) -> impl Iterator<Item = u32> + 'a {
        let group = self.filled.trailing_zeros() as usize;
        self.list(links, group.min(GROUPS - 1))
    }

    /// Blocks of one list, front to back.
    pub fn list<'a>(
        &'a self,
        links: &'a impl Links,
        group: usize,
    ) -> impl Iterator<Item = u32> + 'a {
        let some = |block| (block != NONE).then_some(block);
        std::iter::successors(some(self.heads[group]), move |&block| {
            some(links.next(block).load(Relaxed))
        })
    }
}
