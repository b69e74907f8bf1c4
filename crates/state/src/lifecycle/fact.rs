//! What a fact makes of a state.

use std::fmt;

use maqet_process::identity::ProcessIdentity;

use super::{Cause, LastExit, Status};
use crate::record::{Helper, Intent, Launch, Running, VmState};

/// Something that has happened to a VM, by the one who saw it.
///
/// Facts about a launch carry its `generation`; one about an earlier launch is refused, so a late report can never
/// end a VM that was started again since.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A runner was spawned and waits for its identity to be durable (first commit of a start).
    Launching(Box<Launch>),
    /// A start ended before there was a runner to record.
    LaunchFailed {
        /// How; the cause is [`super::Cause::StartFailed`].
        exit: LastExit,
    },
    /// QEMU's gate was spawned and waits for its identity to be durable (second commit of a start).
    QemuRecorded {
        /// Identity of the gate, which exec turns into QEMU.
        qemu: ProcessIdentity,
        /// Those of its helpers' gates.
        helpers: Vec<Helper>,
    },
    /// QEMU answered, and the guest was let run; also after an adoption.
    Confirmed {
        /// The launch it is about.
        generation: u64,
        /// What the runner said of it.
        running: Running,
    },
    /// Somebody asked for the end of this launch; kept so that the end has its reason even when all who knew died.
    StopIntended {
        /// The launch it is about.
        generation: u64,
        /// What for; [`Intent::Run`] takes an intent back that was given up.
        intent: Intent,
    },
    /// A new runner took QEMU over.
    RunnerReplaced {
        /// Identity of the new runner.
        runner: ProcessIdentity,
    },
    /// QEMU and its runner are gone.
    Ended {
        /// The launch it is about.
        generation: u64,
        /// How.
        exit: LastExit,
    },
}

/// The bare name of a [`Fact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    /// [`Fact::Launching`].
    Launching,
    /// [`Fact::LaunchFailed`].
    LaunchFailed,
    /// [`Fact::QemuRecorded`].
    QemuRecorded,
    /// [`Fact::Confirmed`].
    Confirmed,
    /// [`Fact::StopIntended`].
    StopIntended,
    /// [`Fact::RunnerReplaced`].
    RunnerReplaced,
    /// [`Fact::Ended`].
    Ended,
}

impl FactKind {
    /// Every kind, in the order of a VM's life.
    pub const ALL: [Self; 7] = [
        Self::Launching,
        Self::LaunchFailed,
        Self::QemuRecorded,
        Self::Confirmed,
        Self::StopIntended,
        Self::RunnerReplaced,
        Self::Ended,
    ];

    /// A name for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launching",
            Self::LaunchFailed => "launch-failed",
            Self::QemuRecorded => "qemu-recorded",
            Self::Confirmed => "confirmed",
            Self::StopIntended => "stop-intended",
            Self::RunnerReplaced => "runner-replaced",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for FactKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl Fact {
    /// The bare name.
    pub const fn kind(&self) -> FactKind {
        match self {
            Self::Launching(_) => FactKind::Launching,
            Self::LaunchFailed { .. } => FactKind::LaunchFailed,
            Self::QemuRecorded { .. } => FactKind::QemuRecorded,
            Self::Confirmed { .. } => FactKind::Confirmed,
            Self::StopIntended { .. } => FactKind::StopIntended,
            Self::RunnerReplaced { .. } => FactKind::RunnerReplaced,
            Self::Ended { .. } => FactKind::Ended,
        }
    }

    /// The fact in the light of what was wanted, which the one who tells it may not know. Whoever takes over during a
    /// stop finds a guest that has shut down, or a QEMU that left without a fault, and cannot know that it was told to;
    /// and a QEMU that was stopped because its runner was lost ended because of that, however well the stop went.
    #[must_use]
    pub fn for_intent(self, intent: Intent) -> Self {
        match self {
            Self::Ended { generation, exit } => Self::Ended {
                generation,
                exit: as_intended(exit, intent),
            },
            other @ (Self::Launching(_)
            | Self::LaunchFailed { .. }
            | Self::QemuRecorded { .. }
            | Self::Confirmed { .. }
            | Self::StopIntended { .. }
            | Self::RunnerReplaced { .. }) => other,
        }
    }

    /// How the VM ended, if this fact is an end.
    pub const fn exit(&self) -> Option<&LastExit> {
        match self {
            Self::LaunchFailed { exit } | Self::Ended { exit, .. } => Some(exit),
            Self::Launching(_)
            | Self::QemuRecorded { .. }
            | Self::Confirmed { .. }
            | Self::StopIntended { .. }
            | Self::RunnerReplaced { .. } => None,
        }
    }
}

/// A fact that cannot be true of the state it is told about: a defect, or a report that came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleFact {
    /// The status does not allow it.
    #[error("a VM that is {status} cannot take the fact `{fact}`")]
    WrongStatus {
        /// Status of the VM.
        status: Status,
        /// The fact.
        fact: FactKind,
    },
    /// It comes before the fact it builds upon, or a second time.
    #[error("the fact `{fact}` is out of order within launch {generation}")]
    OutOfOrder {
        /// The fact.
        fact: FactKind,
        /// The launch.
        generation: u64,
    },
    /// It is about another launch.
    #[error("the fact `{fact}` is about launch {found}, but the VM is at launch {current}")]
    OtherLaunch {
        /// The fact.
        fact: FactKind,
        /// The launch it names.
        found: u64,
        /// The launch on record.
        current: u64,
    },
}

