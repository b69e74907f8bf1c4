//! What a step is going to do.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::play::{Phase, Victim};

/// VMs that everything is done to. The last one has a restart policy and may be enabled, so it may start by itself.
pub(super) const VMS: [&str; 4] = ["web", "db", "mail", SELF_WILLED];

/// The VM that may start by itself.
pub(super) const SELF_WILLED: &str = "cron";

/// Steps of one kind of epoch: in every other one nobody touches the supervisor, so that it may grow old.
const EPOCH_STEPS: u64 = 40;

/// What a client wants of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    Add,
    Start,
    Stop,
    Kill,
    Restart,
    Remove,
    Pause,
    Resume,
    Reset,
    Qmp,
    Enable,
    Disable,
}

impl Deed {
    /// The more often something is here, the more often it is done. What starts VMs balances what ends them.
    const DEALT: [Self; 24] = [
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Restart,
        Self::Restart,
        Self::Stop,
        Self::Stop,
        Self::Kill,
        Self::Remove,
        Self::Pause,
        Self::Resume,
        Self::Resume,
        Self::Reset,
        Self::Qmp,
        Self::Qmp,
        Self::Enable,
        Self::Disable,
    ];

    /// The same, as far as it can be done to this VM: one that is not there can only be added, only one is enabled.
    pub(super) fn fitting(self, vm: &str, present: bool) -> Self {
        let settings = matches!(self, Self::Enable | Self::Disable);
        if !present {
            Self::Add
        } else if self == Self::Add {
            Self::Start
        } else if settings && vm != SELF_WILLED {
            Self::Qmp
        } else {
            self
        }
    }

    /// What it means for the VM; `None` for whatever leaves a running one running.
    pub(super) fn phase(self) -> Option<Phase> {
        match self {
            Self::Start => Some(Phase::Start),
            Self::Stop => Some(Phase::Stop),
            Self::Kill => Some(Phase::Kill),
            Self::Restart => Some(Phase::Restart),
            Self::Remove => Some(Phase::Remove),
            Self::Add
            | Self::Pause
            | Self::Resume
            | Self::Reset
            | Self::Qmp
            | Self::Enable
            | Self::Disable => None,
        }
    }

    /// The words of `maqet`.
    pub(super) fn words(self, vm: &str) -> Vec<&str> {
        match self {
            Self::Add => vec!["add", vm],
            Self::Start => vec!["start", vm],
            Self::Stop => vec!["stop", vm],
            Self::Kill => vec!["stop", vm, "--force"],
            Self::Restart => vec!["restart", vm],
            Self::Remove => vec!["rm", vm, "--force", "--yes"],
            Self::Pause => vec!["pause", vm],
            Self::Resume => vec!["resume", vm],
            Self::Reset => vec!["reset", vm],
            Self::Qmp => vec!["qmp", "run", vm, "query-status"],
            Self::Enable => vec!["enable", vm],
            Self::Disable => vec!["disable", vm],
        }
    }
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Violence {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after this long.
    Freeze(Duration),
}

/// One act of violence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fault {
    /// The time before it, after whatever came before.
    pub(super) moment: Duration,
    pub(super) what: Violence,
    pub(super) victim: Victim,
    /// Whose runner or QEMU; that of another one if it has none.
    pub(super) vm: &'static str,
}

/// What the step stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ground {
    /// Nothing is wrong.
    Solid,
    /// The data directory's disk is full.
    FullDisk,
    /// The control socket was deleted.
    NoControlSocket,
    /// The sockets of all runners were deleted.
    NoRunnerSockets,
    /// The supervisor was stopped in order, and the journal looked at.
    NoSupervisor,
}

/// A step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) ground: Ground,
    /// At most one per VM, all at once.
    pub(super) deeds: Vec<(&'static str, Deed)>,
    /// Clients that only look, beside them.
    pub(super) lookers: usize,
    pub(super) faults: Vec<Fault>,
}

impl Step {
    /// The step of this number; with the seed it makes the rest.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let spares_supervisor = (number / EPOCH_STEPS) % 2 == 1;
        let ground = match random.random_range(0..100) {
            0..8 => Ground::FullDisk,
            8..12 => Ground::NoControlSocket,
            12..17 => Ground::NoRunnerSockets,
            17..22 if !spares_supervisor => Ground::NoSupervisor,
            _ => Ground::Solid,
        };
        let count = *[0, 1, 1, 1, 2, 2, 3, 4].choose(&mut random).unwrap();
        let vms = VMS.sample(&mut random, count).copied().collect::<Vec<_>>();
        let dealt = |random: &mut StdRng| *Deed::DEALT.choose(random).unwrap();
        let deeds = vms.into_iter().map(|vm| (vm, dealt(&mut random))).collect();
        let lookers = random.random_range(0..4);
        let count = *[0, 0, 1, 1, 1, 1, 2, 2, 3].choose(&mut random).unwrap();
        let faults = (0..count).map(|_| fault(&mut random, spares_supervisor));
        let faults = faults.collect();
        Self {
            ground,
            deeds,
            lookers,
            faults,
        }
    }
}

fn fault(random: &mut StdRng, spares_supervisor: bool) -> Fault {
    let mut victim = *Victim::ALL.choose(random).unwrap();
    let mut what = Violence::Kill;
    if random.random_bool(0.3) {
        what = Violence::Freeze(Duration::from_millis(random.random_range(10..2500)));
    }
    if spares_supervisor && victim == Victim::Supervisor && what == Violence::Kill {
        victim = Victim::Cli;
    }
    // A client is gone in no time.
    let moment = if random.random_bool(0.5) { 0..20 } else { 0..200 };
    Fault {
        moment: Duration::from_millis(random.random_range(moment)),
        what,
        victim,
        vm: VMS.choose(random).unwrap(),
    }
}
