//! Batches that threads write, and one that nobody writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::store::{Device, ReadBuffer, Reason};
use crate::testing::sim_device::{Fault, Op, SimDevice};
use crate::writeback::scene::{self, SEGMENT};

fn tiers() -> (Arc<SimDevice>, Tiers) {
    let device = Arc::new(SimDevice::new(20 * SEGMENT, 1));
    let tiers = scene::tiers(Box::new(Arc::clone(&device)));
    (device, tiers)
}

/// A batch with one record, of a page that is never written.
fn shipment(tiers: &Tiers, page: u32) -> Shipment {
    let mut shipment = Shipment::new(tiers);
    let store = tiers.store_of_a_stored_page();
    store.begin(&mut shipment.batch, Reason::WriteBack).unwrap();
    shipment.batch.push(page, 1, &[7; 100]).unwrap();
    shipment
}

fn page(shipment: &Shipment) -> u32 {
    shipment.batch.records().next().unwrap().0.page
}

/// Lets the threads of a test end when it fails.
struct Closing<'a>(&'a Dispatch);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[test]
fn batches_come_back_in_order_each_with_its_own_result() {
    let (device, tiers) = tiers();
    let dispatch = Dispatch::default();
    dispatch.open();
    std::thread::scope(|scope| {
        scope.spawn(|| dispatch.serve(&tiers));
        scope.spawn(|| dispatch.serve(&tiers));
        let _closing = Closing(&dispatch);
        // A place that failed is not used again.
        for round in 0..8 {
            let shipments = [2 * round, 2 * round + 1].map(|page| shipment(&tiers, page));
            device.inject(Op::Write, 1, Fault::Fail);
            for shipment in shipments {
                dispatch.hand_over(shipment);
            }
            let mut failed = 0;
            for number in 0..2 {
                let (mut shipment, result) = dispatch.take_back(&tiers);
                assert_eq!(page(&shipment), 2 * round + number);
                match result {
                    Ok(is_written) => {
                        assert!(is_written);
                        (tiers.store_of_a_stored_page()).seal(&mut shipment.batch);
                    }
                    Err(_) => failed += 1,
                }
            }
            assert_eq!(failed, 1, "round {round}");
        }
    });
}

#[test]
fn what_waits_when_nobody_serves_any_more_is_written_by_who_wants_it_back() {
    let (device, tiers) = tiers();
    let dispatch = Dispatch::default();
    for number in 0..DEPTH as u32 {
        dispatch.hand_over(shipment(&tiers, number));
    }
    assert!(!dispatch.is_written());
    let writes = device.counts().writes;
    for number in 0..DEPTH as u32 {
        let (mut shipment, result) = dispatch.take_back(&tiers);
        assert!(page(&shipment) == number && result.unwrap());
        (tiers.store_of_a_stored_page()).seal(&mut shipment.batch);
    }
    assert_eq!(device.counts().writes, writes + DEPTH as u64);
}

/// A device that knows how many write at once.
struct Crossing {
    device: SimDevice,
    writing: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl Device for Crossing {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let writing = self.writing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(writing, Ordering::SeqCst);
        // Others have time to come.
        (0..1000).for_each(|_| std::thread::yield_now());
        let result = self.device.write_at(bytes, offset);
        self.writing.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.device.discard(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
}

#[test]
fn one_batch_is_written_at_a_time_while_there_are_readers() {
    let most = Arc::new(AtomicUsize::new(0));
    let tiers = scene::tiers(Box::new(Crossing {
        device: SimDevice::new(20 * SEGMENT, 1),
        writing: AtomicUsize::new(0),
        most: Arc::clone(&most),
    }));
    let store = tiers.store_of_a_stored_page();
    let dispatch = Dispatch::default();
    dispatch.hand_over(shipment(&tiers, 0));
    let (mut first, _) = dispatch.take_back(&tiers);
    let (record, _) = first.batch.records().next().unwrap();
    store.retain(record.location, record.bytes);
    store.seal(&mut first.batch);
    store.read_back(&mut ReadBuffer::new(), &[record], &mut |_, object| {
        assert_eq!(object.unwrap(), [7; 100]);
    });
    dispatch.open();
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(|| dispatch.serve(&tiers))));
        let _closing = Closing(&dispatch);
        for number in 1..=DEPTH as u32 {
            dispatch.hand_over(shipment(&tiers, number));
        }
        for number in 1..=DEPTH as u32 {
            // Not before it is written by one who serves: whoever takes it back may write it, too.
            while !dispatch.is_written() {
                std::thread::yield_now();
            }
            let (mut shipment, result) = dispatch.take_back(&tiers);
            assert!(page(&shipment) == number && result.unwrap());
            store.seal(&mut shipment.batch);
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
