//! What background work does when nobody writes: it comes to an end. And what it does under writers.

use super::*;

/// Steps until there is nothing to do, and says how many.
fn steps_until_idle(run: &mut Run, most: usize) -> usize {
    (0..most).take_while(|_| run.step() != Work::Idle).count()
}

#[test]
fn after_random_discards_every_zpool_is_tidied_in_so_many_steps() {
    for (zpool, page_bytes) in ZpoolKind::ALL
        .into_iter()
        .flat_map(|zpool| [(zpool, 4096), (zpool, 16_384)])
    {
        for seed in seeds(4) {
            let setup = Setup {
                zpool,
                page_bytes,
                pool_bytes_max: 500 * page_bytes as u64,
                store_bytes: 0,
                ..SMALL
            };
            let mut run = Run::new(setup, seed);
            for round in 0..6 {
                for index in 0..PAGES {
                    let page = PageId(index);
                    if run.random.below(3) > 0 {
                        let mut data = vec![0; page_bytes];
                        make_page(&mut run.random, &mut data);
                        let written = run.engine.write(&mut run.lane, page, &data).unwrap();
                        assert!(matches!(written, Write::Done(_)));
                        run.model[index as usize] = data;
                    }
                }
                for index in 0..PAGES {
                    if run.random.below(10) < 2 + round {
                        run.engine.discard(&mut run.lane, index..index + 1);
                        run.model[index as usize].fill(0);
                    }
                }
                let steps = steps_until_idle(&mut run, 1000);
                assert!(steps < 500, "{zpool:?}, seed {seed}: {steps} steps");
                run.engine.check();
                assert_eq!(run.step(), Work::Idle, "{zpool:?}, seed {seed}");
            }
            run.verify();
        }
    }
}

/// Writes every page, then pages at random, and in between does what is to be done. Returns the bytes in holes at the end, and how many
/// objects were moved.
fn holes_under_writers(pool_bytes_max: u64, low_mark_percent: u8, seed: u64) -> (u64, u64) {
    let setup = Setup {
        zpool: ZpoolKind::Zfit,
        pool_bytes_max,
        store_bytes: 0,
        ..SMALL
    };
    let mut run = Run::open_with(setup, seed, None, |options| {
        options.low_mark_percent = low_mark_percent;
    });
    let mut writes = 0;
    for round in 0..2000 {
        let index = match u32::try_from(round) {
            Ok(index) if index < PAGES => index,
            _ => run.random.below(PAGES.into()) as u32,
        };
        let mut data = vec![0; PAGE];
        make_page(&mut run.random, &mut data);
        let written = run.engine.write(&mut run.lane, PageId(index), &data);
        assert!(matches!(written, Ok(Write::Done(_))));
        run.model[index as usize] = data;
        writes += 1;
        // The clock knows of writes a few at a time.
        if round % 32 == 0 {
            while run.step() == Work::More {}
        }
    }
    run.engine.check();
    run.verify();
    let moved = run.engine.snapshot().writeback.pages_compacted.get();
    assert!(moved <= 2 * writes, "{moved} moves for {writes} writes");
    let pool = run.engine.snapshot().pool.stats;
    (pool.block_bytes - pool.slot_bytes, moved)
}

#[test]
fn a_pool_that_is_nearly_full_is_kept_dense_under_writers() {
    for seed in seeds(3) {
        let pool_bytes_max = 2 << 20;
        let (loose, moved) = holes_under_writers(pool_bytes_max, 89, seed);
        assert_eq!(moved, 0, "there is room below the low mark");
        let (dense, moved) = holes_under_writers(pool_bytes_max, 1, seed);
        assert!(moved > 0, "seed {seed}: nothing moved");
        assert!(
            dense < loose,
            "seed {seed}: {dense} in holes, {loose} if none moves"
        );
    }
}
