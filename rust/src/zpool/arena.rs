//! The memory of a pool: frames of one size in a shared-memory file, and one side word a frame.
//!
//! `pool_bytes_max` limits everything in the file: header, side words and frames. Memory comes from
//! the system in extents as it is needed, of 1/64 of what is used and 2 MiB at most, or all of it at
//! start with `populate`; a full tmpfs is then "no frame" to the pool, never a SIGBUS. Free frames
//! go back with [`Arena::release_free`]. On hugetlbfs both happen by whole huge pages. What a side word
//! means is the pool's business; it survives the process.
//!
//! Not here: the mapping and its `unsafe` (`mapping`), which frames are free (`frames`).
//! Locking: one lock over the frame map, innermost of all, held while the system is asked for an
//! extent (two short calls) but not while memory is given back.

mod geometry;
mod header;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use self::geometry::{file_bytes, frames_at, frames_within, grain_frames, side_at};
use self::header::{HEADER_USED_BYTES, SIDE_AT, chain_frames_max, difference, header};
use super::frames::FrameMap;
pub use super::frames::RUN_FRAMES_MAX;
use super::mapping::{Mapping, SYSTEM_PAGE_BYTES};
use crate::error::{Error, Result};

/// Frames that a handle can number: 28 bits.
pub const FRAMES_MAX: u32 = 1 << 28;

/// The longest extent: a large pool asks the system once for so much.
const EXTENT_BYTES: usize = 2 << 20;

/// An extent is this share of the frames in use: 1/64.
const EXTENT_SHARE: u32 = 64;

/// What an arena is made of.
#[derive(Clone, Debug)]
pub struct ArenaOptions {
    /// The shared-memory file; without one the memory dies with the process.
    pub path: Option<PathBuf>,
    /// Identity that the file must have to be taken over.
    pub instance: u64,
    /// Bytes of a frame: 4096, 16384 or 65536.
    pub frame_bytes: usize,
    /// Hard limit for header, side words and frames, bytes.
    pub pool_bytes_max: u64,
    /// Longest chain of frames that zsmalloc makes. An opened arena keeps that of its creator: its
    /// zspages are laid out for it.
    pub chain_frames_max: u32,
    /// Take all memory at start instead of growing on demand, and never give any back.
    pub populate: bool,
    /// Memory is taken and given back by so much at once: a power of two, at least what
    /// [`unit_bytes_in`](super::mapping::unit_bytes_in) says of the file's directory.
    pub unit_bytes: usize,
}

/// Frames, their side words, and which of them are free.
pub struct Arena {
    mapping: Mapping,
    options: ArenaOptions,
    frames: u32,
    frames_at: usize,
    state: Mutex<State>,
    /// Bytes of frames and side words that the system has given and not got back.
    held_bytes: AtomicU64,
    held_bytes_max: AtomicU64,
    /// Of a populated arena, what was on huge pages when it was opened.
    huge_bytes: AtomicU64,
    /// What the frame map counts as used by blocks; readable without its lock.
    used_frames: AtomicU32,
}

struct State {
    map: FrameMap,
    /// Side words below this frame have memory.
    side_frames: u32,
    /// A predecessor's objects are still being claimed.
    adopting: bool,
    /// The system had no memory when it was asked last.
    growth_refused: bool,
}

impl Arena {
    /// A new arena; an existing file of that name is replaced.
    pub fn create(options: ArenaOptions) -> Result<Self> {
        let frames = frames_within(&options)?;
        let mapping = Mapping::create(options.path.as_deref(), file_bytes(&options, frames))?;
        if options.unit_bytes > SIDE_AT {
            // The header's page has memory already, and would count as data if it were taken twice.
            let rest = SIDE_AT..options.unit_bytes;
            mapping.reserve(rest).inspect_err(|_| mapping.remove())?;
        }
        let arena = Self::over(mapping, options, frames, false);
        if arena.options.populate
            && let Err(error) = arena.take_all()
        {
            // Nobody can use a pool that half exists, and it would keep the memory it got.
            arena.remove();
            return Err(error);
        }
        // Last: a huge page is taken where there is nothing yet.
        arena
            .mapping
            .store_bytes(0, &header(&arena.options, frames));
        Ok(arena)
    }

