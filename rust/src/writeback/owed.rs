//! How one page that is owed to the log is written down: its object, or a mark where it has none.
//!
//! Not here: which pages, and when (`checkpoint`, `relief`). Locking: one page at a time, never across a call to the
//! store that does I/O.

use super::Context;
use super::streams::{Push, Stream, Streams, is_current, lose};
use super::victims::Victim;
use crate::durable::{Durable, FlushError, MARK_BYTES};
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::store::{Location, ReadBuffer, RecordRef, Store};
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::Tiers;

/// Bytes of the object that a page is written down with.
pub(super) fn object_bytes(tiers: &Tiers, page: PageId) -> u32 {
    let bytes = match tiers.table.peek(page).place() {
        Place::Pool(object) => object.bytes,
        Place::Store(object) => object.bytes,
        _ => MARK_BYTES,
    };
    bytes as u32
}

/// Puts an owed page into the batch of a stream.
///
/// # Errors
/// The device does not give a record that is to be written again.
pub(super) fn push(
    context: &Context<'_>,
    (store, durable, streams): (&Store, &Durable, &mut Streams),
    buffer: &mut ReadBuffer,
    page: PageId,
    to: Stream,
) -> Result<Push, FlushError> {
    let word = context.tiers.table.peek(page);
    Ok(match word.place() {
        Place::Pool(object) => {
            let victim = Victim {
                page,
                object,
                is_read: false,
            };
            streams.push_victim(context, store, &victim, to)
        }
        Place::Store(object) => {
            return push_stored(context, (store, streams), buffer, (page, object), to);
        }
        Place::Hole | Place::Same(_) | Place::Lost => {
            streams.push_mark(context, store, (page, durable), to)
        }
        Place::Unwritten => {
            // Never written, and so nothing of it can be owed.
            durable.owed.remove(page);
            Push::Stale
        }
    })
}

/// The device has not given the record of an owed page for long: it is lost, which can be written down.
pub(super) fn give_up(context: &Context<'_>, page: PageId) {
    let tiers = context.tiers;
    let guard = tiers.table.lock(page);
    if let Place::Store(object) = guard.word().place() {
        tiers.change(&guard, Word::of(Place::Lost), context.lane);
        let incidents = context.incidents;
        incidents.add(
            page,
            object.at.offset(),
            Fault::Unreadable,
            Finder::Cleaning,
        );
    }
}

/// Writes a page again whose record is not to be relied on.
fn push_stored(
    context: &Context<'_>,
    (store, streams): (&Store, &mut Streams),
    buffer: &mut ReadBuffer,
    (page, object): (PageId, ObjectAt<Location>),
    to: Stream,
) -> Result<Push, FlushError> {
    let record = RecordRef {
        page: page.0,
        codec: object.codec as u8,
        bytes: object.bytes as u32,
        location: object.at,
        sequence: store.sequence(object.at),
    };
    let mut pushed = Ok(Push::Stale);
    store.read(buffer, &[record], &mut |_, bytes| {
        pushed = match bytes {
            Ok(bytes) => Ok(streams.push_record(context, store, (&record, bytes), to)),
            Err(_) if !is_current(context, &record) => Ok(Push::Stale),
            Err(Error::Corrupt { .. }) => {
                if lose(context, &record) {
                    let offset = record.location.offset();
                    let incidents = context.incidents;
                    incidents.add(page, offset, Fault::Damaged, Finder::Cleaning);
                }
                Ok(Push::Stale)
            }
            Err(_) => Err(FlushError::Failed),
        };
    });
    pushed
}
