//! What a command means in each state.

use std::fmt;

use super::{Activity, Denial, Status};

/// What somebody asks of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Bring it up.
    Start,
    /// Bring it down by the stop ladder.
    Stop,
    /// End it with SIGKILL after a short chance to flush (`kill`, `stop --force`).
    Kill,
    /// Stop, then start.
    Restart,
    /// Halt the guest's CPUs.
    Pause,
    /// Let the guest's CPUs run again.
    Resume,
    /// Press the reset button.
    Reset,
    /// Forget a VM that does not run.
    Remove,
    /// Forget a VM, ending it first (`rm --force`).
    ForceRemove,
    /// Run a QMP command.
    Qmp,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Stop,
        Self::Kill,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Reset,
        Self::Remove,
        Self::ForceRemove,
        Self::Qmp,
    ];

    /// The verb as people type it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Remove => "rm",
            Self::ForceRemove => "rm --force",
            Self::Qmp => "qmp",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// What [`decide`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Stored status; while a launch is under way that is `running` from its first commit on.
    pub status: Status,
    /// What is being done to the VM now.
    pub activity: Activity,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Spawn the runner, then QEMU.
    Launch,
    /// Walk the stop ladder.
    WalkLadder,
    /// Two seconds of QMP, then SIGKILL.
    Kill,
    /// Walk the stop ladder, then launch.
    StopThenLaunch,
    /// Give up the start under way and end what already lives of it.
    CancelStart,
    /// Turn the stop under way into [`Effect::Kill`].
    EscalateKill,
    /// QMP `stop`.
    Pause,
    /// QMP `cont`.
    Resume,
    /// QMP `system_reset`.
    Reset,
    /// Hand the command to QEMU.
    RunQmp,
    /// Delete record, secret and directory.
    Forget,
    /// End whatever lives of the VM (a start under way is cancelled, a stop escalated), then [`Effect::Forget`].
    KillThenForget,
}

impl Effect {
    /// A few words, as the documented table shows them.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::WalkLadder => "walk ladder",
            Self::Kill => "kill",
            Self::StopThenLaunch => "stop, launch",
            Self::CancelStart => "cancel start",
            Self::EscalateKill => "escalate",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::RunQmp => "run",
            Self::Forget => "forget",
            Self::KillThenForget => "kill, forget",
        }
    }
}

/// What a command means here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Do this.
    Do(Effect),
    /// The same is already under way: share its outcome. A `stop` or `kill` that joins the first half of a
    /// restart also takes the launch out of it.
    Join,
    /// It is so already; a success.
    AlreadyDone,
    /// No.
    Deny(Denial),
}

/// Decides what `command` means for a VM that looks like `view`.
///
/// The one table of what is allowed: every combination is named, so that another status, activity or command does
/// not compile until it is decided for.
pub const fn decide(view: View, command: Command) -> Decision {
    use Activity::{Idle, Removing, Starting, Stopping};
    use Command::{ForceRemove, Kill, Pause, Qmp, Remove, Reset, Restart, Resume, Start, Stop};
    use Decision::{AlreadyDone, Deny, Do, Join};
    use Status::{Created, Failed, Running, Stopped};

    let status = view.status;
    match (view.activity, status, command) {
        (Idle, Created | Stopped | Failed, Start | Restart) => Do(Effect::Launch),
        (Idle, Created | Stopped | Failed, Stop | Kill) | (Idle, Running, Start) => AlreadyDone,
        (Idle, Created | Stopped | Failed, Remove | ForceRemove) => Do(Effect::Forget),
        (Idle | Stopping, Created | Stopped | Failed, Qmp)
        | (Idle, Created | Stopped | Failed, Pause | Resume | Reset) => {
            Deny(Denial::NotRunning { command, status })
        }

        (Idle, Running, Stop) => Do(Effect::WalkLadder),
        (Idle, Running, Kill) => Do(Effect::Kill),
        (Idle, Running, Restart) => Do(Effect::StopThenLaunch),
        (Idle, Running, Pause) => Do(Effect::Pause),
        (Idle, Running, Resume) => Do(Effect::Resume),
        (Idle, Running, Reset) => Do(Effect::Reset),
        (Idle | Stopping, Running, Qmp) => Do(Effect::RunQmp),
        (Idle, Running, Remove) => Deny(Denial::StillRunning),
        (Idle, Running, ForceRemove)
        | (Starting | Stopping, Created | Running | Stopped | Failed, ForceRemove) => {
            Do(Effect::KillThenForget)
        }

        (Starting, Created | Running | Stopped | Failed, Stop | Kill) => Do(Effect::CancelStart),
        (Starting, Created | Running | Stopped | Failed, Restart | Pause | Resume | Reset | Remove | Qmp) => {
            Deny(Denial::IsStarting { command })
        }

        (Stopping, Running, Kill) => Do(Effect::EscalateKill),
        (Starting, Created | Running | Stopped | Failed, Start)
        | (Stopping, Created | Running | Stopped | Failed, Stop)
        | (Stopping, Created | Stopped | Failed, Kill) => Join,
        (
            Stopping,
            Created | Running | Stopped | Failed,
            Start | Restart | Pause | Resume | Reset | Remove,
        ) => Deny(Denial::IsStopping { command }),

        (
            Removing,
            Created | Running | Stopped | Failed,
            Start | Stop | Kill | Restart | Pause | Resume | Reset | Remove | ForceRemove | Qmp,
        ) => Deny(Denial::BeingRemoved { command }),
    }
}
