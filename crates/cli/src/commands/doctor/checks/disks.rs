//! Disks of VMs: is each there and whole, and can it go on growing?

mod room;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use maqet_protocol::control::{
    DiskProblem, DiskStorage, DiskTrouble, FileState, ImageList, RemovalStatus, StorageInfo, UnsettledWork,
    VmStorage, VmSummary,
};

use super::{Check, Outcome};
use crate::commands::rm;
use crate::commands::storage::info;
use crate::error::CliError;
use crate::render::units;
use crate::session::Session;

/// A disk that is there is looked at in milliseconds.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// VMs whose disks are looked at at once.
const AT_ONCE: usize = 8;

/// Looks at the disks of these VMs and at the library of images.
pub(super) async fn checks(session: &Session<'_>, vms: &[VmSummary]) -> Vec<Check> {
    let looks = vms.iter().map(|vm| async move {
        let method = StorageInfo {
            vm: vm.id.to_string(),
        };
        (vm, session.repeat(&method, LOOK_DEADLINE).await)
    });
    let looked: Vec<_> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    let mut checks = Vec::new();
    let mut storages = Vec::new();
    for (vm, looked) in looked {
        match looked {
            Ok(storage) => storages.push(storage),
            // It was removed a moment ago.
            Err(error) if is_gone(&error) => {}
            Err(error) => checks.push(silent(&vm.name, &error)),
        }
    }
    checks.extend(storages.iter().flat_map(of_vm));
    checks.extend(room::checks(&storages));
    if checks.is_empty() {
        checks.push(Check::new("disks", Outcome::Ok, count(&storages)));
    }
    checks.extend(library(session).await);
    checks
}

fn is_gone(error: &CliError) -> bool {
    error.code() == "vm-not-found"
}

fn silent(vm: &str, error: &CliError) -> Check {
    let what = if let CliError::Deadline { .. } = error {
        let limit = units::duration(LOOK_DEADLINE);
        format!("its disks do not answer within {limit}: perhaps they are on a server that is gone")
    } else {
        format!("its disks cannot be looked at: {error}")
    };
    let check = Check::new("disk-silent", Outcome::Warn, what).at(&vm);
    check.hint(format!("maqet storage info {vm}"))
}

fn count(storages: &[VmStorage]) -> String {
    match storages.iter().map(|storage| storage.disks.len()).sum::<usize>() {
        0 => "none yet".to_owned(),
        1 => "1, there and with room to grow".to_owned(),
        count => format!("{count}, all there and with room to grow"),
    }
}

fn of_vm(storage: &VmStorage) -> Vec<Check> {
    let vm = &storage.vm;
    if let Some(removal) = &storage.removal {
        return vec![half_removed(vm, removal)];
    }
    let file = storage.disks.iter().filter_map(|disk| of_file(vm, disk));
    let content = storage.disks.iter().filter_map(|disk| {
        let problem = disk.problem.as_ref()?;
        Some(of_content(vm, disk, problem))
    });
    let work = storage.unsettled.iter().map(|work| unsettled(vm, work));
    file.chain(content).chain(work).collect()
}

/// Its disks are not missed: they are what was to be deleted.
fn half_removed(vm: &str, removal: &RemovalStatus) -> Check {
    let what = format!("the removal of `{vm}` {}", rm::half_way(removal));
    let check = Check::new("vm-half-removed", Outcome::Warn, what).at(&vm);
    check.hint(rm::go_on(vm, removal))
}

/// The file is not what the next start needs.
fn of_file(vm: &str, disk: &DiskStorage) -> Option<Check> {
    let name = &disk.disk;
    let accept = format!("maqet storage accept {vm} {name}");
    let (check, what, hint) = match disk.state {
        FileState::Ok | FileState::New | FileState::ToBeMade => return None,
        FileState::AnotherFile => (
            "disk-exchanged",
            match disk.trouble.as_slice() {
                [] => {
                    format!("disk `{name}` of `{vm}` is another file than the one on record; it is not used")
                }
                trouble => format!("disk `{name}` of `{vm}` is not used: {}", trouble.join(": ")),
            },
            format!("put the right one back; if this is the right one: {accept}"),
        ),
        FileState::Missing => (
            "disk-missing",
            format!("disk `{name}` of `{vm}` has no file"),
            format!("put it back; if it is lost for good: {accept}"),
        ),
        FileState::Unusable => (
            "disk-unusable",
            format!(
                "disk `{name}` of `{vm}` cannot be used: {}",
                disk.trouble.join(": ")
            ),
            format!("maqet storage info {vm}"),
        ),
    };
    let check = Check::new(check, Outcome::Fail, what).at(&disk.path.display());
    Some(check.hint(hint))
}

/// What is in the file, or its way there, is not as it should be.
fn of_content(vm: &str, disk: &DiskStorage, problem: &DiskTrouble) -> Check {
    let (name, since) = (&disk.disk, problem.since);
    let detail = problem.detail.as_deref().unwrap_or("no more is known");
    let hint = problem.hint.clone();
    let mend = hint.unwrap_or_else(|| format!("maqet stop {vm}, then maqet storage verify {vm} --repair"));
    let (check, outcome, what, hint) = match problem.problem {
        DiskProblem::Damaged if problem.accepted => (
            "disk-damaged",
            Outcome::Warn,
            format!("disk `{name}` of `{vm}` is used as it is, damaged, found {since}: {detail}"),
            mend,
        ),
        DiskProblem::Damaged => (
            "disk-damaged",
            Outcome::Fail,
            format!("disk `{name}` of `{vm}` is damaged, found {since}: {detail}"),
            mend,
        ),
        DiskProblem::HostFull => (
            "disk-full",
            Outcome::Fail,
            format!("the guest of `{vm}` is halted since {since}: there is no room for its disk `{name}`"),
            "make room where the disk is; the guest goes on by itself then".to_owned(),
        ),
        DiskProblem::Error => (
            "disk-error",
            Outcome::Warn,
            format!("disk `{name}` of `{vm}`, {since}: {detail}"),
            format!("maqet why {vm}, and the host's kernel log"),
        ),
    };
    Check::new(check, outcome, what)
        .at(&disk.path.display())
        .hint(hint)
}

/// It is settled before anything else is done with the snapshots, and before a start.
fn unsettled(vm: &str, work: &UnsettledWork) -> Check {
    let hint = if info::waits(work) {
        format!("finish it: maqet snapshot delete {vm} {}", work.name)
    } else {
        format!("maqet snapshot list {vm} settles it, or says why it cannot")
    };
    Check::new("snapshot-unsettled", Outcome::Warn, info::unsettled(work))
        .at(&vm)
        .hint(hint)
}

async fn library(session: &Session<'_>) -> Option<Check> {
    let listed = match session.repeat(&ImageList {}, LOOK_DEADLINE).await {
        Ok(listed) => listed,
        Err(error) => {
            let what = format!("the library of images cannot be listed: {error}");
            return Some(Check::new("images", Outcome::Warn, what).hint("maqet image ls"));
        }
    };
    let damaged: Vec<_> = listed.damaged.iter().map(|image| image.name.as_str()).collect();
    let names = damaged.join(", ");
    (!damaged.is_empty()).then(|| {
        let what = format!("cannot be read in the library: {names}");
        Check::new("images", Outcome::Warn, what).hint("maqet image ls says why")
    })
}

#[cfg(test)]
mod tests;
