//! How fast a pool takes random overwrites, with one thread or several.
//!
//! A cycle is what a write does to the pool: a place for the new object, its bytes, the old place
//! is freed. Sizes and pages are drawn at random inside the cycle, which costs every pool the same
//! few nanoseconds. The pool is full, and every page was overwritten once, before the time starts.
//!
//! Locking: each thread has a share of the pages; the pool is shared and locks itself.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use super::interrupt::{ASK_EVERY, Interrupt};
use super::ledger::Ledger;
use super::objects::Objects;
use super::trial::{Plan, Trial};
use crate::error::{Error, Result};
use crate::random::Random;

/// Most threads that may be asked for.
const THREADS_MAX: usize = 64;

/// A thread looks whether it is still wanted after so many cycles.
const LOOK_EVERY: u64 = 1024;

/// How fast it went.
#[derive(Clone, Copy, Debug)]
pub struct SpeedReport {
    /// Threads that worked.
    pub threads: usize,
    /// Cycles of all threads.
    pub cycles: u64,
    /// From the first thread's start to the last one's end.
    pub seconds: f64,
    /// What a cycle took the thread that did it.
    pub ns_per_cycle: f64,
}

/// One thread's part.
struct Share<'a> {
    ledger: Ledger<'a>,
    objects: &'a Objects,
    /// Of all shares.
    pages: u32,
    random: Random,
    cycles: u64,
}

/// When a thread began and ended, or why it could not go on.
type Outcome = Result<(Instant, Instant)>;

/// Does `cycles` random overwrites in `threads` threads on the pool of `plan`.
///
/// # Errors
/// As [`pack`](super::pack()).
pub fn speed(
    objects: &Objects,
    plan: &Plan,
    threads: usize,
    cycles: u64,
    mut interrupt: Interrupt<'_>,
) -> Result<SpeedReport> {
    let trial = Trial::new(objects, plan)?;
    let sizes = trial.objects.without_empty();
    check_asked(&trial, &sizes, threads, cycles)?;
    let mut shares = Vec::with_capacity(threads);
    for thread in 0..threads as u64 {
        let part = |whole: u64, thread: u64| whole * thread / threads as u64;
        let pages = |thread| part(trial.pages.into(), thread) as u32;
        shares.push(Share {
            ledger: Ledger::new(&*trial.pool, &trial.noise, pages(thread)..pages(thread + 1)),
            objects: &sizes,
            pages: trial.pages,
            random: Random::new(plan.seed.wrapping_add(thread)),
            cycles: part(cycles, thread + 1) - part(cycles, thread),
        });
    }
    for share in &mut shares {
        share.prepare(&mut interrupt)?;
    }
    let (first, last) = run(&mut shares, &mut interrupt)?;
    for share in &mut shares {
        share.ledger.verify(&mut interrupt)?;
    }
    trial.pool.check();
    let seconds = (last - first).as_secs_f64();
    Ok(SpeedReport {
        threads,
        cycles,
        seconds,
        ns_per_cycle: seconds * 1e9 * threads as f64 / cycles as f64,
    })
}

fn check_asked(trial: &Trial, sizes: &Objects, threads: usize, cycles: u64) -> Result<()> {
    let wrong = |what: String| Err(Error::Config(what));
    let threads_max = THREADS_MAX.min(trial.pages as usize);
    if !(1..=threads_max).contains(&threads) {
        return wrong(format!(
            "threads are {threads}, wanted 1 to {threads_max} for {} pages",
            trial.pages
        ));
    }
    if cycles == 0 {
        return wrong("cycles are 0, wanted at least 1".into());
    }
    if sizes.count() == 0 {
        return wrong("no page needs an object, wanted at least 1 that does".into());
    }
    Ok(())
}

/// Lets all threads work at once. Returns the first start and the last end.
fn run(shares: &mut [Share<'_>], interrupt: &mut Interrupt<'_>) -> Outcome {
    let (start, stop) = (Barrier::new(shares.len()), AtomicBool::new(false));
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for share in shares {
            let (sender, start, stop) = (sender.clone(), &start, &stop);
            scope.spawn(move || {
                start.wait();
                // The other end is there until all threads have sent.
                let _ = sender.send(share.work(stop));
            });
        }
        drop(sender);
        await_all(&outcomes, interrupt).inspect_err(|_| stop.store(true, Relaxed))
    })
}

fn await_all(outcomes: &Receiver<Outcome>, interrupt: &mut Interrupt<'_>) -> Outcome {
    let mut span: Option<(Instant, Instant)> = None;
    loop {
        match outcomes.recv_timeout(ASK_EVERY) {
            Ok(outcome) => {
                let (from, to) = outcome?;
                span = span.map_or(Some((from, to)), |(first, last)| {
                    Some((first.min(from), last.max(to)))
                });
            }
            Err(RecvTimeoutError::Timeout) => interrupt.poll()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(span.expect("a thread that panics ends the scope"));
            }
        }
    }
}

impl Share<'_> {
    /// Fills the share and overwrites all of it once.
    fn prepare(&mut self, interrupt: &mut Interrupt<'_>) -> Result<()> {
        let owners = self.ledger.owners();
        let mut order: Vec<u32> = owners.clone().collect();
        self.random.shuffle(&mut order);
        for owner in owners {
            interrupt.poll()?;
            self.ledger
                .write(owner, self.objects.of_page(owner, self.pages))?;
        }
        for owner in order {
            interrupt.poll()?;
            let bytes = self.objects.any(&mut self.random);
            self.ledger.write(owner, bytes)?;
        }
        Ok(())
    }

    fn work(&mut self, stop: &AtomicBool) -> Outcome {
        let owners = self.ledger.owners();
        let began = Instant::now();
        for cycle in 0..self.cycles {
            if cycle % LOOK_EVERY == 0 && stop.load(Relaxed) {
                break;
            }
            let owner = owners.start + self.random.below(owners.len() as u64) as u32;
            let bytes = self.objects.any(&mut self.random);
            self.ledger.write(owner, bytes)?;
        }
        Ok((began, Instant::now()))
    }
}
