//! Openings that fail: they say why, and leave no trace and no damage.

use std::os::unix::net::UnixListener;

use super::*;
use crate::store::{Encryption, KEY_BYTES, MasterKey};

fn refusal(options: EngineOptions) -> Error {
    match Engine::open(options) {
        Ok(_) => panic!("the engine opened"),
        Err(error) => error,
    }
}

fn names(dir: &Directory) -> Vec<String> {
    let entries = std::fs::read_dir(&dir.0).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn adopting(run: &Run, dir: &Directory) -> EngineOptions {
    EngineOptions {
        adopt: true,
        ..options(&run.setup, run.device.clone(), Some(dir))
    }
}

#[test]
fn a_segment_that_cannot_hold_a_raw_page_is_refused() {
    // It was accepted, and write-back then tried for ever to put such a page into an empty segment.
    let setup = Setup {
        page_bytes: 64 << 10,
        pool_bytes_max: 4 << 20,
        ..SMALL
    };
    for (segment_bytes, is_accepted) in [(64 << 10, false), (68 << 10, true)] {
        let device = Arc::new(SimDevice::new(4 << 20, 1));
        let mut options = options(&setup, Some(device), None);
        options.store.as_mut().unwrap().segment_bytes = segment_bytes;
        match Engine::open(options) {
            Ok(_) => assert!(is_accepted, "{segment_bytes}"),
            Err(error) => {
                let words = error.to_string();
                assert!(!is_accepted && words.contains("65408"), "{words}");
            }
        }
    }
}

#[test]
fn a_frame_of_any_other_size_is_refused_and_no_panic() {
    let mut options = options(&SMALL, None, None);
    options.frame_bytes = 8192;
    let words = refusal(options).to_string();
    assert!(words.contains("frame size is 8192"), "{words}");
}

#[test]
fn an_opening_that_fails_leaves_no_memory_behind() {
    let dir = Directory::new("no-trace");
    let foreign = Arc::new(SimDevice::from_image(vec![7; 4 << 20], 1));
    let error = refusal(options(&SMALL, Some(foreign), Some(&dir)));
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(names(&dir), [""; 0]);
    let no_frames = Setup {
        pool_bytes_max: 4096,
        ..SMALL
    };
    let device = Arc::new(SimDevice::new(4 << 20, 1));
    let error = refusal(options(&no_frames, Some(device), Some(&dir)));
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn a_table_that_the_system_does_not_open_is_not_replaced() {
    let dir = Directory::new("no-open");
    let mut run = Run::open(SMALL, 5, Some(&dir));
    (0..300).for_each(|_| run.act());
    for name in names(&dir) {
        let (path, aside) = (dir.0.join(&name), dir.0.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        // A socket in its place: the system refuses to open it, as it may refuse anything.
        drop(UnixListener::bind(&path).unwrap());
        let error = refusal(adopting(&run, &dir));
        assert!(matches!(error, Error::Io { .. }), "{name}: {error}");
        std::fs::rename(&aside, &path).unwrap();
    }
    let (engine, report) = Engine::open(adopting(&run, &dir)).unwrap();
    assert!(report.adopted && report.pages_lost == 0, "{report:?}");
    (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
    run.verify();
}

#[test]
fn a_refused_backing_file_does_not_cost_the_pool() {
    let dir = Directory::new("refused-store");
    let mut run = Run::open(SMALL, 6, Some(&dir));
    (0..2000).for_each(|_| run.act());
    assert!(run.stored_pages() > 0);
    let foreign = Arc::new(SimDevice::from_image(vec![7; 4 << 20], 1));
    let mut wrong = adopting(&run, &dir);
    // Two mistakes: with the first alone, pool pages are lost, and that is said.
    wrong.pool_bytes_max *= 2;
    wrong.store = options(&run.setup, Some(foreign), None).store;
    assert!(matches!(refusal(wrong), Error::Foreign { .. }));
    let (engine, report) = Engine::open(adopting(&run, &dir)).unwrap();
    assert!(report.adopted && report.pages_lost == 0, "{report:?}");
    (run.lane, run.reader, run.engine) = (engine.lane(), engine.reader_lane(), engine);
    run.verify();
}

fn encryption(key: u8) -> Encryption {
    Encryption {
        key: MasterKey::new([key; KEY_BYTES]),
        salt: [key; 16],
    }
}

fn encrypted(options: EngineOptions, key: u8) -> EngineOptions {
    let store = options.store.map(|store| StoreSource {
        encryption: Some(encryption(key)),
        ..store
    });
    EngineOptions { store, ..options }
}

#[test]
fn an_encrypted_store_is_adopted_with_its_key_and_refused_with_another() {
    for seed in seeds(3) {
        let dir = Directory::new(&format!("encrypted-{seed}"));
        let mut run = Run::open_with(SMALL, seed, Some(&dir), |options| {
            options.store.as_mut().unwrap().encryption = Some(encryption(1));
        });
        for _ in 0..3 {
            (0..500).for_each(|_| run.act());
            assert!(run.stored_pages() > 0);
            let image = run.sim().image();
            for wrong in [adopting(&run, &dir), encrypted(adopting(&run, &dir), 2)] {
                let words = refusal(wrong).to_string();
                assert!(words.contains("is encrypted"), "{words}");
                assert!(run.sim().image() == image, "it was touched");
            }
            let report = run.take_over(encrypted(adopting(&run, &dir), 1));
            assert_eq!(report.pages_lost, 0);
            run.engine.check();
            run.verify();
        }
    }
}

/// A dead process's memory files, one of them changed.
fn meddled(name: &str, what: &str, meddle: impl FnOnce(&std::path::Path)) -> (Run, Directory) {
    let dir = Directory::new(name);
    let mut run = Run::open(SMALL, 8, Some(&dir));
    (0..1000).for_each(|_| run.act());
    meddle(&dir.0.join(format!("nbdswap-{:016x}.{what}", 7)));
    (run, dir)
}

fn write_head(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

#[test]
fn memory_that_is_not_ours_is_refused_and_not_touched() {
    for what in ["table", "pool"] {
        let name = format!("foreign-{what}");
        let (run, dir) = meddled(&name, what, |path| write_head(path, b"somebody"));
        let path = dir.0.join(format!("nbdswap-{:016x}.{what}", 7));
        let before = std::fs::read(&path).unwrap();
        let Error::Foreign { path: found, .. } = refusal(adopting(&run, &dir)) else {
            panic!("{what} was not refused");
        };
        assert_eq!(found, path.display().to_string());
        assert!(
            std::fs::read(&path).unwrap() == before,
            "{what} was touched"
        );
    }
}

#[test]
fn a_table_that_was_never_finished_is_replaced() {
    let (run, dir) = meddled("unfinished", "table", |path| write_head(path, &[0; 4096]));
    let (_, report) = Engine::open(adopting(&run, &dir)).unwrap();
    assert!(!report.adopted);
    assert!(report.reason.ends_with("was never finished"), "{report:?}");
}
