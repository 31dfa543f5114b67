//! The next process: it takes over what is left, and every page is compared with the model.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::model::{Content, Model};
use super::remains::{Remains, Sight};
use super::*;
use crate::zpool::mapping::watch;

/// Nothing wrong, or what, in words.
pub(super) type Verdict = std::result::Result<(), String>;

/// Which of its own stores the heir dies at as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SecondDeath {
    /// One of them, by chance from this seed.
    Once(u64),
    /// Every single one, each time.
    Everywhere,
}

/// What the next process must find.
pub(super) struct Expected {
    pub world: World,
    pub model: Model,
    /// Pages that the operation under way changes, and into what.
    pub under_way: Option<(Range<u32>, Content)>,
}

/// Where heirs live: directories of their own, since tests run side by side.
pub(super) struct Homes {
    first: Directory,
    second: Directory,
    /// Times that the host was lost.
    pub losses: Cell<u64>,
    /// Flushes of heirs for which the store had no room.
    pub refused: Cell<u64>,
}

impl Homes {
    pub fn new(name: &str) -> Homes {
        Homes {
            first: Directory::new(&format!("{name}-heir")),
            second: Directory::new(&format!("{name}-second-heir")),
            losses: Cell::new(0),
            refused: Cell::new(0),
        }
    }
}

impl Expected {
    /// Takes over what is left; so does another heir, from what the first one leaves when it dies in
    /// the middle. Gives how often that was.
    pub fn adopt(
        self: &Rc<Self>,
        remains: &Remains,
        homes: &Rc<Homes>,
        second: SecondDeath,
    ) -> std::result::Result<u64, String> {
        let device = remains.lay_out(&homes.first);
        let mut model = self.model.clone();
        if let Some((pages, new)) = &self.under_way {
            model.change(pages.clone(), new);
        }
        self.lose_host(&device, &model, homes)
            .map_err(|why| format!("with the process, {why}"))?;
        let found = Rc::new(RefCell::new((0, Ok(()))));
        let watcher = {
            let (expected, homes, found) = (Rc::clone(self), Rc::clone(homes), Rc::clone(&found));
            let mut sight = Sight::new(&homes.first, Arc::clone(&device));
            device.watch_blocks(watch::access);
            let mut random = Random::new(match second {
                SecondDeath::Once(seed) => seed,
                SecondDeath::Everywhere => 0,
            });
            move || {
                let (deaths, verdict) = &mut *found.borrow_mut();
                let wanted = match second {
                    SecondDeath::Everywhere => sight.look(),
                    SecondDeath::Once(_) => *deaths == 0 && random.below(300) == 0 && sight.look(),
                };
                if wanted && verdict.is_ok() {
                    *deaths += 1;
                    let device = sight.remains().lay_out(&homes.second);
                    let heir = expected.take_over(&homes.second, &device);
                    *verdict = expected
                        .judge(heir, &device, &homes)
                        .map_err(|why| format!("second heir: {why}"));
                }
            }
        };
        let heir = watch::during(watcher, || self.take_over(&homes.first, &device));
        self.judge(heir, &device, homes)?;
        let (deaths, verdict) = found.replace((0, Ok(())));
        verdict.map(|()| deaths)
    }

    fn take_over(&self, dir: &Directory, device: &Arc<PowerDevice>) -> (Run, OpenReport) {
        let mut options = self.world.options(device, Some(dir));
        options.adopt = true;
        self.world.open(options).unwrap()
    }

    /// Is every page what it may be, is what was taken over a good engine, and is what was flushed there if the
    /// host is lost now?
    fn judge(
        &self,
        (mut heir, report): (Run, OpenReport),
        device: &Arc<PowerDevice>,
        homes: &Homes,
    ) -> Verdict {
        if !report.adopted || report.pages_lost > 0 {
            return Err(format!("{report:?}"));
        }
        // Slots and segments that nobody owns would be found here.
        heir.engine.check();
        let mut model = self.model.clone();
        for page in 0..LOOKED_AT {
            let found = heir
                .read(PageId(page))
                .map_err(|e| format!("page {page}: {e}"))?;
            let old = Content::clone(model.newest(page));
            let changes = (self.under_way.as_ref()).filter(|(pages, _)| pages.contains(&page));
            if let Some((_, new)) = changes {
                model.change(page..page + 1, new);
            }
            if found == **model.newest(page) {
                continue;
            }
            if found != *old {
                return Err(format!("page {page} is neither old nor new"));
            }
            model.change(page..page + 1, &old);
        }
        self.lose_host(device, &model, homes)
            .map_err(|why| format!("after the opening, {why}"))?;
        self.go_on(&mut heir, &mut model, device)?;
        if self.world.is_durable {
            self.lose_host(device, &model, homes)
                .map_err(|why| format!("before the heir's flush, {why}"))?;
            match heir.flush() {
                Ok(()) => model.flushed(),
                // Where nearly everything is in use what is written again may not fit.
                Err(FlushError::Full) => homes.refused.update(|count| count + 1),
                Err(why) => return Err(format!("the heir's flush: {why:?}")),
            }
            self.lose_host(device, &model, homes)
                .map_err(|why| format!("after the heir's flush, {why}"))?;
            heir.engine.check();
        }
        Ok(())
    }

    /// The heir takes new pages, and finds them.
    fn go_on(&self, heir: &mut Run, model: &mut Model, device: &PowerDevice) -> Verdict {
        for op in script::afterwards(self.world.is_durable) {
            let changes = op.changes(model);
            if op.run(heir, device)
                && let Some((pages, new)) = changes
            {
                model.change(pages.clone(), &new);
                if heir.read(PageId(pages.start)).ok().as_ref() != Some(&*new) {
                    return Err(format!("page {} is not what the heir wrote", pages.start));
                }
            }
        }
        heir.engine.check();
        Ok(())
    }

    /// The host is lost: are durable pages what they may be then, and the others errors?
    fn lose_host(&self, device: &PowerDevice, model: &Model, homes: &Homes) -> Verdict {
        if !self.world.is_durable {
            return Ok(());
        }
        homes.losses.update(|count| count + 1);
        let losses = homes.losses.get();
        let image = device.fork(losses).lose_power();
        let device = Arc::new(PowerDevice::from_image(image, losses));
        let mut options = self.world.options(&device, None);
        options.exports[0].is_lost = true;
        options.exports[1].is_recovered = true;
        let (mut next, report) =
            (self.world.open(options)).map_err(|error| format!("the host is lost: {error}"))?;
        if !report.recovered || report.pages_lost > 0 {
            return Err(format!("the host is lost: {report:?}"));
        }
        next.engine.check();
        for page in 0..LOOKED_AT {
            match next.read(PageId(page)) {
                Err(_) if page < SECOND => {}
                Ok(found) if page >= SECOND && model.may_be(page, &found) => {}
                Ok(_) => return Err(format!("the host is lost: page {page} is wrong")),
                Err(error) => return Err(format!("the host is lost: page {page}: {error}")),
            }
        }
        Ok(())
    }
}
