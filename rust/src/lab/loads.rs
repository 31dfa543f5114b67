//! What it costs to load objects and bring them to their reader.
//!
//! A load is timed together with one copy into the reader's buffer, for every pool alike. An object
//! that lies in one piece is copied by the reader alone; one that straddles is put together first
//! and so copied twice. Both pay for the cache misses that a decompressor would.
//!
//! Locking: none; one thread.

use std::hint::black_box;

use super::Stopwatch;
use super::interrupt::Interrupt;
use super::pack::BATCH;
use super::timing::Timing;
use crate::error::Result;
use crate::zpool::{Handle, Zpool};

/// What loading some objects came to.
pub struct Loads {
    /// Time to load an object and copy it to its reader.
    pub times: Timing,
    /// Objects that were put together for it.
    pub objects_copied_twice: u64,
    /// Their bytes.
    pub bytes_copied_twice: u64,
}

impl Loads {
    /// Loads the objects `held` of `pool` in their order.
    ///
    /// # Errors
    /// That of `interrupt`.
    pub fn of(
        pool: &dyn Zpool,
        held: &mut [(Handle, u32)],
        watch: Stopwatch,
        interrupt: &mut Interrupt<'_>,
    ) -> Result<Loads> {
        let mut loads = Loads {
            times: Timing::new(watch),
            objects_copied_twice: 0,
            bytes_copied_twice: 0,
        };
        let mut scratch = vec![0; pool.object_bytes_max()];
        let mut reader = vec![0; pool.object_bytes_max()];
        let scratch_range = scratch.as_ptr_range();
        for batch in held.chunks_mut(BATCH) {
            interrupt.poll()?;
            loads.times.batch(batch, |&mut (handle, bytes)| {
                let object = pool.load(handle, bytes as usize, &mut scratch);
                reader[..object.len()].copy_from_slice(object);
                black_box(&mut reader);
                if scratch_range.contains(&object.as_ptr()) {
                    loads.objects_copied_twice += 1;
                    loads.bytes_copied_twice += u64::from(bytes);
                }
            });
        }
        Ok(loads)
    }
}
