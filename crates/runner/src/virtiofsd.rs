//! virtiofsd, one for each share that asks for it: made by a gate before QEMU's, connected to, watched, and gone with QEMU.
//!
//! The connection is made by the runner while the gate waits, then handed to QEMU; the name of the socket is taken away at
//! once, so that nobody else can ever connect. virtiofsd ends by itself when its connection is closed, which the kernel does
//! for whoever holds it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use maqet_process::confine::{self, Access, Confinement, Rule};
use maqet_process::enclosure::{ALLOW, Enclosure, PLACE, REFUSED};
use maqet_process::gate::{GateOrder, Gated, PASSED_NUMBER_MIN, spawn_gate};
use maqet_process::identity::{FileId, Liveness, ProcessIdentity, Role};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::{ExitStatus, ProcessError, socket};
use maqet_protocol::control::ShareLoss;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::Share;
use maqet_state::clock;
use maqet_state::record;
use tokio::time::timeout;

use crate::confinement;
use crate::ending::in_words;
use crate::launch::{GATE_STANDS, SELF};
use crate::logs::{Logs, VIRTIOFSD_LOG};
use crate::place::{HELPER_SOCKET, Place};

/// Number of the socket in virtiofsd.
const SOCKET: i32 = PASSED_NUMBER_MIN;
/// Number of the directory in the gate.
const DIRECTORY: i32 = PASSED_NUMBER_MIN + 1;
/// What every virtiofsd reads.
const READ: [&str; 3] = ["/proc/self", "/proc/sys/fs/file-max", "/proc/sys/fs/nr_open"];
/// A virtiofsd whose connection was closed is gone within milliseconds; one that waits for a hung disk is not.
const GONE: Duration = Duration::from_secs(2);

/// What the gates of a launch have in common.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// Absolute path of virtiofsd; `None` when the supervisor found none.
    program: Option<&'a Path>,
    /// Launch id and start counter.
    launch: (&'a str, u64),
    /// What a virtiofsd may touch beside its share; `None` for one that is not confined.
    confinement: Option<Confinement>,
    /// Where it writes its words.
    logs: &'a Logs,
}

