//! Ways a conversation with QEMU can fail.

use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Ways QEMU, or the way to it, can let a caller down.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QmpError {
    /// The peer never greeted: another client holds the monitor, QEMU is stopped, or it is no QEMU.
    #[error("no QMP greeting within {after:?} ({discarded} other lines)")]
    Greeting {
        /// How long was waited.
        after: Duration,
        /// Lines that arrived but were no greeting: what a previous client left behind.
        discarded: u64,
    },
    /// The connection ended. After `quit` this is what success looks like.
    #[error("QMP connection closed")]
    Closed,
    /// QEMU did not answer in time. It may still carry out the command.
    #[error("QEMU did not answer `{command}` within {after:?}")]
    Deadline {
        /// Name of the command.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// QEMU answered with an error.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// Name of the command.
        command: String,
        /// Class of the error, for example `GenericError` or `CommandNotFound`; classes unknown to us are kept.
        class: String,
        /// QEMU's own words.
        description: String,
    },
    /// A line, in or out, longer than the limit.
    #[error("QMP line of more than {limit} bytes")]
    TooLong {
        /// The limit, bytes.
        limit: usize,
    },
    /// The peer sent something that is not QMP, or a reply of another shape than the command promises.
    #[error("not QMP: {reason}: `{excerpt}`")]
    Malformed {
        /// What was wrong.
        reason: String,
        /// Start of the offending text.
        excerpt: String,
    },
    /// Too many commands wait for this QEMU.
    #[error("too many commands wait for QEMU")]
    Busy,
    /// Reading or writing failed.
    #[error("talk to QEMU")]
    Io(#[source] Arc<io::Error>),
}

/// Bytes of an offending line that an error shows.
const EXCERPT_BYTES: usize = 120;

impl QmpError {
    pub(crate) fn malformed(reason: &impl ToString, text: &[u8]) -> Self {
        let shown = text.get(..EXCERPT_BYTES).unwrap_or(text);
        Self::Malformed {
            reason: reason.to_string(),
            excerpt: String::from_utf8_lossy(shown).into_owned(),
        }
    }
}

impl From<io::Error> for QmpError {
    /// A peer that was killed resets the connection; for a caller that is the same as hanging up.
    fn from(error: io::Error) -> Self {
        let hung_up = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        );
        if hung_up {
            Self::Closed
        } else {
            Self::Io(Arc::new(error))
        }
    }
}