    /// A predecessor's arena, made with the same options but `populate`, and `chain_frames_max`,
    /// which becomes what it was. Nothing is free until
    /// every object was claimed and [`adopted`](Self::adopted) was called. A file that differs in
    /// anything is not touched: [`Error::Misfit`] if it is of another size or was never finished, else
    /// [`Error::Foreign`].
    pub fn open(mut options: ArenaOptions) -> Result<Self> {
        let frames = frames_within(&options)?;
        let Some(path) = options.path.clone() else {
            return Err(Error::Config(
                "a pool without a file cannot be taken over".into(),
            ));
        };
        let mapping = Mapping::open(&path, file_bytes(&options, frames))?;
        let found = mapping.bytes(0, HEADER_USED_BYTES);
        if let Some(max) = chain_frames_max(found) {
            options.chain_frames_max = max;
        }
        let wanted = header(&options, frames);
        if let Some((name, why)) = difference(found, &wanted) {
            let path = path.display().to_string();
            let is_unfinished = found.iter().all(|&byte| byte == 0);
            return Err(match name {
                "frame_bytes" | "frames" => Error::Misfit { path, why },
                _ if is_unfinished => Error::Misfit { path, why },
                _ => Error::Foreign { path, why },
            });
        }
        Ok(Self::over(mapping, options, frames, true))
    }

    fn over(mapping: Mapping, options: ArenaOptions, frames: u32, adopting: bool) -> Self {
        let state = State {
            map: FrameMap::new(frames, grain_frames(&options)),
            side_frames: 0,
            adopting,
            growth_refused: false,
        };
        Self {
            frames_at: frames_at(frames, options.unit_bytes),
            held_bytes: AtomicU64::new(options.unit_bytes as u64),
            mapping,
            options,
            frames,
            state: Mutex::new(state),
            held_bytes_max: AtomicU64::new(0),
            huge_bytes: AtomicU64::new(0),
            used_frames: AtomicU32::new(0),
        }
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> usize {
        self.options.frame_bytes
    }

    /// Frames that fit under the limit.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// What the arena was made with.
    pub fn options(&self) -> &ArenaOptions {
        &self.options
    }

    /// Bytes of memory that are really taken from the system, never more than `pool_bytes_max`.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// The most that [`held_bytes`](Self::held_bytes) ever was.
    pub fn held_bytes_max(&self) -> u64 {
        self.held_bytes_max.load(Relaxed).max(self.held_bytes())
    }

    /// Bytes that lie on huge pages: on hugetlbfs all; elsewhere those of a populated arena, as it was
    /// opened, since such an arena keeps them.
    pub fn huge_bytes(&self) -> u64 {
        if self.options.unit_bytes > SYSTEM_PAGE_BYTES {
            return self.held_bytes();
        }
        self.huge_bytes.load(Relaxed)
    }

    /// Frames in use by blocks. Takes no lock: every write asks.
    pub fn used_frames(&self) -> u32 {
        self.used_frames.load(Relaxed)
    }

    /// Free frames whose memory [`release_free`](Self::release_free) could give back.
    pub fn spare_frames(&self) -> u32 {
        if self.options.populate {
            return 0;
        }
        self.lock().map.free_count()
    }

    /// The side word of a frame in use.
    #[inline]
    pub fn side(&self, frame: u32) -> &AtomicU64 {
        assert!(frame < self.frames, "frame {frame} of {}", self.frames);
        &self.mapping.atomic_u64s(SIDE_AT + frame as usize * 8, 1)[0]
    }

    /// Where a frame begins in the mapping.
    #[inline]
    pub fn frame_at(&self, frame: u32) -> usize {
        assert!(frame < self.frames, "frame {frame} of {}", self.frames);
        self.frames_at + frame as usize * self.options.frame_bytes
    }

    /// The frame that a place lies in.
    #[inline]
    pub fn frame_of(&self, at: usize) -> u32 {
        ((at - self.frames_at) >> self.options.frame_bytes.trailing_zeros()) as u32
    }

    /// The 64-bit word at `at`.
    #[inline]
    pub fn word_u64(&self, at: usize) -> &AtomicU64 {
        &self.mapping.atomic_u64s(at, 1)[0]
    }

    /// `len` bytes from `at`, a place that was computed from [`frame_at`](Self::frame_at).
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.mapping.bytes(at, len)
    }

    /// Where the last frame ends in the mapping.
    pub fn end(&self) -> usize {
        self.frames_at + self.frames as usize * self.frame_bytes()
    }

    /// Hints that the bytes at `at` will be read soon.
    #[inline]
    pub fn prefetch(&self, at: usize, len: usize) {
        self.mapping.prefetch(at, len);
    }

    /// Copies `source` to `at`.
    pub fn store_bytes(&self, at: usize, source: &[u8]) {
        self.mapping.store_bytes(at, source);
    }

