//! Loss of power, between two acts, in the middle of one and in recovery too, against a model: every page of a durable export reads
//! as the version that was last flushed or as a later one that was acknowledged; an export that does not
//! promise that gives errors.
//!
//! The harness is tried too: with bugs planted into the engine it has to find a wrong page. Here is what
//! happens, in `losses` how often and with what in the way.

mod losses;

use super::*;
use crate::store::{Encryption, MasterKey, TOMBSTONE_MAGIC};
use crate::testing::power_device::PowerDevice;

/// Pages of the export that promises nothing, which comes first, and of the durable one.
const PLAIN: u32 = 60;
const DURABLE: u32 = 160;
const ALL: u32 = PLAIN + DURABLE;

/// What is wrong with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A flush is answered before anything is synced.
    NoSync,
    /// Freed segments are reused at once.
    NoQuarantine,
    /// Nothing is written down of pages that are discarded.
    NoMarks,
    /// Nothing is written again of pages whose newest record was not whole: it is believed later.
    ForgetsTorn,
    /// A sync that fails is the business of the process that was told.
    ForgetsDoubt,
    /// Who takes over in doubt keeps nothing of what is in no page's place.
    ForgetsPromise,
    /// Freed segments are written over while their heads stand.
    NoTombstones,
    /// The log is called whole where a write or a sync failed.
    CallsWhole,
}

#[derive(Clone, Copy)]
struct Plan {
    is_encrypted: bool,
    pool_bytes_max: u64,
    store_bytes: usize,
    /// Now and then a sync fails.
    syncs_fail: bool,
    bug: Bug,
}

const PLAN: Plan = Plan {
    is_encrypted: false,
    pool_bytes_max: 256 << 10,
    store_bytes: 2 << 20,
    syncs_fail: false,
    bug: Bug::None,
};

/// Hardly room for all pages: cleaning works all the time.
const TIGHT: Plan = Plan {
    pool_bytes_max: 128 << 10,
    store_bytes: 1 << 20,
    ..PLAN
};

struct Scene {
    plan: Plan,
    dir: Directory,
    device: Arc<PowerDevice>,
    engine: Engine,
    lane: Lane,
    reader: ReaderLane,
    random: Random,
    now: Duration,
    /// What a page may be after a loss of power; the last is what it is.
    versions: Vec<Vec<Vec<u8>>>,
    /// A flush under way, and the number of versions that each page had when it was asked for.
    flush: Option<(Flush, Vec<usize>)>,
    flushes: u64,
    losses: u64,
    found_new: u64,
}

fn plan_options(plan: &Plan, device: &Arc<PowerDevice>, dir: &Directory) -> EngineOptions {
    let setup = Setup {
        pool_bytes_max: plan.pool_bytes_max,
        ..SMALL
    };
    let mut options = options(&setup, None, Some(dir));
    let export = |name: &str, pages: u32, is_durable| ExportOptions {
        name: name.into(),
        size_bytes: u64::from(pages) * PAGE as u64,
        read_only: false,
        is_lost: false,
        is_durable,
        is_recovered: false,
    };
    options.exports = vec![
        export("plain", PLAIN, false),
        export("durable", DURABLE, true),
    ];
    options.store = Some(StoreSource {
        backing: Backing::Device(Box::new(Arc::clone(device)) as Box<dyn Device>),
        segment_bytes: SEGMENT,
        punch: true,
        budget: None,
        scrub_bytes_per_s: 0,
        encryption: plan.is_encrypted.then(|| Encryption {
            key: MasterKey::new([7; 32]),
            salt: [9; 16],
        }),
    });
    options
}

impl Scene {
    fn new(plan: Plan, seed: u64) -> Scene {
        static SCENES: AtomicUsize = AtomicUsize::new(0);
        let scene = SCENES.fetch_add(1, Ordering::Relaxed);
        let dir = Directory::new(&format!("power-{scene}"));
        let device = Arc::new(PowerDevice::new(plan.store_bytes, seed));
        let (engine, _) = Engine::open(plan_options(&plan, &device, &dir)).unwrap();
        let mut scene = Scene {
            plan,
            dir,
            device,
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            random: Random::new(seed),
            now: Duration::ZERO,
            versions: vec![vec![vec![0; PAGE]]; ALL as usize],
            flush: None,
            flushes: 0,
            losses: 0,
            found_new: 0,
        };
        scene.plant();
        scene
    }

