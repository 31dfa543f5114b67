//! The threads that do background work: one steps while there is work, scrubs when there is none, and
//! sleeps at the bell; the other writes to the store what the first one sends there.
//!
//! Not here: what a step does (`writeback`). Locking: none beyond the engine's and the bell's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Heard};
use crate::worker::STACK_BYTES;
use crate::writeback::Work;

/// How long writers must be silent before their holes are moved together.
const QUIET: Duration = Duration::from_millis(100);

/// How long a store that could not take anything is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// The running threads; they stop when dropped.
pub struct Background {
    engine: Arc<Engine>,
    is_stopping: Arc<AtomicBool>,
    started: Instant,
    stepper: Thread,
    writer: Thread,
}

/// A thread and the kernel's number of it.
struct Thread {
    id: Arc<AtomicI32>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let id = Arc::new(AtomicI32::new(0));
        let builder = Builder::new().name(name.into()).stack_size(STACK_BYTES);
        let handle = builder.spawn({
            let id = Arc::clone(&id);
            move || {
                let own = rustix::thread::gettid().as_raw_nonzero().get();
                id.store(own, Ordering::Release);
                work();
            }
        })?;
        Ok(Thread {
            id,
            handle: Some(handle),
        })
    }

    fn join(&mut self) {
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            eprintln!("nbdswap: a background thread panicked; its message is above");
        }
    }
}

impl Background {
    /// Starts the threads. `space_changed` is called after every piece of work, and when nothing more
    /// can be done: writes that wait for room look again.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(
        engine: Arc<Engine>,
        space_changed: impl Fn() + Send + 'static,
    ) -> io::Result<Background> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let writer = Thread::start("nbdswap-write", {
            let engine = Arc::clone(&engine);
            engine.dispatch().open();
            move || engine.serve_writes()
        });
        // Without a thread that serves, batches are written by the one that steps.
        let writer = writer.inspect_err(|_| engine.dispatch().close())?;
        let started = Instant::now();
        let stepper = Thread::start("nbdswap-back", {
            let (engine, is_stopping) = (Arc::clone(&engine), Arc::clone(&is_stopping));
            move || step_until(&engine, started, &is_stopping, &space_changed)
        });
        let stepper = stepper.inspect_err(|_| engine.dispatch().close())?;
        Ok(Background {
            engine,
            is_stopping,
            started,
            stepper,
            writer,
        })
    }

    /// The time on the clock that the engine is given.
    pub fn now_us(&self) -> u64 {
        micros_since(self.started)
    }

    /// The kernel's numbers of the threads, 0 until they run.
    pub fn thread_ids(&self) -> [i32; 2] {
        [&self.stepper, &self.writer].map(|thread| thread.id.load(Ordering::Acquire))
    }
}

fn micros_since(started: Instant) -> u64 {
    started.elapsed().as_micros() as u64
}

fn step_until(
    engine: &Engine,
    started: Instant,
    is_stopping: &AtomicBool,
    space_changed: &impl Fn(),
) {
    while !is_stopping.load(Ordering::Acquire) {
        let is_asked = engine.bell().is_asked();
        let work = engine.step(started.elapsed());
        // Nobody waits who has not asked, and waking workers is not free.
        if is_asked || matches!(work, Work::More | Work::Blocked) {
            space_changed();
        }
        match work {
            Work::More => {}
            // What can wait is looked at a few times a second, whoever writes how much.
            Work::Idle if scrub_until_heard(engine, started) == Heard::Ring => {}
            Work::Idle => engine.bell().pause(QUIET),
            Work::Later => {
                engine.scrub(micros_since(started));
                engine.bell().pause(QUIET);
            }
            Work::Blocked => engine.bell().pause(RETRY),
        }
    }
}

/// Waits for work and scrubs meanwhile.
fn scrub_until_heard(engine: &Engine, started: Instant) -> Heard {
    loop {
        let pause_us = engine.scrub(micros_since(started));
        match engine.bell().wait(pause_us.map(Duration::from_micros)) {
            Heard::Nothing => {}
            heard => return heard,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        self.engine.bell().ring();
        // The stepper first: it may wait for a batch that the writer has.
        self.stepper.join();
        self.engine.dispatch().close();
        self.writer.join();
    }
}
