//! What is to be done with snapshots, as pure decisions about what the images hold.
//!
//! Work is recorded, begun with one step, then settled: looked at and brought to its end, or taken back. A supervisor that
//! finds recorded work settles it in the same way, so that there is one path for success, failure and death.

pub(crate) mod replacement;

use std::collections::BTreeMap;

use maqet_protocol::control::{SnapshotEntry, SnapshotInfo};
use maqet_state::snapshot::{Numbers, SnapshotAction, SnapshotKind, SnapshotWork};

/// What the images hold, by disk.
pub(crate) type Found = BTreeMap<String, Vec<SnapshotEntry>>;

/// One step; on every disk, or on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new snapshot.
    Create {
        /// Its name.
        name: String,
        /// Where.
        disks: Vec<String>,
        /// With the machine's memory.
        memory: bool,
    },
    /// Back to a snapshot.
    Apply {
        /// Its name.
        name: String,
        /// Where.
        disks: Vec<String>,
    },
    /// A snapshot is deleted.
    Delete {
        /// Its name.
        name: String,
        /// Where.
        disk: String,
    },
}

/// How work comes to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settlement {
    /// What is left to do, in order.
    pub(crate) steps: Vec<Step>,
    /// How it is then.
    pub(crate) end: End,
}

/// How work came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was wanted has come about.
    Reached,
    /// All is as before.
    Before,
    /// The new snapshot has taken the place of the old one, and has the name of its keeper.
    KeptAs,
}

impl End {
    const fn reached(achieved: bool) -> Self {
        if achieved { Self::Reached } else { Self::Before }
    }
}

/// The step that work begins with; none where settling is all there is to do.
pub(crate) fn begin(work: &SnapshotWork) -> Option<Step> {
    match work.action {
        SnapshotAction::Create if work.replaces.is_empty() => Some(create(work, &work.name, &work.disks)),
        SnapshotAction::Load if work.live => Some(apply(work, &work.name)),
        SnapshotAction::Create | SnapshotAction::Load => Some(create(work, &work.keeper(), &work.disks)),
        SnapshotAction::Delete => None,
    }
}

/// How work that has begun, or was cut off anywhere, comes to its end.
pub(crate) fn settle(work: &SnapshotWork, found: &Found) -> Settlement {
    match work.action {
        SnapshotAction::Create if work.replaces.is_empty() => settle_new(work, found),
        SnapshotAction::Create => replacement::settle(work, found),
        // What a guest has done since must not be lost by loading once more.
        SnapshotAction::Load if work.live => Settlement {
            steps: Vec::new(),
            end: End::Reached,
        },
        SnapshotAction::Load => settle_load(work, found),
        SnapshotAction::Delete => Settlement {
            steps: deletions(work, found, &work.name),
            end: End::Reached,
        },
    }
}

/// Whether a load by QEMU may have reached some disks and not others, by the state of a QEMU that lives: the guest is halted
/// for a load and goes on only after one that succeeded. `failed`: QEMU said so.
pub(crate) fn is_between(run_state: Option<&str>, failed: bool) -> bool {
    match run_state {
        Some("running") => false,
        Some("restore-vm") => true,
        Some(_) | None => failed,
    }
}

/// The way back from a load that cannot be finished: to what the disks were before it.
pub(crate) fn retreat(work: &SnapshotWork) -> Vec<Step> {
    let mut steps = vec![apply(work, SnapshotWork::KEEPER)];
    steps.extend(work.disks.iter().map(|disk| delete(SnapshotWork::KEEPER, disk)));
    steps
}

/// Everywhere or nowhere.
fn settle_new(work: &SnapshotWork, found: &Found) -> Settlement {
    let achieved = work.disks.iter().all(|disk| has(found, disk, &work.name));
    let steps = if achieved {
        Vec::new()
    } else {
        deletions(work, found, &work.name)
    };
    Settlement {
        steps,
        end: End::reached(achieved),
    }
}

