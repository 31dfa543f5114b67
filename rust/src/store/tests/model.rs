//! The store against a map, step by step, with faults. `SEED=n` replays one run.

use std::collections::HashMap;

use super::*;

const SEGMENTS: usize = 12;
const STEPS: u32 = 400;

/// A small generator: xorshift64*, good enough to choose operations.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(limit)) as u32
    }
}

/// A page as the caller's table has it.
#[derive(Clone, Copy)]
struct Held {
    record: RecordRef,
    version: u32,
}

struct Run {
    seed: u64,
    step: u32,
    random: Random,
    device: Arc<SimDevice>,
    store: Store,
    batch: Batch,
    buffer: ReadBuffer,
    table: HashMap<u32, Held>,
    version: u32,
    tally: Tally,
}

/// What a run came by, so that a run that tests nothing is noticed.
#[derive(Clone, Copy, Default)]
struct Tally {
    full: u64,
    failed: u64,
    cleaned: u64,
    restarts: u64,
    read_errors: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let device = Arc::new(SimDevice::new(
            (SEGMENTS + 1) * SEGMENT_BYTES as usize,
            seed,
        ));
        let store = open(&device, options()).unwrap();
        let batch = store.batch();
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (buffer, table) = (ReadBuffer::new(), HashMap::new());
        let (step, version, tally) = (0, 0, Tally::default());
        Run {
            seed,
            step,
            random,
            device,
            store,
            batch,
            buffer,
            table,
            version,
            tally,
        }
    }

    fn place(&self) -> String {
        format!("SEED={} step {}", self.seed, self.step)
    }

    fn go(&mut self) -> Tally {
        for step in 0..STEPS {
            self.step = step;
            // Some stretches of the run have a device that fails now and then.
            self.device
                .set_error_rate(if step / 50 % 3 == 2 { 150 } else { 0 });
            match self.random.below(100) {
                0..40 => self.write_back(),
                40..60 => self.release_some(),
                60..80 => self.clean(),
                80..92 => self.read_some(),
                92..98 => drop(self.store.tidy()),
                _ => self.restart(),
            }
            self.store.check();
            self.check_bytes();
        }
        self.device.set_error_rate(0);
        self.read_all();
        self.tally.cleaned += self.store.stats().segments_cleaned;
        self.tally
    }

    fn write_back(&mut self) {
        match self.store.begin(&mut self.batch, Reason::WriteBack) {
            Ok(()) => {}
            Err(Error::StoreFull) => {
                self.tally.full += 1;
                return;
            }
            Err(other) => panic!("{}: {other}", self.place()),
        }
        let count = 1 + self.random.below(24);
        let mut pushed = HashMap::new();
        for _ in 0..count {
            let page = self.random.below(60);
            if pushed.contains_key(&page) {
                continue;
            }
            self.version += 1;
            let bytes = 1 + self.random.below(1500) as usize;
            let object = object(page, self.version, bytes);
            if self.batch.push(page, (page % 8) as u8, &object).is_none() {
                break;
            }
            pushed.insert(page, self.version);
        }
        if pushed.is_empty() {
            return self.store.cancel(&mut self.batch);
        }
        if self.store.commit(&mut self.batch).is_err() {
            self.tally.failed += 1;
            return;
        }
        // Some pages change while they are written: their records are never retained.
        let records: Vec<_> = self.batch.records().map(|(record, _)| record).collect();
        for record in records {
            if self.random.below(6) > 0 {
                self.point(
                    record.page,
                    Held {
                        record,
                        version: pushed[&record.page],
                    },
                );
            }
        }
        self.store.seal(&mut self.batch);
    }

    fn point(&mut self, page: u32, new: Held) {
        self.store.retain(new.record.location, new.record.bytes);
        if let Some(old) = self.table.insert(page, new) {
            self.store.release(old.record.location, old.record.bytes);
        }
    }

    fn release_some(&mut self) {
        for _ in 0..self.random.below(12) {
            let page = self.random.below(60);
            if let Some(old) = self.table.remove(&page) {
                self.store.release(old.record.location, old.record.bytes);
            }
        }
    }

    fn clean(&mut self) {
        let Some(victim) = victim(&self.store, 60) else {
            return;
        };
        let mut live = Vec::new();
        let table = &self.table;
        let mut keep = |record: RecordRef| {
            if table
                .get(&record.page)
                .is_some_and(|held| held.record == record)
            {
                live.push(record);
            }
        };
        if self
            .store
            .segment_records(victim, &mut self.buffer, &mut keep)
            .is_err()
        {
            return;
        }
        if self.store.begin(&mut self.batch, Reason::Cleaning).is_err() {
            return;
        }
        let batch = &mut self.batch;
        self.store
            .read(&mut self.buffer, &live, &mut |index, object| {
                if let Ok(object) = object {
                    batch
                        .push(live[index].page, live[index].codec, object)
                        .expect("one segment fits");
                }
            });
        if self.batch.is_empty() {
            return self.store.cancel(&mut self.batch);
        }
        if self.store.commit(&mut self.batch).is_err() {
            return;
        }
        let moved: Vec<_> = self.batch.records().map(|(record, _)| record).collect();
        let all = moved.len() == live.len();
        for record in moved {
            let version = self.table[&record.page].version;
            self.point(record.page, Held { record, version });
        }
        self.store.seal(&mut self.batch);
        if all {
            assert_eq!(self.store.segment_live_bytes(victim), 0, "{}", self.place());
        }
    }

    fn read_some(&mut self) {
        let count = self.random.below(20);
        let pages: Vec<_> = (0..count).map(|_| self.random.below(60)).collect();
        let held: Vec<_> = pages
            .iter()
            .filter_map(|page| self.table.get(page).copied())
            .collect();
        self.read(&held, true);
    }

    fn read_all(&mut self) {
        let held: Vec<_> = self.table.values().copied().collect();
        self.read(&held, false);
    }

    /// Without damage to the bytes a read gives the right ones, or an error of the device.
    fn read(&mut self, held: &[Held], errors_allowed: bool) {
        let records: Vec<_> = held.iter().map(|held| held.record).collect();
        let answers = if self.random.below(2) == 0 {
            get_all(&self.store, &mut self.buffer, &records)
        } else {
            read_back_all(&self.store, &mut self.buffer, &records)
        };
        for (held, answer) in held.iter().zip(answers) {
            let Held { record, version } = held;
            match answer {
                Ok(bytes) => {
                    let wanted = object(record.page, *version, record.bytes as usize);
                    assert_eq!(bytes, wanted, "{} {record:?}", self.place());
                }
                Err(Error::Io { .. }) if errors_allowed => self.tally.read_errors += 1,
                Err(other) => panic!("{} {record:?}: {other}", self.place()),
            }
        }
    }

    /// The next process takes over.
    fn restart(&mut self) {
        self.device.set_error_rate(0);
        self.tally.restarts += 1;
        self.tally.cleaned += self.store.stats().segments_cleaned;
        let adopt = StoreOptions {
            adopt: true,
            ..options()
        };
        self.store = open(&self.device, adopt).unwrap();
        for held in self.table.values() {
            let Held { record, .. } = held;
            let sequence = self
                .store
                .adopt_record(&mut self.buffer, record.location, record.bytes);
            assert_eq!(sequence.unwrap(), record.sequence, "{}", self.place());
        }
        self.store.adopted();
        self.batch = self.store.batch();
    }

    fn check_bytes(&self) {
        let records = self.table.values().map(|held| &held.record);
        let live: u64 = records
            .clone()
            .map(|record| u64::from(self.store.record_bytes(record.bytes)))
            .sum();
        let stats = self.store.stats();
        assert_eq!(stats.live_bytes, live, "{}", self.place());
        let mut used: Vec<_> = records
            .map(|held| held.location.offset() / u64::from(SEGMENT_BYTES))
            .collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(
            stats.segments - stats.segments_free - stats.segments_broken,
            used.len() as u64,
            "{}",
            self.place()
        );
    }
}

#[test]
fn any_sequence_of_operations_leaves_every_page_right() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..60,
    };
    let all = seeds.end - seeds.start > 1;
    let mut total = Tally::default();
    for seed in seeds {
        let tally = Run::new(seed).go();
        total.full += tally.full;
        total.failed += tally.failed;
        total.cleaned += tally.cleaned;
        total.restarts += tally.restarts;
        total.read_errors += tally.read_errors;
    }
    // A single seed may miss one of these, all of them together must not.
    let Tally {
        full,
        failed,
        cleaned,
        restarts,
        read_errors,
    } = total;
    let least = [full, failed, cleaned, restarts, read_errors]
        .into_iter()
        .min();
    let words = format!("{full} {failed} {cleaned} {restarts} {read_errors}");
    assert!(
        !all || least > Some(20),
        "the runs test too little: {words}"
    );
}
