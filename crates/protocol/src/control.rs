//! `org.maqet.Control`: what the CLI asks of the supervisor.
//!
//! One type per method with its parameters; [`Method::Reply`] names what comes back. The written contract is
//! `docs/varlink/org.maqet.Control.varlink`; a test holds both together.

use std::path::PathBuf;

use maqet_spec::VmSpec;
use maqet_state::clock::Timestamp;
use maqet_state::id::VmId;
use maqet_state::lifecycle::Status;
use serde::{Deserialize, Serialize};

use crate::method::Method;

mod autostart;
mod report;
mod share;

pub use autostart::{AutostartSet, AutostartStatus, Disable, Enable, RestartState};
pub use report::{
    DiskProblem, DiskStatus, DiskTrouble, LogFiles, PortStatus, RemovalStatus, SandboxStatus, VmStatus,
    VmSummary,
};
pub use share::{ShareLoss, ShareStatus};

macro_rules! method {
    ($type:ty, $name:literal, $reply:ty) => {
        impl Method for $type {
            const NAME: &'static str = concat!("org.maqet.Control.", $name);
            type Reply = $reply;
        }
    };
}

mod boot;
mod image;
mod leaks;
mod progress;
mod snapshot;
mod storage;
mod store;

pub use boot::{TinyGuest, WriteTinyGuest};
pub use image::{
    DamagedImage, ImageImport, ImageImported, ImageInfo, ImageList, ImageRemove, ImageRemoved, ImageVerdict,
    ImageVerified, ImageVerify, ImagesListed,
};
pub use leaks::{Leak, LeakKind, LeakReport, Leaks, LookedAt, Repair};
pub use progress::{FollowWork, Progress, WorkProgress};
pub use snapshot::{
    SnapshotCreate, SnapshotDelete, SnapshotDone, SnapshotEntry, SnapshotInfo, SnapshotList, SnapshotListed,
    SnapshotLoad,
};
pub use storage::{
    ComingDisk, DiskAccepted, DiskAttached, DiskCloned, DiskHolder, DiskResized, DiskStorage, DiskVerified,
    FileState, ImageStatus, Orphan, Orphans, StorageAccept, StorageAttach, StorageClone, StorageInfo,
    StorageOrphaned, StorageResize, StorageVerified, StorageVerify, UnsettledWork, VmStorage,
};
pub use store::{
    AuditVerify, BackedUp, BackupFailure, DumpReply, StateBackup, StateDump, StateVerify, StoreBackup,
    StoreReadOnly, StoreStatus,
};

/// Store a new VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The whole validated spec.
    pub spec: VmSpec,
    /// Idempotency key: a repeated call with the same key does nothing and answers the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(Add, "Add", Added);

/// Answer to [`Add`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Id of the new VM.
    pub id: VmId,
    /// Its name.
    pub name: String,
}

/// Start a VM; answered when QEMU runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Name, id, or unambiguous id prefix of 8 or more digits.
    pub vm: String,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(Start, "Start", Started);

/// Answer to [`Start`], [`Restart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The VM's id.
    pub id: VmId,
    /// The VM's name.
    pub name: String,
    /// QEMU's process id, for people to look at.
    pub pid: Option<i32>,
    /// It was running already.
    pub already: bool,
    /// Milliseconds from the request to a running QEMU.
    pub took_ms: u64,
}

/// Stop a VM by the stop ladder; answered when QEMU is gone, or the budget is used up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The VM.
    pub vm: String,
    /// Hard budget, milliseconds; without it the spec's budget, extended while the guest makes progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// End it with SIGKILL after two seconds of QMP.
    #[serde(default)]
    pub force: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(Stop, "Stop", StopReport);

/// Answer to [`Stop`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// Name of the VM.
    pub vm: String,
    /// Status now.
    pub status: Status,
    /// How it ended.
    pub how: StopHow,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// How a stop ended the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopHow {
    /// The guest shut itself down.
    Guest,
    /// QMP `quit` after a flush.
    Quit,
    /// SIGKILL.
    Killed,
    /// It was not running.
    Already,
}

/// Stop, then start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// The VM.
    pub vm: String,
    /// As in [`Stop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(Restart, "Restart", Started);

/// Pause the guest's CPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The VM.
    pub vm: String,
}
method!(Pause, "Pause", Changed);

