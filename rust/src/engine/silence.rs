//! A device that does not answer at all: seen from outside, since every thread that asked it something
//! may be in the kernel for ever.
//!
//! When something has been asked and nothing has come back for `patience`, which is how long a request
//! may wait, the device is *silent* in that direction. Then nobody is sent after those who wait:
//! reads of stored pages fail at once, flushes that are not over fail at once, and writes that find no room
//! in the pool are refused at once. What is in memory is served as before. The first answer ends it, whatever it says.
//! Locking: none; nothing here takes the lock of write-back, which a silent device may hold.

use std::time::Duration;

use super::Engine;
use crate::store::Silence;

/// What one observer has seen of the device.
#[derive(Debug)]
pub struct Observer {
    patience: Duration,
    reads: Silence,
    writes: Silence,
}

impl Observer {
    /// One who calls a device silent after `patience`.
    pub fn new(patience: Duration) -> Observer {
        Observer {
            patience,
            reads: Silence::default(),
            writes: Silence::default(),
        }
    }
}

impl Engine {
    /// Looks whether the device answers, `now` being on any clock that never goes back; for a thread
    /// that does nothing else, several times in the observer's patience. True: the device fell silent
    /// or spoke again, so that who waits for room should look again.
    pub fn observe(&self, observer: &mut Observer, now: Duration) -> bool {
        let Some(store) = &self.tiers.store else {
            return false;
        };
        let lines = store.lines();
        let reads = observer.reads.look(&lines.reads, now);
        let writes = observer.writes.look(&lines.writes, now);
        self.tiers.set_unanswered(reads.max(writes));
        let patience = observer.patience;
        self.tiers.set_silent(reads >= patience, writes >= patience)
    }
}
