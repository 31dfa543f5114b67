//! The part of a region that is being emptied: neighbouring slots and holes, which nothing is put into meanwhile.
//!
//! A region of many frames is seldom empty enough to be emptied as a whole, but one of its frames may be.
//!
//! Locking: none, plain values.

use std::ops::Range;

use super::bins::Spot;
use super::region::{Grain, Region};
use crate::zpool::Handle;

/// From the first slot or hole of it to behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: Spot,
    to: Spot,
}

impl Window {
    /// No part of any region.
    pub const NONE: Window = Window { from: 0, to: 0 };

    /// Granules of a region.
    #[inline]
    pub fn of(region: &Region, grain: Grain, granules: Range<u32>) -> Window {
        Window {
            from: region.handle(grain, granules.start).0,
            to: region.handle(grain, granules.end).0,
        }
    }

    /// Whether it is `NONE`.
    #[inline]
    pub fn is_none(self) -> bool {
        self.from == self.to
    }

    /// Whether a slot is part of it.
    #[inline]
    pub fn has(self, spot: Spot) -> bool {
        (self.from..self.to).contains(&spot)
    }

    /// Whether a hole or another one has a part in it.
    #[inline]
    pub fn overlaps(self, other: Window) -> bool {
        self.from < other.to && other.from < self.to
    }

    /// Whether it lies in another one.
    pub fn is_in(self, other: Window) -> bool {
        other.from <= self.from && self.to <= other.to
    }

    /// The frame that it begins in.
    pub fn frame(self) -> u32 {
        Handle(self.from).frame()
    }
}
