//! Held against other implementations of the format: two decoders, one of them with an encoder that
//! uses every instruction, and streams of the original library.

use proptest::prelude::*;

use super::*;
use crate::testing::pages::make_page;
use crate::testing::random::Random;

fn encoded(page: &[u8]) -> Vec<u8> {
    let mut out = vec![0; object_bytes_max(page.len())];
    let bytes = Encoder::new().encode(page, &mut out);
    out.truncate(bytes);
    out
}

/// The page of `object`, if it is one that fits into `page_bytes`.
fn decoded(object: &[u8], page_bytes: usize) -> Option<Vec<u8>> {
    let mut page = vec![0xee; page_bytes];
    let bytes = decode(object, &mut page)?;
    page.truncate(bytes);
    Some(page)
}

fn decoded_by_lzo(object: &[u8], page_bytes: usize) -> Option<Vec<u8>> {
    let mut page = vec![0xdd; page_bytes];
    let bytes = ::lzo::decompress_into(object, &mut page).ok()?;
    page.truncate(bytes);
    Some(page)
}

fn decoded_by_lzokay(object: &[u8], page_bytes: usize) -> Option<Vec<u8>> {
    let mut page = vec![0xcc; page_bytes];
    let bytes = lzokay::decompress::decompress(object, &mut page).ok()?;
    page.truncate(bytes);
    Some(page)
}

/// Copies from all distances and of all lengths, between literals of all lengths.
fn page_of_copies(random: &mut Random, page_bytes: usize) -> Vec<u8> {
    let mut page = vec![random.bits() as u8];
    let scale = |random: &mut Random, bits: u64| {
        let bits = random.below(bits);
        1 + random.below(1 << bits) as usize
    };
    while page.len() < page_bytes {
        let literals = scale(random, 10);
        (0..literals).for_each(|_| page.push(random.bits() as u8));
        let from = page.len() - scale(random, 17).min(page.len());
        let copied = scale(random, 11);
        (from..from + copied).for_each(|at| page.push(page[at]));
    }
    page.truncate(page_bytes);
    page
}

#[test]
fn other_decoders_read_what_we_write_and_so_do_we() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let page_bytes = [4096, 16384, 65536][round % 3];
        let mut page = page_of_copies(&mut random, page_bytes);
        if round % 2 == 0 {
            make_page(&mut random, &mut page);
        }
        let object = encoded(&page);
        assert!(decoded(&object, page_bytes).as_ref() == Some(&page), "ours");
        assert!(decoded_by_lzo(&object, page_bytes).as_ref() == Some(&page));
        assert!(decoded_by_lzokay(&object, page_bytes).as_ref() == Some(&page));
    }
}

#[test]
fn we_read_what_a_thorough_encoder_writes() {
    let mut random = Random::new(2);
    for round in 0..60 {
        let page_bytes = [4096, 16384, 65536][round % 3];
        let page = page_of_copies(&mut random, page_bytes);
        let object = lzokay::compress::compress(&page).unwrap();
        assert!(decoded(&object, page_bytes) == Some(page), "round {round}");
    }
}

proptest! {
    #[test]
    fn pages_of_any_length_come_back(page in proptest::collection::vec(0..4u8, 0..300)) {
        let object = encoded(&page);
        prop_assert_eq!(decoded(&object, page.len()), Some(page));
    }

    /// Bytes with low values are valid instructions far more often than random ones.
    #[test]
    fn two_decoders_agree_about_any_stream(
        head in 0..40u8,
        body in proptest::collection::vec(prop_oneof![any::<u8>(), 0..70u8, Just(0)], 0..120),
        has_end: bool,
    ) {
        let mut stream = vec![head];
        stream.extend(&body);
        if has_end {
            stream.extend(END);
        }
        for page_bytes in [0, 64, 4096] {
            let ours = decoded(&stream, page_bytes);
            prop_assert_eq!(ours, decoded_by_lzo(&stream, page_bytes));
        }
    }

    #[test]
    fn two_decoders_agree_about_any_damage(
        seed: u64,
        damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4),
    ) {
        let page = page_of_copies(&mut Random::new(seed), 4096);
        let mut stream = lzokay::compress::compress(&page).unwrap();
        for (at, byte) in damage {
            let at = usize::from(at) % stream.len();
            stream[at] = byte;
        }
        prop_assert!(decoded(&stream, 4096) == decoded_by_lzo(&stream, 4096));
    }
}

/// Runs of 19 literals and matches of 4 bytes far away: the dearest page for its encoder.
#[test]
fn the_dearest_page_stays_within_its_bound() {
    let mut random = Random::new(3);
    for page_bytes in [4096, 16384, 65536] {
        let mut page: Vec<u8> = (0..page_bytes / 2).map(|_| random.bits() as u8).collect();
        while page.len() < page_bytes {
            (0..19).for_each(|_| page.push(random.bits() as u8));
            let from = random.below(page_bytes as u64 / 4) as usize;
            (from..from + 4).for_each(|at| page.push(page[at]));
        }
        page.truncate(page_bytes);
        let object = encoded(&page);
        assert!(object.len() > page_bytes, "{} bytes", object.len());
        assert!(object.len() <= object_bytes_max(page_bytes));
        assert!(decoded(&object, page_bytes) == Some(page));
    }
}

/// A page that needs every instruction: literals, then a copy from a distance, of a length.
fn page_of_vectors() -> Vec<u8> {
    const STEPS: [(usize, usize, usize); 18] = [
        (3, 1, 300),
        (17, 3, 40),
        (2, 1100, 3),
        (1, 9, 2),
        (60, 2048, 4),
        (300, 1, 9000),
        (5, 2500, 3),
        (4, 9500, 3),
        (1, 9600, 40),
        (2, 100, 8),
        (0, 9800, 33),
        (7, 1, 8000),
        (1, 18000, 9),
        (3, 17700, 30),
        (0, 16390, 300),
        (260, 1, 20000),
        (2, 38500, 12),
        (1, 1, 65536),
    ];
    let mut random = Random::new(8);
    let mut page = Vec::new();
    for (literals, distance, length) in STEPS {
        (0..literals).for_each(|_| page.push(random.bits() as u8));
        let from = page.len() - distance.min(page.len());
        (from..from + length).for_each(|at| page.push(page[at]));
    }
    page.truncate(65536);
    page
}

#[test]
fn we_read_what_the_original_library_wrote() {
    // Of liblzo2 2.10, by lzo1x_1_compress and lzo1x_999_compress.
    let streams: [&[u8]; 2] = [
        include_bytes!("vectors/lzo1x_1.bin"),
        include_bytes!("vectors/lzo1x_999.bin"),
    ];
    let page = page_of_vectors();
    for stream in streams {
        assert!(decoded(stream, page.len()).as_ref() == Some(&page));
    }
    assert!(decoded(&encoded(&page), page.len()) == Some(page));
}
