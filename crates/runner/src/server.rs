//! The runner's socket: accepts, authenticates, turns calls into letters to the session and answers into replies.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection, ServerIdentity};
use maqet_protocol::interface::RUNNER_INTERFACES;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{
    Adopt, EndMerge, FactReply, ListSnapshots, ListTops, MergeImage, PlugDisk, Prepare, Query, Release,
    RunQmp, RunSnapshot, RunnerFact, StackImages, StopQemu, Watch,
};
use maqet_protocol::{ProtocolError, SocketRole};
use maqet_qmp::Qmp;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::barred::Barred;
use crate::grounds::Grounds;
use crate::jobs::Jobs;
use crate::mail::{Answer, Ask, Connection, Desk, Mail, post};
use crate::{layers, passage, snapshots};

/// Connections at once; the supervisor needs a handful, strangers wait.
const CONNECTIONS_MAX: usize = 64;

/// Time replies under way get when the session is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after a failed accept, such as for want of descriptors, which would fail again at once.
const BREATH: Duration = Duration::from_millis(100);

/// What every connection needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    /// Where letters go.
    pub(crate) desk: Desk,
    /// The VM's name.
    pub(crate) name: Arc<str>,
    /// Where QEMU may be told to write.
    pub(crate) grounds: Grounds,
    /// Whose turn it is to put QEMU on images, or to tell which it is on.
    pub(crate) turn: Arc<Mutex<()>>,
}

/// Serves until the session is over, and lets the last replies out. A `fresh` listener takes the place of the one before.
pub(crate) async fn serve(
    listener: OwnedFd,
    mut fresh: mpsc::Receiver<OwnedFd>,
    identity: Arc<ServerIdentity>,
    counter: Counter,
    mut over: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut listener = UnixListener::from_std(StdListener::from(listener))?;
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    loop {
        let stream = tokio::select! {
            accepted = accept(&listener), if connections.len() < CONNECTIONS_MAX => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            Some(another) = fresh.recv() => {
                listener = UnixListener::from_std(StdListener::from(another))?;
                continue;
            }
            _ = over.wait_for(|over| *over) => break,
        };
        number = number.saturating_add(1);
        let connection = ServerConnection::accept(stream, Arc::clone(&identity), RUNNER_INTERFACES);
        let client = Client {
            id: Connection(number),
            counter: counter.clone(),
            known: false,
        };
        connections.spawn(client.attend(connection, over.clone()));
    }
    let emptied = timeout(FAREWELL, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if emptied.is_err() {
        tracing::warn!(left = connections.len(), "clients did not take their replies");
    }
    Ok(())
}

/// The identity of a runner's socket.
pub(crate) fn identity(
    vm: maqet_state::id::VmId,
    secret: maqet_state::secret::Secret,
    barred: Barred,
) -> Arc<ServerIdentity> {
    let identity = ServerIdentity::new(SocketRole::Runner(vm), secret);
    Arc::new(identity.refusing(move |inode| barred.refuses(inode)))
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => tracing::warn!(%error, "accept a connection"),
        }
        sleep_until(Instant::now() + BREATH).await;
    }
}

/// One connection.
#[derive(Debug)]
struct Client {
    id: Connection,
    counter: Counter,
    /// The session has been told of it.
    known: bool,
}

impl Client {
    async fn attend(mut self, mut connection: ServerConnection, mut over: watch::Receiver<bool>) {
        while let Some(call) = next(&mut connection, &mut over).await {
            if let Err(error) = self.serve(&mut connection, &call).await {
                tracing::debug!(%error, "a connection ended");
                break;
            }
        }
        if self.known {
            post(&self.counter.desk, Mail::Left(self.id)).await;
        }
    }

    async fn serve(
        &mut self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        if !self.known {
            self.known = true;
            post(&self.counter.desk, Mail::Came(self.id)).await;
        }
        match call.method.as_str() {
            RunQmp::NAME => self.run_qmp(connection, call).await,
            RunSnapshot::NAME | ListSnapshots::NAME => self.snapshot(connection, call).await,
            Watch::NAME => self.watch(connection, call).await,
            StopQemu::NAME => self.ask(connection, call, Ask::Stop).await,
            Query::NAME => {
                let make = |_: Query, answer| Ask::Query(answer);
                self.ask(connection, call, make).await
            }
            _ => self.begin(connection, call).await,
        }
    }

    /// The calls that bring QEMU up, and those about what its disks stand on.
    async fn begin(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        match call.method.as_str() {
            Prepare::NAME => {
                let make = |order: Prepare, answer| Ask::Prepare(Box::new(order), answer);
                self.ask(connection, call, make).await
            }
            Release::NAME => {
                let make = |_: Release, answer| Ask::Release(answer);
                self.ask(connection, call, make).await
            }
            Adopt::NAME => {
                let make = |order: Adopt, answer| Ask::Adopt(Box::new(order), answer);
                self.ask(connection, call, make).await
            }
            StackImages::NAME | ListTops::NAME | MergeImage::NAME | EndMerge::NAME | PlugDisk::NAME => {
                self.layers(connection, call).await
            }
            other => {
                let words = format!("`{other}` is not served");
                connection
                    .refuse(&Refusal::new(RefusalCode::Internal, words))
                    .await
            }
        }
    }

    /// Puts a question to the session and its answer on the wire.
    async fn ask<M: Method>(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
        make: impl FnOnce(M, Answer<M::Reply>) -> Ask,
    ) -> Result<(), ProtocolError> {
        let asked = match call.parse::<M>() {
            Ok(parameters) => self.put(connection, |answer| make(parameters, answer)).await?,
            Err(refusal) => Err(refusal),
        };
        match asked {
            Ok(reply) => connection.reply(&reply).await,
            Err(refusal) => connection.refuse(&refusal).await,
        }
    }

