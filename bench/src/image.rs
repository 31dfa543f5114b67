//! What a server must hold: which page of the sample is at which place.
//!
//! Locking: none needed. Connections of one test touch places of their own, so a place has one
//! writer, and the atomics only let them share the array.

use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::PAGE_BYTES;
use crate::chance::Chance;
use crate::sample::{Sample, SamplePage};

/// The content of one export, as numbers of sample pages.
pub struct Image {
    places: Vec<AtomicU16>,
}

impl Image {
    /// The sample over and over, each time in another order. `page_count` pages.
    pub fn new(page_count: usize, sample: &Sample, chance: &mut Chance) -> Self {
        let mut order: Vec<SamplePage> = (0..sample.count()).map(|page| page as u16).collect();
        let mut places = Vec::with_capacity(page_count + order.len());
        while places.len() < page_count {
            chance.shuffle(&mut order);
            places.extend(order.iter().copied().map(AtomicU16::new));
        }
        places.truncate(page_count);
        Self { places }
    }

    /// Number of pages.
    pub fn page_count(&self) -> usize {
        self.places.len()
    }

    /// The sample page at `place`.
    pub fn at(&self, place: usize) -> SamplePage {
        self.places[place].load(Relaxed)
    }

    /// Puts another page than the present one at `place`, and tells which.
    pub fn change(&self, place: usize, sample: &Sample, chance: &mut Chance) -> SamplePage {
        let step = 1 + chance.below(sample.count() - 1);
        let page = ((usize::from(self.at(place)) + step) % sample.count()) as SamplePage;
        self.places[place].store(page, Relaxed);
        page
    }

    /// The first page of `found`, which was read at `place`, that is not what was written there.
    pub fn first_wrong(&self, place: usize, found: &[u8], sample: &Sample) -> Option<usize> {
        let pages = found.chunks_exact(PAGE_BYTES).enumerate();
        pages
            .map(|(at, page)| (place + at, page))
            .find_map(|(at, page)| (page != sample.page(self.at(at))).then_some(at))
    }

    /// What a pool of lz4 has to hold for this content, in bytes.
    pub fn pool_bytes(&self, sample: &Sample) -> u64 {
        (0..self.page_count())
            .map(|place| sample.pool_bytes(self.at(place)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample::new((0..8).flat_map(|page| vec![page; PAGE_BYTES]).collect()).unwrap()
    }

    #[test]
    fn a_change_always_puts_another_page() {
        let (sample, mut chance) = (sample(), Chance::new(1));
        let image = Image::new(20, &sample, &mut chance);
        for step in 0..1000 {
            let place = chance.below(20);
            let before = image.at(place);
            let after = image.change(place, &sample, &mut chance);
            assert_ne!(before, after, "step {step}");
            assert_eq!(image.at(place), after);
        }
    }

    #[test]
    fn one_wrong_byte_is_found_and_its_page_named() {
        let (sample, mut chance) = (sample(), Chance::new(2));
        let image = Image::new(20, &sample, &mut chance);
        let mut bytes: Vec<u8> = (3..7)
            .flat_map(|at| sample.page(image.at(at)).to_vec())
            .collect();
        assert_eq!(image.first_wrong(3, &bytes, &sample), None);
        bytes[2 * PAGE_BYTES + 4095] ^= 1;
        assert_eq!(image.first_wrong(3, &bytes, &sample), Some(5));
    }
}