/// While every disk keeps what it was, all are loaded; a disk that does not was not touched yet, or all are loaded already.
fn settle_load(work: &SnapshotWork, found: &Found) -> Settlement {
    let keeper = SnapshotWork::KEEPER;
    let kept = work.disks.iter().filter(|disk| has(found, disk, keeper)).count();
    let all = kept == work.disks.len();
    let mut steps = Vec::new();
    if all {
        steps.push(apply(work, &work.name));
    }
    steps.extend(deletions(work, found, keeper));
    Settlement {
        steps,
        end: End::reached(all),
    }
}

/// One step for each snapshot of this name: other programs make several.
fn deletions(work: &SnapshotWork, found: &Found, name: &str) -> Vec<Step> {
    let of = |disk: &String| {
        let named = entries(found, disk).filter(|entry| entry.name == name).count();
        vec![delete(name, disk); named]
    };
    work.disks.iter().flat_map(of).collect()
}

fn create(work: &SnapshotWork, name: &str, disks: &[String]) -> Step {
    Step::Create {
        name: name.to_owned(),
        disks: disks.to_vec(),
        memory: work.memory,
    }
}

fn apply(work: &SnapshotWork, name: &str) -> Step {
    Step::Apply {
        name: name.to_owned(),
        disks: work.disks.clone(),
    }
}

fn delete(name: &str, disk: &str) -> Step {
    Step::Delete {
        name: name.to_owned(),
        disk: disk.to_owned(),
    }
}

fn entries<'a>(found: &'a Found, disk: &str) -> impl Iterator<Item = &'a SnapshotEntry> {
    found.get(disk).into_iter().flatten()
}

/// Whether a disk has a snapshot of this name.
pub(crate) fn has(found: &Found, disk: &str, name: &str) -> bool {
    entries(found, disk).any(|entry| entry.name == name)
}

/// QEMU's numbers of the snapshots of this name, where a disk has any.
pub(crate) fn numbers_of(found: &Found, disk: &str, name: &str) -> Option<Numbers> {
    let named = entries(found, disk).filter(|entry| entry.name == name);
    let numbers: Vec<_> = named.map(|entry| entry.id.clone()).collect();
    if numbers.is_empty() {
        None
    } else {
        Some(Numbers::All(numbers))
    }
}

/// Whether memory is kept with the snapshot of this name.
pub(crate) fn has_memory(found: &Found, disks: &[String], name: &str) -> bool {
    let named = disks.iter().flat_map(|disk| entries(found, disk));
    named
        .filter(|entry| entry.name == name)
        .any(|entry| entry.vm_state_bytes > 0)
}

/// What `list` shows: snapshots by name, the oldest first, on these disks. `all` is the number of disks that can have any.
pub(crate) fn summaries(found: &Found, disks: &[String], all: usize) -> Vec<SnapshotInfo> {
    let mut by_name: BTreeMap<&str, SnapshotInfo> = BTreeMap::new();
    let chosen = disks.iter().flat_map(|disk| entries(found, disk));
    for entry in chosen.filter(|entry| entry.name != SnapshotWork::KEEPER) {
        let info = by_name.entry(&entry.name).or_insert_with(|| SnapshotInfo {
            name: entry.name.clone(),
            disks: Vec::new(),
            complete: false,
            at: entry.at,
            vm_state_bytes: 0,
            vm_clock_ms: entry.vm_clock_ms,
            kind: SnapshotKind::Internal,
            below: None,
        });
        info.vm_state_bytes = info.vm_state_bytes.max(entry.vm_state_bytes);
        if !info.disks.contains(&entry.disk) {
            info.disks.push(entry.disk.clone());
        }
    }
    let mut infos: Vec<_> = by_name.into_values().collect();
    for info in &mut infos {
        info.complete = found
            .values()
            .filter(|of| of.iter().any(|entry| entry.name == info.name))
            .count()
            == all;
    }
    infos.sort_by(|left, right| (left.at, &left.name).cmp(&(right.at, &right.name)));
    infos
}

#[cfg(test)]
mod tests;
