//! Which objects are written back next: the age policy put to work on the pool.
//!
//! A census over the pool turns "so many bytes" into a threshold age; the sweep after it takes what is
//! at least that old, a segment's worth at a time. The sweep's place is kept between batches, so one
//! census serves all of a round.
//! Locking: none. Words are looked at without locks; whoever takes a victim locks its page and looks
//! again.

use std::cmp::Reverse;

use crate::age::{Census, age};
use crate::codec::CodecId;
use crate::courtesy;
use crate::page::PageId;
use crate::table::{ObjectAt, Place, Word};
use crate::tiers::Tiers;
use crate::zpool::{Handle, Resident, Sweep, Zpool};

/// Frames that one sweep call covers: bounds the time a class is locked.
const SWEEP_FRAMES: u32 = 256;

/// Frames that a census looks at: all of a pool of 64 MiB, and an even sample of a larger one. Every
/// object that is looked at is a cache miss. A census of all of a pool of 512 MiB took 0.1 s, a fifth of
/// the time in which it was written back, and one of 64 GiB would stop write-back for many seconds.
const CENSUS_FRAMES: u32 = 16 << 10;

/// Frames of a sample that lie together. An age of a full pool is 16 times so many frames in the smallest
/// pool that is sampled, so no age is missed, however well age and place go together.
const SAMPLE_FRAMES: u32 = 16;

/// Residents between the one whose word in the table is looked at and the one for which it is fetched.
const FETCHED: usize = 16;

/// An object that is to be written back.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) page: PageId,
    pub(super) object: ObjectAt<Handle>,
    pub(super) is_read: bool,
}

/// The objects that leave next, the first at the end.
pub(super) struct Victims {
    list: Vec<Victim>,
    /// Sum of the objects in the list.
    bytes: u64,
    census: Census,
    /// Objects of one repeated word are taken too, since there are no others.
    takes_words: bool,
    /// The age that the present sweep takes; None between two rounds.
    threshold: Option<u16>,
    sweep: Sweep,
}

impl Victims {
    /// Room for `objects`; it never takes more.
    pub(super) fn new(objects: usize) -> Victims {
        Victims {
            list: Vec::with_capacity(objects),
            bytes: 0,
            takes_words: false,
            census: Census::default(),
            threshold: None,
            sweep: Sweep::default(),
        }
    }

    /// The next one.
    pub(super) fn first(&self) -> Option<Victim> {
        self.list.last().copied()
    }

    /// Takes the next one off.
    pub(super) fn pop(&mut self) {
        if let Some(victim) = self.list.pop() {
            self.bytes -= victim.object.bytes as u64;
        }
    }

    /// Bytes of those that were read since they were written.
    pub(super) fn bytes_read(&self) -> u64 {
        let read = self.list.iter().filter(|victim| victim.is_read);
        read.map(|victim| victim.object.bytes as u64).sum()
    }

