//! Being stopped: a long measurement asks now and then whether anybody still wants it.
//!
//! Locking: none; who measures owns it.

use std::io;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Time between two questions: asking may cost a lock that others hold.
pub const ASK_EVERY: Duration = Duration::from_millis(100);

/// Whom to ask, and when that was done last.
pub struct Interrupt<'a> {
    is_wanted: &'a dyn Fn() -> bool,
    asked: Option<Instant>,
}

impl<'a> Interrupt<'a> {
    /// `is_wanted` says false when the measurement is to end.
    pub fn new(is_wanted: &'a dyn Fn() -> bool) -> Interrupt<'a> {
        Interrupt {
            is_wanted,
            asked: None,
        }
    }

    /// Asks, the first time and then if it is time to.
    ///
    /// # Errors
    /// [`Error::Io`] with [`io::ErrorKind::Interrupted`] if the measurement is to end.
    pub fn poll(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.asked.is_some_and(|asked| now - asked < ASK_EVERY) {
            return Ok(());
        }
        self.asked = Some(now);
        if (self.is_wanted)() {
            return Ok(());
        }
        Err(Error::io(
            "measure",
            0,
            io::Error::from(io::ErrorKind::Interrupted),
        ))
    }
}
