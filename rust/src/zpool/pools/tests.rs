//! Former pools: how long they are looked at.

use super::*;
use crate::zpool::conformance::{Model, Random, Suite, seeds};

fn pools(zpool: ZpoolKind, frames: u64) -> Pools {
    let make = |arena| Pools::new(arena, zpool);
    let suite = Suite::new(zpool, &make, 4096);
    suite.pool(frames)
}

#[test]
fn a_former_pool_is_retired_when_it_is_empty_and_not_before() {
    let [first, second, ..] = ZpoolKind::ALL;
    let pool = pools(first, 40);
    let tag = Tag { owner: 1, stamp: 0 };
    let handle = pool.alloc(100, tag).unwrap();
    pool.set_current(second);
    pool.retire();
    assert_eq!(pool.former().collect::<Vec<_>>(), [first]);
    assert!(pool.alloc_in_current(pool.object_bytes_max(), tag).is_ok());
    pool.free(handle, 100);
    pool.retire();
    assert_eq!(pool.former().next(), None);
    // A writer that still takes the first one for the current one.
    let late = pool.alloc_in(first, 100, tag).unwrap();
    assert_eq!(pool.former().collect::<Vec<_>>(), [first]);
    pool.check();
    pool.free(late, 100);
}

#[test]
fn no_object_hides_in_a_pool_that_is_being_retired() {
    for seed in seeds(4) {
        let pool = pools(ZpoolKind::ALL[0], 200);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let pool = &pool;
                scope.spawn(move || {
                    let random = Random::new(seed << 8 | thread);
                    let mut model = Model::new(pool, random).owners_from(thread << 24);
                    for _ in 0..3000 {
                        // Hardly ever more than a few objects, so that pools empty all the time.
                        model.alloc_some(1);
                        model.free_some(if model.len() > 3 { 2 } else { 1 });
                    }
                    model.verify();
                });
            }
            scope.spawn(|| {
                for round in 0..3000 {
                    pool.set_current(ZpoolKind::ALL[round % ZpoolKind::ALL.len()]);
                    pool.retire();
                }
            });
        });
        // Panics if a pool that nobody looks at holds something.
        pool.check();
    }
}
