//! Snapshots that QEMU makes, loads and deletes.

use serde::{Deserialize, Serialize};

use crate::control::{Empty, SnapshotEntry};
use crate::method::Method;

/// What QEMU is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotStep {
    /// Make a snapshot; of all disks at one moment, or of none.
    Create,
    /// Go back to one, with its memory.
    Load,
    /// Delete one from each disk.
    Delete,
}

/// One step; answered when it is done. A step that was asked for by somebody else and is under way is waited for first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSnapshot {
    /// What.
    pub step: SnapshotStep,
    /// Name of the snapshot.
    pub name: String,
    /// The disks.
    pub disks: Vec<String>,
    /// The disk that keeps the memory; without it none is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmstate: Option<String>,
    /// Deadline, milliseconds; a job that is not done by then goes on in QEMU.
    pub timeout_ms: u64,
}

impl Method for RunSnapshot {
    const NAME: &'static str = "org.maqet.Runner.Snapshot";
    type Reply = Empty;
}

/// Which snapshots disks have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSnapshots {
    /// The disks.
    pub disks: Vec<String>,
}

impl Method for ListSnapshots {
    const NAME: &'static str = "org.maqet.Runner.Snapshots";
    type Reply = SnapshotEntries;
}

/// Answer to [`ListSnapshots`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntries {
    /// One for each snapshot in each image.
    pub entries: Vec<SnapshotEntry>,
    /// QEMU's run state; absent in what earlier versions answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_state: Option<String>,
}
