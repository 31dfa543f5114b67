//! What background work does when nobody writes: it comes to an end.

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
