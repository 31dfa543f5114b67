//! A process at work, watched: when it may die, and what came of it.

use std::cell::RefCell;
use std::rc::Rc;

use super::heir::{Expected, Homes, SecondDeath};
use super::remains::{Remains, Sight};
use super::script::Op;
use super::*;
use crate::zpool::mapping::watch;

/// What the next process sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// What was stored, in the order in which it was.
    True,
    /// A planted bug: nothing of the operation under way in the pool, as if pages were published
    /// before their bytes are whole.
    PoolLast,
    /// A planted bug: nothing of it in the table, as if the old places of pages were freed, and used
    /// for others, before their new ones are published.
    TableLast,
    /// A planted bug: nothing of it on the device, as if pages were published there before they are
    /// written.
    DeviceLast,
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
}

impl Did {
    fn of(run: &Run) -> Did {
        let snapshot = run.engine.snapshot();
        let (store, work) = (snapshot.store.expect("it has one"), snapshot.writeback);
        let device = run.device.as_ref().expect("it has one").counts();
        Did {
            segments_written: device.writes,
            segments_discarded: device.discards,
            segments_cleaned: store.segments_cleaned,
            pages_written_back: work.pages_written_back.get(),
            pages_cleaned: work.pages_cleaned.get(),
            pages_compacted: work.pages_compacted.get(),
            pages_moved: work.pages_moved.get(),
            bytes_scrubbed: work.scrub.bytes.get(),
        }
    }

    pub fn all(&self) -> [u64; 8] {
        [
            self.segments_written,
            self.segments_discarded,
            self.segments_cleaned,
            self.pages_written_back,
            self.pages_cleaned,
            self.pages_compacted,
            self.pages_moved,
            self.bytes_scrubbed,
        ]
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
    pub did: Did,
    pub found: Option<String>,
}

/// A process at work, watched.
struct Scene {
    sight: Sight,
    expected: Rc<Expected>,
    homes: Rc<Homes>,
    order: Order,
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
        let mut remains = self.sight.last.clone();
        match self.order {
            Order::True => {}
            Order::PoolLast => remains.pool.clone_from(&self.before.pool),
            Order::TableLast => remains.table.clone_from(&self.before.table),
            Order::DeviceLast => remains.device.clone_from(&self.before.device),
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
    order: Order,
    deaths: Option<Deaths>,
) -> Tally {
    let dir = Directory::new(name);
    let device = Arc::new(SimDevice::new(world.setup.store_bytes as usize, 1));
    device.watch_blocks(watch::access);
    let (engine, _) = Engine::open(world.options(Some(device.clone()), Some(&dir))).unwrap();
    let mut run = Run {
        lane: engine.lane(),
        reader: engine.reader_lane(),
        engine,
        device: Some(Arc::clone(&device)),
        setup: world.setup,
        model: vec![vec![0; PAGE]; PAGES as usize],
        random: Random::new(0),
        refused: 0,
        now: Duration::ZERO,
    };
    for op in first {
        if let (Some((pages, new)), true) = (
            op.changes(|p| run.model[p as usize].clone()),
            op.run(&mut run),
        ) {
            pages.for_each(|page| run.model[page as usize].clone_from(&new));
        }
    }
    let sight = Sight::new(&dir, Arc::clone(&device));
    let scene = Rc::new(RefCell::new(Scene {
        before: sight.last.clone(),
        sight,
        expected: Rc::new(Expected {
            world,
            model: run.model.clone(),
            under_way: None,
        }),
        homes: Rc::new(Homes::new(name)),
        order,
        deaths,
        random: Random::new(deaths.map_or(0, |deaths| deaths.seed)),
        tally: Tally::default(),
    }));
    for (number, op) in script.iter().enumerate() {
        let changes = op.changes(|page| run.model[page as usize].clone());
        let expect = |run: &Run, under_way| {
            let mut scene = scene.borrow_mut();
            scene.before = scene.sight.last.clone();
            scene.expected = Rc::new(Expected {
                world,
                model: run.model.clone(),
                under_way,
            });
        };
        expect(&run, changes.clone());
        let watcher = {
            let scene = Rc::clone(&scene);
            move || scene.borrow_mut().moment()
        };
        let is_done = watch::during(watcher, || op.run(&mut run));
        scene.borrow_mut().moment();
        if let (true, Some((pages, new))) = (is_done, changes) {
            pages.for_each(|page| run.model[page as usize].clone_from(&new));
        }
        // It is acknowledged now.
        expect(&run, None);
        let mut scene = scene.borrow_mut();
        scene.die();
        if let Some(why) = &mut scene.tally.found {
            *why = format!("operation {number}, {op}: {why}");
            break;
        }
    }
    let mut tally = std::mem::take(&mut scene.borrow_mut().tally);
    tally.did = Did::of(&run);
    tally
}
