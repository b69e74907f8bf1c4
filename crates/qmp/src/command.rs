//! The commands maqet uses, typed.
//!
//! A reply names only the members maqet looks at; whatever else QEMU adds, in this version or the next, is ignored.

mod layer;
mod snapshot;

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

pub use layer::{
    AddFd, AddedFd, BlockCommit, BlockdevAdd, BlockdevDel, BlockdevReopen, DeviceAdd, Fdset, FdsetFd,
    JobCancel, JobComplete, JobFinalize, QueryFdsets, RemoveFd,
};
pub use snapshot::{
    BlockNode, DeleteInternalSnapshot, ImageInfo, JobDismiss, JobInfo, QueryJobs, QueryNamedBlockNodes,
    SnapshotInfo, SnapshotJob, SnapshotLoad, SnapshotSave, Transaction,
};

/// A QMP command; its fields are the arguments.
pub trait Command: Serialize {
    /// Name on the wire.
    const NAME: &'static str;
    /// It has no arguments at all, so none are sent: each byte costs QEMU 2 µs.
    const BARE: bool = false;
    /// What QEMU answers.
    type Reply: DeserializeOwned;
}

/// A reply nobody looks at, mostly the empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done;

impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

macro_rules! bare {
    ($(#[$doc:meta])* $type:ident, $name:literal, $reply:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Serialize)]
        pub struct $type;

        impl Command for $type {
            const NAME: &'static str = $name;
            const BARE: bool = true;
            type Reply = $reply;
        }
    };
}

bare! {
    /// What the machine is doing.
    QueryStatus, "query-status", StatusInfo
}
bare! {
    /// Stop all CPUs, drain and flush every disk. Answered when that is done.
    Stop, "stop", Done
}
bare! {
    /// Let the CPUs run.
    Cont, "cont", Done
}
bare! {
    /// End QEMU. The connection may close before the answer: [`crate::QmpError::Closed`] is success too.
    Quit, "quit", Done
}
bare! {
    /// Press the ACPI power button. Answered at once; whether the guest listens is its own business.
    SystemPowerdown, "system_powerdown", Done
}
bare! {
    /// Press reset.
    SystemReset, "system_reset", Done
}
bare! {
    /// Which block devices there are.
    QueryBlock, "query-block", Vec<BlockInfo>
}
bare! {
    /// How much each block device has moved.
    QueryBlockstats, "query-blockstats", Vec<BlockStats>
}
bare! {
    /// Virtual CPUs and their host threads; does not disturb them.
    QueryCpusFast, "query-cpus-fast", Vec<CpuInfo>
}
bare! {
    /// Whether KVM is in use.
    QueryKvm, "query-kvm", KvmInfo
}

/// Answer to [`QueryStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StatusInfo {
    /// The CPUs run.
    pub running: bool,
    /// The state by name.
    pub status: RunState,
}

/// State of the virtual machine as QEMU names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "QEMU's own names; its reference explains them")]
pub enum RunState {
    Colo,
    Debug,
    FinishMigrate,
    GuestPanicked,
    Inmigrate,
    InternalError,
    IoError,
    Paused,
    Postmigrate,
    Prelaunch,
    RestoreVm,
    Running,
    SaveVm,
    Shutdown,
    Suspended,
    Watchdog,
    /// A state this list does not know.
    #[serde(untagged)]
    Other(String),
}

impl RunState {
    /// QEMU's name for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Colo => "colo",
            Self::Debug => "debug",
            Self::FinishMigrate => "finish-migrate",
            Self::GuestPanicked => "guest-panicked",
            Self::Inmigrate => "inmigrate",
            Self::InternalError => "internal-error",
            Self::IoError => "io-error",
            Self::Paused => "paused",
            Self::Postmigrate => "postmigrate",
            Self::Prelaunch => "prelaunch",
            Self::RestoreVm => "restore-vm",
            Self::Running => "running",
            Self::SaveVm => "save-vm",
            Self::Shutdown => "shutdown",
            Self::Suspended => "suspended",
            Self::Watchdog => "watchdog",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One entry of [`QueryBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockInfo {
    /// Name of the backend; empty for devices made from nodes.
    #[serde(default)]
    pub device: String,
    /// Path or id of the guest device.
    #[serde(default)]
    pub qdev: Option<String>,
    /// How the last access went, where the device keeps that: `ok`, `failed` or `nospace`.
    #[serde(default, rename = "io-status")]
    pub io_status: Option<String>,
    /// The medium, if there is one.
    #[serde(default)]
    pub inserted: Option<Medium>,
}

/// Medium of a [`BlockInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Medium {
    /// File name as QEMU opened it.
    pub file: String,
    /// Node at the top of the chain.
    #[serde(default, rename = "node-name")]
    pub node_name: Option<String>,
    /// Opened without the right to write.
    #[serde(rename = "ro")]
    pub readonly: bool,
    /// Format driver.
    #[serde(rename = "drv")]
    pub driver: String,
}

/// One entry of [`QueryBlockstats`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockStats {
    /// Name of the backend, where it has one.
    #[serde(default)]
    pub device: Option<String>,
    /// Node at the top of the chain.
    #[serde(default, rename = "node-name")]
    pub node_name: Option<String>,
    /// The counters.
    pub stats: BlockCounters,
}

/// Counters of a [`BlockStats`], from the start of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockCounters {
    /// Bytes read.
    #[serde(rename = "rd_bytes")]
    pub read_bytes: u64,
    /// Bytes written.
    #[serde(rename = "wr_bytes")]
    pub written_bytes: u64,
    /// Reads.
    #[serde(rename = "rd_operations")]
    pub reads: u64,
    /// Writes.
    #[serde(rename = "wr_operations")]
    pub writes: u64,
    /// Flushes.
    #[serde(rename = "flush_operations")]
    pub flushes: u64,
}

/// One entry of [`QueryCpusFast`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CpuInfo {
    /// Number of the CPU, from 0.
    #[serde(rename = "cpu-index")]
    pub index: u32,
    /// Thread on the host that carries it.
    #[serde(rename = "thread-id")]
    pub thread_id: i32,
}

/// Answer to [`QueryKvm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct KvmInfo {
    /// In use by this machine.
    pub enabled: bool,
    /// Compiled in and offered by the host.
    pub present: bool,
}
