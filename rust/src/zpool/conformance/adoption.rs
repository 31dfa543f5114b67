//! The next process: it finds what there was, and nothing else.

use std::os::unix::fs::MetadataExt;

use super::{Make, MemoryDir, Model, Random, Suite, seeds};
use crate::error::Error;
use crate::zpool::{
    AdoptError, Arena, ArenaOptions, CHAIN_FRAMES_MAX_ALLOWED, HANDLE_BITS, Handle, Pools, Sweep,
    Tag, Zpool, ZpoolKind, ZpoolStats,
};

impl Suite<'_> {
    fn file_options(&self, dir: &MemoryDir, frames: u64) -> ArenaOptions {
        ArenaOptions {
            path: Some(dir.file("pool")),
            ..self.options(frames)
        }
    }

    fn dir(&self, name: &str) -> MemoryDir {
        let (zpool, frame_bytes, unit_bytes) =
            (self.zpool.name(), self.frame_bytes, self.unit_bytes);
        MemoryDir::within(
            &self.parent,
            &format!("{zpool}-{frame_bytes}-{unit_bytes}-{name}"),
        )
    }

    pub(super) fn memory_held_is_what_the_system_counts(&self) {
        let dir = self.dir("held");
        let options = self.file_options(&dir, 3000);
        let counted = || {
            let file = dir.file("pool").metadata().expect("the pool's file");
            file.blocks() * 512
        };
        let first = created(self.make, &options);
        let sweep = |pool: &dyn Zpool| {
            pool.sweep(&mut Sweep::default(), u32::MAX, &mut |_| ());
            pool.check();
        };
        sweep(&first);
        assert_eq!(first.arena().held_bytes(), counted(), "an empty pool");
        let mut model = Model::new(&first, Random::new(12));
        model.alloc_some(700);
        model.free_some(300);
        sweep(&first);
        assert_eq!(first.arena().held_bytes(), counted(), "after growth");
        first.arena().release_free(3);
        assert_eq!(first.arena().held_bytes(), counted(), "after release");
        let second = opened(self.make, &options);
        let mut model = model.over(&second);
        // The rest was freed in the table before the predecessor died: nobody claims it.
        model.objects.truncate(200);
        for object in &model.objects {
            assert_eq!(
                second.adopt(object.handle, object.bytes, object.tag),
                Ok(())
            );
        }
        second.adopted().expect("memory for a test");
        sweep(&second);
        assert_eq!(second.arena().held_bytes(), counted(), "after adoption");
        model.verify();
        assert_eq!(second.arena().held_bytes(), counted(), "after reading all");
    }

    pub(super) fn a_successor_finds_every_object(&self) {
        for populate in [false, true] {
            let dir = self.dir("successor");
            let options = self.file_options(&dir, 300);
            let first = created(self.make, &options);
            let mut model = Model::new(&first, Random::new(8));
            while model.alloc_random().is_ok() {}
            model.free_some(model.len() / 3);
            let before = first.stats();
            let allowed = CHAIN_FRAMES_MAX_ALLOWED;
            let is_longest = options.chain_frames_max == *allowed.end();
            let chain_frames_max = if is_longest {
                *allowed.start()
            } else {
                *allowed.end()
            };
            // The first pool stays mapped: a killed process tidies nothing up either.
            let second = opened(
                self.make,
                &ArenaOptions {
                    populate,
                    chain_frames_max,
                    ..options
                },
            );
            let chain_frames_max = second.arena().options().chain_frames_max;
            assert_eq!(
                chain_frames_max, self.chain_frames_max,
                "as it was laid out"
            );
            for object in &model.objects {
                assert_eq!(
                    second.adopt(object.handle, object.bytes, object.tag),
                    Ok(())
                );
                let again = second.adopt(object.handle, object.bytes, object.tag);
                assert_eq!(again, Err(AdoptError::Overlap));
            }
            second.adopted().expect("memory for a test");
            second.check();
            // What is kept of holes depends on how they came about.
            let found = second.stats();
            let mut wanted = ZpoolStats {
                index_bytes: found.index_bytes,
                ..before
            };
            if self.zpool == ZpoolKind::Zfit && found.block_bytes < before.block_bytes {
                // Nobody claims a region whose last slots wait to be taken again.
                let is_about_so = before.block_bytes - found.block_bytes < before.block_bytes / 64;
                assert!(is_about_so, "{before:?} {found:?}");
                wanted.block_bytes = found.block_bytes;
            }
            assert_eq!(found, wanted);
            let mut model = model.over(&second);
            model.verify();
            while model.alloc_random().is_ok() {}
            model.verify();
            model.free_all();
        }
    }

    pub(super) fn a_successor_refuses_what_cannot_be(&self) {
        let dir = self.dir("refuse");
        let options = self.file_options(&dir, 64);
        let first = created(self.make, &options);
        let tag = Tag { owner: 1, stamp: 2 };
        let small = first.alloc(8, tag).unwrap();
        let large = first.alloc(self.frame_bytes, tag).unwrap();
        let wrong = [
            ArenaOptions {
                instance: 8,
                ..options.clone()
            },
            ArenaOptions {
                pool_bytes_max: options.pool_bytes_max * 2,
                ..options.clone()
            },
        ];
        for options in wrong {
            let refusal = Arena::open(options)
                .err()
                .expect("it is not what is wanted");
            assert!(matches!(
                refusal,
                Error::Foreign { .. } | Error::Misfit { .. }
            ));
        }
        let second = opened(self.make, &options);
        let refused =
            |handle, bytes| second.adopt(handle, bytes, tag) == Err(AdoptError::BadHandle);
        let frame = |frame: u64| Handle(frame << 12);
        assert!(
            refused(Handle(1 << HANDLE_BITS), 8),
            "more bits than a handle has"
        );
        assert!(
            refused(frame(second.arena().frames().into()), 8),
            "a frame behind the end"
        );
        assert!(refused(frame(60), 8), "a frame of no block");
        assert!(
            refused(Handle(small.0 | 0xfff), 8),
            "a slot behind the last"
        );
        assert!(
            refused(Handle(large.0 + 1), 8),
            "a second slot in a whole frame"
        );
        assert!(
            refused(small, self.frame_bytes),
            "an object larger than its slot"
        );
        assert!(refused(small, 0), "an object of nothing");
        assert_eq!(second.adopt(large, self.frame_bytes, tag), Ok(()));
        // `small` is claimed by nobody, so its block is free for others.
        second.adopted().expect("memory for a test");
        second.check();
        assert_eq!(second.arena().used_frames(), 1);
        assert_eq!(second.tag(large, self.frame_bytes), tag);
    }

    /// Whatever side words, heads and handles say, adoption ends in a sound pool.
    pub(super) fn a_successor_survives_garbage(&self) {
        for seed in seeds(8) {
            let mut random = Random::new(seed);
            let dir = self.dir("garbage");
            let options = self.file_options(&dir, 64);
            let first = created(self.make, &options);
            let mut model = Model::new(&first, Random::new(seed));
            model.alloc_some(60);
            spoil(first.arena(), &mut random);
            let second = opened(self.make, &options);
            let mut adopted = 0;
            for owner in 0..400 {
                let slot = random.below(4) * random.below(64);
                let handle = Handle(random.below(70) << 12 | slot);
                let bytes = 1 + random.below(self.frame_bytes as u64) as usize;
                adopted += u64::from(second.adopt(handle, bytes, Tag { owner, stamp: 0 }).is_ok());
            }
            second.adopted().expect("memory for a test");
            println!("seed {seed}: {adopted} of 400 wild handles led somewhere");
            second.check();
            assert_eq!(second.stats().objects, adopted);
        }
    }
}

fn created(make: Make, options: &ArenaOptions) -> Pools {
    make(Arena::create(options.clone()).expect("memory for a test"))
}

fn opened(make: Make, options: &ArenaOptions) -> Pools {
    make(Arena::open(options.clone()).expect("the predecessor's file"))
}

/// Exchanges, bends and overwrites some side words.
fn spoil(arena: &Arena, random: &mut Random) {
    use std::sync::atomic::Ordering::Relaxed;
    for _ in 0..24 {
        let frame = random.below(64) as u32;
        let other = arena.side(random.below(64) as u32).load(Relaxed);
        let word = match random.below(3) {
            0 => other,
            1 => arena.side(frame).load(Relaxed) ^ 1 << random.below(64),
            _ => random.word(),
        };
        arena.side(frame).store(word, Relaxed);
    }
}
