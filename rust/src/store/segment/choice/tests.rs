use super::super::super::layout::Shape;
use super::super::Reason;
use super::*;

const SEGMENT_BYTES: u32 = 64 << 10;

/// Segments of these living bytes, written in this order, each full of records.
fn segments(lives: &[u32]) -> Segments {
    let segments = Segments::new(lives.len() as u32 + 8, 1, 1, false);
    segments.list_free(false);
    for live in lives {
        write(&segments, *live);
    }
    segments
}

fn write(segments: &Segments, live: u32) -> SegmentIndex {
    let index = segments.take(Reason::Cleaning).unwrap();
    let shape = Shape {
        records: 30,
        records_bytes: 60_000,
    };
    let sequence = segments.next_sequence();
    segments.written(index, sequence, shape);
    segments.retain(index, live);
    segments.seal(index);
    index
}

fn all(segments: &Segments, choice: Choice, most: u32) -> Vec<u32> {
    let mut candidates = Candidates::default();
    std::iter::from_fn(|| segments.victim(&mut candidates, choice, most, SEGMENT_BYTES))
        .map(|index| index.0)
        .collect()
}

#[test]
fn in_need_the_emptiest_go_first_and_each_is_named_once() {
    let segments = segments(&[30_000, 10_000, 60_000, 20_000, 50_000]);
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [1, 3, 0]);
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [0u32; 0]);
    segments.spare(SegmentIndex(3));
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [3]);
    // Full of living records: to copy them would free nothing.
    assert_eq!(all(&segments, Choice::Emptiest, 62_000), [4]);
}

#[test]
fn what_waits_for_a_checkpoint_is_not_named_before_that() {
    let segments = Segments::new(6, 1, 1, true);
    segments.list_free(false);
    let lives = [10_000, 20_000, 30_000, 40_000];
    let indexes = lives.map(|live| write(&segments, live));
    segments.outlived(indexes[0]);
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [1, 2, 3]);
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [0u32; 0]);
    segments.end_checkpoint(segments.begin_checkpoint());
    assert_eq!(all(&segments, Choice::Emptiest, 49_152), [0]);
}

#[test]
fn ahead_of_need_an_old_segment_goes_before_an_emptier_young_one() {
    let lives: Vec<u32> = (0..100)
        .map(|n| if n == 0 { 40_000 } else { 55_000 })
        .collect();
    let segments = segments(&lives);
    let young = write(&segments, 30_000);
    // 0.39 * 10.05 / 1.61 against 0.54 * 1 / 1.46.
    assert_eq!(all(&segments, Choice::Benefit, 49_152), [0, young.0]);
    let emptiest = write(&segments, 1_000);
    segments.spare(SegmentIndex(0));
    // 0.39 * 10.1 / 1.61 against 0.98 * 1 / 1.02; the young one had its turn.
    assert_eq!(all(&segments, Choice::Benefit, 49_152), [0, emptiest.0]);
}

#[test]
fn more_segments_than_one_walk_finds_are_named_in_walks() {
    let lives: Vec<u32> = (0..200).map(|n| 1000 + n * 13 % 200 * 8).collect();
    let named = all(&segments(&lives), Choice::Emptiest, 49_152);
    let lives_named: Vec<u32> = named.iter().map(|n| lives[*n as usize]).collect();
    assert_eq!(named.len(), 200);
    assert!(lives_named.is_sorted(), "{lives_named:?}");
}

#[test]
fn what_changed_since_the_walk_is_not_named() {
    let segments = segments(&[10_000, 20_000, 30_000]);
    let mut candidates = Candidates::default();
    let mut next = || segments.victim(&mut candidates, Choice::Emptiest, 49_152, SEGMENT_BYTES);
    assert_eq!(next(), Some(SegmentIndex(0)));
    segments.release(SegmentIndex(1), 20_000);
    // Freed, and used again by what lives wholly.
    let reused = write(&segments, 60_000);
    assert_eq!(reused, SegmentIndex(1));
    assert_eq!(next(), Some(SegmentIndex(2)));
    assert_eq!(next(), None);
}
