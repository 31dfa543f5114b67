//! Objects that keep short holes apart: moved into holes that they fit into exactly, they leave one hole that is as long as all of
//! that together.
//!
//! A hole that is shorter than most objects waits in vain for one, and random overwrites leave one beside every third
//! object. They become useful when what lies between them goes. Among many objects there is nearly always one between
//! short holes that is just as long as some other hole: one copy, and there is a hole less, or two.
//!
//! Measured on lz4 objects of 4 KiB pages (`bench/pools`): after random overwrites 1.0236, 1.0295 and 1.0629 bytes a byte in stores
//! of 768, 96 and 16 MiB become 1.0124, 1.0123 and 1.0131, where emptying frames alone gave 1.0157, 1.0224 and 1.0324.
//!
//! Not here: emptying frames, which is tried when no object is found here, and who moves the objects (`upkeep`).
//! Locking: a shard's lock is held for a region at a time, never while objects are visited.

use std::sync::atomic::Ordering::Relaxed;

use super::region::Region;
use super::shard::{Shard, slot_granules};
use super::word::Word;
use super::{Zfit, turn};
use crate::zpool::Resident;

/// Frames that are looked through for objects to be moved: 60 us. With four times as many a move takes three times as long, and
/// a store that compaction is done with takes 0.001 bytes a byte less.
const LOOKED_AT_FRAMES: u32 = 1024;

/// Looking goes on while no more than so many were found each time.
const FOUND_A_LOOK: usize = 2;

/// So many looks for an object are too many: to look costs 60 times what a move does.
const LOOKS_FOR_ONE: usize = 4;

/// So many objects are moved together, of as many lengths.
const MOVED_TOGETHER: usize = 64;

/// An object that is worth moving.
#[derive(Clone, Copy)]
struct Separator {
    resident: Resident,
    granules: u32,
    /// Granules of the short holes beside it.
    gain: u32,
}

/// The best ones found, one of each length: there may be one hole that is as long.
struct Separators {
    found: [Option<Separator>; MOVED_TOGETHER],
    count: usize,
}

impl Zfit {
    /// Reports objects of a shard that are to be moved. False: there is none, or it did not help to move the last ones.
    pub(super) fn isolate_separators(&self, index: usize, visit: &mut dyn FnMut(Resident)) -> bool {
        if !self.lock(index).is_worth_merging() {
            return false;
        }
        let end = self.arena.side_frames();
        let mut separators = Separators {
            found: [None; MOVED_TOGETHER],
            count: 0,
        };
        let (mut left, mut looks) = (end, 0);
        while left > 0 && separators.count <= looks * FOUND_A_LOOK {
            let from = self.merged_to.load(Relaxed);
            let from = if from < end { from } else { 0 };
            let to = end.min(from + LOOKED_AT_FRAMES);
            left = left.saturating_sub(to - from);
            self.each_region(from..to, |region| {
                if usize::from(region.shard) == index {
                    self.find_separators(region, &mut separators);
                }
            });
            self.merged_to.store(to, Relaxed);
            looks += 1;
        }
        if separators.count <= looks / LOOKS_FOR_ONE {
            return false;
        }
        self.lock(index).merge();
        // Where the holes are.
        turn::take(index, self.in_use.load(Relaxed));
        let found = separators.found.into_iter().flatten();
        found.for_each(|separator| visit(separator.resident));
        true
    }

    /// Looks through a region, which was found without its shard's lock.
    fn find_separators(&self, region: Region, separators: &mut Separators) {
        let mut shard = self.lock(region.shard.into());
        shard.settle_accounts(&self.arena);
        let found = Region::at(&self.arena, region.head);
        let Some(region) = found.filter(|found| found.shard == region.shard) else {
            return;
        };
        let short = shard.short_granules();
        let hole = |word: Word| match word.is_hole() {
            true => word.granules(),
            false => 0,
        };
        let mut words = region.words(&self.arena, self.grain, 0).peekable();
        let mut before = 0;
        while let Some((at, word)) = words.next() {
            let after = words.peek().map_or(0, |&(_, next)| hole(next));
            let beside = (std::mem::replace(&mut before, hole(word)), after);
            let gain = beside.0 + beside.1;
            let is_separator = word.is_live()
                && gain > 0
                && beside.0.max(beside.1) < short
                && self.has_exact_hole(&shard, word.granules());
            if is_separator {
                separators.add(Separator {
                    resident: Resident {
                        handle: region.handle(self.grain, at),
                        tag: word.tag(),
                    },
                    granules: word.granules(),
                    gain,
                });
            }
        }
    }

    /// Whether a slot of so many granules would take a hole as it is.
    fn has_exact_hole(&self, shard: &Shard, granules: u32) -> bool {
        [granules, granules + 1]
            .into_iter()
            .any(|hole| slot_granules(self.grain, granules, hole) == hole && shard.bins.has(hole))
    }
}

impl Separators {
    fn add(&mut self, separator: Separator) {
        let mut found = self.found[..self.count].iter_mut().flatten();
        let same = found.find(|other| other.granules == separator.granules);
        if let Some(other) = same {
            if other.gain < separator.gain {
                *other = separator;
            }
        } else if let Some(place) = self.found.get_mut(self.count) {
            *place = Some(separator);
            self.count += 1;
        }
    }
}
