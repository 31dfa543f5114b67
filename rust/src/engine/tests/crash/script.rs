//! What the process does before it dies.

use std::fmt;

use super::model::{Content, Model};
use super::*;

/// Pages that scripts change: more than the pool holds. Those from [`SECOND`] on are of the second export.
pub(super) const CHANGED: u32 = 80;

/// One thing that a process does.
#[derive(Clone)]
pub(super) enum Op {
    /// Bytes at an offset of a page; a whole page if they are as long.
    Write(u32, usize, Vec<u8>),
    Zero(u32),
    Discard(Range<u32>),
    Read(u32),
    /// Background work until there is no more, but at most so many steps.
    Steps(u32),
    Scrub,
    Zpool(ZpoolKind),
    Codec(&'static str),
    /// The second export's.
    Flush,
    /// The next sync fails.
    FailSync,
}

fn noise(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.bits() as u8).collect()
}

/// So many operations of all kinds, with flushes if the second export is durable.
pub(super) fn random(seed: u64, count: usize, is_durable: bool) -> Vec<Op> {
    let mut random = Random::new(seed);
    let kinds = if is_durable { 24 } else { 20 };
    (0..count).map(|_| one(&mut random, kinds)).collect()
}

fn one(random: &mut Random, kinds: u64) -> Op {
    let page = random.below(u64::from(CHANGED)) as u32;
    match random.below(kinds) {
        0..10 => {
            let mut data = vec![0; PAGE];
            make_page(random, &mut data);
            Op::Write(page, 0, data)
        }
        10 => {
            let bytes = 1 + random.below(PAGE as u64 - 1000) as usize;
            Op::Write(page, random.below(1000) as usize, noise(random, bytes))
        }
        11 => Op::Zero(page),
        12 => {
            let end = if page < SECOND { SECOND } else { CHANGED };
            Op::Discard(page..(page + 6).min(end))
        }
        13..15 => Op::Read(page),
        15..18 => Op::Steps(1 + random.below(4) as u32),
        18 => match random.below(4) {
            0 => Op::Scrub,
            1 => Op::Codec(["lz4", "zstd", "none", "lzo"][page as usize % 4]),
            _ => Op::Zpool(ZpoolKind::ALL[page as usize % ZpoolKind::ALL.len()]),
        },
        19 => Op::Write(page, 0, noise(random, PAGE)),
        20..23 => Op::Flush,
        _ => Op::FailSync,
    }
}

/// Fills pool and store, so that what follows meets write-back and cleaning.
pub(super) fn filling() -> Vec<Op> {
    let mut random = Random::new(12);
    let mut ops = Vec::new();
    for _ in 0..2 {
        for page in 0..CHANGED {
            let mut data = noise(&mut random, PAGE);
            data[2800 + page as usize * 12..].fill(0);
            ops.push(Op::Write(page, 0, data));
            if page % 3 == 0 {
                ops.push(Op::Read(page));
            }
            ops.push(Op::Steps(1));
        }
    }
    ops
}

/// A little of everything, in a fixed order.
pub(super) fn all_sorts() -> Vec<Op> {
    let mut random = Random::new(13);
    let mut ops = filling();
    for (number, zpool) in ZpoolKind::ALL.into_iter().enumerate() {
        let page = 7 * number as u32;
        ops.extend([
            Op::Zpool(zpool),
            Op::Codec(["lz4", "zstd", "none", "lzo", "deflate"][number]),
            Op::Discard(page..page + 9),
            Op::Steps(6),
            Op::Zero(page + 20),
            Op::Write(page + 2, 0, noise(&mut random, PAGE)),
            Op::Write(page + 2, 1000, noise(&mut random, 500)),
            // In the store, most likely: it is fetched first.
            Op::Write(page + 40, 10, noise(&mut random, 100)),
            Op::Scrub,
            Op::Steps(20),
        ]);
    }
    ops
}

