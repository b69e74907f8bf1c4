//! The way to one VM's runner: authenticated connections, opened when needed, kept when idle.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use maqet_process::socket;
use maqet_protocol::SocketRole;
use maqet_protocol::endpoint::client::{Client, ReplyStream};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::Watch;
use maqet_protocol::{CallError, ProtocolError};
use maqet_state::id::VmId;
use maqet_state::secret::Secret;
use tokio::sync::mpsc;

/// Idle connections kept per VM; one serves a call at a time.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// A runner answers its handshake in well under a millisecond; this much means it is frozen.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Connections to one runner.
#[derive(Debug)]
pub(crate) struct RunnerLink {
    vm: VmId,
    /// The VM's runtime directory; it may be deleted and made again.
    directory: PathBuf,
    secret: Arc<Secret>,
    idle: RefCell<Vec<Client>>,
    /// Told when a call got no answer.
    unheard: mpsc::Sender<()>,
    hears: RefCell<Option<mpsc::Receiver<()>>>,
}

impl RunnerLink {
    /// A link through the VM's runtime directory; nothing is connected yet.
    pub(crate) fn new(vm: VmId, directory: PathBuf, secret: Arc<Secret>) -> Self {
        // One letter that was not read yet says it all.
        let (unheard, hears) = mpsc::channel(1);
        Self {
            vm,
            directory,
            secret,
            idle: RefCell::new(Vec::new()),
            unheard,
            hears: RefCell::new(Some(hears)),
        }
    }

    /// Where it is told that the runner let a call pass without an answer. Whoever asks first gets it; it ends with the
    /// link.
    pub(crate) fn silence(&self) -> Option<mpsc::Receiver<()>> {
        self.hears.borrow_mut().take()
    }

    /// A connection that failed by passing a deadline is told of: its runner is silent, not gone.
    fn note(&self, error: &ProtocolError) {
        if matches!(
            error,
            ProtocolError::Deadline { .. } | ProtocolError::HandshakeDeadline { .. }
        ) {
            self.passed();
        }
    }

    fn failed(&self, message: &str, error: &ProtocolError) -> Refusal {
        self.note(error);
        not_answering(message).cause(chain(error))
    }

    fn passed(&self) {
        if let Err(error) = self.unheard.try_send(()) {
            // Full: nobody has read of the last time yet. Closed: nobody follows this runner.
            tracing::debug!(vm = %self.vm, %error, "a silence is not told of again");
        }
    }

    /// A fresh authenticated connection.
    pub(crate) async fn connect(&self) -> Result<Client, Refusal> {
        self.connect_within(CONNECT_DEADLINE).await
    }

    async fn connect_within(&self, deadline: Duration) -> Result<Client, Refusal> {
        let connecting = async {
            let directory = maqet_process::directory::open_private(&self.directory).map_err(|error| {
                not_answering("the VM's runtime directory cannot be used").cause(chain(&error))
            })?;
            let stream = socket::connect(directory.as_fd(), "runner.sock")
                .await
                .map_err(|error| not_answering("the VM's runner cannot be reached").cause(chain(&error)))?;
            let role = SocketRole::Runner(self.vm.clone());
            Client::connect(stream, role, &self.secret, deadline)
                .await
                .inspect_err(|error| self.note(error))
                .map_err(|error| not_introduced(&error))
        };
        match tokio::time::timeout(deadline, connecting).await {
            Ok(result) => result,
            Err(_elapsed) => {
                self.passed();
                Err(not_answering("the VM's runner does not answer"))
            }
        }
    }

    /// One call on an idle or a fresh connection.
    pub(crate) async fn call<M: Method>(&self, method: &M, deadline: Duration) -> Result<M::Reply, Refusal> {
        let idle = self.idle.borrow_mut().pop();
        let mut client = match idle {
            Some(client) => client,
            None => self.connect_within(deadline.min(CONNECT_DEADLINE)).await?,
        };
        let result = client.call(method, Some(deadline)).await;
        match result {
            Ok(reply) => {
                self.keep(client);
                Ok(reply)
            }
            Err(CallError::Refused(refusal)) => {
                self.keep(client);
                Err(refusal)
            }
            Err(CallError::Protocol(error)) => Err(self.failed("the VM's runner did not answer", &error)),
        }
    }

    /// Gives a connection back.
    pub(crate) fn keep(&self, client: Client) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(client);
        }
    }

    /// The stream of what the runner sees.
    pub(crate) async fn watch(&self) -> Result<ReplyStream<Watch>, Refusal> {
        match self.connect().await?.stream(&Watch {}).await {
            Ok(stream) => Ok(stream),
            Err(CallError::Refused(refusal)) => Err(refusal),
            Err(CallError::Protocol(error)) => Err(self.failed("the VM's runner cannot be watched", &error)),
        }
    }
}

/// A runner that answers and knows another secret is told apart from one that does not answer.
fn not_introduced(error: &ProtocolError) -> Refusal {
    let code = if matches!(error, ProtocolError::Authentication(_)) {
        RefusalCode::AuthenticationFailed
    } else {
        RefusalCode::NotAnswering
    };
    Refusal::new(code, "the VM's runner did not authenticate").cause(chain(error))
}

fn not_answering(message: &str) -> Refusal {
    Refusal::new(RefusalCode::NotAnswering, message)
}

/// An error and what lies behind it, outermost first.
pub(crate) fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts
}

/// An error and what lies behind it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    causes(error).join(": ")
}
