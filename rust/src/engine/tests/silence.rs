//! A device that does not answer: what it is called, after how long, and what is answered meanwhile.

use std::cell::RefCell;

use super::faults::mostly_stored;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

impl Run {
    fn page_where(&self, wanted: impl Fn(Read) -> bool) -> PageId {
        let (mut lane, mut out) = (self.engine.lane(), vec![0; self.setup.page_bytes]);
        (0..PAGES)
            .map(PageId)
            .find(|page| wanted(self.engine.read(&mut lane, *page, &mut out).unwrap()))
            .expect("there is one")
    }
}

#[test]
fn behind_a_silent_device_stored_pages_fail_at_once_until_it_answers() {
    let mut run = mostly_stored(1);
    let stored = run.page_where(|read| matches!(read, Read::Fetch(_)));
    let pooled = run.page_where(|read| matches!(read, Read::Ready(_)));
    let (engine, device) = (&run.engine, Arc::clone(run.sim_shared()));
    let mut observer = Observer::new(PATIENCE);
    let (mut lane, mut out) = (engine.lane(), vec![0; PAGE]);
    assert!(!engine.observe(&mut observer, Duration::ZERO));
    device.close_gate();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let Ok(Read::Fetch(place)) = engine.read(&mut engine.lane(), stored, &mut [0; PAGE])
            else {
                panic!("it is stored");
            };
            let mut fetch = Fetch::new(PAGE);
            (fetch.page, fetch.place) = (stored, place);
            fetch_one(engine, &mut engine.reader_lane(), fetch).buffer
        });
        device.wait_for_waiting(1);
        let seen = Duration::from_secs(100);
        assert!(!engine.observe(&mut observer, seen));
        assert!(!engine.observe(&mut observer, seen + PATIENCE - Duration::from_millis(1)));
        assert!(matches!(
            engine.read(&mut lane, stored, &mut out),
            Ok(Read::Fetch(_))
        ));

        assert!(engine.observe(&mut observer, seen + PATIENCE));
        assert!(
            !engine.observe(&mut observer, seen + 2 * PATIENCE),
            "that is no news"
        );
        assert!(engine.snapshot().is_store_silent);
        assert_eq!(engine.snapshot().store_unanswered, 2 * PATIENCE);
        assert!(matches!(
            engine.read(&mut lane, stored, &mut out),
            Err(Error::Silent)
        ));
        assert!(matches!(
            engine.patch(&mut lane, stored, 5, &[1; 9]),
            Err(Error::Silent)
        ));
        assert!(matches!(
            engine.read(&mut lane, pooled, &mut out),
            Ok(Read::Ready(_))
        ));
        assert!(out == run.model[pooled.0 as usize]);
        assert_eq!(engine.page_state(stored), PageState::Data);

        // Whatever it says, it has spoken, and the late answer is right.
        device.open_gate();
        let late = asking.join().unwrap();
        assert!(late[..] == run.model[stored.0 as usize]);
        assert!(engine.observe(&mut observer, seen + 3 * PATIENCE));
    });
    assert!(!run.engine.snapshot().is_store_silent);
    assert_eq!(run.engine.snapshot().store_unanswered, Duration::ZERO);
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn behind_a_silent_device_writes_without_room_are_refused_at_once_until_it_answers() {
    let mut run = mostly_stored(2);
    let device = Arc::clone(run.sim_shared());
    let mut observer = Observer::new(PATIENCE);
    device.close_write_gate();
    let engine = &run.engine;
    let (model, random) = (RefCell::new(&mut run.model), &mut run.random);
    let mut lane = engine.lane();
    let mut write = |page: u32| {
        let data: Vec<u8> = (0..PAGE).map(|_| random.bits() as u8).collect();
        let written = engine.write(&mut lane, PageId(page), &data);
        if matches!(written, Ok(Write::Done(_))) {
            model.borrow_mut()[page as usize] = data;
        }
        written
    };
    std::thread::scope(|scope| {
        let mut page = 0;
        while !matches!(write(page), Ok(Write::Stall)) {
            page += 1;
        }
        let stepping = scope.spawn(|| while engine.step(Duration::from_secs(1)) == Work::More {});
        device.wait_for_waiting(1);
        // Write-back waits for the device and cannot say that it is stuck.
        assert!(matches!(write(page), Ok(Write::Stall)));
        assert!(!engine.observe(&mut observer, Duration::ZERO));
        assert!(engine.observe(&mut observer, PATIENCE));
        assert!(matches!(write(page), Err(Error::PoolFull)));
        assert!(
            engine.zero(&mut engine.lane(), PageId(page)).is_ok(),
            "zeros take no room"
        );
        model.borrow_mut()[page as usize].fill(0);
        device.open_gate();
        stepping.join().unwrap();
        assert!(engine.observe(&mut observer, 2 * PATIENCE));
    });
    assert!(run.write_noise(PageId(7)));
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}

#[test]
fn behind_a_silent_device_a_flush_fails_at_once_until_it_answers() {
    let mut run = Run::open_with(SMALL, 3, None, |options| {
        options.exports[1].is_durable = true;
    });
    for page in 300..320 {
        assert!(run.write_noise(PageId(page)));
    }
    let device = Arc::clone(run.sim_shared());
    let mut observer = Observer::new(PATIENCE);
    let durable = ExportId(1);
    let engine = &run.engine;
    device.close_write_gate();
    std::thread::scope(|scope| {
        let first = engine.flush(durable).unwrap();
        let stepping = scope.spawn(|| while engine.step(Duration::from_secs(1)) == Work::More {});
        device.wait_for_waiting(1);
        assert!(!engine.observe(&mut observer, Duration::ZERO));
        assert_eq!(engine.flushed(first), None, "the device has time to answer");
        assert!(engine.observe(&mut observer, PATIENCE), "who waits is told");
        assert_eq!(engine.flushed(first), Some(Err(FlushError::Failed)));
        let second = engine.flush(durable).unwrap();
        assert_eq!(engine.flushed(second), Some(Err(FlushError::Failed)));
        assert_eq!(engine.flush(ExportId(0)), None, "it waits for no device");

        device.open_gate();
        stepping.join().unwrap();
        assert!(engine.observe(&mut observer, 2 * PATIENCE));
        // It was done after all; nobody was told that it was not possible.
        assert_eq!(engine.flushed(first), Some(Ok(())));
    });
    assert_eq!(run.flush(), Ok(()));
    assert_eq!(run.count_errors(), 0);
    run.engine.check();
}
