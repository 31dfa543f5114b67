//! The process dies between any two accesses to shared memory, and the next one takes over; it may
//! die while it does so.
//!
//! The zpool changes now and then, so some deaths are in the middle of moving from one to another.
//!
//! Before an access the memory files and the device are copied and an engine adopts the copy. Pages
//! that no operation is changing are as they were acknowledged; those of the operation under way
//! are old or new.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use super::*;
use crate::zpool::mapping::watch;

const SETUP: Setup = Setup {
    zpool: ZpoolKind::Zblock,
    codec: "lz4",
    pool_bytes_max: 128 << 10,
    store_bytes: 512 << 10,
    page_bytes: PAGE,
    budget: None,
};

/// Pages that the script changes: more than the pool holds.
const CHANGED: u32 = 80;

/// Accesses between two deaths, on average.
const ACCESSES_PER_DEATH: u64 = 12;

/// Nothing wrong, or what, in words.
type Verdict = std::result::Result<(), String>;

/// What the next process sees of the pool.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pool {
    /// All that was stored.
    Whole,
    /// Nothing of the operation under way, as if its page were published before its bytes: a
    /// planted bug, which the harness must find.
    Behind,
}

/// What is known of the process that may die.
struct Scene {
    setup: Setup,
    /// Of the run, for the names of directories: tests run side by side.
    name: String,
    dir: Directory,
    device: Arc<SimDevice>,
    model: Vec<Vec<u8>>,
    /// Pages that the operation under way changes, and into what.
    under_way: Option<(Range<u32>, Vec<u8>)>,
    random: Random,
    pool: Pool,
    /// The pool's file when the operation began.
    pool_before: Vec<u8>,
    deaths: u64,
    /// Of those, the ones with the next process dying as well.
    second_deaths: u64,
    found: Verdict,
}

fn memory_file(dir: &Directory, what: &str) -> PathBuf {
    dir.0.join(format!("nbdswap-{:016x}.{what}", 7))
}

