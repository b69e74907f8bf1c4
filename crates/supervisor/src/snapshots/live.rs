//! Steps by the QEMU of a VM that runs, through its runner.

use std::rc::Rc;
use std::time::Duration;

use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ListSnapshots, RunSnapshot, SnapshotEntries, SnapshotStep};

use super::plan::{self, Found, Step};
use crate::link::RunnerLink;
use crate::room::Room;

/// Time for a step. What writes memory does so at the speed of the disk, and the guest waits for it.
const STEP_LIMIT: Duration = Duration::from_hours(1);
/// Time for a list; the runner gives it less.
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// Room for the wire beside the runner's own deadline.
const WIRE_MARGIN: Duration = Duration::from_secs(5);

/// The way to QEMU.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) link: Rc<RunnerLink>,
    /// Disks that can have snapshots.
    pub(super) disks: Vec<String>,
    /// Name of the VM.
    pub(super) vm: String,
    /// What a step takes.
    pub(super) room: Room,
}

impl Live {
    pub(super) async fn list(&self) -> Result<Found, Refusal> {
        let listed = self.look().await?;
        let mut found: Found = self.disks.iter().map(|disk| (disk.clone(), Vec::new())).collect();
        for entry in listed.entries {
            found.entry(entry.disk.clone()).or_default().push(entry);
        }
        Ok(found)
    }

    /// Whether disks may be between two moments, after a load that has `failed` or whose end is not known.
    pub(super) async fn is_between(&self, failed: bool) -> Result<bool, Refusal> {
        let looked = self.look().await?;
        Ok(plan::is_between(looked.run_state.as_deref(), failed))
    }

    /// Waits for work that is under way in QEMU.
    async fn look(&self) -> Result<SnapshotEntries, Refusal> {
        let disks = self.disks.clone();
        self.call(&ListSnapshots { disks }, LIST_LIMIT).await
    }

    pub(super) async fn take(&self, step: &Step) -> Result<(), Refusal> {
        let order = match step {
            Step::Create { name, disks, memory } => {
                let vmstate = disks.first().filter(|_| *memory).cloned();
                order(SnapshotStep::Create, name, disks.clone(), vmstate)
            }
            Step::Apply { name, disks } => {
                let vmstate = Some(self.disk_with_memory(name).await?);
                order(SnapshotStep::Load, name, disks.clone(), vmstate)
            }
            Step::Delete { name, disk } => order(SnapshotStep::Delete, name, vec![disk.clone()], None),
        };
        match self.call(&order, STEP_LIMIT + WIRE_MARGIN).await {
            Ok(_done) => Ok(()),
            Err(refusal) => Err(self.room.counted(refusal).await),
        }
    }

    async fn disk_with_memory(&self, name: &str) -> Result<String, Refusal> {
        let found = self.list().await?;
        let mut entries = found.into_values().flatten();
        let kept = entries.find(|entry| entry.name == name && entry.vm_state_bytes > 0);
        kept.map(|entry| entry.disk).ok_or_else(|| {
            let message = format!("no memory is kept with the snapshot `{name}`");
            Refusal::new(RefusalCode::WrongState, message)
                .state("running")
                .hint(format!(
                    "maqet stop {0}, then maqet snapshot load {0} {name}",
                    self.vm
                ))
        })
    }

    async fn call<M: Method>(&self, method: &M, limit: Duration) -> Result<M::Reply, Refusal> {
        let called = self.link.call(method, limit).await;
        called.map_err(|refusal| of_this_version(&self.vm, refusal))
    }
}

/// A runner of an earlier version lives as long as its QEMU.
pub(crate) fn of_this_version(vm: &str, refusal: Refusal) -> Refusal {
    let unknown = refusal.code == RefusalCode::InvalidCall && refusal.message.contains("has no method");
    if !unknown {
        return refusal;
    }
    let message = format!("the runner of `{vm}` is of an earlier version and cannot do this");
    Refusal::new(RefusalCode::WrongState, message)
        .state("running")
        .hint(format!("maqet restart {vm}"))
}

fn order(step: SnapshotStep, name: &str, disks: Vec<String>, vmstate: Option<String>) -> RunSnapshot {
    RunSnapshot {
        step,
        name: name.to_owned(),
        disks,
        vmstate,
        timeout_ms: u64::try_from(STEP_LIMIT.as_millis()).unwrap_or(u64::MAX),
    }
}