    /// The 16-bit word at `at`.
    #[inline]
    pub fn word_u16(&self, at: usize) -> &AtomicU16 {
        self.mapping.atomic_u16(at)
    }

    /// The 32-bit word at `at`.
    #[inline]
    pub fn word_u32(&self, at: usize) -> &AtomicU32 {
        self.mapping.atomic_u32(at)
    }

    /// Frames from this one on were never used; to read their side words would cost memory.
    pub fn side_frames(&self) -> u32 {
        self.lock().side_frames
    }

    /// Takes `count` neighbouring frames. None when the limit is reached, when the free
    /// frames lie scattered, or when the system has no memory.
    pub fn alloc_run(&self, count: u32) -> Option<u32> {
        Some(self.alloc_run_up_to(count, count)?.start)
    }

    /// Takes the lowest run of at least `count` neighbouring frames, and as many of it as are free, up to
    /// `most`. None as in [`alloc_run`](Self::alloc_run).
    pub fn alloc_run_up_to(&self, count: u32, most: u32) -> Option<Range<u32>> {
        let mut state = self.lock();
        assert!(
            !state.adopting,
            "a frame is asked for before adoption has ended"
        );
        loop {
            if let Some(run) = state.map.take(count, most) {
                self.used_frames.fetch_add(run.end - run.start, Relaxed);
                return Some(run);
            }
            if !self.grow(&mut state) {
                return None;
            }
        }
    }

    /// Gives a run back; its side words must say so already.
    pub fn free_run(&self, first: u32, count: u32) {
        self.lock().map.put(first, count);
        self.used_frames.fetch_sub(count, Relaxed);
    }

    /// Gives the memory of free frames back to the system, highest first, until `frames_kept` free
    /// ones remain. For background work, now and then: the lock is let go for each system call,
    /// and a system that refused memory before is asked again from now on.
    pub fn release_free(&self, frames_kept: u32) {
        self.lock().growth_refused = false;
        if self.options.populate {
            return;
        }
        let extent = self.extent_frames();
        loop {
            let mut state = self.lock();
            let surplus = state.map.free_count().saturating_sub(frames_kept);
            // Free frames beside used ones in a unit stay.
            let Some(run) = state.map.take_highest(surplus.min(extent)) else {
                return;
            };
            drop(state);
            self.mapping.punch(self.frame_range(&run));
            self.lock().map.depart(run.clone());
            self.held_bytes.fetch_sub(self.run_bytes(&run), Relaxed);
        }
    }

    /// Takes over frames of a predecessor; false when one of them does not exist or has been
    /// claimed.
    pub fn claim_run(&self, first: u32, count: u32) -> bool {
        let mut state = self.lock();
        assert!(state.adopting, "a frame is claimed outside adoption");
        state.map.claim(first, count)
    }

    /// Whether a frame is in use, or claimed during adoption.
    pub fn in_use(&self, frame: u32) -> bool {
        frame < self.frames && self.lock().map.in_use(frame)
    }

    /// Ends adoption: memory of units in which nobody claimed a frame goes back to the system, the
    /// other frames that nobody claimed are free, and their side words become zero. With `populate`
    /// memory is taken for what has none, and nothing goes back; the error is the system's.
    pub fn adopted(&self) -> Result<()> {
        let mut state = self.lock();
        assert!(state.adopting, "adoption ends twice");
        if self.options.populate {
            self.populate()?;
            // To give memory back and take it again would cost time, and part huge pages.
            self.free_unclaimed(&mut state.map, 0..self.frames);
            state.side_frames = self.frames;
        } else {
            self.give_unclaimed_back(&mut state);
        }
        let frames_held = state.map.used_count() + state.map.free_count();
        let frames_held = u64::from(frames_held) * self.frame_bytes() as u64;
        let held = self.side_bytes(state.side_frames) as u64 + frames_held;
        self.held_bytes.store(held, Relaxed);
        self.used_frames.store(state.map.used_count(), Relaxed);
        state.adopting = false;
        Ok(())
    }

    fn give_unclaimed_back(&self, state: &mut State) {
        let grain = grain_frames(&self.options);
        let mut claimed_end = 0;
        let mut gap = 0..0;
        for first in (0..self.frames).step_by(grain as usize) {
            let frames = first..first + grain;
            if frames.clone().any(|frame| state.map.in_use(frame)) {
                self.drop_unclaimed(gap);
                if grain > 1 {
                    self.free_unclaimed(&mut state.map, frames);
                }
                claimed_end = first + grain;
                gap = claimed_end..claimed_end;
            } else {
                gap.end = first + grain;
            }
        }
        self.mapping.punch(self.frame_range(&gap));
        // Side words behind the last claimed frame: whole units by the system, the rest by hand.
        let held_end = self.side_bytes(claimed_end);
        state.side_frames = self.frames.min(((held_end - SIDE_AT) / 8) as u32);
        (gap.start..state.side_frames).for_each(|frame| self.side(frame).store(0, Relaxed));
        self.mapping
            .punch(held_end.min(self.frames_at)..self.frames_at);
    }