/// Let the guest's CPUs run again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The VM.
    pub vm: String,
}
method!(Resume, "Resume", Changed);

/// Press the reset button.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The VM.
    pub vm: String,
}
method!(Reset, "Reset", Changed);

/// Answer to [`Pause`], [`Resume`], [`Reset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Name of the VM.
    pub vm: String,
    /// It was so already.
    pub already: bool,
    /// QEMU's run state afterwards.
    pub run_state: Option<String>,
}

/// Forget a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// The VM.
    pub vm: String,
    /// Stop it first (by force) when it runs.
    #[serde(default)]
    pub force: bool,
    /// Delete the disk images that maqet created for it.
    #[serde(default)]
    pub delete_storage: bool,
    /// Less those that hold snapshots, and what they stand on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_snapshots: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(Remove, "Remove", Removed);

/// Answer to [`Remove`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Id it had.
    pub id: VmId,
    /// Name it had.
    pub vm: String,
    /// Files deleted with it.
    pub deleted: Vec<PathBuf>,
    /// Disk images kept.
    pub kept: Vec<PathBuf>,
    /// Why some of them were kept although images were to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<KeptFile>,
}

/// Why an image was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// The image.
    pub path: PathBuf,
    /// Why, as a lower-case fragment.
    pub why: String,
}

/// List VMs, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Only those with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}
method!(List, "List", Listed);

/// Answer to [`List`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// The VMs.
    pub vms: Vec<VmSummary>,
}

/// Describe one VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Describe {
    /// The VM.
    pub vm: String,
}
method!(Describe, "Status", VmStatus);

/// The stored spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// The VM.
    pub vm: String,
}
method!(Info, "Info", VmInfo);

/// Answer to [`Info`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Id.
    pub id: VmId,
    /// The stored spec.
    pub spec: VmSpec,
}

/// Follow the journal. A streaming method: one reply per event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Only events after this cursor; without it from the oldest kept (or, with `follow`, from now on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Only events of this VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Stay after the newest event and go on with those to come.
    #[serde(default)]
    pub follow: bool,
}
method!(Events, "Events", EventReply);

/// One reply of [`Events`]; the last one of a stream without `follow` may carry no event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventReply {
    /// The event.
    pub event: Option<Event>,
}

/// One entry of the journal. CLI.md fixes the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the journal; rises by one, survives restarts.
    pub cursor: u64,
    /// When.
    pub at: Timestamp,
    /// Name of the VM, if it is about one.
    pub vm: Option<String>,
    /// Id of the VM, if it is about one.
    pub id: Option<VmId>,
    /// `vm.added`, `vm.starting`, `vm.running`, `vm.stopped`, `vm.failed`, `vm.removed`, `qmp.<EVENT>`, ...
    pub kind: String,
    /// What else there is to say, by kind.
    #[serde(flatten)]
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// Run one QMP command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qmp {
    /// The VM.
    pub vm: String,
    /// QMP command name.
    pub command: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<serde_json::Value>,
    /// Deadline, milliseconds; default 30 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
method!(Qmp, "Qmp", QmpReturn);

/// Answer to [`Qmp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QmpReturn {
    /// What QEMU returned.
    #[serde(rename = "return")]
    pub value: serde_json::Value,
}

/// About the supervisor itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorInfo {}
method!(SupervisorInfo, "SupervisorStatus", SupervisorStatus);

/// Answer to [`SupervisorInfo`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Process id.
    pub pid: i32,
    /// Version of the program.
    pub version: String,
    /// When it started.
    pub since: Timestamp,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Runtime directory.
    pub runtime_dir: PathBuf,
    /// VMs stored.
    pub vms: u64,
    /// VMs running.
    pub running: u64,
    /// Resident memory, bytes.
    pub memory: u64,
    /// Cursor of the newest journal entry.
    pub cursor: u64,
    /// How its store is doing; `None` from a supervisor that does not tell.
    #[serde(default)]
    pub store: Option<StoreStatus>,
    /// The virtiofsd that its configuration names; `None` when shares take the one that is found.
    #[serde(default)]
    pub virtiofsd: Option<PathBuf>,
}

/// Ask the supervisor to exit; VMs go on unless it is configured otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorStop {
    /// VMs go on, whatever is configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_vms: bool,
}
method!(SupervisorStop, "SupervisorStop", Empty);

/// Nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}
