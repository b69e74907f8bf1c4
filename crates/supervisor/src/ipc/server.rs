//! Accepting connections, and the life of one.

use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use actix::Addr;
use maqet_process::directory;
use maqet_process::error::ProcessError;
use maqet_process::identity::FileId;
use maqet_process::socket;
use maqet_protocol::control::TinyGuest;
use maqet_protocol::endpoint::server::{ServerConnection, ServerIdentity};
use maqet_protocol::interface::{CONTROL, InterfaceDescription};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::{ProtocolError, SocketRole};
use maqet_state::secret::Secret;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::dispatch;
use crate::events::EventBus;
use crate::shared::{Confined, Shared};
use crate::store::StateActor;
use crate::supervisor::SupervisorActor;

/// Name of the control socket in the runtime directory.
pub(crate) const SOCKET: &str = "control.sock";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Connections served at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 512;

/// What the socket serves.
static INTERFACES: [InterfaceDescription; 1] = [CONTROL];

/// Whom a session asks.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// The root actor.
    pub(crate) supervisor: Addr<SupervisorActor>,
    /// The state actor.
    pub(crate) state: Addr<StateActor>,
    /// The event bus.
    pub(crate) bus: Addr<EventBus>,
    /// What all VMs share.
    pub(super) shared: Rc<Shared>,
}

impl Desk {
    /// The desk of one supervisor.
    pub(crate) fn new(supervisor: Addr<SupervisorActor>, bus: Addr<EventBus>, shared: Rc<Shared>) -> Self {
        Self {
            supervisor,
            state: shared.state.clone(),
            bus,
            shared,
        }
    }

    /// The tiny guest in a file.
    pub(super) async fn write_tiny_guest(&self) -> Result<TinyGuest, Refusal> {
        let directory = self.shared.places.data.join("guest");
        let written = tokio::task::spawn_blocking(move || crate::guest::keep_image(&directory)).await;
        let failed = |error: &dyn std::error::Error| {
            Refusal::new(RefusalCode::Internal, "the tiny guest cannot be written")
                .cause(crate::link::chain(error))
        };
        let path = written
            .map_err(|panic| failed(&panic))?
            .map_err(|error| failed(&error))?;
        let ready = crate::guest::READY.to_owned();
        Ok(TinyGuest { path, ready })
    }
}

/// The control socket, bound and listening; removed when dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    directory: OwnedFd,
    path: PathBuf,
    /// The socket's file.
    bound: FileId,
}

impl Listening {
    /// Returns once clients cannot find the socket any more. Where this cannot be watched it says so in the log, and never
    /// returns.
    pub(crate) async fn lost(&self) {
        if let Err(error) = maqet_process::presence::lost(&self.path, SOCKET, self.bound).await {
            tracing::warn!(
                error = crate::link::chain(&error),
                "the loss of the control socket would not be noticed"
            );
            pending::<()>().await;
        }
    }
}

/// Binds the control socket. The instance lock says that a socket found there is stale.
pub(crate) fn listen(runtime: &std::path::Path) -> Result<Listening, ProcessError> {
    let directory = directory::open_private(runtime)?;
    let bound = socket::bind_listener(directory.as_fd(), SOCKET)?;
    socket::listen(&bound, BACKLOG)?;
    let listener = UnixListener::from_std(bound.into()).map_err(|source| ProcessError::Call {
        action: "register the control socket",
        source,
    })?;
    Ok(Listening {
        listener,
        directory,
        path: runtime.to_owned(),
        bound: FileId::of_path(&runtime.join(SOCKET))?,
    })
}

impl Drop for Listening {
    fn drop(&mut self) {
        let removed = rustix::fs::unlinkat(&self.directory, SOCKET, rustix::fs::AtFlags::empty());
        tracing::debug!(?removed, "the control socket is removed");
    }
}

/// Accepts connections for as long as it is polled.
pub(crate) async fn serve(listening: &Listening, secret: &Secret, confined: Arc<Confined>, desk: Desk) {
    let identity =
        ServerIdentity::new(SocketRole::Control, secret.clone()).refusing(move |inode| confined.holds(inode));
    let identity = Arc::new(identity);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listening.listener.accept().await {
            Ok((stream, _address)) => {
                let (identity, desk) = (Arc::clone(&identity), desk.clone());
                actix_rt::spawn(async move {
                    converse(stream, identity, &desk).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: connections that end give some back, and each frees a place.
                tracing::error!(%error, "cannot accept a connection");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// One connection, to its end.
async fn converse(stream: UnixStream, identity: Arc<ServerIdentity>, desk: &Desk) {
    let mut connection = ServerConnection::accept(stream, identity, &INTERFACES);
    if let Err(error) = answer_all(&mut connection, desk).await {
        tracing::debug!(%error, peer = ?connection.peer(), "a connection ended");
    }
}

/// Calls, one after the other.
async fn answer_all(connection: &mut ServerConnection, desk: &Desk) -> Result<(), ProtocolError> {
    while let Some(call) = connection.next_call().await? {
        dispatch::answer(connection, call, desk).await?;
    }
    Ok(())
}