/// What `fact` makes of `state`.
///
/// # Errors
/// [`ImpossibleFact`]: `state` stays what it is.
pub fn apply(state: &VmState, fact: Fact) -> Result<VmState, ImpossibleFact> {
    use VmState::{Created, Failed, Running, Stopped};

    let kind = fact.kind();
    match (state, fact) {
        (Created | Stopped | Failed, Fact::Launching(launch)) => Ok(Running(Box::new(Launch {
            previous: state.status(),
            ..*launch
        }))),
        (Created | Stopped | Failed, Fact::LaunchFailed { .. }) => Ok(Failed),
        (Running(launch), Fact::QemuRecorded { qemu, helpers }) => {
            same_launch(launch, kind, qemu.generation)?;
            in_order(launch, kind, launch.qemu.is_none())?;
            Ok(changed(launch, |next| {
                next.qemu = Some(qemu);
                next.helpers = helpers;
            }))
        }
        (Running(launch), Fact::Confirmed { generation, running }) => {
            same_launch(launch, kind, generation)?;
            in_order(launch, kind, launch.qemu.is_some())?;
            Ok(changed(launch, |next| next.running = Some(running)))
        }
        (Running(launch), Fact::StopIntended { generation, intent }) => {
            same_launch(launch, kind, generation)?;
            Ok(changed(launch, |next| next.intent = intent))
        }
        (Running(launch), Fact::RunnerReplaced { runner }) => {
            same_launch(launch, kind, runner.generation)?;
            in_order(launch, kind, launch.qemu.is_some())?;
            Ok(changed(launch, |next| next.runner = runner))
        }
        (Running(launch), Fact::Ended { generation, exit }) => {
            same_launch(launch, kind, generation)?;
            Ok(match exit.cause.leads_to() {
                Status::Stopped => Stopped,
                Status::Created | Status::Running | Status::Failed => Failed,
            })
        }
        (Running(_), Fact::Launching(_) | Fact::LaunchFailed { .. })
        | (
            Created | Stopped | Failed,
            Fact::QemuRecorded { .. }
            | Fact::Confirmed { .. }
            | Fact::StopIntended { .. }
            | Fact::RunnerReplaced { .. }
            | Fact::Ended { .. },
        ) => Err(ImpossibleFact::WrongStatus {
            status: state.status(),
            fact: kind,
        }),
    }
}

/// What the intent makes of an end: only one that it explains is told as meant.
fn as_intended(exit: LastExit, intent: Intent) -> LastExit {
    let cause = match intent {
        Intent::Run => return exit,
        Intent::RunnerLost => return after_loss(exit),
        Intent::Stop => Cause::Stop,
        Intent::StopForced => Cause::StopForced,
        Intent::HostShutdown => Cause::HostShutdown,
    };
    if left_in_order(&exit) {
        LastExit { cause, ..exit }
    } else {
        exit
    }
}

/// The guest has shut down, or QEMU has left without a fault.
fn left_in_order(exit: &LastExit) -> bool {
    match exit.cause {
        Cause::GuestShutdown => true,
        Cause::QemuExited => exit.exit_code == Some(0),
        Cause::GuestReset
        | Cause::GuestPanic
        | Cause::Stop
        | Cause::StopForced
        | Cause::StartFailed
        | Cause::QemuCrashed
        | Cause::QemuKilled
        | Cause::HostShutdown
        | Cause::HostRebooted
        | Cause::RunnerLost
        | Cause::HelperLost
        | Cause::EndedUnknown => false,
    }
}

fn after_loss(exit: LastExit) -> LastExit {
    let stopped = exit.cause.leads_to() == Status::Stopped;
    if !stopped && !left_in_order(&exit) {
        return exit;
    }
    let why = "its runner was lost, and `on_runner_loss` is `stop`".to_owned();
    LastExit {
        cause: Cause::RunnerLost,
        detail: Some(match exit.detail {
            Some(detail) => format!("{why}; {detail}"),
            None => why,
        }),
        ..exit
    }
}

fn changed(launch: &Launch, change: impl FnOnce(&mut Launch)) -> VmState {
    let mut next = launch.clone();
    change(&mut next);
    VmState::Running(Box::new(next))
}

fn same_launch(launch: &Launch, fact: FactKind, found: u64) -> Result<(), ImpossibleFact> {
    let current = launch.generation;
    if found == current {
        Ok(())
    } else {
        Err(ImpossibleFact::OtherLaunch { fact, found, current })
    }
}

fn in_order(launch: &Launch, fact: FactKind, ready: bool) -> Result<(), ImpossibleFact> {
    let generation = launch.generation;
    if ready {
        Ok(())
    } else {
        Err(ImpossibleFact::OutOfOrder { fact, generation })
    }
}
