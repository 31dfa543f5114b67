//! A pool of blocks with slots of one size: what zblock and zsmalloc have in common.
//!
//! A class is a size of slot. Its blocks with a free slot are in lists by fullness; full blocks
//! are in none. Allocation takes the first slot of the fullest block and never searches. A class
//! that gets no frames for a new block passes the object to the next larger one, so the class of a
//! block is not a function of an object's length: it stands in the side word of its first frame.
//!
//! Owner `u32::MAX` marks a free slot and cannot own anything.
//!
//! Not here: how frames become a block (`zblock`, `zsmalloc`, behind the trait [`Layout`]).
//! Locking: one lock a class, over its lists, heads and free slots. Order: class -> arena; never
//! two classes, but in `check`. All bookkeeping lies inside the blocks, so the arena's limit
//! covers it.

mod adopt;
mod block;
mod check;
mod upkeep;
mod zpool;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

pub use block::{HEAD_BYTES, Layout, SLOTS_MAX, Shape};
use block::{Head, NO_OWNER, NO_SLOT};

use super::groups::Groups;
use super::side::{NONE, Side};
use super::{Arena, HANDLE_BITS, Handle, SIDE_BYTES, Tag};

/// Classes are told apart by the size of an object in units of this.
const SIZE_STEP_BYTES: usize = 8;

/// A pool whose blocks are laid out by `L`.
pub struct Slotted<L> {
    arena: Arc<Arena>,
    shapes: Vec<Shape>,
    /// Class by size of the object in steps, rounded up.
    class_of: Vec<u8>,
    classes: Vec<Class>,
    layout: PhantomData<L>,
}

/// On cache lines of its own: two threads in two classes do not disturb each other.
#[repr(align(128))]
struct Class(Mutex<ClassState>);

struct ClassState {
    groups: Groups,
    /// The block that is out of allocation, or NONE.
    isolated: u32,
    blocks: u64,
    slots_used: u64,
    object_bytes: u64,
}

/// A handle taken apart, and the class of its block.
struct Place {
    head: u32,
    slot: u32,
    class: usize,
}

impl<L: Layout> Slotted<L> {
    /// A pool that takes frames of `arena`: empty, or to be adopted if the arena was opened.
    pub fn new(arena: Arc<Arena>) -> Self {
        let shapes = L::shapes(arena.frame_bytes());
        assert!(
            shapes.len() <= 256,
            "{} classes do not fit a side word",
            shapes.len()
        );
        assert!(
            shapes.last().is_some_and(Shape::is_whole),
            "no class for a whole frame"
        );
        let mut class_of = vec![0];
        for (class, shape) in shapes.iter().enumerate() {
            assert!(
                shape.slots <= SLOTS_MAX,
                "{} slots do not fit a handle",
                shape.slots
            );
            class_of.resize(
                shape.object_bytes_max as usize / SIZE_STEP_BYTES + 1,
                class as u8,
            );
        }
        let state = || ClassState {
            groups: Groups::new(),
            isolated: NONE,
            blocks: 0,
            slots_used: 0,
            object_bytes: 0,
        };
        let classes = shapes.iter().map(|_| Class(Mutex::new(state()))).collect();
        Self {
            arena,
            shapes,
            class_of,
            classes,
            layout: PhantomData,
        }
    }

