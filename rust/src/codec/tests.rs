//! What holds for every codec, at every page size.

use proptest::prelude::*;

use super::*;
use crate::page::PAGE_BYTES_ALLOWED;
use crate::testing::pages::make_page;
use crate::testing::random::Random;

fn all_named() -> impl Iterator<Item = CodecChoice> {
    CODECS
        .iter()
        .map(|info| CodecChoice::named(info.name).unwrap())
}

fn real_codecs() -> impl Iterator<Item = CodecChoice> {
    all_named().filter(|choice| choice.codec() != Codec::None)
}

/// Every codec but none, at any of its levels; the lowest ones of lz4's acceleration.
fn choices() -> impl Strategy<Value = CodecChoice> {
    (0..CODECS.len() - 1, any::<u16>()).prop_map(|(index, chance)| {
        let info = &CODECS[index];
        let levels = (info.level_max - info.level_min + 1).min(100);
        CodecChoice::new(info.codec, info.level_min + i32::from(chance) % levels).unwrap()
    })
}

fn page_sizes() -> impl Strategy<Value = usize> {
    (0..3usize).prop_map(|index| PAGE_BYTES_ALLOWED[index])
}

/// Runs, old bytes again from near and far, and noise.
fn pages(page_bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut page = Vec::with_capacity(page_bytes + 600);
    let runs = 1 + random.below(400) as usize;
    while page.len() < page_bytes {
        let bytes = 1 + random.below(runs as u64 + 1) as usize;
        match random.below(3) {
            0 => page.resize(page.len() + bytes, random.bits() as u8),
            1 if !page.is_empty() => {
                let from = random.below(page.len() as u64) as usize;
                (from..from + bytes).for_each(|at| page.push(page[at]));
            }
            _ => (0..bytes.min(20)).for_each(|_| page.push(random.bits() as u8)),
        }
    }
    page.truncate(page_bytes);
    page
}

fn object_of(choice: CodecChoice, page: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(choice, page.len());
    compressor.compress(page, page.len()).map(<[u8]>::to_vec)
}

proptest! {
    #[test]
    fn a_page_comes_back_from_its_object(
        choice in choices(),
        page_bytes in page_sizes(),
        seed: u64,
    ) {
        let page = pages(page_bytes, seed);
        if let Some(object) = object_of(choice, &page) {
            let mut back = vec![0xee; page_bytes];
            prop_assert!(Decompressor::new().decompress(choice.id(), &object, &mut back));
            prop_assert!(back == page);
        }
    }

    #[test]
    fn garbage_is_refused_or_some_page_but_never_a_crash(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        let mut page = vec![0; 4096];
        for codec in CodecId::ALL {
            let _ = Decompressor::new().decompress(codec, &bytes, &mut page);
        }
    }

    #[test]
    fn a_damaged_object_is_refused_or_some_page_but_never_a_crash(
        seed: u64,
        damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
    ) {
        let page = pages(4096, seed);
        let mut decompressor = Decompressor::new();
        for choice in real_codecs() {
            let Some(mut object) = object_of(choice, &page) else { continue };
            let mut back = vec![0; 4096];
            for &(at, byte) in &damage {
                let at = usize::from(at) % object.len();
                object[at] = byte;
                let _ = decompressor.decompress(choice.id(), &object, &mut back);
            }
        }
    }
}

#[test]
fn a_truncated_object_is_refused() {
    for page_bytes in PAGE_BYTES_ALLOWED {
        let page = pages(page_bytes, 7);
        let mut decompressor = Decompressor::new();
        for choice in real_codecs() {
            let object = object_of(choice, &page).expect("a page of runs");
            let mut back = vec![0; page_bytes];
            for bytes in (0..object.len()).rev().take(200).chain([0, 1, 2, 3, 4]) {
                assert!(
                    !decompressor.decompress(choice.id(), &object[..bytes], &mut back),
                    "{bytes} of {} bytes of {}",
                    object.len(),
                    choice.name()
                );
            }
            assert!(decompressor.decompress(choice.id(), &object, &mut back));
            assert!(back == page, "{} after refusals", choice.name());
        }
    }
}

#[test]
fn an_object_of_another_page_size_is_refused() {
    let page = pages(16384, 3);
    for choice in real_codecs() {
        let object = object_of(choice, &page).expect("a page of runs");
        for page_bytes in [4096, 65536] {
            let mut back = vec![0; page_bytes];
            assert!(!Decompressor::new().decompress(choice.id(), &object, &mut back));
        }
    }
}

