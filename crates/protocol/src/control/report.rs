//! What is told of a VM.

use std::path::PathBuf;

use maqet_process::identity::FileMark;
use maqet_state::clock::Timestamp;
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, LastExit, Status};
use serde::{Deserialize, Serialize};

use super::autostart::{AutostartStatus, RestartState};
use super::share::ShareStatus;

/// One line of `ls`. CLI.md fixes the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmSummary {
    /// Id.
    pub id: VmId,
    /// Name.
    pub name: String,
    /// Status; `running` only after the kernel confirmed it.
    pub status: Status,
    /// What is being done to it now.
    pub activity: Activity,
    /// QEMU's own run state (`running`, `paused`, `io-error`, ...), last known.
    pub run_state: Option<String>,
    /// QEMU's process id.
    pub pid: Option<i32>,
    /// Runner's process id.
    pub runner_pid: Option<i32>,
    /// When the status was entered.
    pub since: Timestamp,
    /// Seconds since QEMU was started; `None` when not running.
    pub uptime_s: Option<u64>,
    /// Guest memory, bytes.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Restart policy: `never`, `on-failure` or `always`.
    pub restart: String,
    /// How far it is; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_state: Option<RestartState>,
    /// It is started with every supervisor; `None` when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<AutostartStatus>,
    /// How it ended last.
    pub last_exit: Option<LastExit>,
    /// The runner or QEMU has not answered since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// Its removal has begun and is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<RemovalStatus>,
}

/// A removal with images that has begun: nothing but that is done to the VM any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalStatus {
    /// When it began.
    pub since: Timestamp,
    /// Images that were deleted, as far as that is known.
    pub deleted: Vec<PathBuf>,
    /// Images that were to be deleted and are not, as far as is known.
    pub left: Vec<PathBuf>,
    /// Images that hold snapshots are to stay.
    pub keep_snapshots: bool,
}

/// Answer to [`Describe`](super::Describe). CLI.md fixes the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    /// What `ls` shows.
    #[serde(flatten)]
    pub summary: VmSummary,
    /// Accelerator in use (`kvm`, `tcg`), or asked for while not running.
    pub accel: String,
    /// Disks.
    pub disks: Vec<DiskStatus>,
    /// Shared directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareStatus>,
    /// Host ports in use.
    pub ports: Vec<PortStatus>,
    /// Confinement achieved.
    pub sandbox: SandboxStatus,
    /// Files that hold what guest, QEMU and runner print.
    pub logs: LogFiles,
    /// QEMU's version, while running.
    pub qemu_version: Option<String>,
}

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Name within the VM.
    pub name: String,
    /// Image file.
    pub path: PathBuf,
    /// Format.
    pub format: String,
    /// Bus.
    pub interface: String,
    /// The guest cannot write.
    pub readonly: bool,
    /// The file on record: another one at this path is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileMark>,
    /// maqet made the file for this VM.
    #[serde(default)]
    pub made: bool,
    /// What is wrong with it, if something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<DiskTrouble>,
}

/// What is wrong with a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTrouble {
    /// In a word.
    pub problem: DiskProblem,
    /// What is known beyond that, a clause for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it was noticed.
    pub since: Timestamp,
    /// A person said that the disk be used as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// What can be done about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Ways a disk can be in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskProblem {
    /// The host has no room for what the guest writes: the guest waits, and goes on once there is room.
    HostFull,
    /// The host could not read or write.
    Error,
    /// The image is damaged.
    Damaged,
}

impl DiskProblem {
    /// The name, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostFull => "host-full",
            Self::Error => "error",
            Self::Damaged => "damaged",
        }
    }
}

/// One forwarded port of a running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Host address.
    pub host_address: String,
    /// Host port.
    pub host_port: u16,
    /// Guest port.
    pub guest_port: u16,
}

/// Confinement of a running QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// What the spec asks for.
    pub requested: String,
    /// QEMU's seccomp filter is on.
    pub seccomp: bool,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// Landlock ABI enforced; `None` when not.
    pub landlock_abi: Option<u32>,
}

/// Log files of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// What the guest printed on its first serial port.
    pub serial: PathBuf,
    /// QEMU's stdout and stderr.
    pub qemu: PathBuf,
    /// The runner's own log.
    pub runner: PathBuf,
    /// What the virtiofsd of each share complains about; `None` from a supervisor that does not tell.
    #[serde(default)]
    pub virtiofsd: Option<PathBuf>,
}
