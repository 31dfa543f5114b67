//! A pool of blocks with slots of one size: what zblock and zsmalloc have in common.
//!
//! A class is a size of slot. Its blocks with a free slot are in lists by fullness, or in one; full blocks
//! are in none. Allocation takes the first slot of the fullest block, or the first, and never searches. A class
//! without a free slot may borrow one of a larger class (`debts`), and one that gets no frames for a
//! new block passes the object to the next larger one, so the class of a block is not a function of an
//! object's length: it stands in the side word of its first frame.
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
mod debts;
mod upkeep;
mod zpool;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use block::NO_OWNER;
pub use block::{Head, Layout, NO_SLOT, SLOTS_MAX, Shape, Spot};
use debts::Debts;

use super::groups::{FULL, GROUPS, Groups};
use super::side::{NONE, Side};
use super::{Arena, Handle, SIDE_BYTES, Tag};

/// Classes are told apart by the size of an object in units of this.
const SIZE_STEP_BYTES: usize = 2;

/// A pool whose blocks are laid out by `L`.
pub struct Slotted<L> {
    arena: Arc<Arena>,
    shapes: Vec<Shape>,
    /// Class by size of the object in steps, rounded up.
    class_of: Vec<u8>,
    classes: Vec<Class>,
    debts: Debts,
    layout: PhantomData<L>,
}

/// On cache lines of its own: two threads in two classes do not disturb each other.
#[repr(align(128))]
struct Class(Mutex<ClassState>);

struct ClassState {
    groups: Groups,
    /// Blocks of each group, the one that is out of allocation included.
    fullness: [u64; GROUPS],
    /// The block that is out of allocation, or NONE.
    isolated: u32,
    slots_used: u64,
    object_bytes: u64,
    /// An object was freed since the last block was made.
    has_freed: bool,
    /// Blocks and used slots when a block was isolated whose objects were to borrow.
    borrowing: Option<(u64, u64)>,
}

impl ClassState {
    fn new() -> Self {
        Self {
            groups: Groups::new(),
            fullness: [0; GROUPS],
            isolated: NONE,
            slots_used: 0,
            object_bytes: 0,
            has_freed: false,
            borrowing: None,
        }
    }

    fn blocks(&self) -> u64 {
        self.fullness.iter().sum()
    }
}

/// A handle taken apart: the block and its class.
struct Place {
    block: u32,
    class: usize,
}

impl<L: Layout> Slotted<L> {
    /// A pool that takes frames of `arena`: empty, or to be adopted if the arena was opened.
    pub fn new(arena: Arc<Arena>) -> Self {
        let shapes = L::shapes(arena.options());
        Self::with_shapes(arena, shapes)
    }

