//! Why a command is refused.

use super::{Command, Status};

/// Reason of a refusal, with everything its words need but the VM's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The command needs a running VM.
    NotRunning {
        /// What was asked.
        command: Command,
        /// What the VM is instead.
        status: Status,
    },
    /// `rm` without `--force` of a running VM.
    StillRunning,
    /// Work on the disks of a running VM.
    DisksInUse,
    /// A start is under way that the command would have to wait for.
    IsStarting {
        /// What was asked.
        command: Command,
    },
    /// A stop is under way that the command would have to wait for.
    IsStopping {
        /// What was asked.
        command: Command,
    },
    /// A snapshot is under way that the command would have to wait for.
    IsSnapshotting {
        /// What was asked.
        command: Command,
    },
    /// The VM's disks are being worked on.
    IsMaintained {
        /// What was asked.
        command: Command,
    },
    /// The VM will be gone in a moment.
    BeingRemoved {
        /// What was asked.
        command: Command,
    },
    /// The VM's removal has begun and did not come to its end.
    HalfRemoved {
        /// What was asked.
        command: Command,
    },
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialKind {
    /// The VM must be brought into another state first. Exit code 3.
    WrongState,
    /// Something else is being done to the VM; trying again later can help. Exit code 5.
    Busy,
}

impl Denial {
    /// Whether trying again can help.
    pub const fn kind(self) -> DenialKind {
        match self {
            Self::NotRunning { .. } | Self::StillRunning | Self::DisksInUse | Self::HalfRemoved { .. } => {
                DenialKind::WrongState
            }
            Self::IsStarting { .. }
            | Self::IsStopping { .. }
            | Self::IsSnapshotting { .. }
            | Self::IsMaintained { .. }
            | Self::BeingRemoved { .. } => DenialKind::Busy,
        }
    }

    /// The name of the reason, as the documented table shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "not running",
            Self::StillRunning => "still running",
            Self::DisksInUse => "disks in use",
            Self::IsStarting { .. } => "is starting",
            Self::IsStopping { .. } => "is stopping",
            Self::IsSnapshotting { .. } => "is snapshotting",
            Self::IsMaintained { .. } => "is maintained",
            Self::BeingRemoved { .. } => "being removed",
            Self::HalfRemoved { .. } => "half removed",
        }
    }

    /// The text people read, about the VM named `vm`: a lower-case fragment without a full stop.
    pub fn message(self, vm: &str) -> String {
        let (command, reason) = match self {
            Self::NotRunning { command, status } => (command, format!("it is not running ({status})")),
            Self::StillRunning => (Command::Remove, "it is still running".to_owned()),
            Self::DisksInUse => (Command::Maintain, "it is running".to_owned()),
            Self::IsStarting { command } => (command, "it is being started".to_owned()),
            Self::IsStopping { command } => (command, "it is being stopped".to_owned()),
            Self::IsSnapshotting { command } => (command, "a snapshot is under way".to_owned()),
            Self::IsMaintained { command } => (command, "its disks are being worked on".to_owned()),
            Self::BeingRemoved { command } => (command, "it is being removed".to_owned()),
            Self::HalfRemoved { command } => (command, "its removal has begun".to_owned()),
        };
        format!("cannot {} `{vm}`: {reason}", verb(command))
    }

    /// The next command to type, about the VM named `vm`.
    pub fn hint(self, vm: &str) -> String {
        match self {
            Self::NotRunning { .. } => format!("maqet start {vm}"),
            Self::StillRunning => format!("maqet stop {vm}, or maqet rm --force {vm}"),
            Self::DisksInUse => format!("maqet stop {vm}"),
            Self::IsSnapshotting { .. } | Self::IsMaintained { .. } => format!("maqet status {vm}"),
            Self::IsStarting { .. } => format!("maqet wait {vm} running"),
            Self::IsStopping { .. } => format!("maqet wait {vm} exit"),
            Self::BeingRemoved { .. } => "maqet ls".to_owned(),
            Self::HalfRemoved { .. } => format!("maqet why {vm}"),
        }
    }
}

/// What cannot be done, in the middle of a sentence.
const fn verb(command: Command) -> &'static str {
    match command {
        Command::Remove | Command::ForceRemove => "remove",
        Command::Qmp => "run a QMP command on",
        Command::Snapshot => "work on snapshots of",
        Command::Maintain => "work on the disks of",
        Command::Attach => "attach a disk to",
        Command::Start
        | Command::Stop
        | Command::Kill
        | Command::Restart
        | Command::Pause
        | Command::Resume
        | Command::Reset => command.as_str(),
    }
}
