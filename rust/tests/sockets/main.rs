//! The whole core behind real sockets: engine, workers, readers and background thread, a simulated
//! device, clients on socket pairs and on TCP.
//!
//! `SEED=n cargo test --features testing --test sockets` replays what clients chose; how threads
//! take turns is the system's choice.

#![cfg(feature = "testing")]

mod client;
mod greedy;
mod model;
mod rig;
mod silent;
mod slow;
