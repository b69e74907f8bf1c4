//! All mail between the actors, in one closed list: commands, questions, facts.

mod disks;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use actix::{Addr, Message};
use maqet_process::identity::{FileMark, ProcessIdentity};
use maqet_protocol::control::{
    Added, AutostartSet, Changed, LeakReport, Leaks, Listed, Orphans, PortStatus, QmpReturn,
    SupervisorStatus, VmInfo, VmStatus,
};
use maqet_protocol::refusal::Refusal;
use maqet_protocol::runner::{OpenedFile, RunnerFact};
use maqet_spec::VmSpec;
use maqet_state::id::VmId;
use maqet_state::journal::JournalEntry;
use maqet_state::lifecycle::Status;
use maqet_state::record::{Helper, Launch};
use tokio::sync::mpsc;

use crate::leaks::Held;
use crate::operation::Accepted;
use crate::vm::{Lost, VmActor};

pub(crate) use self::disks::{
    AcceptDisk, AskDisks, AttachDisk, CloneDisk, DescribeDisks, DisksNow, FollowDisks, RecordExternal,
    RecordPlug, RecordSnapshot, ResizeDisk, SnapshotVm, VerifyDisks,
};
pub(crate) use self::state::{
    BackUpStore, CheckWritable, DescribeStore, Keep, LoadVm, NewestCursor, Persist, ReadJournal,
    ReadJournalRows, ReadLedger, ReadRows, ReadVms, Recall, StoreState, VerifyStore, WalkJournal,
};

// Commands to one VM. From: `ipc::dispatch`. To: `VmActor`.

/// Start it. Reply: once the decision stands, not once QEMU runs.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct StartVm {
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// End it. Reply: once the decision stands, not once QEMU is gone.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct StopVm {
    /// Hard budget, milliseconds; `None` is the spec's, extended while the guest makes progress.
    pub(crate) timeout_ms: Option<u64>,
    /// SIGKILL after two seconds of QMP.
    pub(crate) force: bool,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
    /// Who wants it.
    pub(crate) by: StopBy,
}

/// Who ends a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopBy {
    /// A person: it stays down until somebody starts it, or the host has booted anew.
    Person,
    /// The supervisor that ends (`on_exit: stop`): the next one starts it again if it is enabled.
    Exit,
    /// Nobody: its runner was lost (`on_runner_loss: stop`).
    Loss,
}

impl StopBy {
    /// The word in the journal.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "command",
            Self::Exit => "supervisor-exit",
            Self::Loss => "runner-lost",
        }
    }
}

/// End it, then start it.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct RestartVm {
    /// As in [`StopVm`].
    pub(crate) timeout_ms: Option<u64>,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// Forget it.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub(crate) struct RemoveVm {
    /// Stop it first, by force.
    pub(crate) force: bool,
    /// Delete the images maqet created for it.
    pub(crate) delete_storage: bool,
    /// Less those that hold snapshots.
    pub(crate) keep_snapshots: bool,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// Start it because it is enabled, unless it runs, a person stopped it, or its restart policy has the say. Reply: the
/// start, if there is one.
#[derive(Debug, Message)]
#[rtype(result = "Option<Accepted>")]
pub(crate) struct StartEnabledVm;

/// Start it with every supervisor from now on, or not.
#[derive(Debug, Message)]
#[rtype(result = "Result<AutostartSet, Refusal>")]
pub(crate) struct SetAutostart(pub(crate) Enabling);

/// How a VM's autostart is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Enabling {
    /// On; what is `None` stays as it is.
    On {
        /// Its place among the others.
        order: Option<u32>,
        /// Pause before the next order.
        delay: Option<Duration>,
    },
    /// Off.
    Off,
}

/// A switch QEMU throws at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Pause the CPUs.
    Pause,
    /// Let them run.
    Resume,
    /// Press reset.
    Reset,
}

/// Throw a switch.
#[derive(Debug, Message)]
#[rtype(result = "Result<Changed, Refusal>")]
pub(crate) struct SwitchVm(pub(crate) Switch);

/// Pass one command to QEMU.
#[derive(Debug, Message)]
#[rtype(result = "Result<QmpReturn, Refusal>")]
pub(crate) struct RunQmp {
    /// QMP command name.
    pub(crate) command: String,
    /// Its arguments.
    pub(crate) arguments: Option<serde_json::Value>,
    /// Deadline, milliseconds.
    pub(crate) timeout_ms: u64,
}

// Questions to one VM.

/// All of `status`.
#[derive(Debug, Message)]
#[rtype(result = "VmStatus")]
pub(crate) struct DescribeVm;

/// What it has. From: `leaks`.
#[derive(Debug, Message)]
#[rtype(result = "Held")]
pub(crate) struct WhatIsHeld;