    fn lock(&self, class: usize) -> MutexGuard<'_, ClassState> {
        self.classes[class]
            .0
            .lock()
            .expect("a thread died while it changed a size class")
    }

    fn class_for(&self, bytes: usize) -> usize {
        usize::from(self.class_of[bytes.div_ceil(SIZE_STEP_BYTES)])
    }

    fn whole_class(&self) -> usize {
        self.shapes.len() - 1
    }

    fn head(&self, head: u32) -> Head<'_> {
        Head::of(&self.arena, head)
    }

    fn side(&self, frame: u32) -> Side {
        Side::decode(self.arena.side(frame).load(Relaxed), L::KIND)
    }

    fn set_side(&self, frame: u32, side: Side) {
        self.arena.side(frame).store(side.encode(L::KIND), Relaxed);
    }

    fn owner(&self, shape: &Shape, head: u32, slot: u32) -> &AtomicU32 {
        self.arena
            .word_u32(L::place(&self.arena, head, L::owner_at(shape, slot)))
    }

    fn stamp(&self, shape: &Shape, head: u32, slot: u32) -> &AtomicU16 {
        self.arena
            .word_u16(L::place(&self.arena, head, L::stamp_at(shape, slot)))
    }

    /// Finds the class of a live object. Panics on a handle that leads to none: it did not come
    /// from this pool, or was freed.
    fn locate(&self, handle: Handle, bytes: usize) -> Place {
        let (head, slot) = unpack(handle);
        assert!(head < self.arena.frames(), "{handle:?} is not of this pool");
        let class = match self.side(head) {
            Side::Head { class, .. } => usize::from(class),
            Side::Whole(_) => self.whole_class(),
            other => panic!("{handle:?} leads to {other:?}: freed, or not of this pool"),
        };
        let shape = &self.shapes[class];
        assert!(
            slot < shape.slots,
            "{handle:?} has slot {slot} of {}",
            shape.slots
        );
        assert!(
            (1..=shape.object_bytes_max as usize).contains(&bytes),
            "{bytes} in {shape:?}"
        );
        Place { head, slot, class }
    }

    fn alloc_in(&self, class: usize, bytes: usize, tag: Tag) -> Option<Handle> {
        let shape = &self.shapes[class];
        let mut state = self.lock(class);
        let (head, slot) = if shape.is_whole() {
            let frame = self.arena.alloc_run(1)?;
            self.set_side(frame, Side::Whole(tag));
            state.blocks += 1;
            (frame, 0)
        } else {
            let head = match state.groups.fullest() {
                Some(head) => head,
                None => self.build(&mut state, class)?,
            };
            let slot = self.take_slot(&mut state, shape, head);
            self.owner(shape, head, slot).store(tag.owner, Relaxed);
            self.stamp(shape, head, slot).store(tag.stamp, Relaxed);
            (head, slot)
        };
        state.slots_used += 1;
        state.object_bytes += bytes as u64;
        Some(Handle::of(head, slot))
    }

    fn build(&self, state: &mut ClassState, class: usize) -> Option<u32> {
        let head = L::build(&self.arena, &self.shapes[class], class as u8)?;
        let block = self.head(head);
        block.free().store(NO_SLOT, Relaxed);
        block.fresh().store(0, Relaxed);
        block.used().store(0, Relaxed);
        state.groups.push(&*self.arena, 0, head);
        state.blocks += 1;
        Some(head)
    }

    /// Takes a slot of a listed block: one that was freed, its cache lines are known, or a fresh
    /// one.
    fn take_slot(&self, state: &mut ClassState, shape: &Shape, head: u32) -> u32 {
        let block = self.head(head);
        let freed = block.free().load(Relaxed);
        let slot = if freed == NO_SLOT {
            let fresh = block.fresh().load(Relaxed);
            assert!(
                u32::from(fresh) < shape.slots,
                "a listed block {head} without a free slot"
            );
            block.fresh().store(fresh + 1, Relaxed);
            fresh
        } else {
            let next = self.stamp(shape, head, u32::from(freed)).load(Relaxed);
            block.free().store(next, Relaxed);
            freed
        };
        let used = block.used().load(Relaxed);
        block.used().store(used + 1, Relaxed);
        self.regroup(state, shape, head, used, used + 1);
        u32::from(slot)
    }

    /// Moves a block to the list for `after` slots in use; full and isolated blocks are in none.
    fn regroup(&self, state: &mut ClassState, shape: &Shape, head: u32, before: u16, after: u16) {
        if state.isolated == head {
            return;
        }
        let group =
            |used: u16| (u32::from(used) < shape.slots).then(|| Groups::group(used, shape.slots));
        let (from, to) = (group(before), group(after));
        if from == to {
            return;
        }
        if let Some(from) = from {
            state.groups.remove(&*self.arena, from, head);
        }
        if let Some(to) = to {
            state.groups.push(&*self.arena, to, head);
        }
    }

    fn free_slot(&self, state: &mut ClassState, shape: &Shape, head: u32, slot: u32) {
        let block = self.head(head);
        let owner = self.owner(shape, head, slot);
        let known = slot < u32::from(block.fresh().load(Relaxed));
        assert!(
            known && owner.load(Relaxed) != NO_OWNER,
            "slot {slot} of {head} is freed twice"
        );
        let used = block.used().load(Relaxed);
        self.regroup(state, shape, head, used, used - 1);
        if used == 1 {
            self.release(state, shape, head);
            return;
        }
        owner.store(NO_OWNER, Relaxed);
        self.stamp(shape, head, slot)
            .store(block.free().load(Relaxed), Relaxed);
        block.free().store(slot as u16, Relaxed);
        block.used().store(used - 1, Relaxed);
    }

    /// Gives the frames of a block without objects back.
    fn release(&self, state: &mut ClassState, shape: &Shape, head: u32) {
        if state.isolated == head {
            state.isolated = NONE;
        } else {
            state
                .groups
                .remove(&*self.arena, Groups::group(0, shape.slots), head);
        }
        L::release(&self.arena, shape, head);
        state.blocks -= 1;
    }

    /// Bytes of `blocks` blocks, side words included.
    fn block_bytes(&self, shape: &Shape, blocks: u64) -> u64 {
        blocks * u64::from(shape.frames) * (self.arena.frame_bytes() as u64 + SIDE_BYTES)
    }
}

/// The frame of the block's head, and the slot.
fn unpack(handle: Handle) -> (u32, u32) {
    assert!(
        handle.0 >> HANDLE_BITS == 0,
        "{handle:?} has more than 40 bits"
    );
    (handle.frame(), handle.low())
}
