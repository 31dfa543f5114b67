//! The process dies between any two accesses to the pool's memory. What the table knows by then, the
//! next process finds, whole, and so does the one after it if that one dies while it takes over.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::zpool::AdoptError;
use crate::zpool::conformance::{MemoryDir, seeds};
use crate::zpool::mapping::watch;

/// Accesses between two deaths, on average.
const ACCESSES_PER_DEATH: u64 = 150;

/// What a page table would know of an object.
type Known = (Handle, usize, Tag);

/// The table, the pool's file, and when to die.
struct Scene {
    dir: MemoryDir,
    shards: u64,
    known: Vec<Known>,
    random: Random,
    accesses_per_death: u64,
    deaths: u32,
    second_deaths: u32,
}

fn content((_, bytes, tag): Known) -> Vec<u8> {
    let mut random = Random::new(u64::from(tag.owner) << 20 | bytes as u64);
    (0..bytes).map(|_| random.word() as u8).collect()
}

fn file_options(path: &Path) -> ArenaOptions {
    ArenaOptions {
        path: Some(path.to_owned()),
        ..options(4096, 48)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("room for a copy");
}

impl Scene {
    /// The process may die here.
    fn access(&mut self) {
        if self.random.below(self.accesses_per_death) > 0 {
            return;
        }
        self.deaths += 1;
        let [first, second] = ["heir", "second heir"].map(|name| self.dir.file(name));
        copy(&self.dir.file("pool"), &first);
        let left = Rc::new(RefCell::new(self.random.below(2000)));
        let watcher = {
            let (left, first, second) = (Rc::clone(&left), first.clone(), second.clone());
            move || {
                let mut left = left.borrow_mut();
                *left = left.wrapping_sub(1);
                if *left == 0 {
                    copy(&first, &second);
                }
            }
        };
        self.judge(&watch::during(watcher, || self.adopt(&first)));
        if second.exists() {
            self.second_deaths += 1;
            self.judge(&self.adopt(&second));
            std::fs::remove_file(second).expect("the copy");
        }
    }

    fn adopt(&self, path: &Path) -> Pools {
        let arena = Arena::open(file_options(path)).expect("the predecessor's file");
        let heir = pools_of(arena, self.shards);
        for &(handle, bytes, tag) in &self.known {
            assert_eq!(heir.adopt(handle, bytes, tag), Ok(()), "{handle:?} {bytes}");
        }
        heir.adopted().expect("memory for a test");
        heir
    }

    /// Everything is there, and the pool is a good one.
    fn judge(&self, heir: &Pools) {
        heir.check();
        for &known in &self.known {
            let (handle, bytes, tag) = known;
            assert_eq!(heir.load(handle, bytes, &mut []), content(known));
            assert_eq!(heir.tag(handle, bytes), tag);
        }
        let more: Vec<_> = (0..20).filter_map(|_| heir.alloc(700, TAG).ok()).collect();
        for &(handle, bytes, _) in &self.known {
            heir.free(handle, bytes);
        }
        heir.check();
        more.into_iter().for_each(|handle| heir.free(handle, 700));
        heir.check();
        assert_eq!(heir.arena().used_frames(), 0);
    }
}

/// What the process does until it dies.
struct Life {
    pool: Pools,
    scene: Rc<RefCell<Scene>>,
    random: Random,
}

impl Life {
    /// A place with the object's bytes, of which the table does not know yet.
    fn put(&self, bytes: usize, tag: Tag) -> Option<Known> {
        let known = (self.pool.alloc(bytes, tag).ok()?, bytes, tag);
        self.pool.store(known.0, &content(known));
        Some(known)
    }

    fn add(&mut self, owner: u32) {
        let bytes = match self.random.below(8) {
            0 => 4096 - self.random.below(64),
            1..4 => 1 + self.random.below(64),
            _ => 1 + self.random.below(3000),
        };
        let stamp = self.random.word() as u16;
        if let Some(known) = self.put(bytes as usize, Tag { owner, stamp }) {
            self.scene.borrow_mut().known.push(known);
        }
    }

    fn remove(&mut self) {
        let count = self.scene.borrow().known.len() as u64;
        if count > 0 {
            let index = self.random.below(count) as usize;
            let (handle, bytes, _) = self.scene.borrow_mut().known.swap_remove(index);
            self.pool.free(handle, bytes);
        }
    }

    fn compact(&self) {
        let mut residents = Vec::new();
        self.pool.isolate(&mut |resident| residents.push(resident));
        for resident in residents {
            let find = |known: &Known| known.0 == resident.handle;
            let index = self.scene.borrow().known.iter().position(find);
            let index = index.expect("a reported object is known");
            let (old, bytes, tag) = self.scene.borrow().known[index];
            let Some(moved) = self.put(bytes, tag) else {
                break;
            };
            self.scene.borrow_mut().known[index] = moved;
            self.pool.free(old, bytes);
        }
        self.pool.settle();
    }

    fn step(&mut self, owner: u32, share_added: u64) {
        if self.random.below(200) == 0 {
            // As another thread, whose shard takes regions of the one that has most.
            let shards = self.scene.borrow().shards;
            turn::take(self.random.below(shards) as usize, shards as usize);
        }
        match self.random.below(100) {
            at if at < share_added => self.add(owner),
            ..93 => self.remove(),
            93..97 => self.compact(),
            97 => self.pool.arena().release_free(self.random.below(20) as u32),
            _ => _ = self.pool.stats(),
        }
    }
}

/// A life in a new pool, and what is watched of it.
fn life(seed: u64, shards: u64, accesses_per_death: u64) -> (Life, Rc<RefCell<Scene>>) {
    println!("seed {seed}");
    let dir = MemoryDir::new(&format!("zfit-crash-{seed}-{accesses_per_death}"));
    let arena = Arena::create(file_options(&dir.file("pool"))).unwrap();
    let scene = Rc::new(RefCell::new(Scene {
        dir,
        shards,
        known: Vec::new(),
        random: Random::new(!seed),
        accesses_per_death,
        deaths: 0,
        second_deaths: 0,
    }));
    let life = Life {
        pool: pools_of(arena, shards),
        scene: Rc::clone(&scene),
        random: Random::new(seed),
    };
    (life, scene)
}

fn watched(scene: &Rc<RefCell<Scene>>, work: impl FnOnce()) {
    let scene = Rc::clone(scene);
    watch::during(move || scene.borrow_mut().access(), work);
}

#[test]
fn whenever_the_process_dies_the_next_finds_every_object() {
    for seed in seeds(4) {
        let (mut life, scene) = life(seed, 1 + seed % 3, ACCESSES_PER_DEATH);
        for owner in 0..1500 {
            // Grows at first, then shrinks.
            let share_added = if owner < 900 { 60 } else { 40 };
            watched(&scene, || life.step(owner, share_added));
        }
        life.pool.check();
        let (deaths, second_deaths) = (scene.borrow().deaths, scene.borrow().second_deaths);
        println!("died {deaths} times, {second_deaths} times in adoption too");
        assert!(
            deaths > 100 && second_deaths > 30,
            "{deaths}, {second_deaths}"
        );
    }
}

#[test]
fn whenever_it_dies_while_frames_of_a_region_go_and_come_the_next_finds_every_object() {
    let (life, scene) = life(1, 1, 1);
    let put = |owner| {
        let known = life.put(2040, Tag { owner, stamp: 0 }).expect("room");
        scene.borrow_mut().known.push(known);
    };
    // Two in each frame of a region and a half.
    (0..48).for_each(put);
    for frame in [7, 0, 15, 1, 20] {
        for _ in 0..2 {
            let here = |known: &Known| known.0.frame() == frame;
            let index = scene.borrow().known.iter().position(here);
            let (handle, bytes, _) = scene.borrow_mut().known.remove(index.expect("two"));
            watched(&scene, || life.pool.free(handle, bytes));
        }
        watched(&scene, || _ = life.pool.stats());
    }
    assert_eq!(life.pool.arena().used_frames(), 24 - 5);
    (48..58).for_each(|owner| watched(&scene, || put(owner)));
    assert_eq!(life.pool.arena().used_frames(), 24);
    life.pool.check();
    let scene = scene.borrow();
    println!(
        "died {} times, {} times in adoption too",
        scene.deaths, scene.second_deaths
    );
    assert!(scene.deaths > 300 && scene.second_deaths > 50);
}

#[test]
fn frames_that_nobody_needed_at_adoption_are_given_back_when_they_are_found() {
    let (life, scene) = life(1, 1, u64::MAX);
    let mut scene = scene.borrow_mut();
    for owner in 0..48 {
        let known = life.put(2040, Tag { owner, stamp: 0 }).expect("room");
        scene.known.push(known);
    }
    scene.known.retain(|known| known.0.frame() != 5);
    let path = scene.dir.file("heir");
    copy(&scene.dir.file("pool"), &path);
    let heir = scene.adopt(&path);
    assert_eq!(heir.arena().used_frames(), 24);
    // Nothing can be emptied, for all other frames are full.
    assert!(!heir.isolate(&mut |_| ()));
    assert_eq!(heir.arena().used_frames(), 23);
    scene.judge(&heir);
}

#[test]
fn whatever_words_say_adoption_ends_in_a_sound_pool() {
    for seed in seeds(60) {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let dir = MemoryDir::new(&format!("zfit-words-{seed}"));
        let path = dir.file("pool");
        let first = pools_of(Arena::create(file_options(&path)).unwrap(), 3);
        let sizes: Vec<_> = (0..200).map(|_| 1 + random.below(900) as usize).collect();
        let tag = |owner| Tag { owner, stamp: 0 };
        let mut handles = Vec::new();
        for (owner, &bytes) in sizes.iter().enumerate() {
            handles.extend(first.alloc(bytes, tag(owner as u32)));
        }
        for handle in &handles {
            spoil(first.arena(), *handle, &mut random);
        }
        let second = pools_of(Arena::open(file_options(&path)).unwrap(), 3);
        let mut adopted = Vec::new();
        for (owner, (&handle, &bytes)) in handles.iter().zip(&sizes).enumerate() {
            match second.adopt(handle, bytes, tag(owner as u32)) {
                Ok(()) => adopted.push((handle, bytes)),
                Err(AdoptError::BadHandle | AdoptError::Overlap) => {}
            }
        }
        second.adopted().expect("memory for a test");
        second.check();
        assert!(adopted.len() < handles.len(), "nothing was spoilt");
        for (handle, bytes) in adopted {
            second.free(handle, bytes);
            second.check();
        }
        assert_eq!(second.arena().used_frames(), 0);
    }
}

/// Bends the word in front of an object, now and then.
fn spoil(arena: &Arena, handle: Handle, random: &mut Random) {
    let word = arena.word_u64(arena.frame_at(handle.frame()) + handle.low() as usize * 8);
    let old = word.load(Relaxed);
    word.store(
        match random.below(10) {
            // Another length, or anything.
            0..3 => old ^ 1 << (2 + random.below(14)),
            3 => old & u64::from(u32::MAX) << 32 | random.word() & 0xffff_fffc,
            4 => random.word(),
            _ => old,
        },
        Relaxed,
    );
}
