//! Writing victims back: each into the batch of its stream, and a batch to the device when it is full.
//!
//! A batch that is not full waits for the next victims, a step later, as long as the round goes on.
//! When there are no more victims and the pool is still too full, the fullest batch is written as it
//! is; when the round is over, what was not written stays in the pool (`Streams::abandon`).
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use super::Context;
use super::streams::{Push, Stream, Streams};
use super::victims::{Victim, Victims};
use crate::store::Store;

/// What one piece of write-back came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Objects were copied, or a segment was written: so many bytes.
    Did(u64),
    /// There is nothing to write back, or the device fails.
    Nothing,
    /// There are victims, and no free segment for them.
    NoSegment,
}

/// Puts victims of up to a segment into the streams, all into one if `to` says so, and sends the first
/// batch that is full. `round_bytes` are to be moved in all.
pub(super) fn transfer(
    (context, store): (&Context<'_>, &Store),
    streams: &mut Streams,
    victims: &mut Victims,
    round_bytes: u64,
    to: Option<Stream>,
) -> Outcome {
    let found = victims.collect(context.tiers, u64::from(store.segment_bytes()), round_bytes);
    let mut is_pushed = false;
    let parts = streams.is_filling(Stream::Read)
        || victims.bytes_read() >= u64::from(store.segment_bytes()) / 2;
    while let Some(victim) = victims.first() {
        let to = to.unwrap_or(stream_of(&victim, parts));
        match streams.push_victim(context, store, &victim, to) {
            Push::Done => is_pushed = true,
            Push::Stale => {}
            Push::Full(stream) => return send(context, store, streams, victims, stream),
            Push::NoSegment => return Outcome::NoSegment,
        }
        victims.pop();
    }
    if is_pushed {
        return Outcome::Did(0);
    }
    match streams.fullest() {
        Some(stream) => send(context, store, streams, victims, stream),
        // Everything that was found was overtaken: the next attempt finds something else.
        None if found => Outcome::Did(0),
        None => Outcome::Nothing,
    }
}

/// Where a victim goes. What the client has read, it has; when it swaps that out again it mostly writes
/// to another place, and this one is dead as soon as it is used again. On the trace of a guest with
/// changing working sets (`tests/traces`) a pool of 8 MiB took 315 segments of 256 KiB with these pages
/// apart, and 330 without. Few of them are not worth a segment: then nothing is parted.
fn stream_of(victim: &Victim, parts: bool) -> Stream {
    if parts && victim.is_read {
        Stream::Read
    } else {
        Stream::Old
    }
}

/// Sends a batch. After a failure the victims are chosen anew: those of the batch are among them.
fn send(
    context: &Context<'_>,
    store: &Store,
    streams: &mut Streams,
    victims: &mut Victims,
    stream: Stream,
) -> Outcome {
    let bytes = streams.shipment(stream).written_bytes();
    streams.send(context, store, stream);
    if streams.health().has_failed() {
        victims.clear();
    }
    if streams.health().is_degraded() {
        Outcome::Nothing
    } else {
        Outcome::Did(bytes)
    }
}
