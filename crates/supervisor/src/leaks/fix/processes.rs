//! Ending processes that nobody has and that the ledger identifies; no others, whatever they look like.

use std::rc::Rc;
use std::time::Duration;

use maqet_process::identity::Liveness;
use maqet_process::pidfd::ProcessHandle;
use maqet_process::{Role, Signal};
use maqet_protocol::control::LeakKind;

use super::{Done, Suspects};
use crate::launch::collect;
use crate::leaks::judge::Suspect;
use crate::recovery::look_for;
use crate::shared::Shared;

/// A runner that is asked to end shuts its guest down; whoever ordered the repair does not wait for longer than this.
const RUNNER_GRACE: Duration = Duration::from_secs(10);

/// SIGKILL takes its time on a host that is thrashing.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// Whether it is on record as a runner.
pub(super) fn is_runner(suspect: &Suspect) -> bool {
    suspect
        .identity
        .as_ref()
        .is_some_and(|identity| identity.role == Role::Runner)
}

/// Ends a process by the identity in the ledger.
pub(super) async fn end(suspect: &Suspect, shared: &Rc<Shared>) -> Done {
    let Some(identity) = &suspect.identity else {
        return Err("left alone: nothing on record proves that it is maqet's".to_owned());
    };
    if let Some(id) = &suspect.id
        && shared.places.vm_data(id).join(maqet_state::mirror::FILE).exists()
        && shared.board.activity(id).is_none()
    {
        return Err("left alone: `maqet doctor --rebuild` brings its VM back".to_owned());
    }
    let handle = match look_for(identity) {
        Liveness::Alive(handle) => handle,
        Liveness::Dead => return Ok("it has ended".to_owned()),
        Liveness::Unknown(why) => return Err(format!("left alone: {why}")),
    };
    // QEMU does not heed SIGTERM.
    if identity.role == Role::Runner && ends_by(&handle, Signal::Term, RUNNER_GRACE).await? {
        collect(&handle, shared);
        return Ok("ended as it was asked to: it is on record, and no VM has it".to_owned());
    }
    if !ends_by(&handle, Signal::Kill, KILL_GRACE).await? {
        return Err("it was sent SIGKILL and has not ended yet".to_owned());
    }
    collect(&handle, shared);
    Ok("killed: it is on record, and no VM has it".to_owned())
}

async fn ends_by(handle: &ProcessHandle, signal: Signal, grace: Duration) -> Result<bool, String> {
    tracing::warn!(pid = handle.pid(), ?signal, "ending a process that no VM has");
    let _gone_or_delivered = handle.signal(signal).map_err(|error| error.to_string())?;
    match tokio::time::timeout(grace, handle.exited()).await {
        Ok(exited) => exited.map(|()| true).map_err(|error| error.to_string()),
        Err(_elapsed) => Ok(false),
    }
}

/// Whether the process still is there, or another one that has got its number: then nothing it may use is taken away.
pub(super) fn lives(suspect: &Suspect) -> bool {
    match suspect.pid.map(ProcessHandle::open) {
        Some(Ok(Some(handle))) => !handle.has_exited(),
        Some(Ok(None)) | None => false,
        Some(Err(_)) => true,
    }
}

/// A port is no longer its VM's unless one of the VM's own processes has it.
pub(super) fn not_had(suspect: &Suspect, suspects: &Suspects) -> Result<(), String> {
    let mut processes = suspects.values().filter(|other| other.kind == LeakKind::Process);
    if processes.any(|other| other.pid == suspect.pid && other.pid.is_some() && lives(other)) {
        return Err("left alone: a process that looks like the VM's has it".to_owned());
    }
    Ok(())
}
