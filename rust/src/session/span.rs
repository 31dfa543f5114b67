//! TRIM, WRITE_ZEROES and CACHE: commands without payload that may cover up to 4 GiB.
//!
//! They are worked off in slices, so that other connections have their turn in between.

use super::change::{Change, Yard};
use super::desk::Desk;
use super::metrics::Op;
use super::pages::Pages;
use super::{Current, Session, Step};
use crate::page::{PAGE_BYTES_ALLOWED, PageId};
use crate::wire::*;

/// Pages that are discarded in one call.
pub const SLICE_PAGES: u32 = 4096;
/// Discarding is that much cheaper than reading or writing a page.
const DISCARDS_PER_PAGE: i64 = 8;

/// What goes to the edges of WRITE_ZEROES.
static ZEROS: [u8; PAGE_BYTES_ALLOWED[2]] = [0; PAGE_BYTES_ALLOWED[2]];

impl Session {
    /// Begins a TRIM, WRITE_ZEROES or CACHE.
    pub(super) fn begin_span<P: Pages>(
        &mut self,
        desk: &mut Desk<P>,
        op: Op,
        request: &Request,
    ) -> Step {
        self.input.consume(REQUEST_BYTES);
        let mut change = Change::new(op, request, desk.now, self.request_timeout);
        change.no_hole = request.flags & FLAG_NO_HOLE != 0;
        self.begin_change(change, false);
        Step::Done
    }

    /// Does the next slice of the current span.
    pub(super) fn next_slice<P: Pages>(&mut self, desk: &mut Desk<P>) -> Step {
        let Current::Span(change) = &self.current else {
            panic!("no span is under way")
        };
        if change.cursor == change.end || change.error.is_some() {
            return self.finish_change(desk);
        }
        match change.op {
            Op::Trim => self.discard_slice(desk),
            Op::WriteZeroes => return self.zero_slice(desk),
            // The pool is the cache, and which pages are in it is the engine's own decision.
            Op::Cache => self.skip_to_end(),
            Op::Read | Op::Write | Op::Flush | Op::BlockStatus => {
                panic!("{} is no span", change.op.name())
            }
        }
        Step::Done
    }

    fn skip_to_end(&mut self) {
        let Current::Span(change) = &mut self.current else {
            panic!("no span is under way")
        };
        change.cursor = change.end;
    }

    /// Discards whole pages; a page of which a part is to stay is left alone.
    fn discard_slice<P: Pages>(&mut self, desk: &mut Desk<P>) {
        let Current::Span(change) = &mut self.current else {
            panic!("no span is under way")
        };
        let pages = self.area.whole_pages(change.cursor, change.end);
        if pages.is_empty() {
            change.cursor = change.end;
            return;
        }
        let slice_end = pages.end.min(pages.start.saturating_add(SLICE_PAGES));
        desk.pages.discard(&mut desk.lane, pages.start..slice_end);
        self.budget_pages -= 1 + i64::from(slice_end - pages.start) / DISCARDS_PER_PAGE;
        let done = slice_end == pages.end;
        change.cursor = if done {
            change.end
        } else {
            self.area.offset_of(PageId(slice_end))
        };
    }

    /// Zeros part of a page by writing it, whole pages by the shortest way.
    fn zero_slice<P: Pages>(&mut self, desk: &mut Desk<P>) -> Step {
        let Session {
            current,
            waiting,
            area,
            waits,
            ..
        } = self;
        let Current::Span(change) = current else {
            panic!("no span is under way")
        };
        if change.stalled(desk.space_epoch) {
            waits.space = true;
            return Step::Wait;
        }
        let part = area.part(change.cursor, change.end);
        self.budget_pages -= 1;
        if part.bytes < area.page_bytes() {
            let connection = self.connection;
            let mut yard = Yard {
                area,
                waiting,
                connection,
                in_vain_at: self.in_vain_at,
            };
            if let Err(needed) = change.apply(desk, &mut yard, part, &ZEROS[..part.bytes]) {
                waits.space |= needed.space;
                waits.boxes |= needed.boxes;
                return Step::Wait;
            }
            change.cursor += part.bytes as u64;
            return Step::Done;
        }
        if change.no_hole {
            if let Err(error) = desk.pages.zero(&mut desk.lane, part.page) {
                change.error = Some(super::reply::errno_of(&error));
            }
            change.cursor += part.bytes as u64;
            return Step::Done;
        }
        let pages = area.whole_pages(change.cursor, change.end);
        let slice_end = pages.end.min(pages.start.saturating_add(SLICE_PAGES));
        desk.pages.discard(&mut desk.lane, pages.start..slice_end);
        self.budget_pages -= i64::from(slice_end - pages.start) / DISCARDS_PER_PAGE;
        change.cursor = area.offset_of(PageId(slice_end));
        Step::Done
    }
}
