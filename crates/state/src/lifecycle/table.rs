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
    /// Make, load or delete a snapshot: by QEMU where it runs, in the files where it does not.
    Snapshot,
    /// Work on the disks of a VM that does not run: resize, check.
    Maintain,
    /// Give it a disk more: by QEMU where it runs.
    Attach,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 13] = [
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
        Self::Snapshot,
        Self::Maintain,
        Self::Attach,
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
            Self::Snapshot => "snapshot",
            Self::Maintain => "maintain",
            Self::Attach => "attach",
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
    /// Its removal has begun, and some of its images may be gone.
    pub half_removed: bool,
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
    /// The snapshot: by QMP where QEMU runs, by qemu-img where it does not.
    Snapshot,
    /// The work on the disks, whose leases it holds.
    Maintain,
    /// QEMU gets a disk; its leases are held, as the others are.
    Plug,
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
            Self::Snapshot => "snapshot",
            Self::Maintain => "maintain",
            Self::Plug => "plug",
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
    let View {
        status,
        activity,
        half_removed,
    } = view;
    match activity {
        Activity::Idle if half_removed => while_half_removed(status, command),
        Activity::Idle => while_idle(status, command),
        Activity::Starting => while_starting(command),
        Activity::Stopping => while_stopping(status, command),
        Activity::Snapshotting => while_snapshotting(status, command),
        Activity::Maintaining => while_maintaining(status, command),
        Activity::Removing => Decision::Deny(Denial::BeingRemoved { command }),
    }
}

const fn while_idle(status: Status, command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };
    use Decision::{AlreadyDone, Deny, Do};
    use Status::{Created, Failed, Running, Stopped};

    match (status, command) {
        (Created | Stopped | Failed, Start | Restart) => Do(Effect::Launch),
        (Created | Stopped | Failed, Stop | Kill) | (Running, Start) => AlreadyDone,
        (Created | Stopped | Failed, Remove | ForceRemove) => Do(Effect::Forget),
        (Created | Stopped | Failed, Pause | Resume | Reset | Qmp) => {
            Deny(Denial::NotRunning { command, status })
        }
        (Created | Running | Stopped | Failed, Snapshot) => Do(Effect::Snapshot),
        (Created | Stopped | Failed, Maintain | Attach) => Do(Effect::Maintain),

        (Running, Stop) => Do(Effect::WalkLadder),
        (Running, Kill) => Do(Effect::Kill),
        (Running, Restart) => Do(Effect::StopThenLaunch),
        (Running, Pause) => Do(Effect::Pause),
        (Running, Resume) => Do(Effect::Resume),
        (Running, Reset) => Do(Effect::Reset),
        (Running, Qmp) => Do(Effect::RunQmp),
        (Running, Remove) => Deny(Denial::StillRunning),
        (Running, ForceRemove) => Do(Effect::KillThenForget),
        (Running, Maintain) => Deny(Denial::DisksInUse),
        (Running, Attach) => Do(Effect::Plug),
    }
}

/// A VM whose removal has begun can only be removed; everything else would be done to what is left of it.
const fn while_half_removed(status: Status, command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };

    match command {
        Stop | Kill | Remove | ForceRemove => while_idle(status, command),
        Start | Restart | Pause | Resume | Reset | Qmp | Snapshot | Maintain | Attach => {
            Decision::Deny(Denial::HalfRemoved { command })
        }
    }
}

const fn while_starting(command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };

    match command {
        Start => Decision::Join,
        Stop | Kill => Decision::Do(Effect::CancelStart),
        ForceRemove => Decision::Do(Effect::KillThenForget),
        Restart | Pause | Resume | Reset | Remove | Qmp | Snapshot | Maintain | Attach => {
            Decision::Deny(Denial::IsStarting { command })
        }
    }
}

const fn while_stopping(status: Status, command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };
    use Decision::{Deny, Do, Join};
    use Status::{Created, Failed, Running, Stopped};

    match (status, command) {
        (Created | Running | Stopped | Failed, Stop) | (Created | Stopped | Failed, Kill) => Join,
        (Running, Kill) => Do(Effect::EscalateKill),
        (Running, Qmp) => Do(Effect::RunQmp),
        (Created | Stopped | Failed, Qmp) => Deny(Denial::NotRunning { command, status }),
        (Created | Running | Stopped | Failed, ForceRemove) => Do(Effect::KillThenForget),
        (
            Created | Running | Stopped | Failed,
            Start | Restart | Pause | Resume | Reset | Remove | Snapshot | Maintain | Attach,
        ) => Deny(Denial::IsStopping { command }),
    }
}

const fn while_snapshotting(status: Status, command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };
    use Decision::{AlreadyDone, Deny, Do};
    use Status::{Created, Failed, Running, Stopped};

    match (status, command) {
        (Created | Stopped | Failed, Stop | Kill) | (Running, Start) => AlreadyDone,
        (Running, Kill) => Do(Effect::Kill),
        (Running, ForceRemove) => Do(Effect::KillThenForget),
        (Running, Qmp) => Do(Effect::RunQmp),
        (Created | Stopped | Failed, Start | ForceRemove | Qmp)
        | (Running, Stop)
        | (
            Created | Running | Stopped | Failed,
            Restart | Pause | Resume | Reset | Remove | Snapshot | Maintain | Attach,
        ) => Deny(Denial::IsSnapshotting { command }),
    }
}

/// A VM that runs is being given a disk: it may be ended by force meanwhile.
const fn while_maintaining(status: Status, command: Command) -> Decision {
    use Command::{
        Attach, ForceRemove, Kill, Maintain, Pause, Qmp, Remove, Reset, Restart, Resume, Snapshot, Start,
        Stop,
    };
    use Decision::{AlreadyDone, Deny, Do};
    use Status::{Created, Failed, Running, Stopped};

    match (status, command) {
        (Created | Stopped | Failed, Stop | Kill) | (Running, Start) => AlreadyDone,
        (Running, Kill) => Do(Effect::Kill),
        (Running, ForceRemove) => Do(Effect::KillThenForget),
        (Running, Qmp) => Do(Effect::RunQmp),
        (Created | Stopped | Failed, Start | ForceRemove | Qmp)
        | (Running, Stop)
        | (
            Created | Running | Stopped | Failed,
            Restart | Pause | Resume | Reset | Remove | Snapshot | Maintain | Attach,
        ) => Deny(Denial::IsMaintained { command }),
    }
}
