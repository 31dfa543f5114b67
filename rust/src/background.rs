//! The thread that does background work: it steps while there is work, scrubs when there is none, and
//! sleeps at the bell.
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

/// The running thread; stops when dropped.
pub struct Background {
    engine: Arc<Engine>,
    is_stopping: Arc<AtomicBool>,
    thread_id: Arc<AtomicI32>,
    started: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread. `space_changed` is called after every piece of work, and when nothing more
    /// can be done: writes that wait for room look again.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(
        engine: Arc<Engine>,
        space_changed: impl Fn() + Send + 'static,
    ) -> io::Result<Background> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let thread_id = Arc::new(AtomicI32::new(0));
        let started = Instant::now();
        let builder = Builder::new()
            .name("nbdswap-back".into())
            .stack_size(STACK_BYTES);
        let thread = builder.spawn({
            let (engine, is_stopping) = (Arc::clone(&engine), Arc::clone(&is_stopping));
            let thread_id = Arc::clone(&thread_id);
            move || {
                let id = rustix::thread::gettid().as_raw_nonzero().get();
                thread_id.store(id, Ordering::Release);
                while !is_stopping.load(Ordering::Acquire) {
                    let is_asked = engine.bell().is_asked();
                    let work = engine.step();
                    // Nobody waits who has not asked, and waking workers is not free.
                    if is_asked || matches!(work, Work::More | Work::Blocked) {
                        space_changed();
                    }
                    match work {
                        Work::More => {}
                        // What can wait is looked at a few times a second, whoever writes how much.
                        Work::Idle if scrub_until_heard(&engine, started) == Heard::Ring => {}
                        Work::Idle => engine.bell().pause(QUIET),
                        Work::Later => {
                            engine.scrub(micros_since(started));
                            engine.bell().pause(QUIET);
                        }
                        Work::Blocked => engine.bell().pause(RETRY),
                    }
                }
            }
        })?;
        Ok(Background {
            engine,
            is_stopping,
            thread_id,
            started,
            thread: Some(thread),
        })
    }

    /// The kernel's number of the thread, 0 until it runs.
    pub fn thread_id(&self) -> i32 {
        self.thread_id.load(Ordering::Acquire)
    }

    /// The time on the clock that the engine is given.
    pub fn now_us(&self) -> u64 {
        micros_since(self.started)
    }
}

fn micros_since(started: Instant) -> u64 {
    started.elapsed().as_micros() as u64
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
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("nbdswap: the background thread panicked; its message is above");
        }
    }
}
