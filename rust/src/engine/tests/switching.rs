//! Zpool and codec change while pages come and go: each page stays what it was, and in the end the
//! former zpools are empty.

use super::*;
use crate::codec::CODECS;

/// Every pair of different zpools, in both orders.
fn pairs() -> impl Iterator<Item = (ZpoolKind, ZpoolKind)> {
    let pair = |from| ZpoolKind::ALL.map(|to| (from, to));
    ZpoolKind::ALL
        .into_iter()
        .flat_map(pair)
        .filter(|(from, to)| from != to)
}

/// Every codec, at its default level.
fn choices() -> Vec<CodecChoice> {
    let names = CODECS.iter().map(|info| info.name);
    names
        .map(|name| CodecChoice::named(name).unwrap())
        .collect()
}

fn other_zpool(run: &mut Run) -> ZpoolKind {
    ZpoolKind::ALL[run.random.below(ZpoolKind::ALL.len() as u64) as usize]
}

impl Run {
    fn former_objects(&self) -> u64 {
        let pool = self.engine.snapshot().pool;
        pool.former.iter().map(|(_, objects)| objects).sum()
    }

    /// Every object is in a class of its zpool.
    fn classes_are_of_all_who_hold_objects(&self) {
        let pool = self.engine.snapshot().pool;
        let objects_of = |zpool| {
            let classes = pool.classes.iter().filter(|(kind, _)| kind.name() == zpool);
            classes.map(|(_, class)| class.slots_used).sum::<u64>()
        };
        for &(zpool, objects) in &pool.former {
            assert_eq!(objects_of(zpool), objects, "{zpool}");
        }
        let former: u64 = pool.former.iter().map(|(_, objects)| objects).sum();
        assert_eq!(objects_of(pool.zpool), pool.stats.objects - former);
    }

    fn moved(&self) -> u64 {
        self.engine.snapshot().writeback.pages_moved.get()
    }

    /// Steps as a background thread with all the time in the world.
    fn step_until_moved(&mut self) {
        for _ in 0..20_000 {
            if self.former_objects() == 0 {
                return;
            }
            self.step();
        }
        let former = self.engine.snapshot().pool.former;
        panic!("objects that never move: {former:?}");
    }

    fn fill(&mut self, pages: Range<u32>) {
        for index in pages {
            let mut data = vec![0; self.setup.page_bytes];
            make_page(&mut self.random, &mut data);
            if self.patch(PageId(index), 0, &data).is_some() {
                self.model[index as usize] = data;
            } else {
                self.refused += 1;
            }
        }
    }

    /// Anything, and now and then another zpool or codec.
    fn act_and_switch(&mut self, choices: &[CodecChoice]) {
        match self.random.below(60) {
            0 => {
                let kind = other_zpool(self);
                self.engine.set_zpool(kind);
            }
            1..3 => {
                let choice = choices[self.random.below(choices.len() as u64) as usize];
                self.engine.set_codec(choice);
                assert_eq!(self.engine.snapshot().pool.codec, choice);
            }
            _ => self.act(),
        }
        self.engine.check();
    }
}

#[test]
fn every_pair_of_zpools_can_be_switched_while_pages_change() {
    let setups = [
        SMALL,
        Setup {
            store_bytes: 0,
            ..SMALL
        },
        Setup {
            page_bytes: 16 << 10,
            pool_bytes_max: 2 << 20,
            store_bytes: 8 << 20,
            ..SMALL
        },
        Setup {
            page_bytes: 16 << 10,
            pool_bytes_max: 2 << 20,
            store_bytes: 0,
            ..SMALL
        },
    ];
    let choices = choices();
    for (from, to) in pairs() {
        for seed in seeds(setups.len() as u64) {
            println!("{} to {}", from.name(), to.name());
            with_seed(seed, |seed| {
                let zpool = from;
                let setup = setups[seed as usize % setups.len()];
                let mut run = Run::new(Setup { zpool, ..setup }, seed);
                (0..200).for_each(|_| run.act());
                let before = run.former_objects();
                run.engine.set_zpool(to);
                assert!(before == 0 && run.former_objects() > 0, "{before}");
                run.classes_are_of_all_who_hold_objects();
                (0..300).for_each(|_| run.act_and_switch(&choices));
                run.engine.set_zpool(to);
                // Without a store a full pool keeps what has no place, until there is one.
                run.engine.discard(&mut run.lane, 0..300);
                run.engine.discard(&mut run.lane, 300..450);
                run.model[..450].iter_mut().for_each(|page| page.fill(0));
                run.step_until_moved();
                run.engine.check();
                run.verify();
                assert!(run.moved() > 0, "nothing moved");
                assert_eq!(run.engine.snapshot().pool.zpool, to.name());
            });
        }
    }
}

