//! The blocks of a class that have a free slot, in lists by how full they are.
//!
//! Objects go to the fullest block that has room, so that the emptiest ones drain; whoever empties
//! blocks on purpose takes from the other end. All moves are O(1): links lie in the blocks.
//!
//! Locking: none, the class's lock is held.

use std::sync::atomic::Ordering::Relaxed;

use super::Arena;
use super::side::NONE;

/// Groups of blocks: without objects, ten of equal shares of fullness, and full. Full blocks are
/// in no list.
pub const GROUPS: usize = super::FULLNESS_GROUPS;

/// The group of full blocks.
pub const FULL: usize = GROUPS - 1;

/// No block.
pub const NO_LINK: u64 = u64::MAX;

/// Where the links of a block are. What number a list knows a block by is theirs to choose.
pub trait Links {
    /// The block after `block` in its list.
    fn next(&self, block: u64) -> u64;
    /// Changes it.
    fn set_next(&self, block: u64, next: u64);
    /// The block before `block` in its list.
    fn previous(&self, block: u64) -> u64;
    /// Changes it.
    fn set_previous(&self, block: u64, previous: u64);
}

/// Blocks of neighbouring frames are known by their first frame, and begin with two links of 4
/// bytes.
impl Links for &Arena {
    fn next(&self, block: u64) -> u64 {
        link(self, block, 0)
    }

    fn set_next(&self, block: u64, next: u64) {
        set_link(self, block, 0, next);
    }

    fn previous(&self, block: u64) -> u64 {
        link(self, block, 4)
    }

    fn set_previous(&self, block: u64, previous: u64) {
        set_link(self, block, 4, previous);
    }
}

fn link(arena: &Arena, block: u64, offset: usize) -> u64 {
    let word = arena.word_u32(arena.frame_at(block as u32) + offset);
    match word.load(Relaxed) {
        NONE => NO_LINK,
        link => link.into(),
    }
}

fn set_link(arena: &Arena, block: u64, offset: usize, link: u64) {
    let word = arena.word_u32(arena.frame_at(block as u32) + offset);
    // NO_LINK becomes NONE.
    word.store(link as u32, Relaxed);
}

/// Heads of the lists.
pub struct Groups {
    heads: [u64; FULL],
    /// Bit g is set when list g is not empty.
    filled: u16,
}

impl Groups {
    /// Lists of nothing.
    pub fn new() -> Self {
        Self {
            heads: [NO_LINK; FULL],
            filled: 0,
        }
    }

    /// The group of a block with `used` of `slots` slots in use.
    pub fn group(used: u16, slots: u32) -> usize {
        let used = u32::from(used);
        match used {
            0 => 0,
            _ if used == slots => FULL,
            _ => (used * 10 / slots) as usize + 1,
        }
    }

    /// Puts a block at the front of a list.
    pub fn push(&mut self, links: &impl Links, group: usize, block: u64) {
        let head = std::mem::replace(&mut self.heads[group], block);
        links.set_next(block, head);
        links.set_previous(block, NO_LINK);
        if head != NO_LINK {
            links.set_previous(head, block);
        }
        self.filled |= 1 << group;
    }

    /// Takes a block out of the list that it is in.
    pub fn remove(&mut self, links: &impl Links, group: usize, block: u64) {
        let (next, previous) = (links.next(block), links.previous(block));
        if next != NO_LINK {
            links.set_previous(next, previous);
        }
        if previous != NO_LINK {
            links.set_next(previous, next);
            return;
        }
        assert_eq!(
            self.heads[group], block,
            "block {block} is not the head of list {group}"
        );
        self.heads[group] = next;
        if next == NO_LINK {
            self.filled &= !(1 << group);
        }
    }

    /// First block of the fullest list.
    pub fn fullest(&self) -> Option<u64> {
        let group = self.filled.checked_ilog2()?;
        Some(self.heads[group as usize])
    }

    /// Blocks of the emptiest list.
    pub fn emptiest<'a>(&'a self, links: &'a impl Links) -> impl Iterator<Item = u64> + 'a {
        let group = self.filled.trailing_zeros() as usize;
        self.list(links, group.min(FULL - 1))
    }

    /// Blocks of one list, front to back.
    pub fn list<'a>(
        &'a self,
        links: &'a impl Links,
        group: usize,
    ) -> impl Iterator<Item = u64> + 'a {
        let some = |block| (block != NO_LINK).then_some(block);
        std::iter::successors(some(self.heads[group]), move |&block| {
            some(links.next(block))
        })
    }
}
