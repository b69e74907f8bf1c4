//! A world in which somebody is killed while something is under way, and what must be so afterwards.

mod harmless;
mod verdict;
mod world;

use std::time::Duration;

pub(crate) use self::harmless::{Innocents, assert_no_leaks, leftovers};
pub(crate) use self::verdict::judge;
pub(crate) use self::world::{Outcome, VM, World};

/// Median, 99 % and longest of some times.
pub(crate) fn spread(times: &[Duration]) -> [Duration; 3] {
    let mut times = times.to_vec();
    times.sort();
    let last = times.len().saturating_sub(1);
    [50, 99, 100].map(|share| times.get(last * share / 100).copied().unwrap_or_default())
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Supervisor,
    Runner,
    Qemu,
    Cli,
}

impl Victim {
    pub(crate) const ALL: [Self; 4] = [Self::Supervisor, Self::Runner, Self::Qemu, Self::Cli];

    /// Place in [`Victim::ALL`].
    pub(crate) fn place(self) -> usize {
        Self::ALL.iter().position(|victim| *victim == self).unwrap()
    }
}

/// What is under way meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `maqet start`.
    Start,
    /// Nothing; the guest runs.
    Run,
    /// `maqet stop`.
    Stop,
    /// `maqet stop --force`.
    Kill,
    /// `maqet restart`.
    Restart,
    /// `maqet rm --force`.
    Remove,
}

impl Phase {
    pub(crate) const ALL: [Self; 6] = [
        Self::Start,
        Self::Run,
        Self::Stop,
        Self::Kill,
        Self::Restart,
        Self::Remove,
    ];

    /// Place in [`Phase::ALL`].
    pub(crate) fn place(self) -> usize {
        Self::ALL.iter().position(|phase| *phase == self).unwrap()
    }

    /// It ends a VM, if only for a moment.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::Stop | Self::Kill | Self::Restart | Self::Remove)
    }

    /// The words of `maqet`; none while the guest just runs.
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Start => &["start", "web"],
            Self::Run => &[],
            Self::Stop => &["stop", "web"],
            Self::Kill => &["stop", "web", "--force"],
            Self::Restart => &["restart", "web"],
            Self::Remove => &["rm", "web", "--force", "--yes"],
        }
    }
}
