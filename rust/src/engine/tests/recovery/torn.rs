//! Writes that loss of power tore, seen by one recovery and by the next.

use super::*;
use crate::store::{BLOCK_BYTES, TOMBSTONE_MAGIC};

/// Overwrites pages and flushes until they are in a segment that was in use before. The images before and after, and
/// where that segment begins.
fn write_into_a_buried_segment(run: &mut Run) -> (Vec<u8>, Vec<u8>, usize) {
    for _ in 0..100 {
        let before = run.sim().image();
        for page in FIRST..FIRST + 5 {
            assert!(run.write_noise(PageId(page)));
        }
        assert_eq!(run.flush(), Ok(()));
        let (at, _) = run.record(FIRST);
        let start = at / SEGMENT as usize * SEGMENT as usize;
        if before[start..].starts_with(&TOMBSTONE_MAGIC) {
            return (before, run.sim().image(), start);
        }
    }
    panic!("no segment is used again");
}

/// What the pages read as.
fn found(run: &mut Run) -> Vec<Vec<u8>> {
    let pages = FIRST..FIRST + 5;
    pages
        .map(|page| run.read(PageId(page)).expect("nothing of it is damaged"))
        .collect()
}

#[test]
fn a_torn_segment_that_one_recovery_ignored_is_not_believed_by_the_next() {
    // The first took the head of an earlier use, and the second, after a torn punch, the tail of the torn write:
    // pages went back to what a client had been told was lost.
    let mut run = durable_run(1);
    let (before, after, start) = write_into_a_buried_segment(&mut run);
    // All of the write landed but its first sector.
    let mut torn = after.clone();
    torn[start..start + 512].copy_from_slice(&before[start..start + 512]);
    let (mut next, report) = recover(run.setup, torn.clone());
    assert_eq!(report.pages_lost, 0);
    let first = found(&mut next);
    assert_ne!(first[0], run.model[FIRST as usize], "it was never whole");
    assert_eq!(next.flush(), Ok(()));
    for _ in 0..200 {
        next.step();
    }
    // Whatever the server gave back behind the tombstone did not land.
    let mut image = next.sim().image();
    let behind = start + BLOCK_BYTES..start + SEGMENT as usize;
    image[behind.clone()].copy_from_slice(&torn[behind]);
    let (mut last, _) = recover(run.setup, image);
    assert_eq!(found(&mut last), first, "after a flush that was answered");
}

#[test]
fn a_write_that_is_torn_over_another_use_of_its_segment_costs_no_page() {
    // Of each sector of the write it is chance whether it landed, for many chances.
    let mut run = durable_run(2);
    for page in LAST..LAST + 20 {
        assert!(run.write_noise(PageId(page)));
    }
    let (before, after, _) = write_into_a_buried_segment(&mut run);
    let changed: Vec<usize> = (0..after.len() / 512)
        .filter(|sector| before[sector * 512..][..512] != after[sector * 512..][..512])
        .collect();
    assert!(changed.len() > 20);
    let mut random = Random::new(3);
    for _ in 0..100 {
        let mut image = before.clone();
        for sector in changed.iter().filter(|_| random.below(2) == 0) {
            let range = sector * 512..(sector + 1) * 512;
            image[range.clone()].copy_from_slice(&after[range]);
        }
        let (mut next, report) = recover(run.setup, image);
        assert_eq!(report.pages_lost, 0);
        for page in (LAST..LAST + 20).map(PageId) {
            let found = next.read(page).expect("it was flushed before");
            assert!(found == run.model[page.0 as usize], "{page} is another one");
        }
        found(&mut next);
    }
}

/// A server is killed in the middle of a write, and the next one finds a mark in what landed of it.
#[test]
fn a_mark_from_a_write_that_a_kill_cut_short_does_not_make_that_whole() {
    // The mark lived there, so that the segment was not in doubt and the log was soon called whole beyond it. A recovery
    // then took for damaged records what an earlier use of the segment had left behind the end of the write.
    let dir = Directory::new("torn-mark");
    let setup = Setup {
        codec: "none",
        ..SMALL
    };
    let durable = |options: &mut EngineOptions| options.exports[1].is_durable = true;
    let mut run = Run::open_with(setup, 5, Some(&dir), durable);
    for page in FIRST..FIRST + 5 {
        assert!(run.write_noise(PageId(page)));
    }
    assert_eq!(run.flush(), Ok(()));
    let (kept, _) = run.record(FIRST + 4);
    run.engine.discard(&mut run.lane, FIRST..FIRST + 1);
    run.model[FIRST as usize].fill(0);
    for page in FIRST + 1..FIRST + 4 {
        assert!(run.write_noise(PageId(page)));
    }
    run.engine.dispatch().open();
    run.engine.flush(ExportId(1)).expect("it is durable");
    while !run.engine.dispatch().write_next(&run.engine.tiers) {
        run.step();
    }
    // The position, the mark and one page landed.
    let (start, bytes) = *run.sim().writes().last().unwrap();
    let end = start as usize + 48 + 24 + 24 + 16 + PAGE;
    let mut image = run.sim().image();
    image[end..start as usize + bytes].fill(0);
    image.copy_within(kept..kept + 16, end);

    let device = Arc::new(SimDevice::from_image(image, 1));
    run.device = Some(Arc::clone(&device));
    let mut options = options(&setup, Some(device), Some(&dir));
    durable(&mut options);
    run.take_over(options);
    assert_eq!(run.flush(), Ok(()));
    // How far the log is whole stands in what is written next.
    assert!(run.write_noise(PageId(FIRST + 3)));
    assert_eq!(run.flush(), Ok(()));
    run.verify();
    let (mut next, report) = recover(setup, run.sim().image());
    assert_eq!(report.pages_lost, 0);
    for page in FIRST..FIRST + 5 {
        assert_eq!(next.read(PageId(page)).unwrap(), run.model[page as usize]);
    }
}
