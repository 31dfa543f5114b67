//! A process at work, watched: when it may die, and what came of it.

use std::cell::RefCell;
use std::rc::Rc;

use super::heir::{Expected, Homes, SecondDeath};
use super::model::{Content, Model};
use super::remains::{Remains, Sight};
use super::*;
use crate::store::TOMBSTONE_MAGIC;
use crate::zpool::mapping::watch;

/// What is wrong with the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bug {
    /// Nothing: what was stored is seen in the order in which it was.
    None,
    /// Nothing of the operation under way in the pool, as if pages were published
    /// before their bytes are whole.
    PoolLast,
    /// Nothing of it in the table, as if the old places of pages were freed, and used
    /// for others, before their new ones are published.
    TableLast,
    /// Nothing of it on the device, as if pages were published there before they are
    /// written.
    DeviceLast,
    /// A flush is answered before anything is synced.
    NoSync,
    /// A sync that failed, or was under way, is the business of the process that died.
    ForgetsDoubt,
    /// Who takes over in doubt keeps nothing of what is in no page's place.
    ForgetsPromise,
}

/// At which of the moments the process dies, and its heir.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deaths {
    /// Every so manieth moment, on average, chosen by a seed.
    pub every: u64,
    pub seed: u64,
    /// Every so manieth of them, the heir dies everywhere; otherwise once.
    pub everywhere: u64,
}

/// What the process did, so that a script that misses something is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Did {
    segments_written: u64,
    segments_discarded: u64,
    segments_cleaned: u64,
    pages_written_back: u64,
    pages_cleaned: u64,
    pages_compacted: u64,
    pages_moved: u64,
    bytes_scrubbed: u64,
    /// The others are of durable exports only.
    checkpoints: u64,
    pages_flushed: u64,
    syncs_failed: u64,
    segments_buried: u64,
}

impl Did {
    fn of(run: &Run, device: &PowerDevice) -> Did {
        let snapshot = run.engine.snapshot();
        let (store, work) = (snapshot.store.expect("it has one"), snapshot.writeback);
        Did {
            segments_written: device.counts().writes,
            segments_discarded: device.counts().discards,
            segments_cleaned: store.segments_cleaned,
            pages_written_back: work.pages_written_back.get(),
            pages_cleaned: work.pages_cleaned.get(),
            pages_compacted: work.pages_compacted.get(),
            pages_moved: work.pages_moved.get(),
            bytes_scrubbed: work.scrub.bytes.get(),
            checkpoints: work.checkpoints.done.get(),
            pages_flushed: work.checkpoints.pages.get(),
            syncs_failed: work.checkpoints.syncs_failed.get(),
            segments_buried: device.begun(TOMBSTONE_MAGIC) as u64,
        }
    }

    pub fn all(&self, is_durable: bool) -> Vec<u64> {
        let mut all = vec![
            self.segments_written,
            self.segments_discarded,
            self.segments_cleaned,
            self.pages_written_back,
            self.pages_cleaned,
            self.pages_compacted,
            self.pages_moved,
            self.bytes_scrubbed,
        ];
        if is_durable {
            all.extend([
                self.checkpoints,
                self.pages_flushed,
                self.syncs_failed,
                self.segments_buried,
            ]);
        }
        all
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Times that something was different from the moment before.
    pub moments: u64,
    pub deaths: u64,
    /// Of heirs.
    pub second_deaths: u64,
    /// Of the host.
    pub losses: u64,
    /// Flushes of heirs for which the store had no room.
    pub refused: u64,
    pub did: Did,
    pub found: Option<String>,
}

/// A process at work, watched.
struct Scene {
    sight: Sight,
    expected: Rc<Expected>,
    homes: Rc<Homes>,
    bug: Bug,
    /// When the operation began.
    before: Remains,
    /// None: the first pass, which counts.
    deaths: Option<Deaths>,
    random: Random,
    tally: Tally,
}

impl Scene {
    /// The process may die here.
    fn moment(&mut self) {
        if self.sight.look() {
            self.die();
        }
    }

