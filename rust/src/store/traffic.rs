//! What is under way to the device, so that somebody can see that it does not answer.
//!
//! The store has no clock: it counts what was begun and what has ended, and whoever looks again and
//! again with a clock ([`Silence`]) knows for how long nothing came back although something was asked.
//! An operation that never returns keeps its thread in the kernel; others must not wait for it.
//! Locking: none, two counters a kind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::device::{Device, ReadDone, Span};

/// Operations of one kind.
#[derive(Debug, Default)]
pub struct Traffic {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Traffic {
    fn carry<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.begin(1);
        let result = operation();
        self.end();
        result
    }

    fn begin(&self, operations: usize) {
        self.begun.fetch_add(operations as u64, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// Operations that have ended, and whether others are under way.
    fn look(&self) -> (u64, bool) {
        // In this order: what is begun in between is under way, and what ends is not missed.
        let ended = self.ended.load(Ordering::Acquire);
        (ended, self.begun.load(Ordering::Relaxed) > ended)
    }
}

/// For how long nothing came back, by one observer's clock.
#[derive(Debug, Default)]
pub struct Silence {
    ended: u64,
    since: Option<Duration>,
}

impl Silence {
    /// Looks at the traffic at `now`, on a clock that never goes back; for how long, as far as was
    /// seen, something has been under way and nothing has ended.
    pub fn look(&mut self, traffic: &Traffic, now: Duration) -> Duration {
        let (ended, is_under_way) = traffic.look();
        if !is_under_way || ended != self.ended {
            self.since = None;
        }
        self.ended = ended;
        if !is_under_way {
            return Duration::ZERO;
        }
        now.saturating_sub(*self.since.get_or_insert(now))
    }
}

/// Traffic of a device by kind: a device may read and not write, or the other way round.
#[derive(Debug, Default)]
pub struct Lines {
    /// Reads.
    pub reads: Traffic,
    /// Writes, discards and syncs.
    pub writes: Traffic,
}

/// A device whose traffic is counted.
pub(super) struct CountedDevice {
    device: Box<dyn Device>,
    lines: Arc<Lines>,
}

impl CountedDevice {
    pub fn new(device: Box<dyn Device>, lines: Arc<Lines>) -> CountedDevice {
        CountedDevice { device, lines }
    }
}

impl Device for CountedDevice {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (self.lines.reads).carry(|| self.device.read_at(buffer, offset))
    }

    fn read_many(&self, buffer: &mut [u8], spans: &[Span], done: &mut ReadDone<'_>) {
        self.lines.reads.begin(spans.len());
        let mut end = |number, bytes: &[u8], result| {
            self.lines.reads.end();
            done(number, bytes, result);
        };
        self.device.read_many(buffer, spans, &mut end);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.lines.writes).carry(|| self.device.write_at(bytes, offset))
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        (self.lines.writes).carry(|| self.device.discard(offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.lines.writes.carry(|| self.device.sync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{AlignedBuffer, BLOCK_BYTES};
    use crate::testing::sim_device::SimDevice;

    #[test]
    fn silence_is_time_in_which_something_was_asked_and_nothing_came_back() {
        let at = Duration::from_secs;
        let (traffic, mut silence) = (Traffic::default(), Silence::default());
        assert_eq!(silence.look(&traffic, at(1)), at(0));
        traffic.carry(|| {
            assert_eq!(silence.look(&traffic, at(10)), at(0));
            assert_eq!(silence.look(&traffic, at(15)), at(5));
            // Another one is answered: the device lives.
            traffic.carry(|| ());
            assert_eq!(silence.look(&traffic, at(20)), at(0));
            assert_eq!(silence.look(&traffic, at(22)), at(2));
        });
        assert_eq!(silence.look(&traffic, at(30)), at(0));
        traffic.carry(|| assert_eq!(silence.look(&traffic, at(40)), at(0)));
    }

    #[test]
    fn each_of_several_reads_that_ends_is_an_answer() {
        let at = Duration::from_secs;
        let lines = Arc::<Lines>::default();
        let sim = Box::new(SimDevice::new(3 * BLOCK_BYTES, 1));
        let device = CountedDevice::new(sim, Arc::clone(&lines));
        let spans = [0, 4096, 8192].map(|start| Span::around(start, start + 1));
        let (mut silence, mut told) = (Silence::default(), 0);
        device.read_many(
            &mut AlignedBuffer::new(3 * BLOCK_BYTES),
            &spans,
            &mut |_, _, _| {
                told += 1;
                let unanswered = if told < 3 { at(5) } else { at(0) };
                assert_eq!(silence.look(&lines.reads, at(100 * told)), at(0));
                assert_eq!(silence.look(&lines.reads, at(100 * told + 5)), unanswered);
            },
        );
        assert_eq!(told, 3);
        assert_eq!(silence.look(&lines.reads, at(1000)), at(0));
    }
}
