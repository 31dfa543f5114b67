//! Where things are in an arena's file, and how many frames a limit allows.
//!
//! Where the system gives memory by more than 4096 bytes at once, frames begin with such a unit and
//! fill whole ones, so that each unit belongs to side words or to frames.
//!
//! Locking: none, plain numbers.

use super::header::SIDE_AT;
use super::{ArenaOptions, FRAMES_MAX, RUN_FRAMES_MAX};
use crate::error::{Error, Result};
use crate::page::PAGE_BYTES_ALLOWED;

/// Where the side word of a frame is.
pub fn side_at(frame: u32) -> usize {
    SIDE_AT + frame as usize * 8
}

/// Where the first of `frames` frames begins: behind the units of header and side words.
pub fn frames_at(frames: u32, unit_bytes: usize) -> usize {
    side_at(frames).next_multiple_of(unit_bytes)
}

/// Frames that get memory at once: those of a unit.
pub fn grain_frames(options: &ArenaOptions) -> u32 {
    (options.unit_bytes / options.frame_bytes).max(1) as u32
}

/// Bytes of the file of `frames` frames.
pub fn file_bytes(options: &ArenaOptions, frames: u32) -> usize {
    frames_at(frames, options.unit_bytes) + frames as usize * options.frame_bytes
}

/// The most frames that fit under the limit together with header and side words.
pub fn frames_within(options: &ArenaOptions) -> Result<u32> {
    assert!(
        PAGE_BYTES_ALLOWED.contains(&options.frame_bytes),
        "frame of {}",
        options.frame_bytes
    );
    assert!(
        options.unit_bytes.is_power_of_two() && options.unit_bytes >= SIDE_AT,
        "memory by {} bytes",
        options.unit_bytes
    );
    let limit = options.pool_bytes_max;
    let most = limit.saturating_sub(SIDE_AT as u64) / (options.frame_bytes as u64 + 8);
    if most > u64::from(FRAMES_MAX) {
        let max = u64::from(FRAMES_MAX) * options.frame_bytes as u64;
        return Err(Error::Config(format!(
            "a pool of {limit} bytes, wanted at most {max}"
        )));
    }
    let grain = grain_frames(options);
    let fits = |&frames: &u32| file_bytes(options, frames) as u64 <= limit;
    let mut whole_grains = (0..=most as u32 / grain).rev().map(|count| count * grain);
    let frames = whole_grains.find(fits).unwrap_or(0);
    if frames < RUN_FRAMES_MAX {
        let min = file_bytes(options, RUN_FRAMES_MAX.max(grain));
        return Err(Error::Config(format!(
            "a pool of {limit} bytes, wanted at least {min}"
        )));
    }
    Ok(frames)
}
