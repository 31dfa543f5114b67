//! z3fold: three objects a frame, at its front, at its end, and between them.
//!
//! Three objects of a third of a page each, as compressed pages are, fill a frame where two do not.
//!
//! After the kernel's allocator of that name. Compaction is its point: objects that are freed leave
//! frames with one object and gaps that no object fits. The kernel slides the middle object to a
//! neighbour and merges frames of one object by itself, through handles that point to handles. Here
//! an object's bytes belong to whoever holds its page, so the pool only says which frame to empty
//! ([`isolate`]) and the caller moves its object to the tightest frame that has room. Nothing is
//! slid: an object can have any gap of a frame, on either side of the middle one. What sliding
//! could win was measured, on sizes of real pages: after much churn and compaction, the chunks in a
//! second gap of a frame that had room for an object were under 1 in 1000. The kernel's lists by
//! CPU and locks by page are shards here.
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
