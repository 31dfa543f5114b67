//! zbud: two objects a frame, one at each end.
//!
//! Nothing is simpler: an object looks for a companion that it fits beside, and takes the whole
//! frame's room when there is none. A frame holds two objects at most, however small they are.
//!
//! After the kernel's allocator of that name. Unlike it, a frame is found by tightest fit among the
//! shards, each with a lock, where the original has one lock; objects of nearly a page are a frame
//! each, where the original refuses them; and frames of one object can be merged ([`isolate`]),
//! where the original leaves them.
//!
//! Not here: everything that zbud shares with z3fold (`buddies`).
//! Locking: none of its own.
//!
//! [`isolate`]: super::Zpool::isolate

use super::ZpoolKind;
use super::buddies::{Buddies, Rule};

/// A pool of frames that two objects share.
pub type Zbud = Buddies<Two>;

/// Two objects share a frame.
pub struct Two;

impl Rule for Two {
    const KIND: ZpoolKind = ZpoolKind::Zbud;
    const OBJECTS_MAX: usize = 2;
}