    fn drop_unclaimed(&self, gap: Range<u32>) {
        if !gap.is_empty() {
            self.mapping.punch(self.frame_range(&gap));
            gap.for_each(|frame| self.side(frame).store(0, Relaxed));
        }
    }

    /// Those of frames that have memory.
    fn free_unclaimed(&self, map: &mut FrameMap, frames: Range<u32>) {
        for frame in frames.clone().filter(|&frame| !map.in_use(frame)) {
            self.side(frame).store(0, Relaxed);
        }
        map.arrive(frames);
    }

    /// Removes the file's name; the memory lives until the arena is dropped.
    pub fn remove(&self) {
        self.mapping.remove();
    }

    /// Panics when the frame map or the limit is broken.
    pub fn check(&self) {
        let state = self.lock();
        state.map.check();
        assert_eq!(self.used_frames(), state.map.used_count(), "frames in use");
        let held = u64::from(state.map.used_count() + state.map.free_count());
        let bytes = held * self.frame_bytes() as u64 + self.side_bytes(state.side_frames) as u64;
        assert_eq!(self.held_bytes(), bytes, "bytes held");
        assert!(
            self.held_bytes() <= self.options.pool_bytes_max,
            "over the limit"
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a thread died while it changed the frame map")
    }

    /// Takes the memory of the lowest extent that lacks some. False when there is none to take. To
    /// be refused is slow, so the system is asked again only after `release_free` was called.
    fn grow(&self, state: &mut State) -> bool {
        if state.growth_refused {
            return false;
        }
        let Some(absent) = state.map.first_absent() else {
            return false;
        };
        let share = (state.map.used_count() / EXTENT_SHARE).next_power_of_two();
        let least = RUN_FRAMES_MAX.max(grain_frames(&self.options));
        let extent = share.clamp(least, self.extent_frames());
        let first = absent / extent * extent;
        let range = first..self.frames.min(first + extent);
        state.growth_refused = self.grow_range(state, range).is_err();
        !state.growth_refused
    }

    fn grow_range(&self, state: &mut State, range: Range<u32>) -> Result<()> {
        if range.end > state.side_frames {
            let held = self.side_bytes(state.side_frames)..self.side_bytes(range.end);
            if !held.is_empty() {
                self.mapping.reserve(held.clone())?;
            }
            state.side_frames = range.end;
            self.held_bytes.fetch_add(held.len() as u64, Relaxed);
        }
        let mut rest = range;
        while let Some(run) = state.map.absent_run(rest.clone()) {
            rest.start = run.end;
            // Not the whole range: some of it may be on its way back in `release_free`, and what it
            // were given here would be counted as gone.
            self.mapping.reserve(self.frame_range(&run))?;
            state.map.arrive(run.clone());
            self.held_bytes.fetch_add(self.run_bytes(&run), Relaxed);
            self.held_bytes_max.fetch_max(self.held_bytes(), Relaxed);
        }
        Ok(())
    }

    fn take_all(&self) -> Result<()> {
        self.populate()?;
        self.grow_range(&mut self.lock(), 0..self.frames)
    }

    fn populate(&self) -> Result<()> {
        self.mapping.populate()?;
        self.huge_bytes.store(self.mapping.huge_bytes(), Relaxed);
        Ok(())
    }

    fn extent_frames(&self) -> u32 {
        (EXTENT_BYTES.max(self.options.unit_bytes) / self.options.frame_bytes) as u32
    }

    fn frame_range(&self, frames: &Range<u32>) -> Range<usize> {
        let at = |frame: u32| self.frames_at + frame as usize * self.options.frame_bytes;
        at(frames.start)..at(frames.end)
    }

    fn run_bytes(&self, run: &Range<u32>) -> u64 {
        u64::from(run.end - run.start) * self.frame_bytes() as u64
    }

    /// Bytes of the units that the header and the first `frames` side words lie in.
    fn side_bytes(&self, frames: u32) -> usize {
        side_at(frames).next_multiple_of(self.options.unit_bytes)
    }
}

#[cfg(test)]
mod tests;
