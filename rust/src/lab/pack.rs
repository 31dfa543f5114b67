//! How densely a pool packs objects, fresh and after a hard life, and what its operations cost.
//!
//! The phases are those that swap sees: a machine fills it, overwrites every page twice in random
//! order (with the size of any other page), drops half of the pages and fills up again, drops nine
//! tenths and fills up again. That leaves a pool nearly as dense as a fresh one, so it is worn once
//! more by two overwrites before compaction runs until it finds nothing more to do. There is none
//! earlier: what a pool needs without it is what a server needs whose background thread has other things to do.
//!
//! Or the pool is kept dense: a few objects are moved after some writes, at the server's pace ([`Pace`]).
//!
//! After each phase every object is loaded and compared. Memory of free frames is given back at
//! these times, so that `held_bytes` is what the objects need.
//!
//! What is timed, in batches (see `timing`):
//!
//! * alloc, store and free while every page is overwritten: then the pool's memory is warm, and
//!   hardly any comes from the system;
//! * load of all objects after the first fill, in random order (see `loads`).
//!
//! Locking: none; one thread.

use super::Stopwatch;
use super::interrupt::Interrupt;
use super::ledger::{Ledger, Write};
use super::loads::Loads;
use super::objects::Objects;
use super::timeline::{Moment, Timeline};
use super::timing::{Percentiles, Timing};
use super::trial::{Plan, Trial};
use crate::error::Result;
use crate::random::Random;
use crate::zpool::{Handle, Pace, Zpool};

/// Pages that are written, or objects that are loaded, together while they are timed: enough that a
/// batch is long beside a reading of the clock, so few that the pool grows by nothing.
pub(super) const BATCH: usize = 64;

/// Fewer pages are written together in a small pool: one of so many. Their old objects are freed after all
/// of them have new ones, and a pool that never shrank since holds both.
const PAGES_A_WRITE: usize = 1024;

/// A pool that is kept dense is looked at after so many writes. Servers look less often, at larger pools.
const WRITES_A_LOOK: u64 = 16;

/// The order of loads follows from it.
const LOADS_SEED: u64 = 1;

/// What a pool holds at the end of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Density {
    /// Name of the phase.
    pub phase: &'static str,
    /// Objects in the pool.
    pub objects: u64,
    /// Sum of their sizes.
    pub object_bytes: u64,
    /// Their slots: what would remain if every block were full.
    pub slot_bytes: u64,
    /// Frames of blocks and their side words, and what grows with them outside of the arena.
    pub block_bytes: u64,
    /// What the arena has from the system, and what grows outside of it.
    pub held_bytes: u64,
}

/// How a pool did.
#[derive(Clone, Debug)]
pub struct PackReport {
    /// Bytes of the pages that were put in at the start.
    pub stored_bytes: u64,
    /// After each phase.
    pub densities: Vec<Density>,
    /// Over the whole run.
    pub timeline: Vec<Moment>,
    /// Time to find a place.
    pub alloc_ns: Percentiles,
    /// Time to copy an object into it.
    pub store_ns: Percentiles,
    /// Time to load an object and copy it to its reader.
    pub load_ns: Percentiles,
    /// Time to give a place back.
    pub free_ns: Percentiles,
    /// Objects of the first fill that a load puts together.
    pub objects_copied_twice: u64,
    /// Their bytes.
    pub bytes_copied_twice: u64,
    /// Objects that compaction moved at the end.
    pub objects_moved: u64,
    /// Objects that were moved before that, to keep the pool dense.
    pub objects_moved_meanwhile: u64,
    /// Objects that were written.
    pub objects_written: u64,
}

/// Carries out `plan` with `objects`.
///
/// # Errors
/// [`Error::Config`](crate::error::Error::Config) for a plan that cannot be carried out,
/// [`Error::Io`](crate::error::Error::Io) if the system has no memory for it, or that of
/// `interrupt`.
pub fn pack(objects: &Objects, plan: &Plan, interrupt: Interrupt<'_>) -> Result<PackReport> {
    let trial = Trial::new(objects, plan)?;
    live(&trial, plan.seed, interrupt)
}

