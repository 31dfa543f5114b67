//! The lab: what codecs and zpools make of given pages, measured with the code that serves them.
//!
//! [`Pages`] are compressed to [`Objects`], whose sizes fill a pool of their own: [`pack()`] says
//! how densely it packs them through a life of overwrites and discards and what each operation
//! costs, [`speed()`] how many overwrites a second it takes. Every random choice follows from a
//! seed. Nothing here runs in a server.
//!
//! Not here: reading pages, tables and plots (Python's).
//! Locking: none, every measurement has a pool of its own.

mod interrupt;
mod ledger;
mod loads;
mod noise;
mod objects;
mod pack;
mod pages;
mod speed;
mod stopwatch;
mod timeline;
mod timing;
mod trial;

pub use interrupt::Interrupt;
pub use objects::Objects;
pub use pack::{Density, PackReport, pack};
pub use pages::{CodecReport, Pages};
pub use speed::{SpeedReport, speed};
use stopwatch::Stopwatch;
pub use timeline::Moment;
pub use timing::Percentiles;
pub use trial::Plan;

#[cfg(test)]
mod tests;
