//! Snapshots of a VM's disks, with or without its memory.

use maqet_state::clock::Timestamp;
use maqet_state::snapshot::{SnapshotAction, SnapshotKind};
use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Make a snapshot of all writable disks at one moment, or of one: by QEMU where the VM runs, in the images where it does
/// not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// The VM.
    pub vm: String,
    /// Name of the snapshot: letters, digits, `.`, `_`, `-`; at most 63, not digits alone.
    pub name: String,
    /// Only this disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Keep the machine's memory too; the VM must run.
    #[serde(default)]
    pub memory: bool,
    /// Replace a snapshot of that name.
    #[serde(default)]
    pub overwrite: bool,
    /// Leave the images as they are and put new ones on top of them, which take what is written.
    #[serde(default)]
    pub external: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(SnapshotCreate, "SnapshotCreate", SnapshotDone);

/// Bring disks back to a snapshot. A VM that runs is brought back with its memory only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotLoad {
    /// The VM.
    pub vm: String,
    /// Name of the snapshot.
    pub name: String,
    /// Only this disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Bring the memory of a running VM back as well.
    #[serde(default)]
    pub memory: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(SnapshotLoad, "SnapshotLoad", SnapshotDone);

/// Delete a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotDelete {
    /// The VM.
    pub vm: String,
    /// Name of the snapshot.
    pub name: String,
    /// Only on this disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(SnapshotDelete, "SnapshotDelete", SnapshotDone);

/// Answer to [`SnapshotCreate`], [`SnapshotLoad`], [`SnapshotDelete`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDone {
    /// Name of the VM.
    pub vm: String,
    /// What was done.
    pub action: SnapshotAction,
    /// Name of the snapshot.
    pub name: String,
    /// Disks it was done on.
    pub disks: Vec<String>,
    /// QEMU did it, while the VM ran.
    pub live: bool,
    /// The machine's memory was part of it.
    pub memory: bool,
    /// A snapshot with memory was loaded without it: the disks are as they were, and the guest boots.
    pub memory_left_out: bool,
    /// Milliseconds it took.
    pub took_ms: u64,
    /// How it is kept.
    #[serde(default)]
    pub kind: SnapshotKind,
}

/// List the snapshots of a VM, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotList {
    /// The VM.
    pub vm: String,
    /// Only those on this disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}
method!(SnapshotList, "SnapshotList", SnapshotListed);

/// Answer to [`SnapshotList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotListed {
    /// Name of the VM.
    pub vm: String,
    /// The snapshots.
    pub snapshots: Vec<SnapshotInfo>,
}

/// One snapshot of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Disks that have it.
    pub disks: Vec<String>,
    /// Every disk that can have snapshots has it.
    pub complete: bool,
    /// When it was made.
    pub at: Timestamp,
    /// Bytes of the machine's memory that are kept with it; 0 without.
    pub vm_state_bytes: u64,
    /// The guest's clock then, milliseconds since QEMU was started; 0 when it did not run.
    pub vm_clock_ms: u64,
    /// How it is kept.
    #[serde(default)]
    pub kind: SnapshotKind,
    /// The external snapshot whose images hold it: it can be worked on once that one is gone. Without for one that can be now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<String>,
}

/// One snapshot in one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    /// The disk.
    pub disk: String,
    /// QEMU's number of it, unique in the image.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub at: Timestamp,
    /// As in [`SnapshotInfo`].
    pub vm_state_bytes: u64,
    /// As in [`SnapshotInfo`].
    pub vm_clock_ms: u64,
}
