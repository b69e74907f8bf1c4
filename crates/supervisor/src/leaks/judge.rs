//! What is there and that nobody has: the comparison, without any I/O.

mod lines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maqet_process::ProcessIdentity;
use maqet_process::census::Glimpse;
use maqet_protocol::control::{Leak, LeakKind};
use maqet_state::clock::{self, Timestamp};
use maqet_state::id::VmId;
use maqet_state::ledger::LedgerKind;

use super::known::{Held, Known};
use super::seen::{Half, Seen, VmDirectory};
use crate::ipc::SOCKET as CONTROL_SOCKET;
use crate::ledger::SOCKETS;

/// Letters of a command line that are shown.
const LINE_LETTERS_MAX: usize = 160;

/// Digits of a launch id.
const LAUNCH_DIGITS: usize = VmId::LENGTH;

/// What tells one leak from another: the same thing twice in two looks.
pub(super) type Key = (LeakKind, String);

/// Something that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) kind: LeakKind,
    pub(super) what: String,
    /// The VM, by id.
    pub(super) id: Option<VmId>,
    /// The VM, for people.
    pub(super) vm: Option<String>,
    /// A process, or the one that has the port.
    pub(super) pid: Option<i32>,
    /// Who the process is on record as.
    pub(super) identity: Option<Box<ProcessIdentity>>,
    /// Something in the file system.
    pub(super) path: Option<PathBuf>,
    /// A line of the ledger.
    pub(super) line: Option<(LedgerKind, String)>,
    pub(super) since: Option<Timestamp>,
    pub(super) detail: String,
}

/// Everything that `known` does not explain.
pub(super) fn judge(known: &Known, seen: &Seen) -> BTreeMap<Key, Suspect> {
    let processes = processes(known, seen);
    let directories = seen
        .directories
        .iter()
        .flat_map(|directory| directory_of(known, directory));
    let loose = seen.loose_sockets.iter().filter_map(|path| loose(path));
    let temporaries = seen.temporaries.iter().map(|path| temporary(known, path));
    let unfinished = seen.unfinished.iter().map(|path| unfinished(path));
    let lines = seen
        .lines
        .iter()
        .filter_map(|line| lines::judge(known, seen, line));
    // What is on record of a thing comes last, and replaces what its looks say.
    let all = processes
        .into_iter()
        .chain(directories)
        .chain(loose)
        .chain(temporaries)
        .chain(unfinished)
        .chain(lines);
    all.map(|suspect| ((suspect.kind, suspect.what.clone()), suspect))
        .collect()
}

fn processes(known: &Known, seen: &Seen) -> Vec<Suspect> {
    let launches = known.launches();
    let unheld = seen.processes.iter().filter(|glimpse| !known.holds(glimpse.pid));
    let suspects = unheld.filter_map(|glimpse| {
        let (id, why) = claim(glimpse, seen, &launches)?;
        if known.is_busy(&id) {
            return None;
        }
        let vm = known.name_of(&id);
        let detail = if known.vms.contains_key(&id) {
            format!("it {why}, and `{vm}` does not have it")
        } else {
            format!("it {why}, and no such VM is stored")
        };
        Some(Suspect {
            pid: Some(glimpse.pid),
            ..Suspect::new(LeakKind::Process, shown(glimpse), Some((id, vm)), detail)
        })
    });
    suspects.collect()
}

/// The VM that a process seems to belong to, and by what.
fn claim(glimpse: &Glimpse, seen: &Seen, launches: &BTreeMap<&str, &VmId>) -> Option<(VmId, &'static str)> {
    if let Some(id) = runner_of(glimpse, &seen.runtime) {
        return Some((id, "is the runner of a VM of this runtime directory"));
    }
    let output = glimpse.output.as_deref();
    if let Some(id) = output.and_then(|path| vm_below(&seen.data, path)) {
        return Some((id, "writes to a log of a VM"));
    }
    let mut launch = glimpse.words.iter().flat_map(|word| hexadecimal_runs(word));
    let id = launch.find_map(|digits| launches.get(digits))?;
    Some(((*id).clone(), "carries the id of a launch"))
}

/// The VM in the command line of a runner that works below `runtime`.
fn runner_of(glimpse: &Glimpse, runtime: &Path) -> Option<VmId> {
    let mut words = glimpse.words.iter();
    words.by_ref().find(|word| *word == "--launch-id")?;
    words.by_ref().find(|word| *word == "--runtime-dir")?;
    vm_below(runtime, Path::new(words.next()?))
}