    /// Ends the round: the next begins with a census.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.bytes = 0;
        self.takes_words = false;
        self.threshold = None;
    }

    /// Fills up to `bytes` of the oldest objects, in a round that is to move `round_bytes`. False: the
    /// pool is empty.
    pub(super) fn collect(&mut self, tiers: &Tiers, bytes: u64, round_bytes: u64) -> bool {
        // What a census promised may have been rewritten by the time the sweep gets there; a new
        // census finds what there is.
        if let Some(threshold) = self.threshold {
            self.sweep_older(tiers, threshold, bytes);
        }
        if self.bytes >= bytes {
            return true;
        }
        let threshold = self.count_ages(tiers, round_bytes.max(bytes));
        self.threshold = Some(threshold);
        self.sweep = Sweep::default();
        self.sweep_older(tiers, threshold, bytes);
        if self.list.is_empty() && !self.takes_words {
            self.takes_words = true;
            return self.collect(tiers, bytes, round_bytes);
        }
        !self.list.is_empty()
    }

    /// The age such that objects of at least that age are `bytes` together, as far as a sample tells.
    fn count_ages(&mut self, tiers: &Tiers, bytes: u64) -> u16 {
        let (census, now) = (&mut self.census, tiers.clock.stamp());
        let takes_words = self.takes_words;
        census.clear();
        let frames = tiers.pool.arena().side_frames();
        let stride = stride(frames);
        let step = if stride == 1 {
            SWEEP_FRAMES
        } else {
            SAMPLE_FRAMES
        };
        let mut count = |resident: Resident| {
            if let Some((word, object)) = candidate(tiers, resident, takes_words) {
                census.add(age(resident.tag.stamp, now, word.is_read()), object.bytes);
            }
        };
        let mut coming = Coming::default();
        for frame in (0..frames).step_by((step * stride) as usize) {
            courtesy::give_way();
            let mut sweep = Sweep { frame };
            tiers.pool.sweep(&mut sweep, step, &mut |resident| {
                coming.pass(tiers, resident).map(&mut count);
            });
        }
        coming.rest().for_each(count);
        census.threshold(bytes / u64::from(stride))
    }

    /// Goes on with the sweep and takes objects of at least `threshold` until all victims are `bytes`
    /// together or the pool ends.
    fn sweep_older(&mut self, tiers: &Tiers, threshold: u16, bytes: u64) {
        let (victims, victims_bytes) = (&mut self.list, &mut self.bytes);
        let (now, takes_words) = (tiers.clock.stamp(), self.takes_words);
        while *victims_bytes < bytes {
            courtesy::give_way();
            let mut take = |resident: Resident| {
                let Some((word, object)) = candidate(tiers, resident, takes_words) else {
                    return;
                };
                let is_old = age(resident.tag.stamp, now, word.is_read()) >= threshold;
                if is_old && victims.len() < victims.capacity() {
                    let page = PageId(resident.tag.owner);
                    victims.push(Victim {
                        page,
                        object,
                        is_read: word.is_read(),
                    });
                    *victims_bytes += object.bytes as u64;
                }
            };
            let mut coming = Coming::default();
            let at_end = tiers
                .pool
                .sweep(&mut self.sweep, SWEEP_FRAMES, &mut |resident| {
                    coming.pass(tiers, resident).map(&mut take);
                });
            coming.rest().for_each(take);
            if at_end {
                self.threshold = None;
                break;
            }
        }
        // Last first: they are taken from the end. A new census finds those again that were left.
        victims.sort_unstable_by_key(|victim| Reverse((!victim.is_read, victim.page)));
        victims.dedup_by_key(|victim| victim.page);
        *victims_bytes = victims
            .iter()
            .map(|victim| victim.object.bytes as u64)
            .sum();
    }
}

/// Residents whose words are on their way from memory, each of which would be a cache miss to wait for.
#[derive(Default)]
struct Coming {
    residents: [Option<Resident>; FETCHED],
    next: usize,
}

impl Coming {
    /// Lets one come, and gives the one that has come.
    fn pass(&mut self, tiers: &Tiers, resident: Resident) -> Option<Resident> {
        tiers.table.prefetch(PageId(resident.tag.owner));
        let place = &mut self.residents[self.next % FETCHED];
        self.next += 1;
        place.replace(resident)
    }

    /// Those that are left.
    fn rest(self) -> impl Iterator<Item = Resident> {
        self.residents.into_iter().flatten()
    }
}

/// A census looks at one in so many frames.
fn stride(frames: u32) -> u32 {
    (frames / CENSUS_FRAMES).max(1)
}

/// A resident that may be written back: it is not on its way already, and it is worth a record. One
/// of a repeated word takes four times its bytes on the device, so it stays unless `takes_words`.
fn candidate(
    tiers: &Tiers,
    resident: Resident,
    takes_words: bool,
) -> Option<(Word, ObjectAt<Handle>)> {
    let is_worth_it = |object: &ObjectAt<Handle>| takes_words || object.codec != CodecId::Repeat;
    current(tiers, resident).filter(|(word, object)| !word.is_moving() && is_worth_it(object))
}

/// The word and object of a resident that is still where the sweep saw it.
pub(super) fn current(tiers: &Tiers, resident: Resident) -> Option<(Word, ObjectAt<Handle>)> {
    let word = tiers.table.peek(PageId(resident.tag.owner));
    match word.place() {
        Place::Pool(object) if object.at == resident.handle => Some((word, object)),
        _ => None,
    }
}
