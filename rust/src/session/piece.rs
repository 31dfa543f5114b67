//! The bytes of one piece of a READ: from memory, or from fetches that came back.
//!
//! Locking: none here; each page is read under the engine's own lock.

use super::desk::Desk;
use super::export::Area;
use super::pages::Pages;
use super::reply::errno_of;
use crate::engine::{Fetch, Read, Tier};
use crate::page::PageId;
use crate::wire::Errno;

/// What became of a piece.
pub(super) enum Piece {
    /// All of it is there; this is the slowest tier it came from.
    Whole(Tier),
    /// Pages in `desk.missing` are in the store.
    Missing,
    /// The page at this offset cannot be read.
    Failed { at: u64, errno: Errno },
}

/// Fills `out` with the bytes `from..to` of the export. `held` are fetches of its pages that came
/// back.
#[inline]
pub(super) fn fill<P: Pages>(
    desk: &mut Desk<P>,
    area: &Area,
    (from, to): (u64, u64),
    held: &[Box<Fetch>],
    out: &mut [u8],
) -> Piece {
    desk.missing.clear();
    let mut slowest = Tier::Zero;
    let mut offset = from;
    let mut out = out;
    while offset < to {
        let part = area.part(offset, to);
        let (slot, rest) = out.split_at_mut(part.bytes);
        let next = offset + part.bytes as u64;
        if next < to {
            // It arrives in the cache while this one is decompressed.
            desk.pages.prefetch(area.part(next, to).page);
        }
        let tier = if let Some(fetch) = usable(desk, held, part.page) {
            if let Err(error) = &fetch.result {
                return Piece::Failed {
                    at: offset,
                    errno: errno_of(error),
                };
            }
            slot.copy_from_slice(&fetch.buffer[part.start..part.start + part.bytes]);
            Tier::Store
        } else {
            let whole = part.bytes == area.page_bytes();
            let target = if whole {
                &mut *slot
            } else {
                &mut desk.scratch[..]
            };
            match desk.pages.read(&mut desk.lane, part.page, target) {
                Ok(Read::Ready(tier)) => {
                    if !whole {
                        let bytes = &desk.scratch[part.start..part.start + part.bytes];
                        slot.copy_from_slice(bytes);
                    }
                    tier
                }
                Ok(Read::Fetch(place)) => {
                    desk.missing.push((part.page, place));
                    Tier::Store
                }
                Err(error) => {
                    return Piece::Failed {
                        at: offset,
                        errno: errno_of(&error),
                    };
                }
            }
        };
        slowest = slowest.max(tier);
        offset += part.bytes as u64;
        out = rest;
    }
    if desk.missing.is_empty() {
        Piece::Whole(slowest)
    } else {
        Piece::Missing
    }
}

/// The fetch of `page`, if there is one and the page is still where it was fetched from. The lock
/// was released for the fetch: a write may have replaced the page, and its place may hold another
/// one now.
#[inline]
fn usable<'a, P: Pages>(desk: &Desk<P>, held: &'a [Box<Fetch>], page: PageId) -> Option<&'a Fetch> {
    let fetch = held.iter().find(|fetch| fetch.page == page)?;
    desk.pages.confirm(page, fetch.place).then_some(fetch)
}
