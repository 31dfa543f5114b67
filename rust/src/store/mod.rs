//! The store: compressed objects, packed into a log of segments on a file or block device.
//!
//! Append-only: a batch of records becomes one segment with one large aligned write, and a segment
//! is never changed, only freed as a whole. Space comes back when all records of a segment are
//! dead, or when the few that live are moved on ([`Store::victim`]).
//!
//! It does not know the pool, the page table or compression: it is given byte strings with an
//! owner and gives back their places. Who is alive is told to it ([`Store::retain`],
//! [`Store::release`]).
//! It has no thread and no clock: whoever calls it decides when.
//!
//! Locking: counts and sequences of segments are atomics, the lists of free segments have one
//! mutex, which is never held across a call of the [`Device`]. After open nothing allocates, except
//! [`Store::batch`] and [`ReadBuffer::new`]. Memory: about 50 bytes a segment, and 1 MiB to read ahead.

mod adopt;
mod ahead;
mod batch;
mod buffer;
mod cipher;
mod clean;
mod device;
mod file_device;
mod form;
mod geometry;
mod hidden;
mod key_file;
mod key_source;
mod keyring;
mod layout;
mod log;
mod offline;
mod open;
mod precedence;
mod read;
mod refusals;
mod ring;
mod ring_device;
mod segment;
mod stats;
mod superblock;
#[cfg(test)]
mod tests;
mod tombstone;
mod traffic;

pub use ahead::Announced;
pub use batch::Batch;
pub use buffer::AlignedBuffer;
pub use cipher::{Encryption, KEY_BYTES, MasterKey};
pub use device::{BLOCK_BYTES, Device, ReadDone, Span};
pub use file_device::{FileDevice, FileOptions, Io};
pub use geometry::{Location, SEGMENT_BYTES_DEFAULT, SegmentIndex, object_bytes_max};
pub use key_file::MakeFile;
pub use key_source::{KeySource, draw_key};
#[cfg(test)]
pub use layout::HEAD_MAGIC;
pub use log::{Reading, RecordRef, Store};
pub use offline::{
    Damage, Label, Labels, RecordKind, Verdict, inspect_store, repair_store, verify_store,
};
pub use open::StoreOptions;
pub use read::{GROUP_READS_MAX, READ_BYTES_MAX, ReadBuffer};
pub use refusals::Refusals;
pub use segment::{Candidates, Choice, Reason, Use};
pub use stats::StoreStats;
#[cfg(test)]
pub use tombstone::TOMBSTONE_MAGIC;
pub use traffic::{Lines, Silence};
