//! The lifecycle of a VM: four stored states, what each allows, and how each ends.
//!
//! Pure: [`decide`] says what a command means in a state, [`apply`] what a fact makes of a state. Whoever owns a VM
//! carries the answers out, in this order: decide, persist, act, publish. `docs/architecture/vm-lifecycle.md` shows
//! both tables; a test holds it and this module together.

mod denial;
mod fact;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::denial::{Denial, DenialKind};
pub use self::fact::{Fact, FactKind, ImpossibleFact, apply};
pub use self::table::{Command, Decision, Effect, View, decide};
use crate::clock::Timestamp;

/// Stored state of a VM, by its bare name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Never started.
    Created,
    /// Expected alive; shown only after the kernel confirmed it.
    Running,
    /// Ended as somebody meant it to.
    Stopped,
    /// Ended otherwise.
    Failed,
}

impl Status {
    /// Every status, in the order of a VM's life.
    pub const ALL: [Self; 4] = [Self::Created, Self::Running, Self::Stopped, Self::Failed];

    /// The name, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Transient work of the one who owns the VM; shown beside the status, never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Nothing under way.
    #[default]
    Idle,
    /// A start is under way.
    Starting,
    /// The stop ladder is being walked.
    Stopping,
    /// A snapshot is being made, loaded or deleted.
    Snapshotting,
    /// The disks are being worked on; a VM that runs is being given one.
    Maintaining,
    /// Being removed.
    Removing,
}

impl Activity {
    /// Every activity.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Starting,
        Self::Stopping,
        Self::Snapshotting,
        Self::Maintaining,
        Self::Removing,
    ];

    /// The name, as shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Snapshotting => "snapshotting",
            Self::Maintaining => "maintaining",
            Self::Removing => "removing",
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest asked for a reset and `on_reboot: stop` is set.
    GuestReset,
    /// The guest's kernel panicked.
    GuestPanic,
    /// `stop`: by the guest's own shutdown or by QMP `quit` after a flush.
    Stop,
    /// `stop --force`, or `stop.on_timeout: kill`: SIGKILL; unflushed writes may be lost.
    StopForced,
    /// QEMU did not come up.
    StartFailed,
    /// QEMU exited by itself with an error.
    QemuExited,
    /// QEMU was ended by a signal that a program raises on itself (SEGV, ABRT, BUS, ...).
    QemuCrashed,
    /// QEMU was ended by a signal from outside (KILL, TERM, ...).
    QemuKilled,
    /// The host was shutting down.
    HostShutdown,
    /// The host has rebooted since.
    HostRebooted,
    /// The runner is gone, and QEMU with it.
    RunnerLost,
    /// A helper process of the VM is gone.
    HelperLost,
    /// QEMU is gone, and nothing is left that knows why.
    EndedUnknown,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 14] = [
        Self::GuestShutdown,
        Self::GuestReset,
        Self::GuestPanic,
        Self::Stop,
        Self::StopForced,
        Self::StartFailed,
        Self::QemuExited,
        Self::QemuCrashed,
        Self::QemuKilled,
        Self::HostShutdown,
        Self::HostRebooted,
        Self::RunnerLost,
        Self::HelperLost,
        Self::EndedUnknown,
    ];

    /// The status a VM has after it ended this way: [`Status::Stopped`] or [`Status::Failed`].
    pub const fn leads_to(self) -> Status {
        match self {
            Self::GuestShutdown | Self::GuestReset | Self::Stop | Self::StopForced | Self::HostShutdown => {
                Status::Stopped
            }
            Self::GuestPanic
            | Self::StartFailed
            | Self::QemuExited
            | Self::QemuCrashed
            | Self::QemuKilled
            | Self::HostRebooted
            | Self::RunnerLost
            | Self::HelperLost
            | Self::EndedUnknown => Status::Failed,
        }
    }

    /// The name, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
            Self::Stop => "stop",
            Self::StopForced => "stop-forced",
            Self::StartFailed => "start-failed",
            Self::QemuExited => "qemu-exited",
            Self::QemuCrashed => "qemu-crashed",
            Self::QemuKilled => "qemu-killed",
            Self::HostShutdown => "host-shutdown",
            Self::HostRebooted => "host-rebooted",
            Self::RunnerLost => "runner-lost",
            Self::HelperLost => "helper-lost",
            Self::EndedUnknown => "ended-unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// How a VM ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Why.
    pub cause: Cause,
    /// When it was noticed.
    pub at: Timestamp,
    /// Exit code of QEMU, when it exited and the code is known.
    pub exit_code: Option<i32>,
    /// Signal that ended QEMU, by number.
    pub signal: Option<i32>,
    /// QEMU's own last words, or what else is known; at most a few lines.
    pub detail: Option<String>,
}