    fn plant(&mut self) {
        let tiers = &mut self.engine.tiers;
        match self.plan.bug {
            Bug::NoSync => self.device.lie(),
            Bug::NoQuarantine => tiers.store.as_mut().unwrap().forget_to_keep_freed(),
            Bug::None
            | Bug::NoMarks
            | Bug::ForgetsTorn
            | Bug::ForgetsDoubt
            | Bug::ForgetsPromise
            | Bug::CallsWhole => {}
            Bug::NoTombstones => self.device.lose_blocks(TOMBSTONE_MAGIC),
        }
    }

    fn use_engine(&mut self, engine: Engine) {
        self.lane = engine.lane();
        self.reader = engine.reader_lane();
        self.engine = engine;
        self.flush = None;
        self.plant();
    }

    fn step(&mut self) -> Work {
        self.now += Duration::from_millis(20);
        if self.plan.bug == Bug::CallsWhole {
            self.engine.tiers.store.as_ref().unwrap().forget_doubts();
        }
        let work = self.engine.step(self.now);
        if let Some((flush, versions)) = self.flush.take() {
            match self.engine.flushed(flush) {
                None => self.flush = Some((flush, versions)),
                Some(Err(_)) => {}
                Some(Ok(())) => {
                    self.flushes += 1;
                    for (page, before) in (0..).zip(versions) {
                        let drop = self.dropped(page, before);
                        self.versions[page as usize].drain(..drop);
                    }
                }
            }
        }
        work
    }

    /// Versions that a flush which saw `before` of them makes impossible.
    fn dropped(&self, page: u32, before: usize) -> usize {
        if page < PLAIN { 0 } else { before - 1 }
    }

    fn changed(&mut self, page: u32, new: Vec<u8>) {
        self.versions[page as usize].push(new);
    }

    fn newest(&self, page: u32) -> &Vec<u8> {
        self.versions[page as usize]
            .last()
            .expect("there is always one")
    }

    fn write(&mut self, page: u32, offset: usize, data: &[u8]) {
        let mut new = self.newest(page).clone();
        new[offset..offset + data.len()].copy_from_slice(data);
        let mut fetched: Option<Fetch> = None;
        for _ in 0..10_000 {
            let lane = &mut self.lane;
            let written = match &mut fetched {
                Some(fetch) => {
                    let (place, part) = (fetch.place, (offset, data));
                    (self.engine).patch_fetched(lane, PageId(page), place, &mut fetch.buffer, part)
                }
                None if data.len() == PAGE => self.engine.write(lane, PageId(page), data),
                None => self.engine.patch(lane, PageId(page), offset, data),
            };
            match written {
                Ok(Write::Done(_)) => return self.changed(page, new),
                Ok(Write::Stall) => {
                    self.step();
                }
                Ok(Write::Fetch(place)) => {
                    let mut fetch = Fetch::new(PAGE);
                    (fetch.page, fetch.place) = (PageId(page), place);
                    fetched = Some(*fetch_one(&self.engine, &mut self.reader, fetch));
                }
                Err(_) => return,
            }
        }
        panic!("a write that never ends");
    }

    fn read(&mut self, page: u32) -> Result<Vec<u8>> {
        let mut out = vec![0xa5; PAGE];
        loop {
            match self.engine.read(&mut self.lane, PageId(page), &mut out)? {
                Read::Ready(_) => return Ok(out),
                Read::Fetch(place) => {
                    let mut fetch = Fetch::new(PAGE);
                    (fetch.page, fetch.place) = (PageId(page), place);
                    let fetch = fetch_one(&self.engine, &mut self.reader, fetch);
                    if self.engine.confirm(PageId(page), place) {
                        fetch.result?;
                        return Ok(fetch.buffer.into_vec());
                    }
                }
            }
        }
    }

