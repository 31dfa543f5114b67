//! A pool so large that a census looks at a sample of it: still the oldest leave.

use super::*;

const MANY: u32 = 40_000;
const POOL: u64 = 150 << 20;

#[test]
fn the_oldest_leave_a_pool_that_is_too_large_for_a_whole_census() {
    for seed in seeds(2) {
        let setup = Setup {
            zpool: ZpoolKind::Zfit,
            codec: "none",
            pool_bytes_max: POOL,
            store_bytes: 48 << 20,
            ..SMALL
        };
        let mut run = Run::open_with(setup, seed, None, |options| {
            options.exports[0].size_bytes = u64::from(MANY) * PAGE as u64;
            options.high_mark_percent = 95;
            options.low_mark_percent = 80;
            options.store.as_mut().unwrap().segment_bytes = 1 << 20;
        });
        let mut written_at = vec![0u64; MANY as usize];
        let mut data = vec![0; PAGE];
        let mut write = |run: &mut Run, page: u32, time: u64| {
            data[..8].copy_from_slice(&(time + 1).to_le_bytes());
            let written = run.engine.write(&mut run.lane, PageId(page), &data);
            assert!(matches!(written, Ok(Write::Done(_))), "{page}: {written:?}");
            written_at[page as usize] = time;
        };
        // In order, so that what is old lies together; then at random, so that some does not.
        let full = (POOL / 100 * 94 / (PAGE as u64 + 8)) as u32;
        (0..full).for_each(|page| write(&mut run, page, page.into()));
        for time in 0..u64::from(full) / 4 {
            let page = run.random.below(u64::from(full)) as u32;
            write(&mut run, page, u64::from(full) + time);
        }
        for page in full.. {
            if run.stored_pages() > 0 {
                break;
            }
            write(&mut run, page, 2 * u64::from(full) + u64::from(page));
            while run.step() == Work::More {}
        }
        let table = &run.engine.tiers.table;
        let stored = |page: &u32| {
            matches!(
                table.peek(PageId(*page)).place(),
                crate::table::Place::Store(_)
            )
        };
        let stored: Vec<u32> = (0..MANY).filter(stored).collect();
        let mut oldest: Vec<u32> = (0..full).collect();
        oldest.sort_unstable_by_key(|&page| written_at[page as usize]);
        let last = written_at[oldest[stored.len() - 1] as usize];
        let wrong = stored
            .iter()
            .filter(|&&page| written_at[page as usize] > last)
            .count();
        assert!(stored.len() > 4000, "{} were written back", stored.len());
        let permille = wrong * 1000 / stored.len();
        assert!(
            permille <= 30,
            "seed {seed}: {permille} in 1000 were not the oldest"
        );
        run.engine.check();
    }
}
