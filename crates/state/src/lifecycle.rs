//! The lifecycle of a VM: four stored states, what each allows, and how each ends.

use serde::{Deserialize, Serialize};

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
    /// Being removed.
    Removing,
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