#[test]
fn the_worst_page_has_room_and_is_not_called_smaller() {
    let mut random = Random::new(1);
    for page_bytes in PAGE_BYTES_ALLOWED {
        let noise: Vec<u8> = (0..page_bytes).map(|_| random.bits() as u8).collect();
        for info in &CODECS {
            for level in [info.level_min, info.level_default, info.level_max] {
                let choice = CodecChoice::new(info.codec, level).unwrap();
                let mut compressor = Compressor::new(choice, page_bytes);
                let object = compressor.compress(&noise, page_bytes - 1);
                assert_eq!(object, None, "{choice:?} of {page_bytes} bytes");
            }
        }
    }
}

#[test]
fn a_compressor_gives_the_same_object_whatever_came_before() {
    let mut random = Random::new(5);
    for choice in real_codecs() {
        let mut compressor = Compressor::new(choice, 4096);
        let mut page = vec![0; 4096];
        for step in 0..200 {
            make_page(&mut random, &mut page);
            let object = compressor.compress(&page, 4096).map(<[u8]>::to_vec);
            assert_eq!(
                object,
                object_of(choice, &page),
                "step {step} of {choice:?}"
            );
        }
    }
}

#[test]
fn a_compressor_works_on_another_thread_than_made_it() {
    let page = pages(4096, 9);
    for choice in real_codecs() {
        let mut compressor = Compressor::new(choice, 4096);
        let elsewhere = std::thread::scope(|scope| {
            let work = scope.spawn(|| compressor.compress(&page, 4096).map(<[u8]>::to_vec));
            work.join().expect("a page compressed")
        });
        assert_eq!(elsewhere, object_of(choice, &page));
    }
}

#[test]
fn lz4_and_lz4hc_make_objects_of_one_kind() {
    let page = pages(4096, 4);
    let [quick, thorough] = ["lz4", "lz4hc"].map(|name| CodecChoice::named(name).unwrap());
    assert_eq!((quick.id(), thorough.id()), (CodecId::Lz4, CodecId::Lz4));
    assert_eq!((quick.name(), thorough.name()), ("lz4", "lz4hc"));
    let [quick, thorough] = [quick, thorough].map(|choice| object_of(choice, &page).unwrap());
    assert!(thorough.len() < quick.len());
}

#[test]
fn numbers_of_codecs_are_part_of_the_formats() {
    let names: Vec<_> = (0..=8)
        .map(|bits| CodecId::from_bits(bits).map(CodecId::name))
        .collect();
    let known = ["none", "repeat", "lz4", "zstd", "lzo", "deflate"].map(Some);
    assert_eq!(names[..6], known);
    assert_eq!(names[6..], [None; 3]);
    for id in CodecId::ALL {
        assert_eq!(CodecId::from_bits(id as u8), Some(id));
    }
}

#[test]
fn every_codec_has_its_levels_and_no_others() {
    for (info, choice) in CODECS.iter().zip(all_named()) {
        assert_eq!(choice.codec().info().name, info.name);
        assert_eq!((choice.level(), choice.id()), (info.level_default, info.id));
        for level in [info.level_min, info.level_max] {
            let choice = CodecChoice::parse(info.name, level).unwrap();
            assert_eq!(choice, CodecChoice::new(info.codec, level).unwrap());
        }
        for level in [info.level_min - 1, info.level_max + 1, i32::MIN, i32::MAX] {
            assert!(CodecChoice::new(info.codec, level).is_err(), "{level}");
        }
    }
}

#[test]
fn a_choice_that_does_not_exist_is_refused_by_what_was_found_and_wanted() {
    let refusal = |name, level| CodecChoice::parse(name, level).unwrap_err().to_string();
    assert_eq!(
        refusal("lzma", 1),
        "codec is lzma, wanted lz4, lz4hc, zstd, lzo, deflate or none"
    );
    let level = "codec level is 23, wanted -7 to 19 for zstd";
    assert_eq!(refusal("zstd", 23), level);
    assert_eq!(refusal("lzo", 2), "codec level is 2, wanted 1 for lzo");
    // What only the core makes of itself is nobody's choice.
    assert!(CodecChoice::named("repeat").is_err());
}