    /// Puts a question to the session. A client that hangs up does not wait for the answer.
    async fn put<T>(
        &self,
        connection: &ServerConnection,
        make: impl FnOnce(Answer<T>) -> Ask,
    ) -> Result<Result<T, Refusal>, ProtocolError> {
        let (answer, answered) = oneshot::channel();
        post(&self.counter.desk, Mail::Ask(self.id, make(answer))).await;
        tokio::select! {
            answered = answered => Ok(answered.unwrap_or_else(|_| Err(self.over()))),
            closed = connection.closed() => {
                closed?;
                Err(ProtocolError::Closed)
            }
        }
    }

    async fn run_qmp(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        let order = match call.parse::<RunQmp>() {
            Ok(order) => order,
            Err(refusal) => return connection.refuse(&refusal).await,
        };
        let qmp = match self.put(connection, Ask::Qmp).await? {
            Ok(qmp) => qmp,
            Err(refusal) => return connection.refuse(&refusal).await,
        };
        let run = passage::run(&qmp, order, &self.counter);
        let outcome = tokio::select! {
            outcome = run => outcome,
            closed = connection.closed() => return closed,
        };
        match outcome {
            Ok(value) => connection.reply(&value).await,
            Err(refusal) => connection.refuse(&refusal).await,
        }
    }

    /// A client that hangs up leaves the work to QEMU; whoever comes next waits for it.
    async fn snapshot(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        // Before the first command, so that no news of it is missed.
        let facts = self.put(connection, Ask::Watch).await?;
        let (qmp, disks) = self.way(connection).await?;
        let (facts, qmp, disks) = match facts.and_then(|facts| Ok((facts, qmp?, disks?))) {
            Ok(all) => all,
            Err(refusal) => return connection.refuse(&refusal).await,
        };
        let jobs = Jobs {
            qmp: &qmp,
            facts,
            counter: &self.counter,
        };
        let work = snapshots::Work { jobs, disks: &disks };
        let outcome = tokio::select! {
            outcome = work.carry_out(call) => outcome,
            closed = connection.closed() => return closed,
        };
        match outcome {
            Ok(value) => connection.reply(&value).await,
            Err(refusal) => connection.refuse(&refusal).await,
        }
    }

    /// A client that hangs up leaves the work to this runner, which does it to its end.
    async fn layers(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        let (facts, work) = match self.layer_work(connection).await? {
            Ok(work) => work,
            Err(refusal) => return connection.refuse(&refusal).await,
        };
        let task = tokio::spawn(work.carry_out(call.clone(), facts));
        let outcome = tokio::select! {
            outcome = task => outcome,
            closed = connection.closed() => return closed,
        };
        match outcome {
            Ok(Ok(value)) => connection.reply(&value).await,
            Ok(Err(refusal)) => connection.refuse(&refusal).await,
            Err(error) => {
                let refusal = Refusal::new(RefusalCode::Internal, "work on images was cut off");
                connection.refuse(&refusal.cause(error.to_string())).await
            }
        }
    }

    async fn layer_work(
        &self,
        connection: &ServerConnection,
    ) -> Result<Result<(mpsc::Receiver<RunnerFact>, layers::Work), Refusal>, ProtocolError> {
        let facts = self.put(connection, Ask::Watch).await?;
        let (qmp, disks) = self.way(connection).await?;
        let known = facts.and_then(|facts| Ok((facts, qmp?, disks?)));
        Ok(known.map(|(facts, qmp, disks)| {
            let counter = self.counter.clone();
            (facts, layers::Work { qmp, counter, disks })
        }))
    }

    /// The way to QEMU, and what its disks are called.
    async fn way(
        &self,
        connection: &ServerConnection,
    ) -> Result<(Result<Qmp, Refusal>, Result<Vec<String>, Refusal>), ProtocolError> {
        let qmp = self.put(connection, Ask::Qmp).await?;
        Ok((qmp, self.put(connection, Ask::Disks).await?))
    }

    async fn watch(
        &self,
        connection: &mut ServerConnection,
        call: &IncomingCall,
    ) -> Result<(), ProtocolError> {
        if let Err(refusal) = call.parse::<Watch>() {
            return connection.refuse(&refusal).await;
        }
        let mut facts: mpsc::Receiver<RunnerFact> = match self.put(connection, Ask::Watch).await? {
            Ok(facts) => facts,
            Err(refusal) => return connection.refuse(&refusal).await,
        };
        loop {
            let fact = tokio::select! {
                fact = facts.recv() => fact,
                closed = connection.closed() => return closed,
            };
            match fact {
                Some(fact @ RunnerFact::QemuExited { .. }) => {
                    return connection.reply(&FactReply { fact }).await;
                }
                Some(fact) => connection.reply_more(&FactReply { fact }).await?,
                None => return connection.refuse(&self.behind()).await,
            }
        }
    }

    /// The stream broke off: the session is over without QEMU having run, or the watcher was too slow.
    fn behind(&self) -> Refusal {
        Refusal::new(RefusalCode::Busy, "the stream of facts broke off").vm(&*self.counter.name)
    }

    fn over(&self) -> Refusal {
        let words = format!("the runner of `{}` is about to exit", self.counter.name);
        Refusal::new(RefusalCode::WrongState, words).vm(&*self.counter.name)
    }
}

/// The next call; `None` when the client is gone, of no use, or has nothing under way while the session is over.
async fn next(connection: &mut ServerConnection, over: &mut watch::Receiver<bool>) -> Option<IncomingCall> {
    let call = tokio::select! {
        call = connection.next_call() => call,
        _ = over.wait_for(|over| *over) => return None,
    };
    call.unwrap_or_else(|error| {
        tracing::debug!(%error, "a connection ended");
        None
    })
}