    fn die(&mut self) {
        self.tally.moments += 1;
        let Some(deaths) = self.deaths else { return };
        if self.tally.found.is_some() || self.random.below(deaths.every) > 0 {
            return;
        }
        let mut remains = self.sight.remains();
        match self.bug {
            Bug::None | Bug::NoSync => {}
            Bug::ForgetsDoubt => remains.tell(|belief| belief.restore()),
            Bug::ForgetsPromise => remains.tell(|belief| {
                if belief.is_in_doubt() {
                    belief.settle(0, 0, false);
                }
            }),
            Bug::PoolLast => remains.pool.clone_from(&self.before.pool),
            Bug::TableLast => remains.table.clone_from(&self.before.table),
            Bug::DeviceLast => remains.device = Arc::clone(&self.before.device),
        }
        let second = match self.random.below(deaths.everywhere) {
            0 => SecondDeath::Everywhere,
            _ => SecondDeath::Once(self.random.bits()),
        };
        self.tally.deaths += 1;
        match self.expected.adopt(&remains, &self.homes, second) {
            Ok(second_deaths) => self.tally.second_deaths += second_deaths,
            Err(why) => self.tally.found = Some(why),
        }
    }
}

/// One pass over a script, after `first`, which nobody watches.
pub(super) fn pass(
    world: World,
    name: &str,
    (first, script): (&[Op], &[Op]),
    bug: Bug,
    deaths: Option<Deaths>,
) -> Tally {
    let dir = Directory::new(name);
    let device = Arc::new(PowerDevice::new(world.setup.store_bytes as usize, 1));
    device.watch_blocks(watch::access);
    let (mut run, _) = world.open(world.options(&device, Some(&dir))).unwrap();
    let mut model = Model::new();
    for op in first {
        let changes = op.changes(&model);
        if op.run(&mut run, &device) {
            done(op, &mut model, changes);
        }
    }
    if bug == Bug::NoSync {
        device.lie();
    }
    let sight = Sight::new(&dir, Arc::clone(&device));
    let scene = Rc::new(RefCell::new(Scene {
        before: sight.remains(),
        sight,
        expected: Rc::new(Expected {
            world,
            model: model.clone(),
            under_way: None,
        }),
        homes: Rc::new(Homes::new(name)),
        bug,
        deaths,
        random: Random::new(deaths.map_or(0, |deaths| deaths.seed)),
        tally: Tally::default(),
    }));
    let expect = |model: &Model, under_way| {
        let mut scene = scene.borrow_mut();
        scene.before = scene.sight.remains();
        scene.expected = Rc::new(Expected {
            world,
            model: model.clone(),
            under_way,
        });
    };
    for (number, op) in script.iter().enumerate() {
        let changes = op.changes(&model);
        expect(&model, changes.clone());
        let watcher = {
            let scene = Rc::clone(&scene);
            move || scene.borrow_mut().moment()
        };
        let is_done = watch::during(watcher, || op.run(&mut run, &device));
        scene.borrow_mut().moment();
        if is_done {
            done(op, &mut model, changes);
        }
        // It is acknowledged now.
        expect(&model, None);
        let mut scene = scene.borrow_mut();
        scene.die();
        if let Some(why) = &mut scene.tally.found {
            *why = format!("operation {number}, {op}: {why}");
            break;
        }
    }
    let mut scene = scene.borrow_mut();
    let mut tally = std::mem::take(&mut scene.tally);
    tally.did = Did::of(&run, &device);
    tally.losses = scene.homes.losses.get();
    tally.refused = scene.homes.refused.get();
    tally
}

/// The operation is acknowledged.
fn done(op: &Op, model: &mut Model, changes: Option<(Range<u32>, Content)>) {
    if let Some((pages, new)) = changes {
        model.change(pages, &new);
    }
    if matches!(op, Op::Flush) {
        model.flushed();
    }
}
