//! The end that accepts.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use maqet_process::ProcessHandle;
use maqet_process::socket;
use maqet_state::secret::Secret;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Framed;

use crate::call::{parse_parameters, refusal_to_reply};
use crate::endpoint::client::compare_inodes;
use crate::endpoint::hangup::Hangup;
use crate::error::{AuthenticationError, ProtocolError};
use crate::handshake::{
    HANDSHAKE_MS, Hello, HelloReply, Nonce, Prove, Side, SocketRole, Transcript, VERSION,
};
use crate::interface::{
    GetInfo, GetInterfaceDescription, InterfaceDescription, InterfaceText, SERVICE, SERVICE_IDL, ServiceInfo,
};
use crate::method::Method;
use crate::refusal::{Refusal, RefusalCode};
use crate::varlink::{
    Call, FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNPROVEN, FrameCodec, Parameters, Reply, parameters_of, parse,
};

/// Says whether the process with this pidfd inode may not connect.
pub type RefuseInode = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// What a listening socket is, and whom it lets in. One for all its connections.
pub struct ServerIdentity {
    /// What the socket belongs to.
    pub role: SocketRole,
    /// What both sides must know.
    pub secret: Secret,
    /// Our own user; only it and root may connect.
    pub uid: u32,
    /// Processes that may not connect whatever they know, above all QEMU.
    pub refuse: RefuseInode,
}

impl ServerIdentity {
    /// A socket that every process of this process's own user (and root) may connect to.
    pub fn new(role: SocketRole, secret: Secret) -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self {
            role,
            secret,
            uid,
            refuse: Box::new(|_inode| false),
        }
    }

    /// Names the processes that may not connect, by pidfd inode.
    #[must_use]
    pub fn refusing(mut self, refuse: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        self.refuse = Box::new(refuse);
        self
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerIdentity")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// How far the peer has come.
#[derive(Debug)]
enum Phase {
    /// It has said nothing of consequence.
    Fresh,
    /// It has said `Hello`; its proof must fit this.
    Greeted(Transcript),
    /// It knows the secret.
    Proven,
}

/// What the open call takes for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// No call is open.
    None,
    /// One reply, or several when the client said so.
    Replies,
    /// None at all: the client said `oneway`.
    Silence,
}

/// One accepted connection.
///
/// [`next_call`](Self::next_call) authenticates the peer, then hands out its calls one by one; each must be answered
/// with [`reply`](Self::reply) or [`refuse`](Self::refuse) before the next one is taken.
#[derive(Debug)]
pub struct ServerConnection {
    framed: Framed<UnixStream, FrameCodec>,
    identity: Arc<ServerIdentity>,
    interfaces: &'static [InterfaceDescription],
    phase: Phase,
    proof_due: Instant,
    peer: Option<PeerNames>,
    open: Open,
    hangup: OnceLock<Hangup>,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerNames {
    /// Process id; for the log only.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Inode of its pidfd, where the kernel tells.
    pub inode: Option<u64>,
}

/// A call of an authenticated peer, to a method that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct IncomingCall {
    /// Full name, `interface.Method`.
    pub method: String,
    /// Parameters by name.
    pub parameters: Parameters,
    /// The client takes more than one reply; always so for streaming methods.
    pub more: bool,
}

impl IncomingCall {
    /// The typed call.
    ///
    /// # Errors
    /// A refusal that names the parameter which is missing, unknown or of the wrong type.
    pub fn parse<M: Method>(&self) -> Result<M, Refusal> {
        parse_parameters(self.parameters.clone())
    }
}

impl ServerConnection {
    /// Takes an accepted socket; the time for the handshake starts now.
    pub fn accept(
        stream: UnixStream,
        identity: Arc<ServerIdentity>,
        interfaces: &'static [InterfaceDescription],
    ) -> Self {
        Self {
            framed: Framed::new(stream, FrameCodec::new(FRAME_BYTES_MAX_UNPROVEN)),
            identity,
            interfaces,
            phase: Phase::Fresh,
            proof_due: Instant::now() + Duration::from_millis(HANDSHAKE_MS),
            peer: None,
            open: Open::None,
            hangup: OnceLock::new(),
        }
    }

