//! `org.maqet.Runner`: what the supervisor asks of one VM's runner.
//!
//! A start is [`Prepare`], then (identity on disk) [`Release`]. A runner whose QEMU was released outlives its
//! supervisor; one whose QEMU was not ends when the connection that prepared it closes.

use std::path::PathBuf;

use maqet_process::identity::{FileMark, ProcessIdentity};
use maqet_spec::VmSpec;
use maqet_state::lifecycle::LastExit;
use maqet_state::record::Helper;
use serde::{Deserialize, Serialize};

use crate::control::{DiskTrouble, Empty, PortStatus, QmpReturn, SandboxStatus, ShareLoss, StopHow};
use crate::method::Method;

mod layer;
mod plug;
mod snapshot;

pub use layer::{EndMerge, ListTops, MergeImage, Merging, NewTop, StackImages, Top, Tops};
pub use plug::PlugDisk;
pub use snapshot::{ListSnapshots, RunSnapshot, SnapshotEntries, SnapshotStep};

macro_rules! method {
    ($type:ty, $name:literal, $reply:ty) => {
        impl Method for $type {
            const NAME: &'static str = concat!("org.maqet.Runner.", $name);
            type Reply = $reply;
        }
    };
}

/// Bind QMP sockets, open disks, spawn QEMU's gate. QEMU itself is not executed yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// What to run.
    pub spec: VmSpec,
    /// Absolute path of the QEMU program, resolved by the supervisor.
    pub binary: PathBuf,
    /// Launch id, 32 hexadecimal digits; also on QEMU's command line.
    pub launch_id: String,
    /// Start counter of this VM.
    pub generation: u64,
    /// Directory for the log files.
    pub log_dir: PathBuf,
    /// Bound of each log file, bytes; one older file of that size is kept beside it.
    pub log_bytes_max: u64,
    /// Directories where QEMU may write whatever tree they are in, if the spec names something there.
    #[serde(default)]
    pub roots: Vec<PathBuf>,
    /// Directories where maqet keeps its own files; nothing in or around them is shared with a guest.
    #[serde(default)]
    pub own: Vec<PathBuf>,
    /// Files that are on record for the spec's disks and what they stand on: another one at the same path is refused.
    #[serde(default)]
    pub files: Vec<ExpectedFile>,
    /// Absolute path of virtiofsd, for the shares that need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtiofsd: Option<PathBuf>,
}
method!(Prepare, "Prepare", Prepared);

/// A file that is on record for a disk, or below one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedFile {
    /// Where it is, as the spec or the image above it has it.
    pub path: PathBuf,
    /// The file.
    pub file: FileMark,
    /// It was recorded in this boot of the host, so its device number holds.
    pub same_boot: bool,
}

/// A file that was opened for a disk, or below one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedFile {
    /// Where it is, as the spec or the image above it has it.
    pub path: PathBuf,
    /// The file.
    pub file: FileMark,
}

/// Answer to [`Prepare`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Identity of the gate, which exec turns into QEMU.
    pub qemu: ProcessIdentity,
    /// Host ports that are held for it, chosen ones too.
    #[serde(default)]
    pub ports: Vec<PortStatus>,
    /// Files that QEMU gets for the spec's disks.
    #[serde(default)]
    pub files: Vec<OpenedFile>,
    /// The gates of its helpers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<Helper>,
}

/// QEMU's identity is on disk: execute it, let the guest run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {}
method!(Release, "Release", Running);

/// What a runner knows of its running QEMU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// QEMU's run state.
    pub run_state: String,
    /// QEMU's version, for example `7.2.22`.
    pub qemu_version: String,
    /// Accelerator in use.
    pub accel: String,
    /// Host ports in use.
    pub ports: Vec<PortStatus>,
    /// Confinement achieved.
    pub sandbox: SandboxStatus,
}

/// Take over a QEMU whose runner died.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// What it runs.
    pub spec: VmSpec,
    /// Identity of the QEMU on record.
    pub qemu: ProcessIdentity,
    /// As in [`Prepare`].
    pub log_dir: PathBuf,
    /// As in [`Prepare`].
    pub log_bytes_max: u64,
    /// As in [`Prepare`].
    #[serde(default)]
    pub roots: Vec<PathBuf>,
    /// As in [`Prepare`].
    #[serde(default)]
    pub own: Vec<PathBuf>,
    /// Its helpers on record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<Helper>,
}
method!(Adopt, "Adopt", Running);

/// What is known now, without asking QEMU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {}
method!(Query, "Query", RunnerState);

/// Answer to [`Query`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerState {
    /// Identity of QEMU (or its gate), if there is one.
    pub qemu: Option<ProcessIdentity>,
    /// What is known of a released QEMU.
    pub running: Option<Running>,
    /// How QEMU ended, if it has.
    pub exit: Option<LastExit>,
}

/// Walk the stop ladder; answered when QEMU is gone or the budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopQemu {
    /// Budget for the guest's own shutdown, milliseconds.
    pub budget_ms: u64,
    /// The budget is not extended while the guest makes progress.
    pub hard: bool,
    /// SIGKILL after two seconds of QMP.
    pub force: bool,
    /// SIGKILL a QEMU that answers nothing when the budget is used up.
    pub kill_on_timeout: bool,
}
method!(StopQemu, "Stop", Ended);

/// Answer to [`StopQemu`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub how: StopHow,
    /// For the record.
    pub exit: LastExit,
}

/// Run one QMP command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunQmp {
    /// QMP command name.
    pub command: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<serde_json::Value>,
    /// Deadline, milliseconds.
    pub timeout_ms: u64,
}
method!(RunQmp, "Qmp", QmpReturn);

/// Follow what happens. A streaming method: one reply per fact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {}
method!(Watch, "Watch", FactReply);

/// One reply of [`Watch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactReply {
    /// The fact.
    pub fact: RunnerFact,
}

/// Something a runner saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RunnerFact {
    /// First fact of every stream: the watcher is registered.
    Watching,
    /// QEMU sent an event.
    QmpEvent {
        /// Its name.
        name: String,
        /// Its data.
        data: serde_json::Value,
    },
    /// QEMU's run state changed.
    RunState {
        /// The new one.
        run_state: String,
    },
    /// QEMU's monitor stopped or began to answer.
    Silent {
        /// It does not answer.
        silent: bool,
    },
    /// A disk is in trouble, or is not any more.
    Disk {
        /// Its name.
        disk: String,
        /// What is wrong with it; `None` when nothing is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<DiskTrouble>,
        /// It was so before this watcher came.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// The virtiofsd of a share is gone, and QEMU is not.
    ShareLost {
        /// Name of the share.
        share: String,
        /// How it ended.
        loss: ShareLoss,
        /// It was so before this watcher came.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// QEMU is gone. The runner ends after this.
    QemuExited {
        /// How.
        exit: LastExit,
    },
}

/// What a runner leaves in its runtime directory, as [`ExitNote::FILE`], once QEMU is gone: the supervisor may be gone
/// too, and the next one reads it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNote {
    /// Launch that ended; a note of another launch says nothing.
    pub launch_id: String,
    /// How.
    pub exit: LastExit,
}

impl ExitNote {
    /// Name of the file.
    pub const FILE: &'static str = "exit.json";
}

/// Answer of methods with nothing to say.
pub type Nothing = Empty;