/// What is peculiar to a durable export: flushes of which some fail, pages without an object, and segments that
/// are written over, again and again.
pub(super) fn flushes() -> Vec<Op> {
    let mut random = Random::new(14);
    let mut ops = vec![Op::Flush];
    for round in 0..5 {
        let page = SECOND + 7 * round;
        let mut write = |page, offset, bytes| Op::Write(page, offset, noise(&mut random, bytes));
        ops.extend([
            write(page, 0, PAGE),
            Op::Discard(page + 1..page + 4),
            Op::Zero(page + 4),
            write(page + 5, 10, 100),
            Op::Flush,
            write(page, 0, PAGE),
            write(page + 1, 0, 500),
            Op::Steps(9),
            Op::FailSync,
            Op::Flush,
            write(page + 2, 0, PAGE),
            Op::Discard(page..page + 1),
            Op::Steps(9),
            Op::Flush,
            write(page + 5, 0, PAGE),
            write(round, 0, PAGE),
            Op::Zpool(ZpoolKind::ALL[round as usize % ZpoolKind::ALL.len()]),
            Op::Scrub,
            Op::Steps(20),
        ]);
    }
    ops
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Write(page, at, data) => write!(f, "write {} bytes at {at} of {page}", data.len()),
            Op::Zero(page) => write!(f, "zero {page}"),
            Op::Discard(pages) => write!(f, "discard {pages:?}"),
            Op::Read(page) => write!(f, "read {page}"),
            Op::Steps(count) => write!(f, "{count} steps"),
            Op::Scrub => write!(f, "scrub"),
            Op::Zpool(zpool) => write!(f, "change to {zpool:?}"),
            Op::Codec(codec) => write!(f, "change to {codec}"),
            Op::Flush => write!(f, "flush"),
            Op::FailSync => write!(f, "let a sync fail"),
        }
    }
}

impl Op {
    /// The pages that it changes, and into what.
    pub fn changes(&self, model: &Model) -> Option<(Range<u32>, Content)> {
        let (pages, new) = match self {
            Op::Write(page, offset, data) => {
                let mut new = model.newest(*page).to_vec();
                new[*offset..offset + data.len()].copy_from_slice(data);
                (*page..page + 1, new)
            }
            Op::Zero(page) => (*page..page + 1, vec![0; PAGE]),
            Op::Discard(pages) => (pages.clone(), vec![0; PAGE]),
            _ => return None,
        };
        Some((pages, Content::new(new)))
    }

    /// Does it. False: it was refused and changed nothing, or it is a flush that failed.
    pub fn run(&self, run: &mut Run, device: &PowerDevice) -> bool {
        match self {
            Op::Write(page, offset, data) => run.patch(PageId(*page), *offset, data).is_some(),
            Op::Zero(page) => run.engine.zero(&mut run.lane, PageId(*page)).is_ok(),
            Op::Discard(pages) => {
                run.engine.discard(&mut run.lane, pages.clone());
                true
            }
            Op::Read(page) => run.read(PageId(*page)).is_ok(),
            Op::Steps(count) => {
                let _ = (0..*count).all(|_| run.step() == Work::More);
                true
            }
            Op::Scrub => {
                run.now += Duration::from_secs(1);
                run.engine.scrub(run.now.as_micros() as u64);
                true
            }
            Op::Zpool(zpool) => {
                run.engine.set_zpool(*zpool);
                true
            }
            Op::Codec(codec) => {
                run.engine.set_codec(CodecChoice::named(codec).unwrap());
                true
            }
            Op::Flush => run.flush().is_ok(),
            Op::FailSync => {
                device.fail_sync(1);
                true
            }
        }
    }
}

/// What an heir does, to show that it is a good engine.
pub(super) fn afterwards(is_durable: bool) -> Vec<Op> {
    let mut ops = vec![
        Op::Write(0, 0, vec![1; PAGE]),
        Op::Write(1, 0, (0..PAGE).map(|at| ((at * at) >> 3) as u8).collect()),
        Op::Steps(2),
    ];
    if is_durable {
        let mut random = Random::new(15);
        let pages = (SECOND..CHANGED).step_by(5);
        ops.extend(pages.map(|page| Op::Write(page, 0, noise(&mut random, PAGE))));
        ops.extend([
            Op::Discard(SECOND + 1..SECOND + 3),
            Op::Zero(SECOND + 3),
            Op::Steps(30),
        ]);
    }
    ops
}
