//! The threads that do background work: one steps while there is work, scrubs when there is none, and
//! sleeps at the bell; some write to the store what the first one sends there; one watches whether the
//! device answers, since the others wait for it.
//!
//! Not here: what a step does (`writeback`). Locking: none beyond the engine's and the bell's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::courtesy;
use crate::engine::{Engine, Heard, Observer};
use crate::worker::{END_PATIENCE, STACK_BYTES, ended_by};
use crate::writeback::Work;

/// How long writers must be silent before their holes are moved together.
const QUIET: Duration = Duration::from_millis(100);

/// How long a store that could not take anything is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Threads that write: while one waits for the device, the others copy and prove what comes next. Two kept
/// a device that takes 2.3 GB/s busy for 0.91 of the time, three for 0.98.
const WRITERS: usize = 3;

/// How often the device is looked at in the time after which it is called silent.
const LOOKS: u32 = 8;

/// The running threads; they stop when dropped. One that the device does not give back is left behind,
/// with the engine, which it uses.
pub struct Background {
    engine: Arc<Engine>,
    is_stopping: Arc<AtomicBool>,
    started: Instant,
    stepper: Thread,
    writers: Vec<Thread>,
    watcher: Thread,
    /// Its end ends the watcher.
    is_watched: Option<Sender<()>>,
    patience: Duration,
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
                courtesy::begin();
                work();
            }
        })?;
        Ok(Thread {
            id,
            handle: Some(handle),
        })
    }

    /// Waits for its end, until then at most.
    fn join(&mut self, until: Instant) {
        if let Some(handle) = self.handle.take()
            && ended_by(&handle, until)
            && handle.join().is_err()
        {
            eprintln!("nbdswap: a background thread panicked; its message is above");
        }
    }
}

impl Background {
    /// Starts the threads. `space_changed` is called after every piece of work, and when nothing more
    /// can be done: writes that wait for room look again. A device that gives no answer for `patience`
    /// is called silent; see [`Engine::observe`].
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(
        engine: Arc<Engine>,
        patience: Duration,
        space_changed: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Background> {
        let space_changed = Arc::new(space_changed);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        // Ends by itself if another one cannot be started.
        let (is_watched, end) = channel();
        let watcher = Thread::start("nbdswap-watch", {
            let engine = Arc::clone(&engine);
            let space_changed = Arc::clone(&space_changed);
            move || watch(&engine, started, patience, &end, &*space_changed)
        })?;
        engine.dispatch().open();
        let writers = (0..WRITERS).map(|_| {
            let engine = Arc::clone(&engine);
            Thread::start("nbdswap-write", move || engine.serve_writes())
        });
        // Without a thread that serves, batches are written by the one that steps.
        let writers = writers.collect::<io::Result<Vec<Thread>>>();
        let writers = writers.inspect_err(|_| engine.dispatch().close())?;
        let stepper = Thread::start("nbdswap-back", {
            let (engine, is_stopping) = (Arc::clone(&engine), Arc::clone(&is_stopping));
            let space_changed = Arc::clone(&space_changed);
            move || step_until(&engine, started, &is_stopping, &*space_changed)
        });
        let stepper = stepper.inspect_err(|_| engine.dispatch().close())?;
        Ok(Background {
            engine,
            is_stopping,
            started,
            stepper,
            writers,
            watcher,
            is_watched: Some(is_watched),
            patience,
        })
    }

    /// The time on the clock that the engine is given.
    pub fn now_us(&self) -> u64 {
        micros_since(self.started)
    }

    /// The kernel's numbers of the threads, 0 until they run.
    pub fn thread_ids(&self) -> impl Iterator<Item = i32> {
        let threads = self.writers.iter().chain([&self.stepper, &self.watcher]);
        threads.map(|thread| thread.id.load(Ordering::Acquire))
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
        courtesy::give_way();
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

/// Watches the device until the other end of `end` is gone.
fn watch(
    engine: &Engine,
    started: Instant,
    patience: Duration,
    end: &Receiver<()>,
    space_changed: &impl Fn(),
) {
    let mut observer = Observer::new(patience);
    while end.recv_timeout(patience / LOOKS) == Err(RecvTimeoutError::Timeout) {
        if engine.observe(&mut observer, started.elapsed()) {
            space_changed();
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
        // The stepper first: it may wait for a batch that a writer has.
        let until = Instant::now() + self.patience.min(END_PATIENCE);
        self.stepper.join(until);
        self.engine.dispatch().close();
        for writer in &mut self.writers {
            writer.join(until);
        }
        self.is_watched = None;
        self.watcher.join(until);
    }
}
