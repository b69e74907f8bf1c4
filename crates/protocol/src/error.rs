//! Ways a connection can let a caller down.

use std::io;
use std::time::Duration;

use crate::refusal::Refusal;

/// What is wrong with a connection. After any of these it is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("use the connection")]
    Io(#[from] io::Error),
    /// The peer hung up while an answer was due.
    #[error("the peer hung up")]
    Closed,
    /// The peer hung up in the middle of a frame.
    #[error("the peer hung up in the middle of a frame, after {bytes} bytes")]
    Truncated {
        /// Bytes of the unfinished frame.
        bytes: usize,
    },
    /// A frame is longer than this side takes.
    #[error("a frame is longer than {limit} bytes")]
    FrameTooLong {
        /// The limit, bytes.
        limit: usize,
    },
    /// A frame is not a varlink message.
    #[error("read a varlink message")]
    Malformed(#[source] serde_json::Error),
    /// A message of our own could not be written as JSON.
    #[error("write a varlink message")]
    Encode(#[source] serde_json::Error),
    /// The reply does not have the shape that the method promises.
    #[error("read the reply of `{method}`")]
    UnexpectedReply {
        /// Full name of the method.
        method: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The peer answered with an error this side does not know.
    #[error("`{method}` failed with `{error}`")]
    UnknownError {
        /// Full name of the method.
        method: String,
        /// Full name of the error.
        error: String,
        /// Its parameters.
        parameters: serde_json::Value,
    },
    /// No answer in time.
    #[error("no answer within {}", humantime(*after))]
    Deadline {
        /// What was allowed.
        after: Duration,
    },
    /// The peer did not authenticate in time.
    #[error("the peer did not authenticate within {}", humantime(*after))]
    HandshakeDeadline {
        /// What was allowed.
        after: Duration,
    },
    /// An earlier call was given up, so the next reply would be its reply.
    #[error("the connection still owes the reply of an abandoned call")]
    Abandoned,
    /// A reply was given while no call was open.
    #[error("there is no open call to reply to")]
    NoOpenCall,
    /// One side failed to prove what it is.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The peer's identity could not be read.
    #[error("identify the peer")]
    Peer(#[source] maqet_process::error::ProcessError),
    /// The operating system gave no random bytes.
    #[error("draw random bytes")]
    Random(#[source] rand::rngs::SysError),
}

/// Why one side does not trust the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// A process of another user.
    #[error("only uid {own} and root may connect, not uid {uid}")]
    ForeignUid {
        /// The peer's user.
        uid: u32,
        /// Ours.
        own: u32,
    },
    /// A process that may not be here, above all QEMU itself.
    #[error("this process may not connect")]
    RefusedProcess,
    /// A method was called before the peer proved anything.
    #[error("`{method}` needs authentication: call `Hello`, then `Prove`")]
    Unproven {
        /// Full name of the method.
        method: String,
    },
    /// `Hello` or `Prove` out of turn, or for the second time.
    #[error("`{method}` is out of turn: one `Hello`, then one `Prove`")]
    OutOfTurn {
        /// Full name of the method.
        method: String,
    },
    /// `Hello` or `Prove` with parameters that make no sense.
    #[error("the parameter `{parameter}` of the handshake is missing or invalid")]
    InvalidParameter {
        /// Its name.
        parameter: String,
    },
    /// Another version of the handshake.
    #[error("version {version} of the handshake is not supported")]
    Version {
        /// What the peer speaks.
        version: u32,
    },
    /// The peer looks for a socket of another kind.
    #[error("this is not the socket of a `{wanted}`")]
    Role {
        /// What it looks for.
        wanted: String,
    },
    /// The peer looks for another VM.
    #[error("this is not the socket of VM `{wanted}`")]
    Vm {
        /// What it looks for.
        wanted: String,
    },
    /// The peer is not the process that it says it is: somebody stands between.
    #[error("the peer reports to be process inode {reported}, but is {seen}")]
    Inode {
        /// What it reports.
        reported: u64,
        /// What the kernel says.
        seen: u64,
    },
    /// The server sent our own nonce back.
    #[error("the server's nonce is our own")]
    EchoedNonce,
    /// The proof is wrong.
    #[error("the peer does not know the secret")]
    Proof,
    /// The peer refused us.
    #[error("the peer refused the handshake: {message}")]
    ByPeer {
        /// Full name of the varlink error.
        error: String,
        /// Its words.
        message: String,
    },
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer refused, and says why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl CallError {
    /// The refusal, if the peer answered with one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Protocol(_) => None,
        }
    }
}

fn humantime(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
