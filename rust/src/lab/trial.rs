//! A pool of its own for one measurement, and the objects that go into it.
//!
//! Not here: what is done with them (`pack`, `speed`).
//! Locking: none; the pool has its own.

use std::sync::Arc;

use super::noise::Noise;
use super::objects::Objects;
use crate::error::{Error, Result};
use crate::page::PAGE_BYTES_ALLOWED;
use crate::zpool::mapping::SYSTEM_PAGE_BYTES;
use crate::zpool::{Arena, ArenaOptions, CHAIN_FRAMES_MAX_DEFAULT, Zpool, ZpoolKind};

/// Frames beyond one an object, for part-filled blocks: the arena is as large as any pool could
/// need, since only what is used takes memory.
const SPARE_FRAMES: u64 = 16 << 10;

/// What a measurement is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the zpool.
    pub zpool: String,
    /// Bytes of a frame, at least a page.
    pub frame_bytes: usize,
    /// Pages are put in until they come to this many bytes; the set is repeated.
    pub stored_bytes: u64,
    /// All chance follows from it.
    pub seed: u64,
    /// Whether objects are moved while others are written, as servers do whose pool is nearly full. Only
    /// [`pack`](super::pack()) can.
    pub keeps_dense: bool,
}

/// A pool and what goes into it.
pub struct Trial {
    /// The pool, empty.
    pub pool: Box<dyn Zpool>,
    /// The set of objects as this pool stores it.
    pub objects: Objects,
    /// Pages to put in.
    pub pages: u32,
    /// Content for the objects.
    pub noise: Noise,
    /// As the plan says.
    pub keeps_dense: bool,
}

impl Trial {
    /// Makes the pool of `plan` for `objects`.
    ///
    /// # Errors
    /// [`Error::Config`] for a plan that cannot be carried out, [`Error::Io`] from the system.
    pub fn new(objects: &Objects, plan: &Plan) -> Result<Trial> {
        let pages = pages(objects, plan)?;
        let kind = ZpoolKind::parse(&plan.zpool)?;
        let available_bytes = available_bytes();
        // The objects alone may be too much; what the pool adds, only the pool can say.
        check_room(objects, pages, available_bytes, |bytes| bytes)?;
        let frames = u64::from(pages) + SPARE_FRAMES;
        // A frame with its side word, and the pages that side words begin and end in.
        let pool_bytes_max = frames * (plan.frame_bytes as u64 + 8) + (8 << 10);
        let arena = Arena::create(ArenaOptions {
            path: None,
            instance: 0,
            frame_bytes: plan.frame_bytes,
            pool_bytes_max,
            chain_frames_max: CHAIN_FRAMES_MAX_DEFAULT,
            populate: false,
            unit_bytes: SYSTEM_PAGE_BYTES,
        })?;
        let pool = kind.make(Arc::new(arena));
        let objects = objects.as_stored(pool.accept_bytes_max(objects.page_bytes()));
        check_room(&objects, pages, available_bytes, |bytes| {
            pool.slot_bytes(bytes)
        })?;
        Ok(Trial {
            noise: Noise::new(objects.page_bytes()),
            pool,
            objects,
            pages,
            keeps_dense: plan.keeps_dense,
        })
    }
}

fn pages(objects: &Objects, plan: &Plan) -> Result<u32> {
    let wrong = |what: String| Err(Error::Config(what));
    let (frame_bytes, page_bytes) = (plan.frame_bytes, objects.page_bytes());
    if !PAGE_BYTES_ALLOWED.contains(&frame_bytes) || frame_bytes < page_bytes {
        return wrong(format!(
            "frame size is {frame_bytes}, wanted 4096, 16384 or 65536 and at least the page size, \
             {page_bytes}"
        ));
    }
    if objects.count() == 0 {
        return wrong("there are 0 pages to measure with, wanted at least 1".into());
    }
    match u32::try_from(plan.stored_bytes / page_bytes as u64) {
        // The largest number marks a free slot and owns nothing.
        Ok(pages) if (1..u32::MAX).contains(&pages) => Ok(pages),
        _ => wrong(format!(
            "stored bytes are {}, wanted at least a page, {page_bytes}, and less than 2^32 pages",
            plan.stored_bytes
        )),
    }
}

/// Refuses what the system has no memory for: it would rather kill a process than say so. An object
/// of so many bytes costs `slot_bytes` of them.
fn check_room(
    objects: &Objects,
    pages: u32,
    available_bytes: Option<u64>,
    slot_bytes: impl Fn(usize) -> usize,
) -> Result<()> {
    let sizes = objects.sizes().iter().filter(|&&bytes| bytes > 0);
    let set: u64 = sizes.map(|&bytes| slot_bytes(bytes as usize) as u64).sum();
    let wanted = u128::from(set) * u128::from(pages) / objects.count() as u128;
    match available_bytes {
        Some(available) if wanted > u128::from(available) => Err(Error::Config(format!(
            "{pages} pages need {wanted} bytes of memory, wanted at most the {available} that the \
             system has available"
        ))),
        _ => Ok(()),
    }
}

/// Bytes of memory that the system says it could give. None: it does not say.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    available_in(&text)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(zpool: &str, frame_bytes: usize, stored_bytes: u64) -> Plan {
        Plan {
            zpool: zpool.into(),
            frame_bytes,
            stored_bytes,
            seed: 1,
            keeps_dense: false,
        }
    }

    fn refusal(objects: &Objects, plan: &Plan) -> String {
        Trial::new(objects, plan)
            .err()
            .expect("a refusal")
            .to_string()
    }

    #[test]
    fn plans_that_cannot_be_are_refused_with_what_is_wanted() {
        let objects = Objects::new(16384, vec![5000; 4]);
        for (plan, wanted) in [
            (plan("slab", 16384, 1 << 20), "zpool is slab, wanted one of"),
            (plan("zblock", 4096, 1 << 20), "frame size is 4096, wanted"),
            (
                plan("zblock", 20000, 1 << 20),
                "frame size is 20000, wanted",
            ),
            (
                plan("zblock", 16384, 16383),
                "stored bytes are 16383, wanted",
            ),
            (
                plan("zblock", 16384, u64::MAX),
                "wanted at least a page, 16384",
            ),
            (
                plan("zblock", 16384, 1 << 45),
                "that the system has available",
            ),
        ] {
            let refusal = refusal(&objects, &plan);
            assert!(refusal.contains(wanted), "{refusal}");
        }
        let none = Objects::new(4096, Vec::new());
        assert!(refusal(&none, &plan("zblock", 4096, 1 << 20)).contains("0 pages"));
    }

    #[test]
    fn an_object_that_saves_nothing_is_stored_as_a_page() {
        let objects = Objects::new(4096, vec![0, 8, 2000, 4095]);
        let trial = Trial::new(&objects, &plan("zblock", 4096, 1 << 20)).unwrap();
        assert_eq!(trial.objects.sizes(), [0, 8, 2000, 4096]);
        assert_eq!(trial.pages, 256);
    }

    #[test]
    fn available_memory_is_read_from_what_the_kernel_says() {
        let text = "MemTotal:       24600000 kB\nMemAvailable:   23456 kB\nBuffers: 1 kB\n";
        assert_eq!(available_in(text), Some(23456 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}