/// The memory as the next process finds it.
fn copy_memory(from: &Directory, name: &str) -> Directory {
    let to = Directory::new(name);
    for what in ["pool", "table"] {
        let path = memory_file(&to, what);
        std::fs::write(&path, std::fs::read(memory_file(from, what)).unwrap()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    to
}

impl Scene {
    /// The process may die here.
    fn access(&mut self) {
        if self.found.is_err() || self.random.below(ACCESSES_PER_DEATH) > 0 {
            return;
        }
        self.deaths += 1;
        let seed = self.random.bits();
        let dir = copy_memory(&self.dir, &format!("{}-heir", self.name));
        if self.pool == Pool::Behind {
            std::fs::write(memory_file(&dir, "pool"), &self.pool_before).unwrap();
        }
        let device = Arc::new(SimDevice::from_image(self.device.image(), seed));
        self.found = self.adopt_twice(&dir, device, seed);
    }

    /// Adopts, and adopts as well what is left if the adopting process dies at one of its accesses.
    fn adopt_twice(&mut self, dir: &Directory, device: Arc<SimDevice>, seed: u64) -> Verdict {
        let second = Rc::new(RefCell::new(None));
        let mut left = Random::new(seed).below(600);
        let watcher = {
            let (second, path, device) = (Rc::clone(&second), dir.0.clone(), device.clone());
            let name = format!("{}-second-heir", self.name);
            move || {
                left = left.wrapping_sub(1);
                if left == 0 {
                    let dir = std::mem::ManuallyDrop::new(Directory(path.clone()));
                    let device = Arc::new(SimDevice::from_image(device.image(), 1));
                    *second.borrow_mut() = Some((copy_memory(&dir, &name), device));
                }
            }
        };
        let adopted = watch::during(watcher, || self.adopt(dir, &device));
        self.judge(adopted, device)?;
        let second = second.take();
        if let Some((dir, device)) = second {
            self.second_deaths += 1;
            let adopted = self.adopt(&dir, &device);
            self.judge(adopted, device)
                .map_err(|why| format!("second heir: {why}"))?;
        }
        Ok(())
    }

    fn adopt(&self, dir: &Directory, device: &Arc<SimDevice>) -> (Engine, OpenReport) {
        let mut options = options(&self.setup, Some(device.clone()), Some(dir));
        options.adopt = true;
        Engine::open(options).unwrap()
    }

    /// Is every page what it may be?
    fn judge(&self, (engine, report): (Engine, OpenReport), device: Arc<SimDevice>) -> Verdict {
        if !report.adopted || report.pages_lost > 0 {
            return Err(format!("{report:?}"));
        }
        engine.check();
        let mut heir = Run {
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            device: Some(device),
            setup: self.setup,
            model: Vec::new(),
            random: Random::new(0),
            refused: 0,
            now: Duration::ZERO,
        };
        for index in 0..CHANGED + 9 {
            let found = heir
                .read(PageId(index))
                .map_err(|e| format!("page {index}: {e}"))?;
            let is_new = self
                .under_way
                .as_ref()
                .is_some_and(|(pages, new)| pages.contains(&index) && found == *new);
            if !is_new && found != self.model[index as usize] {
                return Err(format!("page {index} is neither old nor new"));
            }
        }
        // What was taken over is a good engine: it takes new pages.
        heir.patch(PageId(0), 0, &vec![1; PAGE])
            .ok_or("page 0 cannot be written")?;
        heir.step();
        heir.engine.check();
        Ok(())
    }
}

/// Runs a script whose process may die at any access. The deaths, or what was wrong after one.
fn crash_everywhere(setup: Setup, seed: u64, pool: Pool) -> (u64, u64, Verdict) {
    let name = format!("crash-{pool:?}-{seed}");
    let dir = Directory::new(&name);
    let mut run = Run::open(setup, seed, Some(&dir));
    let scene = Rc::new(RefCell::new(Scene {
        setup,
        name,
        dir,
        device: run.device.clone().expect("this setup has a store"),
        model: run.model.clone(),
        under_way: None,
        random: Random::new(!seed),
        pool,
        pool_before: Vec::new(),
        deaths: 0,
        second_deaths: 0,
        found: Ok(()),
    }));
    for _ in 0..250 {
        change(&mut run, &scene);
        if scene.borrow().found.is_err() {
            break;
        }
    }
    assert!(
        pool == Pool::Behind || run.stored_pages() > 0,
        "nothing was stored"
    );
    assert!(
        pool == Pool::Behind || run.engine.snapshot().writeback.pages_moved.get() > 10,
        "hardly anything moved to another zpool"
    );
    let scene = scene.borrow();
    (scene.deaths, scene.second_deaths, scene.found.clone())
}

/// One operation, watched.
fn change(run: &mut Run, scene: &Rc<RefCell<Scene>>) {
    let first = run.random.below(u64::from(CHANGED)) as u32;
    let kind = run.random.below(16);
    let (pages, offset, data) = match kind {
        // Background work, another zpool, a discard, a patch, zeros, or a whole page.
        10.. => (first..first, 0, Vec::new()),
        0 => (first..(first + 6).min(CHANGED), 0, vec![0; PAGE]),
        1..=2 => (first..first + 1, 1000, vec![run.random.bits() as u8; 300]),
        3 => (first..first + 1, 0, vec![0; PAGE]),
        _ => {
            let mut data = vec![0; PAGE];
            make_page(&mut run.random, &mut data);
            (first..first + 1, 0, data)
        }
    };
    let mut new = scene.borrow().model[first as usize].clone();
    new[offset..offset + data.len()].copy_from_slice(&data);
    {
        let mut scene = scene.borrow_mut();
        scene.under_way = Some((pages.clone(), new.clone()));
        scene.pool_before = std::fs::read(memory_file(&scene.dir, "pool")).unwrap();
    }
    let watcher = {
        let scene = Rc::clone(scene);
        move || scene.borrow_mut().access()
    };
    let is_done = watch::during(watcher, || match kind {
        0 => {
            run.engine.discard(&mut run.lane, pages.clone());
            true
        }
        3 => run.engine.zero(&mut run.lane, PageId(first)).is_ok(),
        10..13 => {
            run.step();
            true
        }
        13.. => {
            run.engine
                .set_zpool(ZpoolKind::ALL[first as usize % ZpoolKind::ALL.len()]);
            true
        }
        _ => run.patch(PageId(first), offset, &data).is_some(),
    });
    let mut scene = scene.borrow_mut();
    scene.under_way = None;
    if is_done {
        for page in pages {
            scene.model[page as usize].clone_from(&new);
        }
    }
    drop(scene);
}

#[test]
fn whenever_the_process_dies_the_next_finds_every_acknowledged_write() {
    for seed in seeds(ZpoolKind::ALL.len() as u64) {
        with_seed(seed, |seed| {
            let setup = Setup {
                zpool: ZpoolKind::ALL[seed as usize % ZpoolKind::ALL.len()],
                // The densest zpool has room for all that lz4 leaves, and would store nothing.
                codec: ["lz4", "none", "none"][seed as usize / 2 % 3],
                ..SETUP
            };
            let (deaths, second_deaths, found) = crash_everywhere(setup, seed, Pool::Whole);
            assert_eq!(found, Ok(()), "after {deaths} deaths");
            println!("seed {seed}: died {deaths} times, {second_deaths} times in adoption too");
            assert!(
                deaths > 100 && second_deaths > 100,
                "{deaths}, {second_deaths}"
            );
        });
    }
}

#[test]
fn zfit_survives_deaths_with_objects_of_many_lengths() {
    for seed in seeds(2) {
        with_seed(seed, |seed| {
            let setup = Setup {
                zpool: ZpoolKind::Zfit,
                pool_bytes_max: 72 << 10,
                ..SETUP
            };
            let (deaths, _, found) = crash_everywhere(setup, 100 + seed, Pool::Whole);
            assert_eq!(found, Ok(()), "after {deaths} deaths");
            assert!(deaths > 100, "{deaths}");
        });
    }
}

#[test]
fn a_page_that_is_published_before_its_bytes_is_found() {
    let setup = Setup {
        codec: "none",
        ..SETUP
    };
    let (deaths, _, found) = crash_everywhere(setup, 1, Pool::Behind);
    assert!(found.is_err(), "the harness is blind after {deaths} deaths");
}
