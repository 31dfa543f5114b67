//! What tests of this crate and of its users share: chance that can be replayed, pages, a device that
//! fails on demand.

pub mod pages;
pub mod power_device;
pub mod random;
pub mod sim_device;