/// The stored spec.
#[derive(Debug, Message)]
#[rtype(result = "VmInfo")]
pub(crate) struct InfoVm;

// Facts for one VM. From: its own launch, link and watchers.

/// A step of a launch, to be made durable before the next. From: `vm::launch`.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub(crate) enum RecordStep {
    /// The runner exists, gated.
    Launching(Box<Launch>),
    /// QEMU's gate exists.
    QemuRecorded {
        /// Who it is.
        qemu: ProcessIdentity,
        /// Host ports held for it.
        ports: Vec<PortStatus>,
        /// Files it gets for its disks.
        files: Vec<OpenedFile>,
        /// Its helpers' gates.
        helpers: Vec<Helper>,
    },
    /// A new runner took over.
    RunnerReplaced(ProcessIdentity),
    /// An image is complete and about to get its name.
    MakingFile {
        /// Where, as the spec says.
        path: PathBuf,
        /// The file.
        file: FileMark,
    },
    /// It has it.
    FileMade(PathBuf),
    /// It did not get it.
    FileNotMade(PathBuf),
    /// An image was checked and may be written to.
    DiskChecked {
        /// The disk.
        disk: String,
        /// Clusters that leaked.
        leaks: u64,
    },
    /// An image is damaged.
    DiskDamaged {
        /// The disk.
        disk: String,
        /// Where it is, as the spec says.
        path: PathBuf,
        /// What was found.
        found: String,
    },
}

/// The runner told something. From: the watch stream.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RunnerSaid {
    /// Launch it is about; news of an earlier launch is void.
    pub(crate) launch_id: String,
    /// What.
    pub(crate) fact: RunnerFact,
}

/// The kernel told that the runner is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RunnerExited {
    /// Launch it belonged to.
    pub(crate) launch_id: String,
    /// Process id it had.
    pub(crate) pid: i32,
}

/// The runner let a call pass without an answer. From: its link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RunnerUnheard {
    /// Launch it belongs to.
    pub(crate) launch_id: String,
}

/// The kernel told that QEMU is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct QemuExited {
    /// Launch it belonged to.
    pub(crate) launch_id: String,
}

// To the supervisor actor.

/// Store a new VM.
#[derive(Debug, Message)]
#[rtype(result = "Result<Added, Refusal>")]
pub(crate) struct AddVm {
    /// The whole spec.
    pub(crate) spec: Box<VmSpec>,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// Whom a name, id or id prefix means.
#[derive(Debug, Message)]
#[rtype(result = "Result<Found, Refusal>")]
pub(crate) struct FindVm(pub(crate) String);

/// Answer to [`FindVm`].
#[derive(Debug)]
pub(crate) struct Found {
    /// Its id.
    pub(crate) id: VmId,
    /// Its owner.
    pub(crate) vm: Addr<VmActor>,
}

/// What `ls` shows.
#[derive(Debug, Message)]
#[rtype(result = "Listed")]
pub(crate) struct ListVms {
    /// Only those with this status.
    pub(crate) status: Option<Status>,
}

/// Start the enabled VMs. From: `startup`, once calls are answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StartEnabled;

/// The runtime directory was deleted and is there again: runners put their sockets back. From: `startup`, to everybody.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Beckon;

/// About the supervisor itself.
#[derive(Debug, Message)]
#[rtype(result = "SupervisorStatus")]
pub(crate) struct DescribeSupervisor;

/// Compare what is on record with what there is; see [`crate::leaks`].
#[derive(Debug, Message)]
#[rtype(result = "Result<LeakReport, Refusal>")]
pub(crate) struct LookForLeaks(pub(crate) Leaks);

/// Images that no VM has.
#[derive(Debug, Message)]
#[rtype(result = "Result<Orphans, Refusal>")]
pub(crate) struct LookForOrphans;

/// Every VM's id, name and owner.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(VmId, String, Addr<VmActor>)>")]
pub(crate) struct Owners;

/// A record was removed. From: `VmActor`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct VmForgotten(pub(crate) VmId);

/// A VM's actor is no more. From: the guard it held.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct VmActorGone(pub(crate) Lost);

/// End the supervisor. From: signals and `SupervisorStop`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown {
    /// VMs go on, whatever is configured.
    pub(crate) keep_vms: bool,
}

// To the event bus.

/// Entries that are durable now. From: `StateActor`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Publish(pub(crate) Vec<JournalEntry>);

/// Hear of entries to come. A subscriber that lets its queue run full is dropped and reads on from the store.
#[derive(Debug, Message)]
#[rtype(result = "mpsc::Receiver<JournalEntry>")]
pub(crate) struct Subscribe;
