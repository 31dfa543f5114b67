//! The store: compressed objects, packed into a log of segments on a file or block device.
//!
//! It does not know the pool, the page table or compression: it is given byte strings with an owner
//! and gives back their places. Who is alive is told to it ([`Store::retain`], [`Store::release`]).

pub mod device;
pub mod layout;
pub mod log;

pub use device::{Device, FileDevice};
pub use log::{Batch, Location, ReadBuffer, RecordRef, Store, StoreOptions, StoreStats};
