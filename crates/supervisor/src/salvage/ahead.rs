//! A sound store that is behind the VMs' directories: an old copy put in its place by hand, or records taken out or
//! edited. What the directories know better is taken over in place.
//!
//! A directory may be ahead by one step that was never committed, because the supervisor was killed in between. That step
//! released nothing, so it is believed only where its QEMU lives.

use std::collections::BTreeMap;

use maqet_process::identity::{Liveness, ProcessIdentity};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::id::VmId;
use maqet_state::journal::NewEvent;
use maqet_state::merge::{Origin, Restored, merge};
use maqet_state::mirror::Mirror;
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use maqet_state::store::Store;

use crate::recovery::look_for;

/// What the directories know better, as changes of the store.
pub(super) fn changes(store: &Store) -> anyhow::Result<Vec<Change>> {
    let vms = store.path().with_file_name("vms");
    let mut known: BTreeMap<VmId, VmRecord> = store
        .vms()?
        .into_iter()
        .map(|record| (record.id.clone(), record))
        .collect();
    let mut unknown = Vec::new();
    let mut replaced = Vec::new();
    for record in Mirror::read_all(&vms)?.records {
        match known.get_mut(&record.id) {
            None => unknown.push(record),
            Some(held) if knows_better(&record, held) => {
                replaced.push(record.id.clone());
                *held = record;
            }
            Some(_) => {}
        }
    }
    // Names of stored VMs stay; a VM that comes back may have to take another.
    let merged = merge(unknown, known.into_values().collect());
    merged
        .iter()
        .filter(|vm| vm.origin == Origin::Backup || replaced.contains(&vm.record.id))
        .map(change)
        .collect()
}

/// A QEMU lives that the directory knows and the store does not, or the store's record contradicts itself.
fn knows_better(directory: &VmRecord, stored: &VmRecord) -> bool {
    if directory.generation < stored.generation {
        return false;
    }
    let contradictory = stored
        .state
        .launch()
        .is_some_and(|launch| launch.generation != stored.generation);
    if contradictory {
        return true;
    }
    match (qemu(directory), qemu(stored)) {
        (Some(told), held) if held != Some(told) => matches!(look_for(told), Liveness::Alive(_)),
        (Some(_) | None, _) => false,
    }
}

fn qemu(record: &VmRecord) -> Option<&ProcessIdentity> {
    record.state.launch()?.qemu.as_ref()
}

fn change(vm: &Restored) -> anyhow::Result<Change> {
    tracing::error!(
        vm = vm.record.name(),
        "the store did not know this VM, or knew less than its directory"
    );
    let event = NewEvent::new("vm.restored", clock::now())
        .about(&vm.record)
        .with("from", "directory")
        .with("renamed_from", vm.renamed_from.clone());
    let change = match vm.origin {
        Origin::Backup => Change::create(vm.record.clone(), Secret::random()?),
        Origin::Directory => Change::update(vm.record.clone()),
    };
    Ok(change.event(event))
}
