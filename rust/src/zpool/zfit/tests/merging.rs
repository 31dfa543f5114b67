//! Objects between short holes go where they fit exactly, and what they leave is of use.

use super::*;

/// Takes the objects at some places of the model out.
fn free(pool: &Pools, model: &mut Model<'_>, places: &[usize]) {
    for &place in places.iter().rev() {
        let object = model.objects.remove(place);
        pool.free(object.handle, object.bytes);
    }
}

/// Objects of these lengths one after the other, some of which go again.
fn neighbours<'a>(pool: &'a Pools, bytes: &[usize], freed: &[usize]) -> Model<'a> {
    let mut model = Model::new(pool, Random::new(1));
    (bytes.iter()).for_each(|&bytes| _ = model.alloc(bytes).expect("room"));
    free(pool, &mut model, freed);
    // It waits no more to be taken again.
    pool.settle();
    model
}

/// Owners of the objects that are to be moved.
fn reported(pool: &Pools) -> Vec<u32> {
    let mut owners = Vec::new();
    pool.isolate(&mut |resident| owners.push(resident.tag.owner));
    owners
}

#[test]
fn an_object_between_short_holes_goes_where_it_fits_exactly() {
    let pool = pools(4096, 64, 1);
    // The second but last is as long as the first, and between short holes; the others are beside none.
    let lengths = [1000, 1500, 1000, 1500, 200, 1000, 200, 1500];
    let mut model = neighbours(&pool, &lengths, &[0, 4, 6]);
    let between = model.objects[3].tag.owner;
    assert_eq!(model.compact(), Some(1));
    pool.settle();
    let moved = model.objects.iter().find(|it| it.tag.owner == between);
    let last_but_one = model.objects[1].handle;
    assert!(
        moved.unwrap().handle.0 < last_but_one.0,
        "it is at the start"
    );
    let frames = pool.arena().used_frames();
    model.alloc(1400).expect("room in the hole that it left");
    assert_eq!(pool.arena().used_frames(), frames);
    pool.check();
    model.verify();
    model.free_all();
}

#[test]
fn an_object_without_a_place_as_long_stays_where_it_is() {
    let pool = pools(4096, 64, 1);
    let lengths = [1100, 1500, 1000, 1500, 200, 1000, 200, 1500];
    let mut model = neighbours(&pool, &lengths, &[0, 4, 6]);
    assert!(
        reported(&pool).is_empty(),
        "the hole at the start is longer"
    );
    pool.check();
    model.free_all();
}

#[test]
fn what_was_moved_in_vain_is_left_alone_until_holes_change() {
    let pool = pools(4096, 64, 1);
    let lengths = [1000, 1500, 1000, 1500, 200, 1000, 200, 1500];
    let mut model = neighbours(&pool, &lengths, &[0, 4, 6]);
    assert_eq!(reported(&pool), [model.objects[3].tag.owner]);
    pool.settle();
    assert!(reported(&pool).len() != 1, "nobody moved it");
    pool.settle();
    model.alloc(180).expect("room in a short hole");
    model.free_random();
    pool.settle();
    while model.compact().is_some() {
        pool.settle();
    }
    pool.check();
    model.verify();
    model.free_all();
}

/// Sizes of all kinds overwritten at random leave holes beside every third object. All but a few go when objects move.
#[test]
fn compaction_after_overwrites_leaves_one_hole_for_a_dozen_objects() {
    for seed in seeds(3) {
        let pool = pools(4096, 4096, 1);
        let mut model = Model::new(&pool, Random::new(seed));
        model.alloc_some(3000);
        for _ in 0..9000 {
            model.alloc_random().expect("room");
            model.free_random();
        }
        let holes = || {
            let mut holes = 0;
            pool.classes(&mut |class| holes += class.slots - class.slots_used);
            holes
        };
        let before = holes();
        let rounds = (0..4000).take_while(|_| {
            let found = model.compact().is_some_and(|moved| moved > 0);
            pool.settle();
            found
        });
        let rounds = rounds.count();
        assert!(rounds < 4000, "seed {seed}: compaction without an end");
        let after = holes();
        println!("seed {seed}: {before} holes, {after} after {rounds} rounds");
        assert!(
            after <= 3000 / 12,
            "seed {seed}: {before} holes, then {after}"
        );
        pool.check();
        model.verify();
        model.free_all();
    }
}
