//! The pool's invariants, checked by walking everything.
//!
//! Locking: takes all class locks, in order; nothing else ever holds two.

use std::sync::atomic::Ordering::Relaxed;

use super::{ClassState, FULL, GROUPS, Layout, NO_OWNER, NO_SLOT, Slotted};
use crate::zpool::groups::Groups;
use crate::zpool::side::{NONE, Side};

/// What the frames say about a class, to be compared with what its state says.
#[derive(Clone, Default)]
struct Found {
    fullness: [u64; GROUPS],
    slots_used: u64,
}

impl<L: Layout> Slotted<L> {
    pub(super) fn check_all(&self) {
        let states: Vec<_> = (0..self.shapes.len())
            .map(|class| self.lock(class))
            .collect();
        let mut found = vec![Found::default(); self.shapes.len()];
        for frame in 0..self.arena.side_frames() {
            let class = match self.side(frame) {
                Side::Head { class, .. } => usize::from(class),
                Side::Whole(_) => self.whole_class(),
                Side::Tail { .. } | Side::Link { .. } => {
                    assert!(self.arena.in_use(frame), "tail {frame} is a free frame");
                    continue;
                }
                Side::Free => continue,
            };
            assert!(self.arena.in_use(frame), "head {frame} is a free frame");
            self.check_block(class, frame, &mut found[class]);
        }
        for (class, state) in states.iter().enumerate() {
            assert_eq!(
                state.fullness, found[class].fullness,
                "blocks of class {class}"
            );
            assert_eq!(
                state.slots_used, found[class].slots_used,
                "used slots of class {class}"
            );
            assert!(
                state.object_bytes >= state.slots_used,
                "objects of no bytes in class {class}"
            );
            let larger = &states[class + 1..];
            let may_owe = larger.iter().any(|state| state.slots_used > 0);
            let owed = self.debts.of(class);
            assert!(may_owe || owed == 0, "class {class} owes {owed} to nobody");
            let listed = self.check_lists(class, state);
            let partial = state.blocks() - state.fullness[FULL];
            assert_eq!(listed, partial, "listed blocks of class {class}");
        }
    }

    fn check_block(&self, class: usize, block: u32, found: &mut Found) {
        let shape = &self.shapes[class];
        if shape.is_whole() {
            found.slots_used += 1;
            found.fullness[FULL] += 1;
            return;
        }
        L::check(&self.arena, shape, block);
        let used = self.used(shape, block);
        found.slots_used += u64::from(used);
        found.fullness[Groups::group(used, shape.slots)] += 1;
        let used = u32::from(used);
        assert!(0 < used && used <= shape.slots, "{used} used in {block}");
        let tag = |slot| self.tag_words(shape, &self.find(shape, block, slot));
        let owned = |&slot: &u32| tag(slot).0.load(Relaxed) != NO_OWNER;
        assert_eq!(
            (0..shape.slots).filter(owned).count() as u32,
            used,
            "owned slots of block {block}"
        );
        let Some(head) = L::head(&self.arena, shape, block) else {
            assert_eq!(used, shape.slots, "block {block} has no head");
            return;
        };
        assert_eq!(L::block_of(&self.arena, head.link), block, "head's block");
        let mut chained = 0;
        if let Some(slot) = L::head_slot(&self.arena, block) {
            assert!(!owned(&slot.into()), "slot {slot} of {block} has the head");
            chained += 1;
        }
        let mut slot = head.free().load(Relaxed);
        while slot != NO_SLOT {
            assert!(
                u32::from(slot) < shape.slots && !owned(&slot.into()),
                "chain of {block} has {slot}"
            );
            chained += 1;
            assert!(
                chained <= shape.slots - used,
                "the free chain of block {block} is too long"
            );
            slot = tag(slot.into()).1.load(Relaxed);
        }
        assert_eq!(
            chained,
            shape.slots - used,
            "the free chain of block {block} is too short"
        );
    }

    /// Counts the blocks in lists and out of allocation.
    fn check_lists(&self, class: usize, state: &ClassState) -> u64 {
        let shape = &self.shapes[class];
        let links = L::links(&self.arena);
        let mut listed = u64::from(state.isolated != NONE);
        for group in 0..FULL {
            for link in state.groups.list(&links, group) {
                let block = L::block_of(&self.arena, link);
                let used = self.used(shape, block);
                let right = Self::list_of(Groups::group(used, shape.slots));
                assert_eq!(right, Some(group), "list of block {block} with {used}");
                assert!(block != state.isolated, "isolated block {block} is listed");
                listed += 1;
            }
        }
        listed
    }
}