/// Leads the pool of `trial` through its life.
pub(super) fn live(trial: &Trial, seed: u64, interrupt: Interrupt<'_>) -> Result<PackReport> {
    let report = Run::new(trial, seed, interrupt).phases()?;
    assert_eq!(trial.pool.stats(), Default::default(), "all was freed");
    assert_eq!(trial.pool.arena().used_frames(), 0, "no frame is held");
    Ok(report)
}

/// A pool in the middle of its life.
struct Run<'a> {
    pool: &'a dyn Zpool,
    objects: &'a Objects,
    ledger: Ledger<'a>,
    /// All pages, in an order that every phase makes anew.
    order: Vec<u32>,
    random: Random,
    interrupt: Interrupt<'a>,
    timeline: Timeline,
    densities: Vec<Density>,
    keeps_dense: bool,
    pace: Pace,
    /// Objects that were written, and moved.
    written: u64,
    moved: u64,
}

/// Times of what a write does.
struct WriteTimes {
    alloc: Timing,
    store: Timing,
    free: Timing,
}

impl<'a> Run<'a> {
    fn new(trial: &'a Trial, seed: u64, interrupt: Interrupt<'a>) -> Run<'a> {
        let pages = u64::from(trial.pages);
        Run {
            pool: &*trial.pool,
            objects: &trial.objects,
            ledger: Ledger::new(&*trial.pool, &trial.noise, 0..trial.pages),
            order: (0..trial.pages).collect(),
            random: Random::new(seed),
            interrupt,
            // A fill, four overwrites of two operations, and twice 1/2 and 9/10.
            timeline: Timeline::new(pages * 118 / 10),
            densities: Vec::new(),
            keeps_dense: trial.keeps_dense,
            pace: Pace::default(),
            written: 0,
            moved: 0,
        }
    }

    fn phases(mut self) -> Result<PackReport> {
        let watch = Stopwatch::calibrated();
        let pages = self.order.len() as u32;
        for page in 0..pages {
            self.write(page, self.objects.of_page(page, pages))?;
        }
        self.end("fresh")?;
        let mut held: Vec<(Handle, u32)> = self.ledger.held().collect();
        // With chance of its own: how many objects there are does not change what is written.
        Random::new(LOADS_SEED).shuffle(&mut held);
        let loads = Loads::of(self.pool, &mut held, watch, &mut self.interrupt)?;
        let mut times = WriteTimes {
            alloc: Timing::new(watch),
            store: Timing::new(watch),
            free: Timing::new(watch),
        };
        self.overwrite_all(&mut times)?;
        self.end("overwritten")?;
        self.discard_and_refill(50, "discarded50", "refilled50")?;
        self.discard_and_refill(90, "discarded90", "refilled90")?;
        self.overwrite_all(&mut times)?;
        self.end("worn")?;
        let (objects_written, objects_moved_meanwhile) = (self.written, self.moved);
        let objects_moved = self.compact()?;
        self.end("compacted")?;
        let timeline = self.timeline.finish(self.pool);
        for page in 0..pages {
            self.ledger.write(page, 0)?;
        }
        check(self.pool);
        Ok(PackReport {
            stored_bytes: u64::from(pages) * self.objects.page_bytes() as u64,
            densities: self.densities,
            timeline,
            alloc_ns: times.alloc.percentiles(),
            store_ns: times.store.percentiles(),
            load_ns: loads.times.percentiles(),
            free_ns: times.free.percentiles(),
            objects_copied_twice: loads.objects_copied_twice,
            bytes_copied_twice: loads.bytes_copied_twice,
            objects_moved,
            objects_moved_meanwhile,
            objects_written,
        })
    }

    /// Ends a phase: everything must be there, and what is not needed goes back.
    fn end(&mut self, phase: &'static str) -> Result<()> {
        self.ledger.verify(&mut self.interrupt)?;
        check(self.pool);
        let arena = self.pool.arena();
        arena.release_free(0);
        let stats = self.pool.stats();
        self.densities.push(Density {
            phase,
            objects: stats.objects,
            object_bytes: stats.object_bytes,
            slot_bytes: stats.slot_bytes,
            block_bytes: stats.block_bytes + stats.index_bytes,
            held_bytes: arena.held_bytes() + stats.index_bytes,
        });
        Ok(())
    }

    fn write(&mut self, page: u32, bytes: u32) -> Result<()> {
        self.interrupt.poll()?;
        let operations = self.ledger.write(page, bytes)?;
        self.timeline.advance(operations, self.pool);
        self.wrote(u64::from(bytes > 0));
        Ok(())
    }

    /// Writes every page twice, each time in another random order, with the size of any other page.
    fn overwrite_all(&mut self, times: &mut WriteTimes) -> Result<()> {
        self.overwrite_each(times)?;
        self.overwrite_each(times)
    }

    fn overwrite_each(&mut self, times: &mut WriteTimes) -> Result<()> {
        let mut order = std::mem::take(&mut self.order);
        self.random.shuffle(&mut order);
        let together = (order.len() / PAGES_A_WRITE).clamp(1, BATCH);
        let mut writes = Vec::with_capacity(together);
        let mut freed = Vec::with_capacity(together);
        for pages in order.chunks(together) {
            self.interrupt.poll()?;
            writes.clear();
            for &page in pages {
                let bytes = self.objects.any(&mut self.random);
                writes.push(self.ledger.begin(page, bytes));
            }
            self.overwrite(&mut writes, &mut freed, times)?;
        }
        self.order = order;
        Ok(())
    }

    /// One batch; pages that need no object have nothing to be timed but the old one's end.
    fn overwrite(
        &mut self,
        writes: &mut [Write],
        freed: &mut Vec<(Handle, u32)>,
        times: &mut WriteTimes,
    ) -> Result<()> {
        let empty = partition_empty(writes);
        let full = &mut writes[empty..];
        times.alloc.batch(full, |write| self.ledger.alloc(write));
        times.store.batch(full, |write| self.ledger.store(write));
        let allocated = full.len();
        freed.clear();
        for write in writes.iter() {
            freed.extend(self.ledger.publish(write)?);
        }
        times.free.batch(freed, |&mut (handle, bytes)| {
            self.pool.free(handle, bytes as usize)
        });
        self.timeline
            .advance((allocated + freed.len()) as u64, self.pool);
        self.wrote(allocated as u64);
        Ok(())
    }

    /// Objects were written; moves some others if that is due.
    fn wrote(&mut self, objects: u64) {
        let looks = self.written / WRITES_A_LOOK;
        self.written += objects;
        if !self.keeps_dense {
            return;
        }
        self.pace.note_writes(objects);
        if self.written / WRITES_A_LOOK == looks {
            return;
        }
        loop {
            let pool = self.pool.stats();
            if !self.pace.allows(&pool) {
                return;
            }
            let (_, moved) = self.move_some();
            self.pace.note_moves(moved, pool.objects);
            self.moved += moved;
        }
    }

    fn discard_and_refill(
        &mut self,
        percent: usize,
        discarded: &'static str,
        refilled: &'static str,
    ) -> Result<()> {
        let mut order = std::mem::take(&mut self.order);
        self.random.shuffle(&mut order);
        let leaving = &order[..order.len() * percent / 100];
        for &page in leaving {
            self.write(page, 0)?;
        }
        self.end(discarded)?;
        for &page in leaving {
            let bytes = self.objects.any(&mut self.random);
            self.write(page, bytes)?;
        }
        self.end(refilled)?;
        self.order = order;
        Ok(())
    }

    /// Empties sparse blocks into others until none qualifies, as background work does. Returns
    /// how many objects moved.
    fn compact(&mut self) -> Result<u64> {
        let mut moved = 0;
        loop {
            self.interrupt.poll()?;
            let (found, moved_now) = self.move_some();
            moved += moved_now;
            if !found || moved_now == 0 {
                return Ok(moved);
            }
        }
    }

    /// Does a piece of background work. Returns whether there was something to do, and how many objects moved.
    fn move_some(&mut self) -> (bool, u64) {
        let mut moved = 0;
        let found = self.pool.isolate(&mut |resident| {
            moved += u64::from(self.ledger.relocate(resident));
        });
        self.pool.settle();
        self.timeline.advance(2 * moved, self.pool);
        (found, moved)
    }
}

fn check(pool: &dyn Zpool) {
    pool.check();
    pool.arena().check();
}

/// Brings writes without an object to the front and counts them.
fn partition_empty(writes: &mut [Write]) -> usize {
    writes.sort_by_key(|write| !write.is_empty());
    writes.iter().take_while(|write| write.is_empty()).count()
}
