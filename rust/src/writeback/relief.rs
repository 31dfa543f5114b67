//! The way out when segments run out in a store with durable exports.
//!
//! A page that is owed keeps the segment with its last record waiting for a checkpoint, dead as it is, and there may
//! be one in every segment: then nothing that is cleaned becomes free, and the checkpoint that would free it all has
//! nothing to write into. So segments are emptied otherwise. What lives in one goes into a batch together with the
//! owed pages that have records in it; after a sync there is, of each of its pages, something newer on the device, so that
//! nobody needs it, and no checkpoint is waited for. As many segments as fit are emptied into one batch, and what
//! room is left is for owed pages in the order of the sweep.
//!
//! It needs one free segment, which nobody else may take (`Reason::Relief`), and gives back one at least: what
//! clients change meanwhile changes nothing of what is on the device by then.
//!
//! After a sync that failed the next process has to know what was written since, should this one die before its
//! checkpoint (`durable::Belief`). Where that cannot be noted, what was promised before stays where it is.
//!
//! Locking: one page at a time, never across a call to the store that does I/O.

use super::Context;
use super::checkpoint::{failure_of, free_held, sync};
use super::owed;
use super::streams::{Push, Stream, Streams, is_current, lose};
use crate::durable::{Durable, FlushError};
use crate::error::Error;
use crate::incident::{Fault, Finder};
use crate::page::PageId;
use crate::store::{ReadBuffer, RecordRef, Store, Use};

/// Segments that are looked at, at most.
const LOOKED_AT_MAX: usize = 64;

/// Times that a page is looked at again that changed at that moment.
const TRIES_MAX: u32 = 8;

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relieved {
    /// No segment can be emptied.
    Nothing,
    /// Some became free, and the sweep goes on with this page.
    Freed(u32),
}

/// What it works with.
pub(super) type Tools<'a> = (&'a Store, &'a Durable, &'a mut Streams);

/// Buffers.
pub(super) struct Relief {
    found: Vec<Use>,
    records: Vec<RecordRef>,
    living: Vec<RecordRef>,
    buffer: ReadBuffer,
    /// Pages that were owed and are in the batch.
    paid: u32,
    /// It was run, so that a checkpoint is wanted.
    pub(super) was_needed: bool,
}

impl Relief {
    /// Allocates all that it will ever need.
    pub(super) fn new(store: &Store) -> Relief {
        Relief {
            found: Vec::with_capacity(LOOKED_AT_MAX),
            records: Vec::with_capacity(store.records_max()),
            living: Vec::with_capacity(store.records_max()),
            buffer: ReadBuffer::new(),
            paid: 0,
            was_needed: false,
        }
    }

    /// Makes segments free. `next`: the page that is next in the sweep; it is to come on now, if it can
    /// (`is_sweep_first`), whatever clients change meanwhile.
    ///
    /// # Errors
    /// The device failed: what was written down may be owed again.
    pub(super) fn run(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        (next, is_sweep_first): (u32, bool),
    ) -> Result<Relieved, FlushError> {
        let (store, durable) = (tools.0, tools.1);
        let free = store.segments_free();
        self.was_needed = true;
        send_all(context, tools)?;
        sync(context, store, durable, tools.2)?;
        if store.segments_free() > free {
            return Ok(Relieved::Freed(next));
        }
        let gathered = [is_sweep_first, !is_sweep_first]
            .into_iter()
            .find_map(|is_first| self.gather(context, tools, (next, u32::from(is_first))));
        let Some(next) = gathered else {
            return Ok(Relieved::Nothing);
        };
        let next = self.fill_up(context, tools, (next, u32::MAX));
        match tools.2.is_filling(Stream::Survivors) {
            true => send_all(context, tools)?,
            false => tools.2.abandon(context, store, &[Stream::Survivors]),
        }
        sync(context, store, durable, tools.2)?;
        context.stats.checkpoints.pages.add(self.paid.into());
        for one in &self.found {
            store.relieve(one);
        }
        free_held(context, store, durable, tools.2)?;
        Ok(Relieved::Freed(next))
    }

    /// Fills the batch, after so many pages of the sweep, with all that keeps segments, and gives the page with which
    /// the sweep goes on. None: that would gain nothing, and the batch is given up.
    fn gather(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        (next, swept_first): (u32, u32),
    ) -> Option<u32> {
        if !tools.2.open_for_relief(tools.0) {
            return None;
        }
        self.paid = 0;
        let next = self.fill_up(context, tools, (next, swept_first));
        self.empty_all(context, tools);
        // To move one segment that is full to another gains nothing, unless pages of it were owed.
        let is_gain =
            self.found.len() > 1 || self.paid > 0 || !tools.2.is_filling(Stream::Survivors);
        if self.found.is_empty() || !is_gain {
            tools.2.abandon(context, tools.0, &[Stream::Survivors]);
            return None;
        }
        Some(next)
    }

