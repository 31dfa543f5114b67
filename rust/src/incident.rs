//! What the store got wrong, page by page, until somebody writes it down.
//!
//! A ring of few places: threads that find a damaged record leave its name here, the server's loop
//! takes the names and logs them. A page that is asked for again and again stands here once. Counters
//! count everything; this only names.
//! Locking: one mutex for a few instructions, a leaf. Nothing allocates after `default`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::page::PageId;

/// Incidents that wait at most; what comes on top is counted only.
pub const INCIDENTS_MAX: usize = 32;

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device gives bytes that are not those that were written.
    Damaged,
    /// The device gives an error.
    Unreadable,
}

impl Fault {
    /// The word in logs.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Damaged => "damaged",
            Fault::Unreadable => "unreadable",
        }
    }
}

/// Who came upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// A client's request, which was answered with an error.
    Read,
    /// Cleaning, which was about to move the record.
    Cleaning,
    /// The scrub, before anybody asked.
    Scrub,
}

impl Finder {
    /// The word in logs.
    pub fn name(self) -> &'static str {
        match self {
            Finder::Read => "read",
            Finder::Cleaning => "cleaning",
            Finder::Scrub => "scrub",
        }
    }
}

/// A page whose record is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Whose record.
    pub page: PageId,
    /// Byte of the backing file where the record begins.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
    /// Who found it.
    pub finder: Finder,
    /// How often since it was taken last.
    pub times: u64,
}

struct Ring {
    waiting: VecDeque<Incident>,
    unnamed: u64,
}

/// The ring of one engine.
pub struct Incidents(Mutex<Ring>);

impl Default for Incidents {
    fn default() -> Self {
        Incidents(Mutex::new(Ring {
            waiting: VecDeque::with_capacity(INCIDENTS_MAX),
            unnamed: 0,
        }))
    }
}

impl Incidents {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Every change is one push or one sum: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a name.
    pub fn add(&self, page: PageId, offset: u64, fault: Fault, finder: Finder) {
        let mut ring = self.ring();
        let same = |known: &&mut Incident| {
            (known.page, known.offset, known.fault, known.finder) == (page, offset, fault, finder)
        };
        if let Some(known) = ring.waiting.iter_mut().find(same) {
            known.times += 1;
        } else if ring.waiting.len() < INCIDENTS_MAX {
            ring.waiting.push_back(Incident {
                page,
                offset,
                fault,
                finder,
                times: 1,
            });
        } else {
            ring.unnamed += 1;
        }
    }

    /// Takes all names, the first one first, and the number of those that found no place.
    pub fn take(&self) -> (Vec<Incident>, u64) {
        // Made before the lock is taken: whoever adds must not wait for an allocator.
        let mut taken = Vec::with_capacity(INCIDENTS_MAX);
        let mut ring = self.ring();
        taken.extend(ring.waiting.drain(..));
        (taken, std::mem::take(&mut ring.unnamed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_incident_stands_once_and_what_finds_no_place_is_counted() {
        let incidents = Incidents::default();
        for page in 0..INCIDENTS_MAX as u32 + 3 {
            for _ in 0..2 {
                incidents.add(PageId(page), 4096, Fault::Damaged, Finder::Read);
            }
        }
        let (taken, unnamed) = incidents.take();
        assert_eq!((taken.len(), unnamed), (INCIDENTS_MAX, 6));
        let pages = (0..).zip(&taken);
        assert!(
            pages
                .into_iter()
                .all(|(page, i)| i.page == PageId(page) && i.times == 2)
        );
        assert_eq!(incidents.take(), (Vec::new(), 0));

        incidents.add(PageId(1), 4096, Fault::Damaged, Finder::Read);
        incidents.add(PageId(1), 4096, Fault::Unreadable, Finder::Read);
        incidents.add(PageId(1), 4096, Fault::Damaged, Finder::Scrub);
        incidents.add(PageId(1), 8192, Fault::Damaged, Finder::Read);
        assert_eq!(incidents.take().0.len(), 4, "they differ");
    }
}
