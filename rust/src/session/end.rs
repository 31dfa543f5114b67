//! How a connection ends, in the words of the log.

use std::fmt;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client sent DISC and has all its replies.
    Disconnected,
    /// The client closed the connection without DISC.
    EndOfStream,
    /// The server asked for it and all requests that were begun are answered.
    Detached,
    /// The server asked for it and the deadline passed first.
    DetachedLate,
    /// Another session goes on with it.
    HandedOver,
    /// It should have been handed over, and its client did not do its part until the deadline.
    NotHandedOver,
    /// What should be a request is not one.
    BadMagic {
        /// The word in place of the magic number.
        found: u32,
    },
    /// A WRITE that is too long even to be read away.
    WriteTooLong {
        /// Its length.
        bytes: u32,
    },
    /// A page could not be read after the header of its reply was sent.
    ReadFailed {
        /// Where in the export.
        offset: u64,
    },
    /// The socket failed.
    Socket {
        /// What was attempted, and the system's words.
        why: String,
    },
    /// Our own mistake; the panic's message.
    Bug {
        /// What the panic said.
        message: String,
    },
}

impl End {
    /// True if replies that are not sent yet are still owed to the client.
    pub fn sends_replies(&self) -> bool {
        matches!(
            self,
            End::Disconnected | End::Detached | End::BadMagic { .. } | End::WriteTooLong { .. }
        )
    }
}

/// Empty for an end that needs no explanation.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Disconnected | End::EndOfStream | End::Detached | End::HandedOver => Ok(()),
            End::DetachedLate => write!(f, "requests were still unanswered at the deadline"),
            End::NotHandedOver => {
                write!(
                    f,
                    "its client took no replies while the server was being upgraded"
                )
            }
            End::BadMagic { found } => write!(
                f,
                "a request began with {found:#010x}, wanted {:#010x}",
                crate::wire::REQUEST_MAGIC
            ),
            End::WriteTooLong { bytes } => {
                write!(
                    f,
                    "a write of {bytes} bytes, at most {} are read away",
                    super::DRAIN_BYTES_MAX
                )
            }
            End::ReadFailed { offset } => {
                write!(
                    f,
                    "byte {offset} could not be read after its reply had begun"
                )
            }
            End::Socket { why } => f.write_str(why),
            End::Bug { message } => write!(f, "bug in the server: {message}"),
        }
    }
}
