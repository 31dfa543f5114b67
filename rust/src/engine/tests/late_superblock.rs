//! A server that takes over while the device refuses the superblock: it serves what is there, and writes nothing else
//! before it has written that.

use super::*;
use crate::store::BLOCK_BYTES;
use crate::testing::sim_device::{Fault, Op};

/// What keeps the next server from writing the superblock when it takes over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    Writes,
    Room,
    /// Of what is written nothing is known to be on the device.
    Sync,
}

use Refusal::*;

impl Run {
    /// Another server takes over.
    fn next(&mut self, dir: &Directory, change: impl FnOnce(&mut EngineOptions)) -> OpenReport {
        let mut options = options(&self.setup, self.device.clone(), Some(dir));
        change(&mut options);
        self.now = Duration::ZERO;
        self.take_over(options)
    }

    /// Offset and length of what was written since.
    fn written_since(&self, before: usize) -> Vec<(u64, usize)> {
        self.sim().writes()[before..].to_vec()
    }
}

/// Is it one of the two places of the superblock?
fn is_superblock(write: &(u64, usize)) -> bool {
    let copy_at = u64::from(SEGMENT) - BLOCK_BYTES as u64;
    [(0, BLOCK_BYTES), (copy_at, BLOCK_BYTES)].contains(write)
}

#[test]
fn who_takes_over_a_device_that_refuses_the_superblock_serves_all_pages_and_writes_when_it_can() {
    let is_durable = |options: &mut EngineOptions| options.exports[1].is_durable = true;
    let refusals = [Writes, Room, Sync].into_iter();
    for (refusal, durable) in refusals.flat_map(|one| [(one, false), (one, true)]) {
        let change = |options: &mut EngineOptions| {
            if durable {
                is_durable(options);
            }
        };
        let dir = Directory::new(&format!("late-superblock-{refusal:?}-{durable}"));
        let mut run = Run::open_with(SMALL, 5, Some(&dir), change);
        run.write_all();
        while run.step() == Work::More {}
        match refusal {
            Writes => run.sim().break_writes(0..u64::MAX),
            Room => run.sim().set_room(0),
            Sync => (0..1000).for_each(|nth| run.sim().inject(Op::Sync, nth, Fault::Fail)),
        }
        // One server after the other: none can write, and each one's sequences are those of the one before.
        for _ in 0..3 {
            let before = run.sim().writes().len();
            let report = run.next(&dir, change);
            let told: Vec<_> = report
                .warnings
                .iter()
                .filter(|one| one.contains("superblock"))
                .collect();
            assert_eq!(told.len(), 1, "{:?}", report.warnings);
            assert!(run.is_degraded(), "{refusal:?}");
            let is_full = run.engine.snapshot().writeback.is_out_of_space.get() != 0;
            assert_eq!(is_full, refusal == Room);
            assert_eq!(run.count_errors(), 0, "{refusal:?}");
            let sequence = run.engine.tiers.store.as_ref().unwrap().sequence_next();
            assert!(run.write_all() > PAGES / 4, "the pool took everything");
            run.let_pass(Duration::from_secs(100));
            assert_eq!(run.count_errors(), 0, "{refusal:?}");
            let written = run.written_since(before);
            assert!(written.len() > 5, "it is tried again");
            assert!(
                written.iter().all(is_superblock),
                "{refusal:?}: {written:?}"
            );
            let store = run.engine.tiers.store.as_ref().unwrap();
            assert_eq!(store.sequence_next(), sequence, "nobody has that one");
            let stats = store.stats();
            assert_eq!((stats.segments_suspect, stats.segments_broken), (0, 0));
            if durable {
                let failure = if refusal == Room {
                    FlushError::Full
                } else {
                    FlushError::Failed
                };
                assert_eq!(run.flush(), Err(failure), "{refusal:?}");
            }
        }
        run.sim().heal();
        let before = run.sim().writes().len();
        run.let_pass(Duration::from_secs(61));
        assert!(
            !run.is_degraded(),
            "{refusal:?}: nobody wrote, and it was noticed"
        );
        let written = run.written_since(before);
        assert!(
            written[..2].iter().all(is_superblock),
            "{refusal:?}: {written:?}"
        );
        assert_eq!(run.write_all(), 0);
        if durable {
            assert_eq!(run.flush(), Ok(()));
        }
        assert_eq!(run.count_errors(), 0);
        run.engine.check();
        let report = run.next(&dir, change);
        assert_eq!(report.warnings, [""; 0]);
        assert_eq!(run.count_errors(), 0);
        run.engine.check();
    }
}

#[test]
fn who_has_nothing_to_write_notices_all_the_same_that_the_superblock_can_be_written() {
    let dir = Directory::new("late-superblock-idle");
    // No page at all: the pool is empty.
    let mut run = Run::open_with(SMALL, 6, Some(&dir), |_| ());
    run.sim().break_writes(0..u64::MAX);
    run.next(&dir, |_| ());
    assert!(run.is_degraded());
    run.let_pass(Duration::from_secs(10));
    assert!(run.is_degraded());
    run.sim().heal();
    run.let_pass(Duration::from_secs(61));
    assert!(!run.is_degraded());
}

#[test]
fn without_a_predecessors_memory_a_device_that_refuses_the_superblock_is_refused() {
    let dir = Directory::new("late-superblock-refused");
    let is_durable = |options: &mut EngineOptions| options.exports[1].is_durable = true;
    let mut run = Run::open_with(SMALL, 7, Some(&dir), is_durable);
    run.write_all();
    assert_eq!(run.flush(), Ok(()));
    run.sim().break_writes(0..u64::MAX);
    for is_recovered in [false, true] {
        let mut options = options(&SMALL, run.device.clone(), None);
        options.exports[1].is_durable = true;
        options.exports[1].is_recovered = is_recovered;
        options.generation += u64::from(!is_recovered);
        let error = Engine::open(options).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("write superblock"), "{error}");
    }
}
