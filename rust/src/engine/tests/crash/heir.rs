//! The next process: it takes over what is left, and every page is compared with the model.

use std::cell::RefCell;
use std::rc::Rc;

use super::remains::{Remains, Sight};
use super::script::{self, CHANGED};
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
    pub model: Vec<Vec<u8>>,
    /// Pages that the operation under way changes, and into what.
    pub under_way: Option<(Range<u32>, Vec<u8>)>,
}

/// Where heirs live: directories of their own, since tests run side by side.
pub(super) struct Homes {
    first: Directory,
    second: Directory,
}

impl Homes {
    pub fn new(name: &str) -> Homes {
        Homes {
            first: Directory::new(&format!("{name}-heir")),
            second: Directory::new(&format!("{name}-second-heir")),
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
        let found = Rc::new(RefCell::new((0, Ok(()))));
        let watcher = {
            let (expected, homes, found) = (Rc::clone(self), Rc::clone(homes), Rc::clone(&found));
            let mut sight = Sight::new(&homes.first, Arc::clone(&device));
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
                    let device = sight.last.lay_out(&homes.second);
                    let heir = expected.take_over(&homes.second, device);
                    *verdict = expected
                        .judge(heir)
                        .map_err(|why| format!("second heir: {why}"));
                }
            }
        };
        let heir = watch::during(watcher, || self.take_over(&homes.first, device));
        self.judge(heir)?;
        let (deaths, verdict) = found.replace((0, Ok(())));
        verdict.map(|()| deaths)
    }

    fn take_over(&self, dir: &Directory, device: Arc<SimDevice>) -> (Run, OpenReport) {
        let mut options = self.world.options(Some(device.clone()), Some(dir));
        options.adopt = true;
        let (engine, report) = Engine::open(options).unwrap();
        let heir = Run {
            lane: engine.lane(),
            reader: engine.reader_lane(),
            engine,
            device: Some(device),
            setup: self.world.setup,
            model: Vec::new(),
            random: Random::new(0),
            refused: 0,
            now: Duration::ZERO,
        };
        (heir, report)
    }

    /// Is every page what it may be, and is what was taken over a good engine?
    fn judge(&self, (mut heir, report): (Run, OpenReport)) -> Verdict {
        if !report.adopted || report.pages_lost > 0 {
            return Err(format!("{report:?}"));
        }
        // Slots and segments that nobody owns would be found here.
        heir.engine.check();
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
        self.go_on(&mut heir)
    }

    /// The heir takes new pages, and finds them.
    fn go_on(&self, heir: &mut Run) -> Verdict {
        for op in script::afterwards() {
            let before = op.changes(|page| heir.read(PageId(page)).expect("it was read before"));
            if op.run(heir)
                && let Some((pages, new)) = before
                && heir.read(PageId(pages.start)).ok() != Some(new)
            {
                return Err(format!("page {} is not what the heir wrote", pages.start));
            }
        }
        heir.engine.check();
        Ok(())
    }
}
