//! What can go wrong outside our own code, in the words of whoever has to act on it.
//!
//! Our own mistakes are not here: they are assertions and panic.

use std::{fmt, io};

/// Result of an operation that the world can refuse.
pub type Result<T> = std::result::Result<T, Error>;

/// A refusal by the world: the disk, the configuration, the limits, or bytes that are not ours.
#[derive(Debug)]
pub enum Error {
    /// The pool is at its limit and nothing can be written back: NBD ENOSPC.
    PoolFull,
    /// The backing file has no free segment left: NBD ENOSPC.
    StoreFull,
    /// The newest bytes of the page are not held any more (state of an older generation): NBD EIO.
    Lost,
    /// The page is in the store, and the device has not answered for too long: NBD EIO.
    Silent,
    /// Bytes that were read are not the bytes that were written: NBD EIO.
    Corrupt {
        /// What was checked, for example "record checksum".
        what: &'static str,
        /// Byte offset in the backing file.
        at: u64,
        /// The value that was expected.
        wanted: u64,
        /// The value that was there.
        found: u64,
    },
    /// The operating system refused an operation on a file or on memory.
    Io {
        /// What was attempted, for example "write segment".
        what: &'static str,
        /// Byte offset in the file, 0 where none applies.
        at: u64,
        /// The system's own words.
        source: io::Error,
    },
    /// A file exists but is not ours, or not of this format. It was not touched.
    Foreign {
        /// The file.
        path: String,
        /// What was found, against what was wanted.
        why: String,
    },
    /// A file is ours, and was made with other settings, or never finished. It was not touched.
    Misfit {
        /// The file.
        path: String,
        /// What was found, against what was wanted.
        why: String,
    },
    /// A setting insists on what the system does not permit: which, and why not.
    NotPermitted(String),
    /// A setting that cannot work, with what was found and what is wanted.
    Config(String),
}

impl Error {
    /// Wraps a system error with what was attempted and where.
    pub fn io(what: &'static str, at: u64, source: io::Error) -> Self {
        Error::Io { what, at, source }
    }

    /// Did the system refuse it for want of space on the device, or of quota?
    pub fn is_out_of_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::PoolFull => write!(f, "the pool is full"),
            Error::StoreFull => write!(f, "the backing file is full"),
            Error::Lost => write!(f, "the page was lost with an older generation of the state"),
            Error::Silent => write!(f, "the backing file does not answer"),
            Error::Corrupt {
                what,
                at,
                wanted,
                found,
            } => {
                write!(f, "{what} at byte {at} is {found:#x}, wanted {wanted:#x}")
            }
            Error::Io { what, at, source } => write!(f, "{what} at byte {at}: {source}"),
            Error::Foreign { path, why } | Error::Misfit { path, why } => {
                write!(f, "{path}: {why}")
            }
            Error::NotPermitted(why) | Error::Config(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