    /// As [`new`](Self::new), with another table of classes.
    pub fn with_shapes(arena: Arc<Arena>, shapes: Vec<Shape>) -> Self {
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
        let class = || Class(Mutex::new(ClassState::new()));
        let classes = shapes.iter().map(|_| class()).collect();
        Self {
            debts: Debts::new(&shapes, arena.frame_bytes()),
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

    #[inline]
    fn side(&self, frame: u32) -> Side {
        Side::decode(self.arena.side(frame).load(Relaxed), L::KIND)
    }

    fn set_side(&self, frame: u32, side: Side) {
        self.arena.side(frame).store(side.encode(L::KIND), Relaxed);
    }

    #[inline]
    fn tag_words(&self, shape: &Shape, spot: &Spot) -> (&AtomicU32, &AtomicU16) {
        let (owner, stamp) = L::tag_at(&self.arena, shape, spot);
        (self.arena.word_u32(owner), self.arena.word_u16(stamp))
    }

    fn find(&self, shape: &Shape, block: u32, slot: u32) -> Spot {
        L::find(&self.arena, shape, block, slot)
    }

    /// Slots in use.
    fn used(&self, shape: &Shape, block: u32) -> u16 {
        match L::head(&self.arena, shape, block) {
            Some(head) => head.used().load(Relaxed),
            None => shape.slots as u16,
        }
    }

    /// Block and class of what may be a handle of this pool.
    #[inline]
    fn resolve(&self, handle: Handle) -> Option<Place> {
        let frame = handle.frame();
        if frame >= self.arena.frames() {
            return None;
        }
        let block = L::first(&self.arena, frame).filter(|&block| block < self.arena.frames())?;
        let class = match self.side(block) {
            Side::Head { class, .. } => usize::from(class),
            Side::Whole(_) if block == frame => self.whole_class(),
            _ => return None,
        };
        (handle.low() < self.shapes.get(class)?.slots).then_some(Place { block, class })
    }

    /// Finds a live object. Panics on a handle that leads to none: it did not come from this pool,
    /// or was freed.
    fn locate(&self, handle: Handle, bytes: usize) -> (usize, Spot) {
        let Some(Place { block, class }) = self.resolve(handle) else {
            panic!("{handle:?} leads to no slot: freed, or not of this pool");
        };
        let shape = &self.shapes[class];
        assert!(
            (1..=shape.object_bytes_max as usize).contains(&bytes),
            "{bytes} in {shape:?}"
        );
        (class, L::spot(&self.arena, shape, block, handle))
    }

    /// A slot of a class. None: it has none and got no frames for a block; or it may borrow first.
    fn alloc_in(&self, class: usize, may_borrow: bool, bytes: usize, tag: Tag) -> Option<Handle> {
        let mut state = self.lock(class);
        if self.shapes[class].is_whole() {
            let frame = self.arena.alloc_run(1)?;
            self.set_side(frame, Side::Whole(tag));
            state.fullness[FULL] += 1;
            self.count(&mut state, class, bytes);
            return Some(Handle::of(frame, 0));
        }
        let link = match state.groups.fullest() {
            Some(link) => link,
            None if may_borrow && state.has_freed => return None,
            None => self.build(&mut state, class)?,
        };
        Some(self.alloc_at(&mut state, class, link, bytes, tag))
    }

    /// A free slot of the next larger classes, if its class may owe that.
    #[cold]
    fn borrow(&self, own: usize, bytes: usize, tag: Tag) -> Option<Handle> {
        let larger = own + 1..self.whole_class().min(own + 1 + L::CLASSES_TO_BORROW_OF);
        larger
            .take_while(|&class| self.debts.allow(own, class))
            .find_map(|class| {
                let mut state = self.lock(class);
                let link = state.groups.fullest()?;
                Some(self.alloc_at(&mut state, class, link, bytes, tag))
            })
    }

    /// Takes a slot of a listed block for an object.
    fn alloc_at(
        &self,
        state: &mut ClassState,
        class: usize,
        link: u64,
        bytes: usize,
        tag: Tag,
    ) -> Handle {
        let shape = &self.shapes[class];
        let spot = self.take_slot(state, shape, link);
        let (owner, stamp) = self.tag_words(shape, &spot);
        owner.store(tag.owner, Relaxed);
        stamp.store(tag.stamp, Relaxed);
        self.count(state, class, bytes);
        L::handle(&self.arena, &spot)
    }

    /// Counts an object in a slot of a class.
    fn count(&self, state: &mut ClassState, class: usize, bytes: usize) {
        state.slots_used += 1;
        state.object_bytes += bytes as u64;
        self.debts.add(self.class_for(bytes), class);
    }

    /// Makes a block with all slots free, and lists it.
    fn build(&self, state: &mut ClassState, class: usize) -> Option<u64> {
        let shape = &self.shapes[class];
        let block = L::build(&self.arena, shape, class as u8)?;
        state.has_freed = false;
        for slot in 0..shape.slots {
            let (owner, stamp) = self.tag_words(shape, &self.find(shape, block, slot));
            let is_last = slot + 1 == shape.slots;
            owner.store(NO_OWNER, Relaxed);
            stamp.store(if is_last { NO_SLOT } else { slot as u16 + 1 }, Relaxed);
        }
        let head = L::open(&self.arena, shape, block, 0);
        head.used().store(0, Relaxed);
        state.groups.push(&L::links(&self.arena), 0, head.link);
        state.fullness[0] += 1;
        Some(head.link)
    }

    /// Chains the free slots of a block that has no head, and lists the block if there are any.
    fn list(&self, state: &mut ClassState, shape: &Shape, block: u32) {
        let (mut next, mut used) = (NO_SLOT, 0);
        // From the last to the first, so that the lowest slots are used first.
        for slot in (0..shape.slots).rev() {
            let (owner, stamp) = self.tag_words(shape, &self.find(shape, block, slot));
            if owner.load(Relaxed) == NO_OWNER {
                stamp.store(next, Relaxed);
                next = slot as u16;
            } else {
                used += 1;
            }
        }
        let group = Groups::group(used, shape.slots);
        state.fullness[group] += 1;
        if group != FULL {
            let head = L::open(&self.arena, shape, block, next);
            head.used().store(used, Relaxed);
            self.enlist(state, group, head.link);
        }
    }

    /// The list of blocks of a group; None: they are in no list.
    fn list_of(group: usize) -> Option<usize> {
        match group {
            FULL => None,
            _ if L::GROUPS_BY_FULLNESS => Some(group),
            _ => Some(0),
        }
    }

    /// Lists a block of a group that was in no list.
    fn enlist(&self, state: &mut ClassState, group: usize, link: u64) {
        let links = L::links(&self.arena);
        match Self::list_of(group) {
            Some(list) if L::GROUPS_BY_FULLNESS => state.groups.push(&links, list, link),
            Some(list) => state.groups.push_back(&links, list, link),
            None => {}
        }
    }

    /// Takes a block of a group out of its list.
    fn unlist(&self, state: &mut ClassState, group: usize, link: u64) {
        if let Some(list) = Self::list_of(group) {
            (state.groups).remove(&L::links(&self.arena), list, link);
        }
    }

    /// Takes a slot of a listed block: the one that was freed last, its cache lines are known.
    fn take_slot(&self, state: &mut ClassState, shape: &Shape, link: u64) -> Spot {
        let head = L::head_of(&self.arena, link);
        let block = L::block_of(&self.arena, link);
        let used = head.used().load(Relaxed);
        self.regroup(state, shape, block, &head, used, used + 1);
        head.used().store(used + 1, Relaxed);
        let free = head.free().load(Relaxed);
        if free == NO_SLOT {
            let last = L::close(&self.arena, shape, block);
            return self.find(shape, block, last.into());
        }
        let spot = self.find(shape, block, free.into());
        let (_, stamp) = self.tag_words(shape, &spot);
        head.free().store(stamp.load(Relaxed), Relaxed);
        spot
    }

    /// Moves a block to the list for `after` slots in use; full and isolated blocks are in none.
    fn regroup(
        &self,
        state: &mut ClassState,
        shape: &Shape,
        block: u32,
        head: &Head,
        before: u16,
        after: u16,
    ) {
        let from = Groups::group(before, shape.slots);
        let to = Groups::group(after, shape.slots);
        if from == to {
            return;
        }
        state.fullness[from] -= 1;
        state.fullness[to] += 1;
        if state.isolated != block && Self::list_of(from) != Self::list_of(to) {
            self.unlist(state, from, head.link);
            self.enlist(state, to, head.link);
        }
    }

    fn free_slot(&self, state: &mut ClassState, shape: &Shape, spot: &Spot) {
        let (owner, stamp) = self.tag_words(shape, spot);
        let (block, slot) = (spot.block, spot.slot);
        assert!(
            owner.load(Relaxed) != NO_OWNER,
            "slot {slot} of {block} is freed twice"
        );
        owner.store(NO_OWNER, Relaxed);
        let slots = shape.slots as u16;
        let (head, used) = match L::head(&self.arena, shape, block) {
            Some(head) => {
                stamp.store(head.free().load(Relaxed), Relaxed);
                head.free().store(slot as u16, Relaxed);
                let used = head.used().load(Relaxed);
                (head, used)
            }
            None => {
                stamp.store(NO_SLOT, Relaxed);
                (L::open(&self.arena, shape, block, slot as u16), slots)
            }
        };
        head.used().store(used - 1, Relaxed);
        if used == 1 {
            self.release(state, shape, block, &head);
        } else {
            self.regroup(state, shape, block, &head, used, used - 1);
        }
    }

    /// Gives the frames of a block whose only object has gone back.
    fn release(&self, state: &mut ClassState, shape: &Shape, block: u32, head: &Head) {
        let group = Groups::group(1, shape.slots);
        if state.isolated == block {
            state.isolated = NONE;
        } else {
            self.unlist(state, group, head.link);
        }
        L::release(&self.arena, shape, block);
        state.fullness[group] -= 1;
    }

    /// Bytes of `blocks` blocks, side words included.
    fn block_bytes(&self, shape: &Shape, blocks: u64) -> u64 {
        blocks * u64::from(shape.frames) * (self.arena.frame_bytes() as u64 + SIDE_BYTES)
    }
}
