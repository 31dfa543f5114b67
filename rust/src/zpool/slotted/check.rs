//! The pool's invariants, checked by walking everything.
//!
//! Locking: takes all class locks, in order; nothing else ever holds two.

use std::sync::atomic::Ordering::Relaxed;

use super::{ClassState, Layout, NO_OWNER, NO_SLOT, Slotted};
use crate::zpool::groups::{GROUPS, Groups};
use crate::zpool::side::{NONE, Side};

/// What the frames say about a class, to be compared with what its state says.
#[derive(Clone, Default)]
struct Found {
    blocks: u64,
    slots_used: u64,
    /// Blocks with a free slot.
    partial: usize,
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
                Side::Tail { .. } => {
                    assert!(self.arena.in_use(frame), "tail {frame} is a free frame");
                    continue;
                }
                Side::Free => continue,
            };
            assert!(self.arena.in_use(frame), "head {frame} is a free frame");
            self.check_block(class, frame, &mut found[class]);
        }
        for (class, state) in states.iter().enumerate() {
            assert_eq!(state.blocks, found[class].blocks, "blocks of class {class}");
            assert_eq!(
                state.slots_used, found[class].slots_used,
                "used slots of class {class}"
            );
            assert!(
                state.object_bytes >= state.slots_used,
                "objects of no bytes in class {class}"
            );
            let listed = self.check_lists(class, state);
            assert_eq!(
                listed, found[class].partial,
                "listed blocks of class {class}"
            );
        }
    }

    fn check_block(&self, class: usize, head: u32, found: &mut Found) {
        let shape = &self.shapes[class];
        found.blocks += 1;
        if shape.is_whole() {
            found.slots_used += 1;
            return;
        }
        L::check(&self.arena, shape, head);
        let block = self.head(head);
        let (used, fresh) = (
            u32::from(block.used().load(Relaxed)),
            u32::from(block.fresh().load(Relaxed)),
        );
        assert!(
            0 < used && used <= fresh && fresh <= shape.slots,
            "{used} {fresh} in {head}"
        );
        let owned = |&slot: &u32| self.owner(shape, head, slot).load(Relaxed) != NO_OWNER;
        assert_eq!(
            (0..fresh).filter(owned).count() as u32,
            used,
            "owned slots of block {head}"
        );
        let mut chained = 0;
        let mut slot = block.free().load(Relaxed);
        while slot != NO_SLOT {
            assert!(
                u32::from(slot) < fresh && !owned(&slot.into()),
                "chain of {head} has {slot}"
            );
            chained += 1;
            assert!(
                chained <= fresh - used,
                "the free chain of block {head} is too long"
            );
            slot = self.stamp(shape, head, slot.into()).load(Relaxed);
        }
        assert_eq!(
            chained,
            fresh - used,
            "the free chain of block {head} is too short"
        );
        found.slots_used += u64::from(used);
        found.partial += usize::from(used < shape.slots);
    }

    /// Counts the blocks in lists and out of allocation.
    fn check_lists(&self, class: usize, state: &ClassState) -> usize {
        let slots = self.shapes[class].slots;
        let mut listed = usize::from(state.isolated != NONE);
        for group in 0..GROUPS {
            for head in state.groups.list(&*self.arena, group) {
                let used = self.head(head).used().load(Relaxed);
                assert!(u32::from(used) < slots, "full block {head} is listed");
                assert_eq!(Groups::group(used, slots), group, "list of block {head}");
                assert!(head != state.isolated, "isolated block {head} is listed");
                listed += 1;
            }
        }
        listed
    }
}
