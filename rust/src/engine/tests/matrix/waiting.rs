//! The deed on a device that does not answer: for a while, and for longer than anybody waits.

use super::super::*;
use super::Deed::*;
use super::cell::Cell;
use super::deeds::word_of;
use crate::store::{AlignedBuffer, BLOCK_BYTES};

const PATIENCE: Duration = Duration::from_secs(20);

impl Cell {
    /// The device gives its first answer when somebody waits for it, and nobody has waited for too long.
    pub(super) fn act_slowly(&mut self) -> &'static str {
        let sim = Arc::clone(self.run.sim_shared());
        std::thread::scope(|scope| {
            let device = Arc::clone(&sim);
            scope.spawn(move || {
                device.wait_for_waiting(1);
                device.open_gate();
            });
            let word = self.act();
            // If the deed asked nothing of the device: the gate opens for whoever does.
            let mut block = AlignedBuffer::new(BLOCK_BYTES);
            sim.read_at(&mut block, 0).expect("it is well");
            word
        })
    }

    /// The device gives no answer until the deed has been waited for, as it is seen from outside.
    pub(super) fn act_in_silence(&mut self) -> &'static str {
        match self.deed {
            ClientWrites | ReadStored | ReadAhead | PartialWrite => self.ask_in_silence(),
            Discard | Flushing => self.flush_in_silence(),
            WriteBack | Compaction | Punch => self.step_in_silence(),
            // It is over when the device answers, whenever that is.
            Cleaning | Scrub | Adoption | Recovery => {
                let word = self.act_slowly();
                assert!(["done", "adopted", "recovered"].contains(&word), "{word}");
                "waits"
            }
            Snapshot => {
                let word = self.act();
                self.run.sim().open_gate();
                word
            }
        }
    }

    /// What clients are told while a reader waits: somebody has to, before it is known that the device
    /// does not answer.
    fn ask_in_silence(&mut self) -> &'static str {
        let sim = Arc::clone(self.run.sim_shared());
        let mut observer = Observer::new(PATIENCE);
        let (engine, page) = (&self.run.engine, self.page);
        let (lane, reader, model) = (
            &mut self.run.lane,
            &mut self.run.reader,
            &mut self.run.model,
        );
        let word = std::thread::scope(|scope| {
            scope.spawn(|| {
                if self.deed == ReadAhead {
                    engine.read_ahead(reader);
                    return;
                }
                let read = engine.read(&mut engine.lane(), page, &mut [0; PAGE]);
                let Ok(Read::Fetch(place)) = read else {
                    panic!("{read:?}")
                };
                let mut fetch = Fetch::new(PAGE);
                (fetch.page, fetch.place) = (page, place);
                fetch_one(engine, reader, fetch);
            });
            sim.wait_for_waiting(1);
            assert!(!engine.observe(&mut observer, Duration::ZERO));
            assert!(engine.observe(&mut observer, PATIENCE));
            let word = match self.deed {
                PartialWrite => match engine.patch(lane, page, 100, &[1; 50]) {
                    Err(Error::Silent) => "EIO",
                    other => panic!("{other:?}"),
                },
                ClientWrites => write_in_silence(engine, lane, model),
                _ => match engine.read(lane, page, &mut [0; PAGE]) {
                    Err(Error::Silent) => "EIO",
                    other => panic!("{other:?}"),
                },
            };
            sim.open_gate();
            word
        });
        assert!(engine.observe(&mut observer, PATIENCE));
        word
    }

    /// A flush of what is owed, which whoever steps cannot get away.
    fn flush_in_silence(&mut self) -> &'static str {
        if self.deed == Discard {
            self.discard();
        }
        let sim = Arc::clone(self.run.sim_shared());
        let mut observer = Observer::new(PATIENCE);
        let (engine, now) = (&self.run.engine, self.run.now);
        let flush = engine.flush(ExportId(1)).expect("it is durable");
        let word = std::thread::scope(|scope| {
            scope.spawn(|| while engine.step(now) == Work::More {});
            sim.wait_for_waiting(1);
            assert!(!engine.observe(&mut observer, Duration::ZERO));
            assert_eq!(engine.flushed(flush), None, "the device has time to answer");
            assert!(engine.observe(&mut observer, PATIENCE));
            let word = word_of(engine.flushed(flush).expect("nobody waits for longer"));
            sim.open_gate();
            word
        });
        assert!(engine.observe(&mut observer, PATIENCE));
        self.lasting(word)
    }

    /// Background work waits for the device, pages in memory are served, and it goes on afterwards.
    fn step_in_silence(&mut self) -> &'static str {
        let pooled = (0..PAGES).map(PageId);
        let pooled = pooled.filter(|page| self.offset(*page).is_none());
        let pooled: Vec<_> = pooled.collect();
        let sim = Arc::clone(self.run.sim_shared());
        let mut observer = Observer::new(PATIENCE);
        let (engine, now) = (&self.run.engine, self.run.now);
        let done = |engine: &Engine| {
            let snapshot = engine.snapshot();
            let written_back = snapshot.writeback.pages_written_back.get();
            (written_back, snapshot.store.unwrap().discarded_bytes)
        };
        let before = done(engine);
        std::thread::scope(|scope| {
            scope.spawn(|| while engine.step(now) == Work::More {});
            sim.wait_for_waiting(1);
            assert!(!engine.observe(&mut observer, Duration::ZERO));
            assert!(engine.observe(&mut observer, PATIENCE));
            assert!(engine.snapshot().is_store_silent);
            for page in pooled {
                let mut out = [0xa5; PAGE];
                let read = engine.read(&mut engine.lane(), page, &mut out);
                assert!(matches!(read, Ok(Read::Ready(_))), "{page}: {read:?}");
                assert!(out[..] == self.run.model[page.0 as usize], "{page}");
            }
            assert_eq!(done(engine), before);
            sim.open_gate();
        });
        assert!(engine.observe(&mut observer, PATIENCE));
        let after = done(engine);
        assert!(after.0 > before.0 || after.1 > before.1);
        "waits"
    }
}

/// Writes to all pages first what takes no room, then what does.
fn write_in_silence(engine: &Engine, lane: &mut Lane, model: &mut [Vec<u8>]) -> &'static str {
    let mut refused = 0;
    for index in 0..PAGES {
        match engine.write(lane, PageId(index), &[index as u8; PAGE]) {
            Ok(Write::Done(_)) => model[index as usize].fill(index as u8),
            other => panic!("one word takes no room: {other:?}"),
        }
    }
    let mut noise = Random::new(1);
    for index in 0..PAGES {
        let data: Vec<u8> = (0..PAGE).map(|_| noise.bits() as u8).collect();
        match engine.write(lane, PageId(index), &data) {
            Ok(Write::Done(_)) => model[index as usize] = data,
            Err(Error::PoolFull) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > PAGES / 2, "{refused}");
    "ENOSPC"
}
