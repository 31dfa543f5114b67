//! The blocks of a class that have a free slot, in lists by how full they are, or all in one.
//!
//! In lists by fullness objects go to the fullest block that has room, so that the emptiest ones drain; whoever
//! empties blocks on purpose takes from the other end. In one list they go to its first block until that is full,
//! and a block that was full goes to its end. All moves are O(1): links lie in the blocks.
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

/// Ends of the lists.
pub struct Groups {
    heads: [u64; FULL],
    tails: [u64; FULL],
    /// Bit g is set when list g is not empty.
    filled: u16,
}

impl Groups {
    /// Lists of nothing.
    pub fn new() -> Self {
        Self {
            heads: [NO_LINK; FULL],
            tails: [NO_LINK; FULL],
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
        match head {
            NO_LINK => self.tails[group] = block,
            _ => links.set_previous(head, block),
        }
        self.filled |= 1 << group;
    }

    /// Puts a block at the end of a list.
    pub fn push_back(&mut self, links: &impl Links, group: usize, block: u64) {
        let tail = self.tails[group];
        if tail == NO_LINK {
            self.push(links, group, block);
            return;
        }
        links.set_next(tail, block);
        links.set_previous(block, tail);
        links.set_next(block, NO_LINK);
        self.tails[group] = block;
    }

    /// Takes a block out of the list that it is in.
    pub fn remove(&mut self, links: &impl Links, group: usize, block: u64) {
        let (next, previous) = (links.next(block), links.previous(block));
        if next != NO_LINK {
            links.set_previous(next, previous);
        } else {
            assert_eq!(
                self.tails[group], block,
                "block {block} is not the tail of list {group}"
            );
            self.tails[group] = previous;
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    /// Links of blocks that are numbers and nothing else: next and previous.
    #[derive(Default)]
    struct Numbers(RefCell<HashMap<u64, [u64; 2]>>);

    impl Numbers {
        fn get(&self, block: u64, end: usize) -> u64 {
            self.0.borrow()[&block][end]
        }

        fn set(&self, block: u64, end: usize, to: u64) {
            self.0.borrow_mut().entry(block).or_insert([NO_LINK; 2])[end] = to;
        }
    }

    impl Links for Numbers {
        fn next(&self, block: u64) -> u64 {
            self.get(block, 0)
        }

        fn set_next(&self, block: u64, next: u64) {
            self.set(block, 0, next);
        }

        fn previous(&self, block: u64) -> u64 {
            self.get(block, 1)
        }

        fn set_previous(&self, block: u64, previous: u64) {
            self.set(block, 1, previous);
        }
    }

    #[test]
    fn a_group_is_a_tenth_of_the_slots() {
        let groups = |slots| (0..=slots as u16).map(move |used| Groups::group(used, slots));
        let of_ten: Vec<usize> = groups(10).collect();
        assert_eq!(of_ten, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, FULL]);
        let of_twenty: Vec<usize> = groups(20).collect();
        assert_eq!(of_twenty[..5], [0, 1, 2, 2, 3]);
        assert_eq!(of_twenty[18..], [10, 10, FULL]);
        assert_eq!(groups(1).collect::<Vec<_>>(), [0, FULL]);
    }

    #[test]
    fn the_fullest_and_the_emptiest_are_of_the_lists_at_the_ends() {
        let (links, mut groups) = (Numbers::default(), Groups::new());
        assert_eq!(groups.fullest(), None);
        assert_eq!(groups.emptiest(&links).next(), None);
        for (group, block) in [(4, 40), (9, 90), (2, 20), (9, 91), (2, 21), (6, 60)] {
            groups.push(&links, group, block);
        }
        assert_eq!(groups.emptiest(&links).collect::<Vec<_>>(), [21, 20]);
        // From the fullest down, each as it was pushed last.
        for (group, block) in [(9, 91), (9, 90), (6, 60), (4, 40), (2, 21), (2, 20)] {
            assert_eq!(groups.fullest(), Some(block));
            groups.remove(&links, group, block);
        }
        assert_eq!(groups.fullest(), None);
    }

    #[test]
    fn what_is_emptiest_changes_when_its_list_is_used_up() {
        let (links, mut groups) = (Numbers::default(), Groups::new());
        for (group, block) in [(0, 1), (5, 50), (FULL - 1, 100)] {
            groups.push(&links, group, block);
        }
        for (group, block) in [(0, 1), (5, 50), (FULL - 1, 100)] {
            assert_eq!(groups.emptiest(&links).collect::<Vec<_>>(), [block]);
            groups.remove(&links, group, block);
        }
        assert_eq!(groups.emptiest(&links).next(), None);
    }

    #[test]
    fn what_is_put_at_the_end_comes_last() {
        let (links, mut groups) = (Numbers::default(), Groups::new());
        groups.push_back(&links, 0, 1);
        groups.push_back(&links, 0, 2);
        groups.push(&links, 0, 3);
        groups.push_back(&links, 0, 4);
        let all = |groups: &Groups| groups.list(&links, 0).collect::<Vec<_>>();
        assert_eq!(all(&groups), [3, 1, 2, 4]);
        groups.remove(&links, 0, 4);
        groups.push_back(&links, 0, 5);
        assert_eq!(all(&groups), [3, 1, 2, 5]);
        for block in [3, 1, 2, 5] {
            assert_eq!(groups.fullest(), Some(block));
            groups.remove(&links, 0, block);
        }
        groups.push_back(&links, 0, 6);
        assert_eq!(all(&groups), [6]);
    }

    #[test]
    fn a_block_leaves_its_list_from_any_place() {
        for left in [1, 2, 3] {
            let (links, mut groups) = (Numbers::default(), Groups::new());
            (1..=3).for_each(|block| groups.push(&links, 7, block));
            groups.remove(&links, 7, left);
            let rest: Vec<u64> = (1..=3).rev().filter(|&block| block != left).collect();
            assert_eq!(groups.list(&links, 7).collect::<Vec<_>>(), rest);
            assert_eq!(groups.fullest(), Some(rest[0]));
        }
    }
}
