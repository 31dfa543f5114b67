//! The pool's invariants, checked by walking everything.
//!
//! Locking: takes the locks of all shards, in order; nothing else ever holds two.

use std::sync::atomic::Ordering::Relaxed;

use super::shard::{Counts, Locked, Shard};
use super::{Buddies, CHUNKS, Extent, NONE, OBJECT_CHUNKS_MAX, Occupancy, Rule, SHARDS, SHARED};
use crate::zpool::side::Side;

impl<R: Rule> Buddies<R> {
    pub(super) fn check_all(&self) {
        let shards = self.shards.each_ref().map(Shard::lock);
        let mut found = [Counts::default(); SHARDS];
        let mut with_room = [0; SHARDS];
        let mut objects = 0;
        for frame in 0..self.arena.side_frames() {
            let at = frame as usize % SHARDS;
            match self.side(frame) {
                Side::Whole(_) => found[at].whole += 1,
                SHARED => {
                    let occupancy = self.header(frame).occupancy();
                    self.check_frame(frame, &occupancy);
                    objects += occupancy.count();
                    found[at].add(&occupancy);
                    with_room[at] += usize::from(Self::listing(&occupancy).is_some());
                }
                _ => continue,
            }
            assert!(self.arena.in_use(frame), "frame {frame} is a free frame");
        }
        let isolated = self.isolated.load(Relaxed);
        for (at, shard) in shards.iter().enumerate() {
            let counts = Counts {
                object_bytes: 0,
                ..shard.counts
            };
            assert_eq!(counts, found[at], "counts of shard {at}");
            let mut listed = self.check_lists(at, shard, isolated);
            if isolated != NONE && isolated as usize % SHARDS == at {
                let occupancy = self.header(isolated).occupancy();
                listed += usize::from(Self::listing(&occupancy).is_some());
            }
            assert_eq!(listed, with_room[at], "listed frames of shard {at}");
        }
        let bytes: u64 = shards.iter().map(|shard| shard.counts.object_bytes).sum();
        assert!(bytes >= objects as u64, "objects of no bytes");
    }

    fn check_frame(&self, frame: u32, occupancy: &Occupancy) {
        let count = occupancy.count();
        assert!(
            (1..=R::OBJECTS_MAX).contains(&count),
            "{count} objects in frame {frame}"
        );
        for (place, extent) in occupancy.objects() {
            assert!(extent.chunks <= OBJECT_CHUNKS_MAX, "{extent:?} in {frame}");
            let others = occupancy.with(place, Extent::NONE);
            assert!(others.is_free(extent), "{occupancy:?} in frame {frame}");
        }
        let gaps = occupancy.gaps().map(|gap| gap.end - gap.start).sum::<u32>();
        let known = occupancy.chunks_used() + gaps;
        assert_eq!(
            known + super::CHUNK_FIRST,
            CHUNKS,
            "chunks of frame {frame}"
        );
    }

    /// Counts the frames in the lists of a shard.
    fn check_lists(&self, at: usize, shard: &Locked<'_>, isolated: u32) -> usize {
        let mut listed = 0;
        for (listing, frame) in shard.listed(&self.arena) {
            let occupancy = self.header(frame).occupancy();
            assert_eq!(self.side(frame), SHARED, "listed frame {frame}");
            assert_eq!(Self::listing(&occupancy), Some(listing), "frame {frame}");
            assert_eq!(frame as usize % SHARDS, at, "shard of frame {frame}");
            assert!(frame != isolated, "isolated frame {frame} is listed");
            listed += 1;
        }
        listed
    }
}