impl<'a> Order<'a> {
    /// What all shares of a spec have in common.
    pub(crate) fn new(
        spec: &VmSpec,
        program: Option<&'a Path>,
        launch: (&'a str, u64),
        logs: &'a Logs,
    ) -> Self {
        Self {
            program,
            launch,
            confinement: confinement::floor(spec).map(Confinement::at_least),
            logs,
        }
    }
}

/// A gate that will become virtiofsd.
#[derive(Debug)]
pub(crate) struct Standing {
    gated: Gated,
    helper: Helper,
}

/// One virtiofsd as its runner knows it.
#[derive(Debug)]
pub(crate) struct Helper {
    /// The share it serves.
    pub(crate) share: String,
    /// Who it is.
    identity: ProcessIdentity,
    /// Handle on it; `None` for one that was gone before this runner came.
    pub(crate) handle: Option<ProcessHandle>,
    /// It is gone, and QEMU was not.
    pub(crate) loss: Option<ShareLoss>,
    /// And somebody was told.
    pub(crate) told: bool,
    /// Length of the log when it was started, bytes.
    words_from: u64,
}

/// Has a gate made for a share, and connects to it. Nothing of it runs yet.
///
/// # Errors
/// `start-failed` when there is no program, this user may not run it as it must be, or the kernel refuses.
pub(crate) async fn stand(
    place: &Place,
    share: &Share,
    directory: OwnedFd,
    order: &Order<'_>,
) -> Result<(Standing, OwnedFd), Refusal> {
    let failed = |error: &dyn std::error::Error| {
        let words = format!("virtiofsd cannot be started for share `{}`", share.name);
        let refusal = place.refusal_from(RefusalCode::StartFailed, words, error);
        let hint = format!("`type: 9p` shares `{}` without it", share.path.display());
        if error.to_string().contains(REFUSED) {
            return refusal.hint(format!("{hint}; {ALLOW}"));
        }
        refusal.hint(hint)
    };
    let Some(program) = order.program else {
        let words = format!("share `{}` needs virtiofsd, which is not installed", share.name);
        return Err(place.refusal(RefusalCode::StartFailed, words));
    };
    let executables = vec![FileId::of_path(Path::new(SELF)), FileId::of_path(program)];
    let executables = executables.into_iter().collect::<Result<Vec<_>, _>>();
    let executables = executables.map_err(|error| failed(&error))?;
    let words_from = order.logs.size(VIRTIOFSD_LOG);
    let gate = gate_order(place, share, directory, (program, order)).map_err(|error| failed(&error))?;
    let mut gated = spawn_gate(Path::new(SELF), gate).map_err(|error| failed(&error))?;
    match timeout(GATE_STANDS, gated.listening()).await {
        Ok(standing) => standing.map_err(|error| failed(&error))?,
        Err(elapsed) => return Err(failed(&elapsed)),
    }
    let connection = connect(place, &gated).await.map_err(|error| failed(&error))?;
    let (launch_id, generation) = order.launch;
    let handle = gated.handle.try_clone().map_err(|error| failed(&error))?;
    let identity = ProcessIdentity::take(&handle, Role::Helper, launch_id, generation, executables)
        .map_err(|error| failed(&error))?;
    let helper = Helper {
        share: share.name.clone(),
        identity,
        handle: Some(handle),
        loss: None,
        told: false,
        words_from,
    };
    Ok((Standing { gated, helper }, connection))
}

/// It makes the place that its gate puts the directory in its root, whatever the directory is called by then.
fn gate_order(
    place: &Place,
    share: &Share,
    directory: OwnedFd,
    (program, order): (&Path, &Order<'_>),
) -> Result<GateOrder, ProcessError> {
    let listener = socket::bind_listener(place.directory().as_fd(), HELPER_SOCKET)?;
    let log = order.logs.open(VIRTIOFSD_LOG);
    let log = log.map_err(|source| ProcessError::File {
        action: "open",
        path: order.logs.path(VIRTIOFSD_LOG),
        source,
    })?;
    let access = if share.readonly { Access::Read } else { Access::Own };
    let confinement = order.confinement.clone().map(|mut confinement| {
        confinement.rules.extend(confine::of_program(program));
        confinement
            .rules
            .extend(READ.map(|path| Rule::new(path, Access::Read)));
        confinement.rules.push(Rule::new(PLACE, access));
        confinement
    });
    Ok(GateOrder {
        program: program.to_owned(),
        args: arguments(),
        env: vec![("LC_ALL".into(), "C".into())],
        listen: vec![(listener, SOCKET)],
        pass: vec![(directory, DIRECTORY)],
        enclosure: Some(Enclosure {
            directory: DIRECTORY,
            readonly: share.readonly,
        }),
        output: log.into(),
        confinement,
    })
}

/// Words that QEMU's own virtiofsd and the one that followed it both know.
fn arguments() -> Vec<OsString> {
    let source = format!("source={PLACE}");
    let mut words: Vec<OsString> = vec![format!("--fd={SOCKET}").into()];
    for option in [source.as_str(), "sandbox=chroot"] {
        words.extend(["-o".into(), option.into()]);
    }
    // As many as its runner has: raising the limit would take a privilege.
    words.push("--rlimit-nofile=0".into());
    words
}

/// Connects to the gate and takes the name of its socket away.
async fn connect(place: &Place, gated: &Gated) -> Result<OwnedFd, ProcessError> {
    let directory = place.directory();
    let connected = socket::connect(directory.as_fd(), HELPER_SOCKET).await;
    crate::notes::remove(&directory, HELPER_SOCKET);
    let connected = connected?;
    let peer = socket::peer(&connected)?;
    if peer.pid != gated.handle.pid() {
        return Err(ProcessError::Gone {
            pid: gated.handle.pid(),
        });
    }
    let call = |source| ProcessError::Call {
        action: "keep a connection",
        source,
    };
    let stream = connected.into_std().map_err(call)?;
    stream.set_nonblocking(false).map_err(call)?;
    Ok(stream.into())
}

impl Standing {
    /// For the record.
    pub(crate) fn record(&self) -> record::Helper {
        record::Helper {
            share: self.helper.share.clone(),
            identity: self.helper.identity.clone(),
        }
    }

    /// It is not wanted: it ends without having run anything.
    pub(crate) fn give_up(self) -> Option<ProcessHandle> {
        self.helper.handle
    }

    /// Its identity is durable: lets it become virtiofsd.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] when it has ended.
    pub(crate) fn release(self) -> Result<Helper, ProcessError> {
        self.gated.release()?;
        Ok(self.helper)
    }
}

impl Helper {
    /// One that another runner started.
    pub(crate) fn adopted(known: record::Helper, losses: &BTreeMap<String, ShareLoss>, logs: &Logs) -> Self {
        let gone = |detail: String| ShareLoss {
            detail,
            since: clock::now(),
        };
        let found = match known.identity.verify() {
            Liveness::Alive(handle) => Ok(handle),
            Liveness::Dead => Err("it ended while no runner was there".to_owned()),
            Liveness::Unknown(why) => Err(why),
        };
        let told = losses.get(&known.share).cloned();
        Self {
            share: known.share,
            identity: known.identity,
            told: told.is_some(),
            loss: told.or_else(|| found.as_ref().err().cloned().map(gone)),
            handle: found.ok(),
            words_from: logs.size(VIRTIOFSD_LOG),
        }
    }

    /// The share, if it is lost, and how.
    pub(crate) fn lost(&self) -> Option<(String, ShareLoss)> {
        Some((self.share.clone(), self.loss.clone()?))
    }

    /// It did not end by itself because its connection was closed.
    pub(crate) fn ended_badly(&self) -> bool {
        let status = self.handle.as_ref().and_then(ProcessHandle::exit_status);
        status.is_some_and(|status| status != ExitStatus::Code(0))
    }

    /// How it ended, in a clause.
    pub(crate) fn account(&self, logs: &Logs) -> String {
        let status = self.handle.as_ref().and_then(ProcessHandle::exit_status);
        let words = logs.last_words_in(VIRTIOFSD_LOG, self.words_from);
        let last = words.as_deref().and_then(|words| words.lines().last());
        let last = last.map(|line| format!(": {line}"));
        format!(
            "virtiofsd ended with {}{}",
            in_words(status),
            last.unwrap_or_default()
        )
    }
}

/// Waits until helpers are gone whose QEMU is; one that is not within the time is ended.
pub(crate) async fn see_off(handles: Vec<ProcessHandle>) {
    for handle in handles {
        match timeout(GONE, handle.exited()).await {
            Ok(Ok(())) => {
                let status = handle.exit_status();
                tracing::debug!(?status, "a virtiofsd has gone with its QEMU");
            }
            Ok(Err(error)) => tracing::error!(%error, "the end of a virtiofsd cannot be watched"),
            Err(_elapsed) => crate::session::end_it(&handle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_the_open_directory_as_its_root() {
        let words: Vec<String> = arguments()
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        assert_eq!(
            words.join(" "),
            "--fd=5 -o source=/sys -o sandbox=chroot --rlimit-nofile=0"
        );
    }
}