    /// Puts all that keeps segments into the batch, as far as it has room, and leaves those in `found` that nothing
    /// keeps any more.
    fn empty_all(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) {
        let belief = context.tiers.belief();
        let from = match belief.is_in_doubt() && !belief.can_note_anew() {
            true => belief.kept_up_to(),
            false => 0,
        };
        let mut found = std::mem::take(&mut self.found);
        tools.0.emptiest(&mut found);
        found.retain(|one| {
            (one.sequence >= from || !one.is_waiting) && self.empty(context, tools, one)
        });
        self.found = found;
    }

    /// Puts what keeps a segment into the batch. False: not all of it.
    fn empty(&mut self, context: &Context<'_>, tools: &mut Tools<'_>, one: &Use) -> bool {
        let (store, durable) = (tools.0, tools.1);
        let records = &mut self.records;
        records.clear();
        let listed = store.use_records(one, &mut self.buffer, &mut |record| records.push(record));
        if listed.is_err() {
            return false;
        }
        let mut bytes = 0;
        self.living.clear();
        records.retain(|record| {
            let page = PageId(record.page);
            let is_live = is_current(context, record);
            if tools.2.holds(page) || !(is_live || is_owed(context, durable, page)) {
                return false;
            }
            self.living.extend(is_live.then_some(*record));
            bytes += store.record_bytes(match is_live {
                true => record.bytes,
                false => owed::object_bytes(context.tiers, page),
            });
            true
        });
        let shipment = tools.2.shipment(Stream::Survivors);
        shipment.fits(records.len() as u32, bytes)
            && self.copy_living(context, tools)
            && self.pay(context, tools)
    }

    /// Copies the records that are where their pages are. False: the device does not give one.
    fn copy_living(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) -> bool {
        let (store, durable, streams) = (tools.0, tools.1, &mut *tools.2);
        let mut is_given = true;
        let (living, paid) = (&self.living, &mut self.paid);
        store.read(&mut self.buffer, living, &mut |index, object| {
            let record = &living[index];
            let (page, offset) = (PageId(record.page), record.location.offset());
            let fault = match object {
                Ok(object) => {
                    let is_owed = is_owed(context, durable, page);
                    let record = (record, object);
                    let pushed = streams.push_record(context, store, record, Stream::Survivors);
                    *paid += u32::from(is_owed && pushed == Push::Done);
                    return;
                }
                Err(Error::Corrupt { .. }) if !lose(context, record) => return,
                Err(Error::Corrupt { .. }) => Fault::Damaged,
                Err(_) => {
                    store.set_aside_at(record.location);
                    is_given = false;
                    Fault::Unreadable
                }
            };
            context.incidents.add(page, offset, fault, Finder::Cleaning);
        });
        is_given
    }

    /// Writes down the pages that are owed. False: not all of them, or something still lives.
    fn pay(&mut self, context: &Context<'_>, tools: &mut Tools<'_>) -> bool {
        let durable = tools.1;
        let records = std::mem::take(&mut self.records);
        let is_paid = records.iter().all(|record| {
            let page = PageId(record.page);
            (0..TRIES_MAX).any(|_| {
                let is_kept = is_current(context, record) || is_owed(context, durable, page);
                tools.2.holds(page)
                    || !is_kept
                    || self.push(context, tools, page) == Some(Push::Done)
            })
        });
        self.records = records;
        is_paid
    }

    /// None: the device does not give it.
    fn push(&mut self, context: &Context<'_>, tools: &mut Tools<'_>, page: PageId) -> Option<Push> {
        let tools = (tools.0, tools.1, &mut *tools.2);
        let pushed = owed::push(context, tools, &mut self.buffer, page, Stream::Survivors).ok()?;
        self.paid += u32::from(pushed == Push::Done);
        Some(pushed)
    }

    /// Writes down up to `most` owed pages from `next` on; the first one that is still to be.
    fn fill_up(
        &mut self,
        context: &Context<'_>,
        tools: &mut Tools<'_>,
        (next, most): (u32, u32),
    ) -> u32 {
        let (mut next, paid) = (next, self.paid);
        while let Some(page) = tools.1.owed.next(next)
            && self.paid - paid < most
        {
            let is_in = tools.2.holds(page) || self.push(context, tools, page) == Some(Push::Done);
            if !is_in && tools.1.owed.contains(page) {
                break;
            }
            next = page.0 + 1;
        }
        next
    }
}

/// Is the page one of a durable export whose content no record holds?
fn is_owed(context: &Context<'_>, durable: &Durable, page: PageId) -> bool {
    (page.0 as usize) < context.tiers.table.pages()
        && context.tiers.durable_of(page).is_some()
        && durable.owed.contains(page)
}

/// Sends what is in open batches, and waits until all has landed.
fn send_all(context: &Context<'_>, tools: &mut Tools<'_>) -> Result<(), FlushError> {
    let (store, streams) = (tools.0, &mut *tools.2);
    let failed = context.stats.segments_failed.get();
    while let Some(stream) = streams.fullest() {
        streams.send(context, store, stream);
    }
    streams.land_all(context, store);
    match context.stats.segments_failed.get() == failed {
        true => Ok(()),
        false => Err(failure_of(streams)),
    }
}
