//! BLOCK_STATUS: which parts of the export hold data, for `base:allocation`.
//!
//! A reply covers at least the first page of the request and may stop early, as the protocol
//! allows: neither its size nor the work for it grows with the request.

use super::desk::Desk;
use super::export::Area;
use super::metrics::Op;
use super::pages::Pages;
use super::{Session, Step};
use crate::engine::PageState;
use crate::wire::*;

/// Most extents of one reply.
pub(super) const EXTENTS_MAX: usize = 1024;
/// Most pages that are looked at for one reply.
pub(super) const STATUS_PAGES_MAX: usize = 1 << 16;
/// Looking at a page is that much cheaper than reading it.
const LOOKS_PER_PAGE: i64 = 128;
const EXTENT_BYTES: usize = 8;
const HEAD_BYTES: usize = CHUNK_BYTES + 4;

impl Session {
    /// Answers a BLOCK_STATUS.
    pub(super) fn block_status<P: Pages>(&mut self, desk: &mut Desk<P>, request: &Request) -> Step {
        let extents_max = if request.flags & FLAG_REQ_ONE != 0 {
            1
        } else {
            EXTENTS_MAX
        };
        if !self.fits(HEAD_BYTES + EXTENT_BYTES * extents_max) {
            return Step::Wait;
        }
        self.input.consume(REQUEST_BYTES);
        let context = self.negotiated.base_allocation.expect("validated");
        let end = request.offset + u64::from(request.length);
        let out = self.output.space(HEAD_BYTES + EXTENT_BYTES * extents_max);
        let room = &mut out[HEAD_BYTES..][..EXTENT_BYTES * extents_max];
        let (extents, pages) = collect(&*desk.pages, &self.area, (request.offset, end), room);
        self.budget_pages -= 1 + pages as i64 / LOOKS_PER_PAGE;
        let payload_bytes = 4 + EXTENT_BYTES * extents;
        let head = chunk(
            CHUNK_FLAG_DONE,
            CHUNK_BLOCK_STATUS,
            request.cookie,
            payload_bytes as u32,
        );
        out[..CHUNK_BYTES].copy_from_slice(&head);
        out[CHUNK_BYTES..HEAD_BYTES].copy_from_slice(&context.to_be_bytes());
        self.output.add(CHUNK_BYTES + payload_bytes);
        self.answered(
            desk,
            Op::BlockStatus,
            None,
            desk.now,
            Ok(request.length.into()),
        );
        Step::Done
    }
}

/// Writes the extents of `from..to` into `out`, as far as they fit and may be looked for. Returns
/// how many they are and how many pages were looked at.
fn collect<P: Pages>(
    pages: &P,
    area: &Area,
    (from, to): (u64, u64),
    out: &mut [u8],
) -> (usize, usize) {
    let mut room = out.chunks_exact_mut(EXTENT_BYTES);
    let (mut extents, mut looked_at) = (0, 0);
    // The extent that is still growing, and its place.
    let mut open: Option<(u32, u32, &mut [u8])> = None;
    let mut cursor = from;
    while cursor < to && looked_at < STATUS_PAGES_MAX {
        let part = area.part(cursor, to);
        let flags = flags_of(pages.page_state(part.page));
        match &mut open {
            Some((bytes, same, _)) if *same == flags => *bytes += part.bytes as u32,
            _ => {
                let Some(place) = room.next() else { break };
                close(open.replace((part.bytes as u32, flags, place)));
                extents += 1;
            }
        }
        cursor += part.bytes as u64;
        looked_at += 1;
    }
    close(open);
    (extents, looked_at)
}

fn flags_of(state: PageState) -> u32 {
    match state {
        PageState::Hole => STATE_HOLE | STATE_ZERO,
        PageState::Zero => STATE_ZERO,
        PageState::Data => 0,
    }
}

/// Writes an extent that grows no more into its place.
fn close(extent: Option<(u32, u32, &mut [u8])>) {
    if let Some((bytes, flags, place)) = extent {
        place[..4].copy_from_slice(&bytes.to_be_bytes());
        place[4..].copy_from_slice(&flags.to_be_bytes());
    }
}
