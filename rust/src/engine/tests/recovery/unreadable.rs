//! Blocks of the backing file that cannot be read, when a server takes over what a killed one left.

use super::*;

/// A server that is killed, and the next one, for which one block cannot be read.
fn adopted_with_a_bad_block(name: &str, bad: impl FnOnce(&Run) -> usize) -> (Run, OpenReport) {
    let dir = Directory::new(name);
    let setup = Setup {
        codec: "none",
        ..SMALL
    };
    let is_durable = |options: &mut EngineOptions| options.exports[1].is_durable = true;
    let mut run = Run::open_with(setup, 1, Some(&dir), is_durable);
    for page in (0..100).chain(FIRST..LAST) {
        assert!(run.write_noise(PageId(page)));
    }
    assert_eq!(run.flush(), Ok(()));
    let at = (bad(&run) / 4096 * 4096) as u64;
    run.sim().break_range(at..at + 4096);
    let mut options = options(&run.setup, run.device.clone(), Some(&dir));
    is_durable(&mut options);
    let report = run.take_over(options);
    (run, report)
}

fn check(mut run: Run, report: &OpenReport, failed_max: usize) {
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("cannot be read")),
        "{:?}",
        report.warnings
    );
    assert_eq!(report.pages_lost, 0);
    let pages = (0..100).chain(FIRST..LAST).map(PageId);
    let mut failed = 0;
    for page in pages.clone() {
        match run.read(page) {
            Ok(found) => assert!(found == run.model[page.0 as usize], "{page}"),
            Err(_) => failed += 1,
        }
    }
    assert!(failed <= failed_max, "{failed} pages fail");
    // What is written from now on survives loss of the host.
    run.sim().heal();
    for page in FIRST..LAST {
        assert!(run.write_noise(PageId(page)));
    }
    assert_eq!(run.flush(), Ok(()));
    run.engine.check();
    let (mut next, _) = recover(run.setup, run.sim().image());
    for page in (FIRST..LAST).map(PageId) {
        assert!(
            next.read(page).unwrap() == run.model[page.0 as usize],
            "{page}"
        );
    }
}

#[test]
fn a_bad_block_in_the_list_of_a_segment_does_not_keep_the_server_from_starting() {
    let (run, report) = adopted_with_a_bad_block("bad-list", |run| {
        let (at, _) = run.record(FIRST);
        list_of(&run.sim().image(), at).start
    });
    // A page for each block, and those of the block around the list.
    check(run, &report, 3);
}

#[test]
fn a_bad_block_at_the_beginning_of_a_free_segment_does_not_keep_the_server_from_starting() {
    let (run, report) =
        adopted_with_a_bad_block("bad-free", |run| run.sim().image().len() - SEGMENT as usize);
    check(run, &report, 0);
}
