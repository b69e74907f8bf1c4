//! Everything that reaches the session: what clients ask, and what happened.

use std::path::PathBuf;

use maqet_protocol::refusal::Refusal;
use maqet_protocol::runner::{Adopt, Ended, Prepare, Prepared, RunnerFact, RunnerState, Running, StopQemu};
use maqet_qmp::command::BlockInfo;
use maqet_qmp::{Incoming, Qmp, QmpError, RunState};
use tokio::sync::{mpsc, oneshot};

use crate::ladder::Input;
use crate::launch::Gate;
use crate::monitor::{Monitor, MonitorError};

/// Letters that may wait for the session.
pub(crate) const MAILBOX_CAPACITY: usize = 64;

/// Where letters to the session are put.
pub(crate) type Desk = mpsc::Sender<Mail>;

/// A slip for the answer to a question.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Puts a letter on the desk; false when the session is over and nobody reads it.
pub(crate) async fn post(desk: &Desk, mail: Mail) -> bool {
    let posted = desk.send(mail).await.is_ok();
    if !posted {
        tracing::debug!("a letter for a session that is over");
    }
    posted
}

/// One of the connections, counted from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Connection(pub(crate) u64);

impl Connection {
    /// The runner itself.
    pub(crate) const NONE: Self = Self(0);
}

/// A letter to the session.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A client has authenticated itself.
    Came(Connection),
    /// A client that had authenticated itself is gone.
    Left(Connection),
    /// A client asks for something.
    Ask(Connection, Ask),
    /// Something happened.
    News(News),
}

/// What a client asks for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Sockets, disks, gate.
    Prepare(Box<Prepare>, Answer<Prepared>),
    /// Let the gate become QEMU.
    Release(Answer<Running>),
    /// Take over a running QEMU.
    Adopt(Box<Adopt>, Answer<Running>),
    /// What is known.
    Query(Answer<RunnerState>),
    /// Walk the stop ladder.
    Stop(StopQemu, Answer<Ended>),
    /// A way to QEMU for one command.
    Qmp(Answer<Qmp>),
    /// Names of the disks, in the order of the spec.
    Disks(Answer<Vec<String>>),
    /// Whether a person has the guest halted.
    Held(Answer<bool>),
    /// Follow what happens.
    Watch(Answer<mpsc::Receiver<RunnerFact>>),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum News {
    /// The gate stands, or does not.
    Gated(Result<Box<Gate>, Refusal>),
    /// A released or adopted QEMU answers, or does not.
    Up(Result<Box<Up>, MonitorError>),
    /// QEMU reported something.
    Event(Incoming),
    /// QEMU's monitor closed the connection.
    Hungup,
    /// A connection that was lost, or never had, is there.
    Reconnected(Box<Up>),
    /// QEMU said how it is doing.
    RunState(Result<RunState, QmpError>),
    /// QEMU said how its disks are doing.
    Blocks(Result<Vec<BlockInfo>, QmpError>),
    /// Room for a full disk was looked for; whether the guest was let run.
    LookedForRoom(bool),
    /// A person has the guest halted, or lets it go on.
    Held(bool),
    /// QEMU has a disk more, its last one.
    Plugged {
        /// Its place among the disks.
        place: usize,
        /// Its name.
        disk: String,
        /// Where its image is.
        path: PathBuf,
    },
    /// QEMU let a deadline pass, or answered after it had.
    Silent(bool),
    /// Something the stop ladder waits for.
    Ladder(Input),
    /// The virtiofsd of a share is gone; whether QEMU was still there a moment later.
    HelperGone {
        /// The share.
        share: String,
        /// QEMU was.
        ended_first: bool,
    },
    /// QEMU is gone.
    Gone,
    /// The runtime directory is a new one.
    Moved,
    /// The runner was told to end.
    Terminate,
}

/// A QEMU that answers.
#[derive(Debug)]
pub(crate) struct Up {
    /// The way to it.
    pub(crate) monitor: Monitor,
    /// What its CPUs do.
    pub(crate) run_state: RunState,
    /// What accelerates it, if it said so.
    pub(crate) accel: Option<&'static str>,
}
