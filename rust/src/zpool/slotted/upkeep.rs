//! Walking over the pool in the background: reporting what lives, and emptying sparse blocks.
//!
//! Locking: a class's lock is held while a batch is copied out, never while it is visited.

use std::sync::atomic::Ordering::Relaxed;

use super::{ClassState, Layout, NO_OWNER, Slotted};
use crate::zpool::groups::Groups;
use crate::zpool::side::{NONE, Side};
use crate::zpool::{Handle, Resident, Sweep, Tag};

/// Objects that are copied out under one hold of the lock.
const BATCH: usize = 64;

/// Blocks that isolation looks at in the emptiest list, which bounds how long it holds the lock. At the front of a
/// single list are those that have had free slots for longest.
const CANDIDATES: usize = 16;

/// A block that could be emptied.
struct Candidate {
    class: usize,
    link: u64,
    used: u16,
    slots: u32,
    /// Free slots of the next larger class.
    free_above: u64,
    /// Some of its objects are to go there.
    borrows: bool,
}

impl Candidate {
    fn emptier_than(&self, other: &Candidate) -> bool {
        u32::from(self.used) * other.slots < u32::from(other.used) * self.slots
    }
}

impl<L: Layout> Slotted<L> {
    pub(super) fn sweep_frames(
        &self,
        sweep: &mut Sweep,
        frames: u32,
        visit: &mut dyn FnMut(Resident),
    ) -> bool {
        let (taken, at_end) = sweep.advance(frames, self.arena.side_frames());
        for frame in taken {
            match self.side(frame) {
                Side::Head { class, .. } => self.report(usize::from(class), frame, visit),
                Side::Whole(_) => self.report_whole(frame, visit),
                Side::Tail { .. } | Side::Link { .. } | Side::Free => {}
            }
        }
        at_end
    }

    fn report_whole(&self, frame: u32, visit: &mut dyn FnMut(Resident)) {
        // One word says it all, so no lock is needed to read it whole.
        if let Side::Whole(tag) = self.side(frame) {
            visit(Resident {
                handle: Handle::of(frame, 0),
                tag,
            });
        }
    }

    /// Reports the live objects of a block, batch by batch, as long as it is a block of `class`.
    fn report(&self, class: usize, block: u32, visit: &mut dyn FnMut(Resident)) {
        let shape = &self.shapes[class];
        let nothing = Resident {
            handle: Handle(0),
            tag: Tag {
                owner: NO_OWNER,
                stamp: 0,
            },
        };
        let mut batch = [nothing; BATCH];
        let mut slot = 0;
        while slot < shape.slots {
            let mut count = 0;
            let state = self.lock(class);
            let now = self.side(block);
            let same = matches!(now, Side::Head { class: now, .. } if usize::from(now) == class);
            let end = if same { shape.slots } else { 0 };
            while slot < end && count < BATCH {
                let spot = self.find(shape, block, slot);
                let (owner, stamp) = self.tag_words(shape, &spot);
                let owner = owner.load(Relaxed);
                if owner != NO_OWNER {
                    batch[count] = Resident {
                        handle: L::handle(&self.arena, &spot),
                        tag: Tag {
                            owner,
                            stamp: stamp.load(Relaxed),
                        },
                    };
                    count += 1;
                }
                slot += 1;
            }
            drop(state);
            batch[..count].iter().for_each(|&resident| visit(resident));
            if slot >= end {
                return;
            }
        }
    }

    pub(super) fn isolate_block(&self, visit: &mut dyn FnMut(Resident)) -> bool {
        let mut best: Option<Candidate> = None;
        let mut free_above = 0;
        for class in (0..self.whole_class()).rev() {
            let state = self.lock(class);
            let candidate = self.candidate(class, &state, free_above);
            free_above = self.free_slots(class, &state);
            drop(state);
            if let Some(candidate) = candidate
                && best
                    .as_ref()
                    .is_none_or(|best| candidate.emptier_than(best))
            {
                best = Some(candidate);
            }
        }
        // The class was unlocked meanwhile, so its emptiest block is looked for anew.
        let Some(Candidate {
            class, free_above, ..
        }) = best
        else {
            return false;
        };
        let mut state = self.lock(class);
        let Some(Candidate {
            link,
            used,
            slots,
            borrows,
            ..
        }) = self.candidate(class, &state, free_above)
        else {
            return false;
        };
        let group = Groups::group(used, slots);
        self.unlist(&mut state, group, link);
        let block = L::block_of(&self.arena, link);
        state.isolated = block;
        // Its objects may borrow, and need no block for that.
        state.has_freed = true;
        state.borrowing = borrows.then_some((state.blocks(), state.slots_used));
        drop(state);
        self.report(class, block, visit);
        true
    }

    /// The emptiest block of a class, near enough, if its objects have room in the others, and in `free_above` free
    /// slots of the next larger class as far as they may borrow them.
    ///
    /// What empties a block makes others in smaller classes at most, for what those had borrowed, so that
    /// emptying blocks comes to an end.
    fn candidate(&self, class: usize, state: &ClassState, free_above: u64) -> Option<Candidate> {
        if state.isolated != NONE {
            return None;
        }
        let shape = &self.shapes[class];
        let links = L::links(&self.arena);
        let candidates = state.groups.emptiest(&links).take(CANDIDATES);
        let emptiest = candidates
            .map(|link| Candidate {
                class,
                link,
                used: self.used(shape, L::block_of(&self.arena, link)),
                slots: shape.slots,
                free_above,
                borrows: false,
            })
            .min_by_key(|candidate| candidate.used)?;
        let used = u64::from(emptiest.used);
        let free_outside = self.free_slots(class, state) + used - u64::from(shape.slots);
        if free_outside >= used {
            return Some(emptiest);
        }
        // An object of a smaller class that lies here may borrow less, and was given another block of this class if
        // there are as many as before.
        let is_in_vain = state.borrowing == Some((state.blocks(), state.slots_used));
        if L::CLASSES_TO_BORROW_OF == 0 || is_in_vain {
            return None;
        }
        let to_borrow = free_above.min(self.debts.objects_left(class, class + 1));
        (free_outside + to_borrow >= used).then_some(Candidate {
            borrows: true,
            ..emptiest
        })
    }

    fn free_slots(&self, class: usize, state: &ClassState) -> u64 {
        state.blocks() * u64::from(self.shapes[class].slots) - state.slots_used
    }

    pub(super) fn settle_blocks(&self) {
        for class in 0..self.whole_class() {
            let shape = &self.shapes[class];
            let mut state = self.lock(class);
            let block = std::mem::replace(&mut state.isolated, NONE);
            if block == NONE {
                continue;
            }
            let head = L::head(&self.arena, shape, block);
            let group = Groups::group(self.used(shape, block), shape.slots);
            if let Some(head) = head {
                self.enlist(&mut state, group, head.link);
            }
        }
    }
}
