//! Lines of the ledger: a line is entered before the thing may do anything and struck after it is gone, so what is left of
//! one when nobody is at work is a thing whose making or whose end was cut off.

use std::path::Path;

use maqet_protocol::control::LeakKind;
use maqet_state::id::VmId;
use maqet_state::ledger::LedgerKind;

use super::{Suspect, shown};
use crate::leaks::known::{Held, Known};
use crate::leaks::seen::{Line, Seen};

/// Whose a line is.
struct Owner<'a> {
    /// Its VM, if that is stored.
    held: Option<&'a Held>,
    /// Id and name.
    vm: Option<(VmId, String)>,
}

/// A line that nobody accounts for.
pub(super) fn judge(known: &Known, seen: &Seen, line: &Line) -> Option<Suspect> {
    let entry = &line.entry;
    if entry.id.as_ref().is_some_and(|id| known.is_busy(id)) {
        return None;
    }
    let owner = Owner {
        held: entry.id.as_ref().and_then(|id| known.vms.get(id)),
        vm: entry.id.clone().map(|id| (id.clone(), known.name_of(&id))),
    };
    let suspect = match entry.kind {
        LedgerKind::File => Some(file(known, line, owner)),
        LedgerKind::Process => process(known, seen, line, owner),
        LedgerKind::Socket => socket(line, owner),
        LedgerKind::Directory => directory(line, owner),
        LedgerKind::Port => port(known, line, owner),
    }?;
    Some(Suspect {
        line: Some((entry.kind, entry.what.clone())),
        since: Some(entry.at),
        ..suspect
    })
}

fn file(known: &Known, line: &Line, owner: Owner<'_>) -> Suspect {
    let path = Path::new(&line.entry.what);
    let named = known
        .vms
        .values()
        .find(|held| held.disks.iter().any(|disk| disk == path));
    match (line.there, named) {
        (Some(true), None) => {
            let detail = "it was being made for a start that was cut off, and no VM names it";
            Suspect::at(LeakKind::File, path, owner.vm, detail)
        }
        (Some(true), Some(held)) => {
            let detail = format!(
                "the start that made it was cut off; `{}` has the file as its disk",
                held.name
            );
            Suspect::new(LeakKind::Ledger, row(line), owner.vm, detail)
        }
        (Some(false) | None, _) => gone(line, owner),
    }
}

fn process(known: &Known, seen: &Seen, line: &Line, owner: Owner<'_>) -> Option<Suspect> {
    if line.pid.is_some_and(|pid| known.holds(pid)) || (line.pid.is_none() && owner.has_launch_of(line)) {
        return None;
    }
    if line.there == Some(false) {
        return Some(gone(line, owner));
    }
    let glimpse = seen
        .processes
        .iter()
        .find(|glimpse| Some(glimpse.pid) == line.pid);
    let detail = match (line.pid, owner.held) {
        (None, _) => "nobody can tell whether this process of the ledger lives".to_owned(),
        (Some(_), Some(held)) => format!(
            "the ledger has it as a process of `{}`, which does not have it",
            held.name
        ),
        (Some(_), None) => "the ledger has it as a process of a VM that is not stored".to_owned(),
    };
    Some(Suspect {
        pid: line.pid,
        identity: line.entry.identity.clone(),
        ..Suspect::new(
            LeakKind::Process,
            glimpse.map_or_else(|| line.entry.what.clone(), shown),
            owner.vm,
            detail,
        )
    })
}

fn socket(line: &Line, owner: Owner<'_>) -> Option<Suspect> {
    if owner
        .held
        .is_some_and(|held| held.runs || held.launch_id.is_some())
    {
        return None;
    }
    if line.there != Some(true) {
        return Some(gone(line, owner));
    }
    let detail = if owner.held.is_some() {
        "its VM does not run"
    } else {
        "its VM is not stored"
    };
    Some(Suspect::at(
        LeakKind::Socket,
        Path::new(&line.entry.what),
        owner.vm,
        detail,
    ))
}

fn directory(line: &Line, owner: Owner<'_>) -> Option<Suspect> {
    if owner.held.is_some() {
        return None;
    }
    if line.there != Some(true) {
        return Some(gone(line, owner));
    }
    let detail = "it is of a VM that is not stored";
    Some(Suspect::at(
        LeakKind::Directory,
        Path::new(&line.entry.what),
        owner.vm,
        detail,
    ))
}

/// A port of a running VM may be let go by its QEMU, on a person's word; somebody else's it must not be.
fn port(known: &Known, line: &Line, owner: Owner<'_>) -> Option<Suspect> {
    let runs = owner
        .held
        .is_some_and(|held| held.runs || held.launch_id.is_some());
    let who = match line.pid {
        Some(pid) => format!("process {pid}"),
        None => "a process of another user".to_owned(),
    };
    let detail = match (runs, line.there) {
        (true, Some(true)) if !line.is_qemus && line.pid.is_some_and(|pid| !known.holds(pid)) => {
            format!("{who} has it, and not the VM's QEMU")
        }
        (true, _) => return None,
        (false, Some(true)) => format!("its VM does not run, and {who} has it"),
        (false, Some(false) | None) => return Some(gone(line, owner)),
    };
    Some(Suspect {
        pid: line.pid,
        ..Suspect::new(LeakKind::Port, line.entry.what.clone(), owner.vm, detail)
    })
}

fn gone(line: &Line, owner: Owner<'_>) -> Suspect {
    let detail = "what it names was never made, or is gone";
    Suspect::new(LeakKind::Ledger, row(line), owner.vm, detail.to_owned())
}

fn row(line: &Line) -> String {
    format!("{} {}", line.entry.kind, line.entry.what)
}

impl Owner<'_> {
    /// Whether the line is about the VM's present launch.
    fn has_launch_of(&self, line: &Line) -> bool {
        let launch = self.held.and_then(|held| held.launch_id.as_deref());
        launch.is_some_and(|launch| line.entry.what.split('/').next() == Some(launch))
    }
}
