//! The way to QEMU's monitor: connect, make sure that it is QEMU which answers, find out how it is doing.

use std::os::fd::AsFd;
use std::time::Duration;

use maqet_process::identity::ProcessIdentity;
use maqet_process::point::{Point, pass};
use maqet_process::socket::{self, Peer};
use maqet_process::{ProcessError, ProcessHandle};
use maqet_qmp::command::{Cont, QueryBlockstats, QueryKvm, QueryStatus};
use maqet_qmp::{Events, Qmp, QmpError, RunState};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::place::{CONTROL_MONITOR, Place};

/// Time for QEMU's greeting; it comes 25 ms after exec on an idle host.
const GREETING: Duration = Duration::from_secs(10);
/// Greetings asked for at a start.
const GREETINGS: u32 = 2;
/// Time for the greeting of an adopted QEMU before it counts as silent.
const GREETING_ADOPTED: Duration = Duration::from_secs(5);
/// Time one lost connection waits for a greeting. It costs nothing: QEMU serves waiting clients in their order.
const GREETING_PATIENT: Duration = Duration::from_hours(1);
/// Time for a question that QEMU answers at once.
const QUESTION: Duration = Duration::from_secs(10);
/// Time a question waits that only asks whether QEMU is back.
const QUESTION_PATIENT: Duration = Duration::from_hours(1);
/// Time for a look at what the guest has written.
const SAMPLE: Duration = Duration::from_secs(5);
/// Time from QEMU's closing its sockets to its end: the kernel frees its memory in between.
const LINGER: Duration = Duration::from_secs(2);
/// First pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Why the monitor could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    /// The socket could not be connected to.
    #[error("connect to QEMU's monitor")]
    Connect(#[source] ProcessError),
    /// Somebody else answers on QEMU's socket.
    #[error("process {pid} answers on QEMU's monitor, not QEMU {qemu}")]
    Stranger {
        /// Who.
        pid: i32,
        /// Who should.
        qemu: i32,
    },
    /// QEMU did not greet, or answered badly.
    #[error("talk to QEMU's monitor")]
    Talk(#[source] QmpError),
}

impl MonitorError {
    /// QEMU is there but has not answered.
    fn is_silence(&self) -> bool {
        match self {
            Self::Talk(error) => matches!(error, QmpError::Greeting { .. } | QmpError::Deadline { .. }),
            Self::Connect(_) | Self::Stranger { .. } => false,
        }
    }

    /// QEMU closed its socket: most likely it is about to be gone.
    pub(crate) fn is_hangup(&self) -> bool {
        match self {
            Self::Talk(error) => matches!(error, QmpError::Closed | QmpError::Io(_)),
            Self::Connect(_) => true,
            Self::Stranger { .. } => false,
        }
    }
}

/// A connection to QEMU's monitor and what it reports.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// The connection.
    pub(crate) qmp: Qmp,
    /// What QEMU reports.
    pub(crate) events: Events,
}

/// Connects to the monitor of a QEMU just released.
///
/// # Errors
/// [`MonitorError`], after one retry.
pub(crate) async fn greet(place: &Place, qemu: &ProcessIdentity) -> Result<Monitor, MonitorError> {
    let mut left = GREETINGS;
    loop {
        left = left.saturating_sub(1);
        match attempt(place, qemu, GREETING).await {
            Err(error) if left > 0 && error.is_silence() => {
                tracing::warn!(%error, "QEMU's monitor was not reached, trying again");
            }
            reached => return reached,
        }
    }
}

/// Connects to the monitor of a QEMU that another runner had.
///
/// # Errors
/// [`MonitorError`]; a silent QEMU is found out within seconds.
pub(crate) async fn adopt(place: &Place, qemu: &ProcessIdentity) -> Result<Monitor, MonitorError> {
    attempt(place, qemu, GREETING_ADOPTED).await
}

