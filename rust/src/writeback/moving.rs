//! Emptying the zpools that were current before, object by object, into the current one.
//!
//! A sweep goes over the frames of the former pools in pieces. Blocks are emptied whole, one after the
//! other, so the frames that moving takes come back soon; a pool that was emptied is retired. Nobody
//! waits for any of this: an object that finds no place stays where it is, is as good as any, and is
//! tried again.
//!
//! Moving never takes the last room from writers: it stops at the high mark. With a store, write-back
//! then makes room; without one, what is left moves when pages were discarded or rewritten. And it
//! takes a share only: while somebody writes, so many frames between two looks of the background
//! thread.
//!
//! Objects keep the codec that they were compressed with.
//!
//! Locking: one page at a time.

use super::{Context, Work, relocate};
use crate::table::ObjectAt;
use crate::zpool::{Handle, Sweep, Zpool};

/// Memory of the frames whose objects one piece moves: some hundred objects, half a millisecond.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces between two looks while somebody writes: 8 MiB of frames ten times a second take some per
/// cent of one processor, and empty a pool of 4 GiB in a minute.
const SHARE_PIECES: u32 = 32;

/// Pieces that may go by without an object before a step ends: to look at frames is cheap.
const EMPTY_PIECES: u32 = 256;

/// Where moving stands.
#[derive(Default)]
pub(super) struct Moving {
    sweep: Sweep,
    /// Objects that this sweep has moved.
    moved: u64,
    /// The last sweep that reached the end moved nothing: what is left finds no place now.
    is_stuck: bool,
    /// Pieces since the last look at whether somebody writes.
    pieces: u32,
    /// The clock's writes at that look.
    writes_seen: u64,
}

impl Moving {
    /// Moves one piece. None: there is nothing to move, or nothing that has a place now.
    pub(super) fn run(&mut self, context: &Context<'_>, scratch: &mut [u8]) -> Option<Work> {
        let tiers = context.tiers;
        tiers.pool.retire();
        tiers.pool.former().next()?;
        if tiers.is_above_high_mark() {
            return None;
        }
        let moved = self.piece(context, scratch);
        context.stats.pages_moved.add(moved);
        self.is_stuck &= moved == 0;
        if self.is_stuck {
            return None;
        }
        let writes = tiers.clock.writes();
        if writes == self.writes_seen {
            return Some(Work::More);
        }
        self.pieces += 1;
        if self.pieces < SHARE_PIECES {
            return Some(Work::More);
        }
        (self.pieces, self.writes_seen) = (0, writes);
        Some(Work::Later)
    }

    /// Moves what the next frames hold. How many objects that were.
    fn piece(&mut self, context: &Context<'_>, scratch: &mut [u8]) -> u64 {
        let tiers = context.tiers;
        let frames = (PIECE_BYTES / tiers.pool.arena().frame_bytes()) as u32;
        let (mut seen, mut moved) = (0u64, 0u64);
        for _ in 0..EMPTY_PIECES {
            let at_end = tiers
                .pool
                .sweep_former(&mut self.sweep, frames, &mut |resident| {
                    seen += 1;
                    let alloc = |object: ObjectAt<Handle>| {
                        let may_move = !tiers.is_above_high_mark();
                        let place = || tiers.pool.alloc_in_current(object.bytes, resident.tag);
                        may_move.then(place)?.ok()
                    };
                    moved += u64::from(relocate(context, scratch, resident, alloc));
                });
            if at_end {
                self.is_stuck = self.moved + moved == 0;
                self.moved = 0;
                return moved;
            }
            if seen > 0 {
                break;
            }
        }
        self.moved += moved;
        moved
    }
}
