//! Batches that threads write, and one that nobody writes.

use std::sync::Arc;

use super::*;
use crate::store::Reason;
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
