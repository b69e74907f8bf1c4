//! Mail about a VM's disks and their snapshots.

use std::path::PathBuf;

use actix::{Message, MessageResponse};
use maqet_protocol::control::{DiskAccepted, DiskAttached, SnapshotDone, VmStorage};
use maqet_protocol::refusal::Refusal;
use maqet_spec::VmSpec;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::disk::{DiskRecords, Opened};
use maqet_state::external::{Discarded, ExternalSnapshot, ExternalWork, Externals};
use maqet_state::plug::Plug;
use maqet_state::snapshot::SnapshotWork;
use maqet_storage::meter::Progress;
use tokio::sync::{oneshot, watch};

use crate::maintenance::Wanted;
use crate::operation::Accepted;
use crate::snapshots::SnapshotOrder;

// Commands to one VM. From: `ipc::storage`, `ipc::snapshots`. To: `VmActor`.

/// Check the disks. Reply: once the decision stands.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct VerifyDisks {
    /// Repair them too.
    pub(crate) repair: bool,
}

/// Make a disk larger or smaller. Reply: once the decision stands.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct ResizeDisk {
    /// Its name.
    pub(crate) disk: String,
    /// How large.
    pub(crate) wanted: Wanted,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// A disk more, whose image is there. Reply: once the decision stands.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct AttachDisk {
    /// The disk.
    pub(crate) disk: Box<Disk>,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// Copy a disk. Reply: once the decision stands.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct CloneDisk {
    /// Its name.
    pub(crate) disk: String,
    /// Where to.
    pub(crate) path: PathBuf,
    /// In which format; the disk's by default.
    pub(crate) format: Option<DiskFormat>,
    /// Ends when nobody waits any more.
    pub(crate) cancelled: oneshot::Receiver<()>,
}

/// All of `storage info`.
#[derive(Debug, Message)]
#[rtype(result = "Result<VmStorage, Refusal>")]
pub(crate) struct DescribeDisks;

/// The file at this disk's path is the right one.
#[derive(Debug, Message)]
#[rtype(result = "Result<DiskAccepted, Refusal>")]
pub(crate) struct AcceptDisk(pub(crate) String);

/// Work on its snapshots, or list them. Reply: once the decision stands.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct SnapshotVm(pub(crate) SnapshotOrder);

/// What is to be recorded of a disk that QEMU is being given. From: `vm::plug`. To: `VmActor`.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub(crate) enum RecordPlug {
    /// QEMU is told once this is durable.
    Begun(Box<Plug>),
    /// It has it.
    Plugged {
        /// The launch of that QEMU.
        generation: u64,
        /// For whoever asked.
        attached: Box<DiskAttached>,
    },
    /// It has not.
    Refused {
        /// The launch of that QEMU.
        generation: u64,
        /// Why.
        refusal: Box<Refusal>,
    },
}

// Facts for one VM. From: its own work on snapshots.

/// What is to be recorded of work on a snapshot. From: `snapshots`.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub(crate) enum RecordSnapshot {
    /// It begins once this is durable.
    Begun(Box<SnapshotWork>),
    /// It has ended.
    Ended {
        /// Nothing half-made is left.
        settled: bool,
        /// QEMU lives, and has loaded a snapshot into some of its disks, maybe.
        between: bool,
        /// How it ended.
        outcome: Box<Result<SnapshotDone, Refusal>>,
        /// Idempotency key of the call.
        key: Option<String>,
    },
    /// What was left of work that was cut off is settled.
    Recovered {
        /// What was wanted has come about.
        done: Option<Box<SnapshotDone>>,
        /// A new snapshot has taken the place of the old one under this name instead of its own.
        kept_as: Option<String>,
    },
}

/// What is to be recorded of work on snapshots that are files of their own. From: `snapshots::external`.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub(crate) enum RecordExternal {
    /// It begins once this is durable.
    Begun(ExternalWork),
    /// New images are on top of disks from now on.
    Stacked {
        /// A new snapshot, or other images on top of one there is.
        snapshot: Box<ExternalSnapshot>,
        /// The new images.
        made: Vec<Opened>,
        /// Images that nobody needs any more.
        discard: Vec<Discarded>,
        /// For whoever asked.
        done: Box<SnapshotDone>,
        /// Idempotency key of the call.
        key: Option<String>,
    },
    /// QEMU is on the images that were recorded for it.
    Switched {
        /// For whoever asked.
        done: Box<SnapshotDone>,
        /// Idempotency key of the call.
        key: Option<String>,
    },
    /// QEMU, which runs, is not on them, and they are taken away. Refused once it has ended: then the disks are on them.
    NotSwitched,
    /// The same of one disk, and others are not done.
    MergedOne {
        /// The disk.
        disk: String,
        /// Images that nobody needs any more, of all disks so far.
        discard: Vec<Discarded>,
        /// The others.
        rest: Vec<String>,
    },
    /// What was on top of a snapshot is in it.
    Merged {
        /// Images that nobody needs any more.
        discard: Vec<Discarded>,
        /// For whoever asked.
        done: Box<SnapshotDone>,
        /// Idempotency key of the call.
        key: Option<String>,
    },
    /// It has failed.
    Failed {
        /// Nothing half-made is left.
        settled: bool,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// Nothing is left of the work, nor of these files.
    Struck {
        /// Where they were.
        gone: Vec<PathBuf>,
    },
}

/// What a VM's disks are on record as. From: work that has changed it. To: `VmActor`.
#[derive(Debug, Message)]
#[rtype(result = "DisksNow")]
pub(crate) struct AskDisks;

/// Reply to [`AskDisks`].
#[derive(Debug, MessageResponse)]
pub(crate) struct DisksNow {
    pub(crate) spec: VmSpec,
    pub(crate) files: DiskRecords,
    pub(crate) externals: Externals,
}

/// How far the work on its disks is, for as long as there is some.
#[derive(Debug, Message)]
#[rtype(result = "Option<watch::Receiver<Progress>>")]
pub(crate) struct FollowDisks;
