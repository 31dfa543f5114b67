//! What lies where in a frame: extents of chunks, and the gaps between them.
//!
//! Plain values and arithmetic, so that it can be tested without a pool.
//!
//! Not here: the frame's header, which has these values in its words (`header`).
//! Locking: none.

use std::ops::Range;

/// Chunks of a frame, the header's included.
pub const CHUNKS: u32 = 64;

/// The first chunk that an object may have; the header has those before it.
pub const CHUNK_FIRST: u32 = 1;

/// Chunks for objects.
pub const CHUNKS_FREE: u32 = CHUNKS - CHUNK_FIRST;

/// The largest object that shares a frame: it leaves a chunk for another one.
pub const OBJECT_CHUNKS_MAX: u32 = CHUNKS_FREE - 1;

/// Objects of a frame at most, in any pool of this kind.
pub const PLACES: usize = 3;

/// The chunks of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first one.
    pub start: u32,
    /// How many; 0 says that there is no object.
    pub chunks: u32,
}

impl Extent {
    /// No object.
    pub const NONE: Extent = Extent {
        start: 0,
        chunks: 0,
    };

    /// The chunk after the last one.
    pub fn end(self) -> u32 {
        self.start + self.chunks
    }
}

/// The objects of one frame, in no order. An object keeps its place in this array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy(pub [Extent; PLACES]);

impl Occupancy {
    /// A frame without objects.
    pub const EMPTY: Occupancy = Occupancy([Extent::NONE; PLACES]);

    /// The objects with their places.
    pub fn objects(&self) -> impl Iterator<Item = (usize, Extent)> + '_ {
        let objects = self.0.iter().copied().enumerate();
        objects.filter(|(_, extent)| extent.chunks != 0)
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.objects().count()
    }

    /// Chunks that objects have.
    pub fn chunks_used(&self) -> u32 {
        self.objects().map(|(_, extent)| extent.chunks).sum()
    }

    /// The object that starts at a chunk.
    pub fn at(&self, start: u32) -> Option<(usize, Extent)> {
        self.objects().find(|(_, extent)| extent.start == start)
    }

    /// A place in the array without an object; there must be one.
    pub fn vacancy(&self) -> usize {
        let vacant = self.0.iter().position(|extent| extent.chunks == 0);
        vacant.expect("a frame with room has a place without an object")
    }

    /// The same frame with `extent` in `place`.
    #[must_use]
    pub fn with(mut self, place: usize, extent: Extent) -> Self {
        self.0[place] = extent;
        self
    }

    /// Runs of free chunks: what follows the header, and what follows each object. Some are empty.
    pub fn gaps(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let starts = self.objects().map(|(_, extent)| extent.end());
        std::iter::once(CHUNK_FIRST).chain(starts).map(|from| {
            let next = self.objects().map(|(_, extent)| extent.start);
            from..next.filter(|&start| start >= from).min().unwrap_or(CHUNKS)
        })
    }

    /// Chunks of the largest gap.
    pub fn gap_max(&self) -> u32 {
        self.gaps()
            .map(|gap| gap.end - gap.start)
            .max()
            .unwrap_or(0)
    }

    /// The smallest gap of at least `chunks`.
    pub fn gap_for(&self, chunks: u32) -> Option<Range<u32>> {
        let fits = |gap: &Range<u32>| gap.end - gap.start >= chunks;
        self.gaps()
            .filter(fits)
            .min_by_key(|gap| gap.end - gap.start)
    }

    /// Whether these chunks exist and no object has one of them.
    pub fn is_free(&self, extent: Extent) -> bool {
        let inside = extent.start >= CHUNK_FIRST && extent.end() <= CHUNKS;
        let apart = |other: Extent| extent.end() <= other.start || other.end() <= extent.start;
        inside && self.objects().all(|(_, other)| apart(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(start: u32, chunks: u32) -> Extent {
        Extent { start, chunks }
    }

    #[test]
    fn gaps_are_what_objects_and_header_leave() {
        assert!(Occupancy::EMPTY.gaps().eq(std::iter::once(1..64)));
        let frame = Occupancy([extent(54, 10), extent(1, 20), extent(30, 4)]);
        let gaps: Vec<_> = frame.gaps().collect();
        assert_eq!(gaps, [1..1, 64..64, 21..30, 34..54]);
        assert_eq!((frame.gap_max(), frame.chunks_used()), (20, 34));
        assert_eq!(frame.gap_for(9), Some(21..30));
        assert_eq!(frame.gap_for(10), Some(34..54));
        assert_eq!(frame.gap_for(21), None);
    }

    proptest! {
        #[test]
        fn gaps_and_objects_are_the_frame(
            wanted in prop::collection::vec((1u32..70, 1u32..66), 0..6),
        ) {
            let mut frame = Occupancy::EMPTY;
            let mut taken = [false; CHUNKS as usize];
            taken[0] = true;
            for (start, chunks) in wanted {
                let object = extent(start, chunks);
                let free = object.end() <= CHUNKS
                    && !taken[start as usize..object.end() as usize].contains(&true);
                prop_assert_eq!(frame.is_free(object), free);
                if free && frame.count() < PLACES {
                    frame = frame.with(frame.vacancy(), object);
                    taken[start as usize..object.end() as usize].fill(true);
                }
            }
            for gap in frame.gaps() {
                let run = gap.start as usize..gap.end as usize;
                prop_assert!(!taken[run.clone()].contains(&true), "{gap:?} in {frame:?}");
                taken[run].fill(true);
            }
            prop_assert!(!taken.contains(&false), "a gap is missing in {frame:?}");
        }
    }
}
