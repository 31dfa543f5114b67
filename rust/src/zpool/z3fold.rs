//! z3fold: three objects a frame, at its front, at its end, and between them.
//!
//! Three objects of a third of a page each, as compressed pages are, fill a frame where two do not.
//!
//! After the kernel's allocator of that name. Compaction is its point: objects that are freed leave
//! frames with one object and gaps that no object fits. The kernel slides the middle object to a
//! neighbour and merges frames of one object by itself, through handles that point to handles. Here
//! an object's bytes belong to whoever holds its page, so the pool only says which frame to empty
//! ([`isolate`]) and the caller moves its object to the tightest frame that has room. No object is
//! ever slid: it can use any gap of a frame, on both sides of the middle object, so a gap is lost
//! only between objects that both stay.
//!
//! Not here: everything that z3fold shares with zbud (`buddies`).
//! Locking: none of its own.
//!
//! [`isolate`]: super::Zpool::isolate

use super::ZpoolKind;
use super::buddies::{Buddies, Rule};

/// A pool of frames that three objects share.
pub type Z3fold = Buddies<Three>;

/// Three objects share a frame.
pub struct Three;

impl Rule for Three {
    const KIND: ZpoolKind = ZpoolKind::Z3fold;
    const OBJECTS_MAX: usize = 3;
}