#[test]
fn a_full_pool_without_a_store_keeps_what_has_no_place_and_moves_it_later() {
    for (zpool, to) in pairs() {
        let setup = Setup {
            zpool,
            store_bytes: 0,
            ..SMALL
        };
        let mut run = Run::new(setup, 2);
        run.fill(0..PAGES);
        assert!(run.refused > 0, "{zpool:?} is not full");
        run.engine.set_zpool(to);
        for _ in 0..2000 {
            run.step();
        }
        run.engine.check();
        run.verify();
        run.engine.discard(&mut run.lane, 0..300);
        run.engine.discard(&mut run.lane, 300..450);
        run.model[..450].iter_mut().for_each(|page| page.fill(0));
        run.step_until_moved();
        run.engine.check();
        run.verify();
    }
}

#[test]
fn without_a_store_moving_leaves_the_last_room_to_writers() {
    for (zpool, to) in pairs() {
        let setup = Setup {
            zpool,
            store_bytes: 0,
            pool_bytes_max: 2 << 20,
            ..SMALL
        };
        let mut run = Run::new(setup, 3);
        run.fill(0..PAGES);
        assert_eq!(run.refused, 0);
        run.engine.set_zpool(to);
        for _ in 0..2000 {
            run.step();
        }
        let pool = run.engine.snapshot().pool;
        let is_below = pool.stats.block_bytes < pool.limit_bytes * 95 / 100;
        assert!(is_below, "{zpool:?} to {to:?}: {:?}", pool.stats);
        run.fill(0..20);
        assert_eq!(run.refused, 0, "{zpool:?} to {to:?}");
        run.verify();
    }
}

#[test]
fn moving_ends_under_writers_that_never_pause() {
    for (zpool, to) in pairs() {
        let setup = Setup {
            zpool,
            pool_bytes_max: 4 << 20,
            ..SMALL
        };
        let mut run = Run::new(setup, 5);
        run.fill(0..PAGES);
        run.engine.set_zpool(to);
        let mut looks = 0;
        while run.former_objects() > 0 {
            looks += 1;
            assert!(looks < 50, "{zpool:?} to {to:?}: {}", run.former_objects());
            // More writes than a lane keeps to itself; always the same pages.
            (0..10).for_each(|_| run.fill(0..20));
            let mut steps = 0;
            while run.step() == Work::More {
                steps += 1;
                assert!(steps <= 64, "a share without end");
            }
        }
        assert!(run.moved() > 100, "{} moved", run.moved());
        run.verify();
    }
}

#[test]
fn a_new_codec_is_for_new_pages_of_every_lane_and_old_ones_stay() {
    let setup = Setup {
        pool_bytes_max: 4 << 20,
        ..SMALL
    };
    let mut run = Run::new(setup, 7);
    let mut other = run.engine.lane();
    let page = |value: u8| -> Vec<u8> { (0..PAGE).map(|at| value ^ (at / 9) as u8).collect() };
    let write = |run: &mut Run, lane: &mut Lane, pages: Range<u32>| {
        for index in pages {
            let data = page(index as u8);
            let written = run.engine.write(lane, PageId(index), &data).unwrap();
            assert_eq!(written, Write::Done(Tier::Pool));
            run.model[index as usize] = data;
        }
    };
    write(&mut run, &mut other, 0..10);
    run.engine.set_codec(CodecChoice::parse("zstd", 3).unwrap());
    let pages_of = |run: &Run, id: CodecId| run.engine.snapshot().pool.codec_pages[id as usize];
    let lz4_and_zstd = |run: &Run| [CodecId::Lz4, CodecId::Zstd].map(|id| pages_of(run, id));
    assert_eq!(lz4_and_zstd(&run), [10, 0]);
    write(&mut run, &mut other, 5..20);
    assert_eq!(lz4_and_zstd(&run), [5, 15]);
    // The other lane has its own compressor waiting, whole pages or not.
    assert!(run.patch(PageId(0), 100, b"part").is_some());
    run.model[0][100..104].copy_from_slice(b"part");
    assert_eq!(lz4_and_zstd(&run), [4, 16]);
    // A lane that begins now begins with it.
    let mut late = run.engine.lane();
    write(&mut run, &mut late, 1..2);
    assert_eq!(lz4_and_zstd(&run), [3, 17]);
    // Another zpool does not compress anything anew.
    let kind = other_zpool(&mut run);
    run.engine.set_zpool(kind);
    (0..100).for_each(|_| _ = run.step());
    assert_eq!(lz4_and_zstd(&run), [3, 17]);
    run.verify();
}

#[test]
fn pages_of_another_zpool_are_taken_over_and_move() {
    for (number, (zpool, to)) in pairs().enumerate() {
        let dir = Directory::new(&format!("other-zpool-{number}"));
        let mut run = Run::open(Setup { zpool, ..SMALL }, 12, Some(&dir));
        (0..1000).for_each(|_| run.act());
        let setup = Setup { zpool: to, ..SMALL };
        let options = EngineOptions {
            adopt: true,
            ..options(&setup, run.device.clone(), Some(&dir))
        };
        let (engine, report) = Engine::open(options).unwrap();
        assert!(report.adopted && report.pages_lost == 0, "{report:?}");
        assert_eq!(report.warnings, [""; 0]);
        (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
        run.engine.check();
        assert!(run.former_objects() > 20, "{}", run.former_objects());
        run.verify();
        run.step_until_moved();
        run.engine.check();
        run.verify();
        assert!(run.moved() > 0, "nothing moved");
    }
}