    /// Who is at the other end; `None` before the first [`next_call`](Self::next_call).
    pub fn peer(&self) -> Option<PeerNames> {
        self.peer
    }

    /// The next call of an authenticated peer; `None` when it has hung up.
    ///
    /// Handshake, introspection and calls that do not exist are answered here. A call that the caller left unanswered
    /// is refused as a defect of this program.
    ///
    /// # Errors
    /// Any [`ProtocolError`]; the connection is then of no further use and should be dropped. Failed
    /// authentication has been logged and, where possible, answered.
    pub async fn next_call(&mut self) -> Result<Option<IncomingCall>, ProtocolError> {
        if self.open != Open::None {
            let defect = Refusal::new(RefusalCode::Internal, "the call was left without an answer");
            self.refuse(&defect).await?;
        }
        if !matches!(self.phase, Phase::Proven) && !self.authenticate_in_time().await? {
            return Ok(None);
        }
        while let Some(call) = self.read_call().await? {
            match self.answer_standard(&call).await? {
                Answered::Yes => {}
                Answered::No => return Ok(Some(Self::hand_out(call))),
            }
        }
        Ok(None)
    }

    /// Gives the one reply of the open call, or the last of several.
    ///
    /// # Errors
    /// [`ProtocolError::NoOpenCall`], and whatever a socket can do. A reply that is too long is replaced by a refusal.
    pub async fn reply<R: Serialize>(&mut self, reply: &R) -> Result<(), ProtocolError> {
        let reply = Reply::ok(parameters_of(reply)?);
        match self.send(&reply).await {
            Err(ProtocolError::FrameTooLong { limit }) => {
                let words = format!("the answer is longer than {limit} bytes");
                self.refuse(&Refusal::new(RefusalCode::Internal, words)).await
            }
            sent => sent,
        }
    }

    /// Gives one reply of the open call with more to come.
    ///
    /// # Errors
    /// As [`reply`](Self::reply); one that is too long is an error here.
    pub async fn reply_more<R: Serialize>(&mut self, reply: &R) -> Result<(), ProtocolError> {
        let mut reply = Reply::ok(parameters_of(reply)?);
        reply.continues = true;
        self.send(&reply).await
    }

    /// Answers the open call with a refusal, which also ends a stream.
    ///
    /// # Errors
    /// [`ProtocolError::NoOpenCall`], and whatever a socket can do.
    pub async fn refuse(&mut self, refusal: &Refusal) -> Result<(), ProtocolError> {
        let reply = refusal_to_reply(self.identity.role.interface(), refusal);
        self.send(&reply).await
    }

    /// Resolves when the peer is gone: with it in a `select!`, work for a client that left can be given up.
    ///
    /// A client that has only closed its writing half (a pipeline in a shell) still waits for its reply and does not
    /// count as gone.
    ///
    /// # Errors
    /// [`ProtocolError::Io`] when the socket cannot be watched.
    pub async fn closed(&self) -> Result<(), ProtocolError> {
        let hangup = if let Some(hangup) = self.hangup.get() {
            hangup
        } else {
            let watch = Hangup::watch(self.framed.get_ref())?;
            self.hangup.get_or_init(|| watch)
        };
        Ok(hangup.seen().await?)
    }

    async fn read_call(&mut self) -> Result<Option<Call>, ProtocolError> {
        let Some(frame) = self.framed.next().await else {
            return Ok(None);
        };
        let call: Call = parse(&frame?)?;
        self.open = if call.oneway { Open::Silence } else { Open::Replies };
        Ok(Some(call))
    }

    async fn send(&mut self, reply: &Reply) -> Result<(), ProtocolError> {
        match self.open {
            Open::None => return Err(ProtocolError::NoOpenCall),
            Open::Silence => {}
            Open::Replies => self.framed.send(reply).await?,
        }
        if !reply.continues {
            self.open = Open::None;
        }
        Ok(())
    }

    fn hand_out(call: Call) -> IncomingCall {
        IncomingCall {
            method: call.method,
            parameters: call.parameters.unwrap_or_default(),
            more: call.more,
        }
    }
}

mod authenticate;
mod standard;

use standard::Answered;
