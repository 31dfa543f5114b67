//! Threads that work in the background let those run that a client waits for.
//!
//! A thread that wakes because its read has come does not always get a processor at once: Linux lets the
//! one that runs have its fair share first, and sees only at the next tick, up to 4 ms later, that it
//! has had it. So whoever does background work asks between two pieces of it whether somebody else wants to
//! run. On two processors, 99.9 % of reads beside write-back and cleaning took 0.5 ms with that, and
//! 2.5 ms without.
//!
//! `sched_yield` of Linux 6.18 gives up a whole time slice and not what is left of it. Beside programs that
//! never sleep, write-back would be five times as slow. With the shortest slice that may be asked for, which
//! Linux grants from 6.12 on and older ones ignore, it is slower by a seventh, and alone not at all.
//!
//! Locking: none, each thread has its own.

use std::cell::Cell;

use rustix::thread::sched_yield;

/// Nanoseconds of a time slice: the shortest that `sched_setattr(2)` takes.
const SLICE_NS: u64 = 100_000;

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread gives way, unless it runs at real-time priority or the system does not let it
/// ask for short slices.
pub fn begin() {
    GIVES_WAY.set(has_short_slices());
}

/// Lets another thread run that waits for this processor. Nothing happens in a thread that did not
/// [`begin`] to give way.
#[inline]
pub fn give_way() {
    if GIVES_WAY.get() {
        sched_yield();
    }
}

/// Asks for short slices and leaves policy and niceness as they are.
#[expect(unsafe_code, reason = "neither std nor rustix know these calls")]
fn has_short_slices() -> bool {
    // SAFETY: zeros are a value of this struct of numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let (own, flags) = (0, 0);
    let bytes = size_of_val(&attributes);
    // SAFETY: the kernel writes so many bytes at most, which are the struct's.
    let got = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            own,
            &raw mut attributes,
            bytes,
            flags,
        )
    };
    let is_shared_fairly = [libc::SCHED_OTHER, libc::SCHED_BATCH]
        .iter()
        .any(|&policy| attributes.sched_policy == policy as u32);
    if got != 0 || !is_shared_fairly {
        return false;
    }
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the kernel reads the struct, which says how long it is.
    unsafe { libc::syscall(libc::SYS_sched_setattr, own, &raw const attributes, flags) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_short_slices_once_and_keeps_its_niceness() {
        let niceness = || rustix::process::getpriority_process(None).expect("its own");
        std::thread::spawn(move || {
            let before = niceness();
            give_way();
            assert!(!GIVES_WAY.get(), "nobody asked it to");
            begin();
            assert!(GIVES_WAY.get(), "any thread may ask for less");
            give_way();
            assert_eq!(niceness(), before);
        })
        .join()
        .expect("no panic");
    }
}