/// Connects to the monitor of a living QEMU however long that takes. To be dropped when QEMU is gone.
pub(crate) async fn reconnect(place: &Place, qemu: &ProcessIdentity) -> Monitor {
    let mut pause = PAUSE;
    loop {
        match attempt(place, qemu, GREETING_PATIENT).await {
            Ok(monitor) => return monitor,
            Err(error) => tracing::warn!(%error, "QEMU's monitor was not reached"),
        }
        sleep_until(Instant::now() + pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

async fn attempt(place: &Place, qemu: &ProcessIdentity, greeting: Duration) -> Result<Monitor, MonitorError> {
    let directory = place.directory();
    let stream = socket::connect(directory.as_fd(), CONTROL_MONITOR)
        .await
        .map_err(MonitorError::Connect)?;
    pass(Point::MonitorConnected);
    check(&stream, qemu)?;
    let (qmp, events) = Qmp::connect(stream, greeting).await.map_err(MonitorError::Talk)?;
    pass(Point::MonitorGreeted);
    Ok(Monitor { qmp, events })
}

/// Whoever listens on the socket must be the process on record.
fn check(stream: &UnixStream, qemu: &ProcessIdentity) -> Result<(), MonitorError> {
    let peer = socket::peer(stream).map_err(MonitorError::Connect)?;
    if is(&peer, qemu) {
        return Ok(());
    }
    Err(MonitorError::Stranger {
        pid: peer.pid,
        qemu: qemu.pid,
    })
}

fn is(peer: &Peer, qemu: &ProcessIdentity) -> bool {
    match &peer.handle {
        Some(handle) => qemu.matches_handle(handle),
        // Before Linux 6.5; the number was QEMU's own when it listened, and QEMU is still held by a pidfd.
        None => peer.pid == qemu.pid,
    }
}

/// QEMU's run state.
///
/// # Errors
/// [`QmpError::Deadline`] from a silent QEMU, and the rest.
pub(crate) async fn run_state(qmp: &Qmp) -> Result<RunState, QmpError> {
    qmp.execute(&QueryStatus, QUESTION).await.map(|info| info.status)
}

/// Returns once QEMU answers again; `None` when the connection is gone.
pub(crate) async fn back(qmp: &Qmp) -> Option<RunState> {
    loop {
        match qmp.execute(&QueryStatus, QUESTION_PATIENT).await {
            Ok(info) => return Some(info.status),
            Err(QmpError::Deadline { .. }) => {}
            Err(_) => return None,
        }
    }
}

/// Lets the guest's CPUs run.
///
/// # Errors
/// What QEMU says against it.
pub(crate) async fn cont(qmp: &Qmp) -> Result<(), MonitorError> {
    qmp.execute(&Cont, QUESTION)
        .await
        .map(drop)
        .map_err(MonitorError::Talk)
}

/// What accelerates QEMU.
///
/// # Errors
/// What QEMU says against the question.
pub(crate) async fn accel(qmp: &Qmp) -> Result<&'static str, QmpError> {
    let kvm = qmp.execute(&QueryKvm, QUESTION).await?;
    Ok(if kvm.enabled { "kvm" } else { "tcg" })
}

/// Bytes the guest has written to its disks since QEMU was started; `None` when QEMU does not say.
pub(crate) async fn written_bytes(qmp: &Qmp) -> Option<u64> {
    let stats = qmp.execute(&QueryBlockstats, SAMPLE).await.ok()?;
    let written = stats.iter().map(|device| device.stats.written_bytes);
    Some(written.fold(0, u64::saturating_add))
}

/// Gives a QEMU that closed its socket a moment to be gone, so that its end can tell why.
pub(crate) async fn linger(handle: &ProcessHandle) {
    if timeout(LINGER, gone(handle)).await.is_err() {
        tracing::warn!("QEMU closed its monitor but does not end");
    }
}

/// Returns once QEMU is gone; when that cannot be watched, says so in the log and never returns.
pub(crate) async fn gone(handle: &ProcessHandle) {
    if let Err(error) = handle.exited().await {
        tracing::error!(%error, "QEMU's end cannot be watched");
        std::future::pending::<()>().await;
    }
}
