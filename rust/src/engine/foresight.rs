//! What a start after loss of the host would find in a store that no server has: its recovery, made in
//! memory that is thrown away, on a device that is only read.
//!
//! Locking: none, nobody else has any of it.

use std::path::Path;

use super::recovery::{LogSurvey, Recovery};
use crate::age::Clock;
use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::page::PageId;
use crate::store::{MasterKey, Store};
use crate::table::{Place, Table};
use crate::tiers::{Marks, Tiers};
use crate::zpool::mapping::unit_bytes_in;
use crate::zpool::words::SharedWords;
use crate::zpool::{Arena, ArenaOptions, CHAIN_FRAMES_MAX_DEFAULT, Pools, ZpoolKind};

/// A pool in which nothing ever is.
const POOL_FRAMES: u64 = 64;

/// Pages of one durable export, by what a start would find of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// In the store.
    pub stored: u64,
    /// Of one repeated pattern, zeros included.
    pub filled: u64,
    /// Discarded.
    pub discarded: u64,
    /// Errors: lost, and known to be.
    pub lost: u64,
}

/// The pages of exports in their order (number, and whether it is durable), and what the log is like.
/// Nothing is said of an export that is not durable: all of its pages would be errors.
///
/// # Errors
/// [`Error::Foreign`] for a file that cannot be read as a store, [`Error::Io`], [`Error::Config`] for
/// exports that no server has.
pub fn foresee(
    path: &Path,
    key: Option<&MasterKey>,
    exports: &[(u32, bool)],
    page_bytes: usize,
) -> Result<(Vec<Option<Foreseen>>, LogSurvey)> {
    let mut firsts = Vec::with_capacity(exports.len());
    let mut pages = 0u32;
    for (count, _) in exports {
        firsts.push(pages);
        let next = pages.checked_add(*count);
        pages = next.ok_or_else(|| Error::Config("more than 2^32 pages in all exports".into()))?;
    }
    if pages == 0 {
        return Err(Error::Config("no export has a page".into()));
    }
    let store = Store::open_offline(path, key)?;
    let arena = Arena::create(ArenaOptions {
        path: None,
        instance: 0,
        frame_bytes: page_bytes,
        pool_bytes_max: POOL_FRAMES * page_bytes as u64,
        chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
        populate: false,
        unit_bytes: unit_bytes_in(None)?,
    })?;
    let is_durable = exports.iter().map(|(_, is_durable)| *is_durable);
    let tiers = Tiers::new(
        Table::new(SharedWords::create(None, pages as usize, false)?),
        Pools::new(arena, ZpoolKind::Zbud),
        Some(store),
        Some(Durable::new(is_durable.collect(), pages as usize, false)?),
        Clock::new(POOL_FRAMES * page_bytes as u64),
        Marks {
            high_bytes: 0,
            low_bytes: 0,
        },
        firsts.into_boxed_slice(),
        page_bytes,
    );
    let mut recovery = Recovery::new(&tiers)?.expect("there are a store and durable exports");
    recovery.find_pages(&|_| (true, false))?;
    let mut foreseen: Vec<_> = (exports.iter())
        .map(|(_, is_durable)| is_durable.then(Foreseen::default))
        .collect();
    let mut at = 0;
    while let Some(part) = tiers.table.touched_in(at..pages) {
        at = part.end;
        for page in part.map(PageId) {
            if let Some(export) = &mut foreseen[tiers.export_of(page)] {
                match tiers.table.peek(page).place() {
                    Place::Store(_) => export.stored += 1,
                    Place::Same(_) => export.filled += 1,
                    Place::Hole => export.discarded += 1,
                    Place::Lost => export.lost += 1,
                    Place::Unwritten | Place::Pool(_) => {}
                }
            }
        }
    }
    Ok((foreseen, recovery.survey()))
}
