//! (being written)

pub mod sim_device;