/// The VM whose directory below `parent` a path leads to or into.
fn vm_below(parent: &Path, path: &Path) -> Option<VmId> {
    let first = path.strip_prefix(parent).ok()?.components().next()?;
    first.as_os_str().to_str()?.parse().ok()
}

/// Maximal runs of as many lower-case hexadecimal digits as a launch id has.
fn hexadecimal_runs(word: &str) -> impl Iterator<Item = &str> {
    word.split(|letter: char| !matches!(letter, '0'..='9' | 'a'..='f'))
        .filter(|run| run.len() == LAUNCH_DIGITS)
}

fn shown(glimpse: &Glimpse) -> String {
    let line = glimpse.words.join(" ").replace(char::is_control, " ");
    let cut: String = line.chars().take(LINE_LETTERS_MAX).collect();
    let more = if cut.len() < line.len() { "…" } else { "" };
    format!("{}: {cut}{more}", glimpse.pid)
}

fn directory_of(known: &Known, directory: &VmDirectory) -> Vec<Suspect> {
    let Some(held) = known.vms.get(&directory.id) else {
        let detail = match directory.half {
            Half::Data => "it holds the logs of a VM that is not stored",
            Half::Runtime => "it is for the sockets of a VM that is not stored",
        };
        let vm = (directory.id.clone(), directory.id.to_string());
        return vec![Suspect::at(
            LeakKind::Directory,
            &directory.path,
            Some(vm),
            detail,
        )];
    };
    if held.busy {
        return Vec::new();
    }
    let sockets = directory
        .sockets
        .iter()
        .filter_map(|name| socket_of(held, directory, name));
    sockets.collect()
}

fn socket_of(held: &Held, directory: &VmDirectory, name: &str) -> Option<Suspect> {
    let detail = match (SOCKETS.contains(&name), held.runs) {
        (true, true) => return None,
        (true, false) => "its VM does not run",
        (false, _) => "nothing of maqet makes a socket of this name",
    };
    let vm = (held.id.clone(), held.name.clone());
    Some(Suspect::at(
        LeakKind::Socket,
        &directory.path.join(name),
        Some(vm),
        detail,
    ))
}

fn loose(path: &Path) -> Option<Suspect> {
    if path.file_name().is_some_and(|name| name == CONTROL_SOCKET) {
        return None;
    }
    let detail = "nothing of maqet makes a socket of this name";
    Some(Suspect::at(LeakKind::Socket, path, None, detail))
}

fn temporary(known: &Known, path: &Path) -> Suspect {
    let beside = |held: &&Held| held.disks.iter().any(|disk| disk.parent() == path.parent());
    let vm = known
        .vms
        .values()
        .find(beside)
        .map(|held| (held.id.clone(), held.name.clone()));
    let detail = "it is a temporary image of a making that was cut off, and nobody has it open";
    Suspect::at(LeakKind::File, path, vm, detail)
}

fn unfinished(path: &Path) -> Suspect {
    let detail = "it is an image of the library whose making, or removal, was cut off";
    Suspect::at(LeakKind::Directory, path, None, detail)
}

impl Suspect {
    fn new(kind: LeakKind, what: String, vm: Option<(VmId, String)>, detail: String) -> Self {
        let (id, vm) = vm.unzip();
        Self {
            kind,
            what,
            id,
            vm,
            pid: None,
            identity: None,
            path: None,
            line: None,
            since: None,
            detail,
        }
    }

    fn at(kind: LeakKind, path: &Path, vm: Option<(VmId, String)>, detail: &str) -> Self {
        Self {
            path: Some(path.to_owned()),
            ..Self::new(kind, path.display().to_string(), vm, detail.to_owned())
        }
    }

    /// When it began to be there; read late, because it costs.
    fn began(&self) -> Option<Timestamp> {
        let age = match (self.pid, &self.path) {
            (Some(pid), _) => maqet_process::census::age(pid).ok()?,
            (None, Some(path)) => {
                let about = std::fs::symlink_metadata(path).ok()?;
                about
                    .created()
                    .or_else(|_unknown| about.modified())
                    .ok()?
                    .elapsed()
                    .ok()?
            }
            (None, None) => return None,
        };
        let age = u64::try_from(age.as_millis()).ok()?;
        Some(Timestamp(clock::now().0.saturating_sub(age)))
    }
}

impl From<Suspect> for Leak {
    fn from(suspect: Suspect) -> Self {
        let since = suspect.since.or_else(|| suspect.began());
        Self {
            kind: suspect.kind,
            what: suspect.what,
            vm: suspect.vm,
            since,
            detail: suspect.detail,
        }
    }
}

#[cfg(test)]
mod tests;
