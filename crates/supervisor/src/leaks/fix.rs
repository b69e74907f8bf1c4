//! Taking away what is provably ours and dead.

mod processes;

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use maqet_protocol::control::{LeakKind, Repair};
use maqet_state::change::Change;
use maqet_state::clock::Timestamp;
use maqet_state::ledger::{LedgerEdit, LedgerKind};
use tokio::sync::oneshot;

use super::Suspects;
use super::judge::Suspect;
use crate::messages::Persist;
use crate::shared::Shared;

/// An empty image is written within this time; one that changed later may hold somebody's data.
const MAKING_MS_MAX: u64 = 60_000;

/// What becomes of a line about nothing.
const STRUCK: &str = "struck from the ledger";

/// What was done, or why nothing was.
type Done = Result<String, String>;

/// Repairs what can be, in the order of kinds: processes first, since they may use the rest.
pub(super) async fn repair(suspects: &Suspects, logs: bool, shared: &Rc<Shared>) -> Vec<Repair> {
    let mut repairs = Vec::with_capacity(suspects.len());
    let mut ordered: Vec<_> = suspects.values().collect();
    // A runner that is asked to end takes its QEMU along in order.
    ordered.sort_by_key(|suspect| (suspect.kind, !processes::is_runner(suspect)));
    for suspect in ordered {
        let done = repair_one(suspect, suspects, logs, shared).await;
        repairs.push(Repair {
            kind: suspect.kind,
            what: suspect.what.clone(),
            done: done.is_ok(),
            detail: done.unwrap_or_else(|why| why),
        });
    }
    tracing::info!(?repairs, "leaks were repaired");
    repairs
}

/// What is gone is struck from the ledger.
async fn repair_one(suspect: &Suspect, suspects: &Suspects, logs: bool, shared: &Rc<Shared>) -> Done {
    let done = take_away(suspect, suspects, logs, shared).await?;
    if let Some((kind, what)) = suspect.line.clone() {
        strike(kind, what, shared).await?;
    }
    Ok(done)
}

async fn take_away(suspect: &Suspect, suspects: &Suspects, logs: bool, shared: &Rc<Shared>) -> Done {
    match (suspect.kind, &suspect.path) {
        (LeakKind::Process, _) => processes::end(suspect, shared).await,
        (LeakKind::Socket, Some(path)) => remove_socket(path).await,
        (LeakKind::Port, _) => processes::not_had(suspect, suspects)
            .map(|()| format!("{STRUCK}; whoever has it is not the VM's, and is left alone")),
        (LeakKind::Directory, Some(path)) => {
            not_in_use(suspect, suspects)?;
            if path.starts_with(shared.places.images()) {
                // It bears a temporary name, and nobody has locked it.
                remove_directory(path)
            } else if path.starts_with(&shared.places.runtime) {
                remove_directory(path)
            } else {
                remove_logs(path, logs)
            }
        }
        (LeakKind::File, Some(path)) if suspect.line.is_some() => remove_image(path, suspect),
        (LeakKind::File, Some(path)) => remove_temporary(path),
        (LeakKind::Ledger, _) => Ok(STRUCK.to_owned()),
        (LeakKind::Socket | LeakKind::Directory | LeakKind::File, None) => Err("it has no place".to_owned()),
    }
}

/// Deletes a socket that refuses connections: nobody listens on it, and nobody ever will again.
async fn remove_socket(path: &Path) -> Done {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err("it has no name".to_owned());
    };
    match fs::symlink_metadata(path) {
        Ok(about) if about.file_type().is_socket() => {}
        Ok(_another) => return Err("left alone: it is no socket any more".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok("it went with the process that had made it".to_owned());
        }
        Err(error) => return Err(error.to_string()),
    }
    let directory = maqet_process::directory::open_private(parent).map_err(|error| error.to_string())?;
    if maqet_process::socket::connect(std::os::fd::AsFd::as_fd(&directory), name)
        .await
        .is_ok()
    {
        return Err("left alone: somebody listens on it".to_owned());
    }
    rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty())
        .map_err(|error| error.to_string())?;
    Ok("deleted: nobody listened on it".to_owned())
}