    fn act(&mut self) {
        let page = self.random.below(u64::from(ALL)) as u32;
        match self.random.below(100) {
            0..40 => {
                let mut data = vec![0; PAGE];
                make_page(&mut self.random, &mut data);
                self.write(page, 0, &data);
            }
            40..45 => {
                let data = vec![self.random.bits() as u8; 300];
                self.write(page, 1000, &data);
            }
            45..52 => {
                let limit = if page < PLAIN { PLAIN } else { ALL };
                let end = (page + 1 + self.random.below(12) as u32).min(limit);
                self.engine.discard(&mut self.lane, page..end);
                for gone in page..end {
                    self.changed(gone, vec![0; PAGE]);
                    if self.plan.bug == Bug::NoMarks {
                        let durable = self.engine.tiers.durable.as_ref().unwrap();
                        durable.owed.remove(PageId(gone));
                    }
                }
            }
            52..54 => {
                self.engine.zero(&mut self.lane, PageId(page)).unwrap();
                self.changed(page, vec![0; PAGE]);
            }
            54..60 => self.ask(),
            60..92 => {
                self.step();
            }
            _ => {
                // Pages of the plain export may be of an older life.
                match self.read(page) {
                    Ok(found) => assert!(found == *self.newest(page), "page {page} reads wrong"),
                    Err(_) => assert!(page < PLAIN || self.device.is_dead(), "page {page} fails"),
                }
            }
        }
    }

    fn ask(&mut self) {
        if self.flush.is_none() {
            let flush = self.engine.flush(ExportId(1)).expect("it is durable");
            let before = self.versions.iter().map(Vec::len).collect();
            self.flush = Some((flush, before));
        }
    }

    /// Steps until the flush that is asked for is over. False: it failed.
    fn flush(&mut self) -> bool {
        self.ask();
        let before = self.flushes;
        for _ in 0..10_000 {
            if self.flush.is_none() {
                return self.flushes > before;
            }
            self.step();
        }
        panic!("a flush that never ends");
    }

    /// The host loses power, now and then in recovery too; the next one looks at every page.
    fn lose_power(&mut self) -> std::result::Result<(), String> {
        self.losses += 1;
        let mut image = self.device.lose_power();
        loop {
            let seed = self.random.bits();
            self.device = Arc::new(PowerDevice::from_image(image, seed));
            if self.random.below(3) == 0 {
                self.device.die_after(self.random.below(120));
            }
            let mut options = plan_options(&self.plan, &self.device, &self.dir);
            options.exports[0].is_lost = true;
            options.exports[1].is_recovered = true;
            match Engine::open(options) {
                Ok((engine, report)) => {
                    self.device.die_after(u64::MAX);
                    self.use_engine(engine);
                    assert!(report.recovered);
                    if report.pages_lost > 0 {
                        return Err(format!("{} pages are lost", report.pages_lost));
                    }
                    if self.plan.bug == Bug::ForgetsTorn {
                        let durable = self.engine.tiers.durable.as_ref().unwrap();
                        durable.owed.drain(|_| {});
                    }
                    break;
                }
                Err(_) => image = self.device.lose_power(),
            }
        }
        self.engine.check();
        for page in 0..ALL {
            let found = self.read(page);
            if page < PLAIN {
                if found.is_ok() {
                    return Err(format!("page {page} of the plain export is served"));
                }
                self.versions[page as usize] = vec![vec![0; PAGE]];
                continue;
            }
            let found = found.map_err(|error| format!("page {page}: {error}"))?;
            let versions = &self.versions[page as usize];
            if !versions.contains(&found) {
                return Err(format!(
                    "page {page} is none of {} versions",
                    versions.len()
                ));
            }
            self.found_new += u64::from(versions[0] != found);
            self.versions[page as usize] = vec![found];
        }
        Ok(())
    }

    /// The server is killed while it syncs, and the next one finds its memory.
    fn kill_in_sync(&mut self) {
        self.engine.tiers.belief().doubt();
        self.kill();
    }

    /// The server is killed, and the next one finds its memory.
    fn kill(&mut self) {
        let belief = self.engine.tiers.belief();
        match self.plan.bug {
            Bug::ForgetsDoubt => belief.restore(),
            Bug::ForgetsPromise if belief.is_in_doubt() => {
                belief.settle(0, 0, false);
            }
            _ => {}
        }
        self.device.fail_sync(0);
        let mut options = plan_options(&self.plan, &self.device, &self.dir);
        options.adopt = true;
        let (engine, report) = Engine::open(options).unwrap();
        assert!(report.adopted, "{}", report.reason);
        assert_eq!(report.pages_lost, 0);
        self.use_engine(engine);
        self.engine.check();
    }
}
