//! BLOCK_STATUS: which parts of the export hold data, for `base:allocation`.
//!
//! A reply covers at least the first page of the request and may stop early, as the protocol
//! allows: neither its size nor the work for it grows with the request.

use super::desk::Desk;
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
        let out = self.output.space(HEAD_BYTES + EXTENT_BYTES * extents_max);
        let end = request.offset + u64::from(request.length);
        let mut cursor = request.offset;
        let mut extents = 0;
        let mut pages = 0;
        // The extent that is still growing.
        let mut open: Option<(u32, u32)> = None;
        while cursor < end && pages < STATUS_PAGES_MAX {
            let part = self.area.part(cursor, end);
            let flags = flags_of(desk.pages.page_state(part.page));
            match &mut open {
                Some((bytes, same)) if *same == flags => *bytes += part.bytes as u32,
                _ => {
                    if extents == extents_max {
                        break;
                    }
                    if let Some(extent) = open.replace((part.bytes as u32, flags)) {
                        put(out, extents - 1, extent);
                    }
                    extents += 1;
                }
            }
            cursor += part.bytes as u64;
            pages += 1;
        }
        put(
            out,
            extents - 1,
            open.expect("a request is at least a byte long"),
        );
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

fn flags_of(state: PageState) -> u32 {
    match state {
        PageState::Hole => STATE_HOLE | STATE_ZERO,
        PageState::Zero => STATE_ZERO,
        PageState::Data => 0,
    }
}

/// Writes extent number `at`.
fn put(out: &mut [u8], at: usize, (bytes, flags): (u32, u32)) {
    let extent = &mut out[HEAD_BYTES + EXTENT_BYTES * at..][..EXTENT_BYTES];
    extent[..4].copy_from_slice(&bytes.to_be_bytes());
    extent[4..].copy_from_slice(&flags.to_be_bytes());
}