fn not_in_use(suspect: &Suspect, suspects: &Suspects) -> Result<(), String> {
    let in_use = suspects
        .values()
        .any(|other| other.kind == LeakKind::Process && other.id == suspect.id && processes::lives(other));
    if in_use {
        return Err("left alone: a process of that VM lives".to_owned());
    }
    Ok(())
}

/// Sockets and notes of a VM that is not stored are worth nothing.
fn remove_directory(path: &Path) -> Done {
    fs::remove_dir_all(path).map_err(|error| error.to_string())?;
    Ok("deleted with what was in it".to_owned())
}

/// Logs are worth something to people, so they go only when that was asked for; a VM's description, with which it could
/// be brought back, and whatever else is there, never.
fn remove_logs(path: &Path, asked: bool) -> Done {
    let entries = fs::read_dir(path).map_err(|error| error.to_string())?;
    let names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.iter().any(|name| name == maqet_state::mirror::FILE) {
        return Err("left alone: it describes a VM; `maqet doctor --rebuild` brings it back".to_owned());
    }
    if let Some(other) = names.iter().find(|name| !is_log(name)) {
        return Err(format!("left alone: `{other}` in it is no log"));
    }
    if !asked {
        return Err("left alone: it holds logs; `maqet cleanup` deletes them".to_owned());
    }
    remove_directory(path)
}

/// A log of a runner, a QEMU or a guest, or the older half of one.
fn is_log(name: &str) -> bool {
    let name = name.strip_suffix(".1").unwrap_or(name);
    ["serial.log", "qemu.log", "virtiofsd.log", "runner.log"].contains(&name)
}

/// Deletes an image that is as maqet made it. Anything else may be somebody's.
fn remove_image(path: &Path, suspect: &Suspect) -> Done {
    let about = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let entered = suspect.since.unwrap_or_default();
    if !is_as_made(&about, entered) {
        return Err("left alone: it is not as maqet made it".to_owned());
    }
    fs::remove_file(path).map_err(|error| error.to_string())?;
    Ok("deleted: it was as maqet had made it, empty".to_owned())
}

/// Deletes an image that nobody gave a name to and that was open nowhere: its name says whose it is.
fn remove_temporary(path: &Path) -> Done {
    let about = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let ours = about.uid() == rustix::process::geteuid().as_raw() && about.nlink() == 1 && about.is_file();
    if !ours {
        return Err("left alone: it is not as maqet made it".to_owned());
    }
    fs::remove_file(path).map_err(|error| error.to_string())?;
    Ok("deleted: it never got its name".to_owned())
}

/// A regular file of ours, born after it was entered in the ledger and not written to since its making.
fn is_as_made(about: &Metadata, entered: Timestamp) -> bool {
    let Some(born) = about.created().ok().and_then(milliseconds) else {
        return false;
    };
    let Some(written) = about.modified().ok().and_then(milliseconds) else {
        return false;
    };
    let ours = about.uid() == rustix::process::geteuid().as_raw() && about.nlink() == 1 && about.is_file();
    // File systems count in ticks of the kernel's clock, which lag by some milliseconds.
    let after = born.saturating_add(20) >= entered.0 && born <= entered.0.saturating_add(MAKING_MS_MAX);
    ours && after && written <= born.saturating_add(MAKING_MS_MAX)
}

fn milliseconds(time: std::time::SystemTime) -> Option<u64> {
    let since: Duration = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

async fn strike(kind: LedgerKind, what: String, shared: &Rc<Shared>) -> Result<(), String> {
    let (done, durable) = oneshot::channel();
    let change = Box::new(Change::default().ledger(LedgerEdit::Strike { kind, what }));
    shared
        .state
        .send(Persist { change, done })
        .await
        .map_err(|error| error.to_string())?;
    let durable = durable.await.map_err(|error| error.to_string())?;
    durable.map_err(|refusal| refusal.to_string())
}
