//! How it goes: hits by victim and phase, and what was found.

use std::fmt;
use std::time::{Duration, Instant};

use super::plan::Plan;
use crate::play::{Outcome, Phase, Victim, spread};

/// Counts over all rounds so far.
#[derive(Debug)]
pub(super) struct Tally {
    seed: u64,
    wanted: u32,
    next: u64,
    begun: Instant,
    rounds: u32,
    missed: u32,
    acknowledged: u32,
    /// QEMU took itself down, and was told so.
    crashed: u32,
    /// By victim, then phase.
    hits: [[u32; Phase::ALL.len()]; Victim::ALL.len()],
    /// Times from the kill to a list that is right and at rest.
    settled: Vec<Duration>,
    failed: Vec<u64>,
}

impl Tally {
    /// Nothing so far; `wanted` hits of each of supervisor, runner and QEMU make it complete.
    pub(super) fn new(seed: u64, wanted: u32) -> Self {
        Self {
            seed,
            wanted,
            next: 0,
            begun: Instant::now(),
            rounds: 0,
            missed: 0,
            acknowledged: 0,
            crashed: 0,
            hits: [[0; Phase::ALL.len()]; Victim::ALL.len()],
            settled: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The next round to play; `None` when there were enough. Rounds whose first victim was hit often enough are left
    /// out.
    pub(super) fn next(&mut self) -> Option<Plan> {
        let wanted = Victim::ALL
            .into_iter()
            .filter(|victim| self.hit(*victim) < self.wanted);
        let wanted: Vec<Victim> = wanted.collect();
        if wanted.iter().all(|victim| *victim == Victim::Cli) {
            return None;
        }
        loop {
            let plan = Plan::new(self.seed, self.next);
            self.next += 1;
            if plan.victims.iter().any(|victim| wanted.contains(victim)) {
                return Some(plan);
            }
        }
    }

    fn hit(&self, victim: Victim) -> u32 {
        self.hits[victim.place()].iter().sum()
    }

    /// A round after which all was as it should be.
    pub(super) fn played(&mut self, plan: &Plan, outcome: &Outcome) {
        self.rounds += 1;
        for victim in &outcome.hit {
            self.hits[victim.place()][plan.phase.place()] += 1;
        }
        self.missed += u32::from(outcome.hit.is_empty());
        self.acknowledged += u32::from(outcome.code == Some(0));
        self.crashed += u32::from(outcome.crashed);
        self.settled.push(outcome.settled);
    }

    /// A round after which something was not.
    pub(super) fn failed(&mut self, plan: &Plan) {
        self.rounds += 1;
        self.failed.push(plan.number);
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Rounds in which something was found.
    pub(super) fn found(&self) -> usize {
        self.failed.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} rounds in {} s, seed {}: {} calls acknowledged, {} kills came too late, {} times QEMU aborted by itself",
            self.rounds,
            self.begun.elapsed().as_secs(),
            self.seed,
            self.acknowledged,
            self.missed,
            self.crashed
        )?;
        let phases: Vec<String> = Phase::ALL.iter().map(|phase| format!("{phase:>8?}")).collect();
        writeln!(formatter, "killed     {}    total", phases.join(" "))?;
        for victim in Victim::ALL {
            let counts = self.hits[victim.place()].iter();
            let counts: Vec<String> = counts.map(|count| format!("{count:>8}")).collect();
            writeln!(
                formatter,
                "{:<10} {} {:>8}",
                format!("{victim:?}"),
                counts.join(" "),
                self.hit(victim)
            )?;
        }
        let [median, most, longest] = spread(&self.settled);
        writeln!(
            formatter,
            "until the list was right and nothing under way: median {median:?}, 99 % {most:?}, longest {longest:?}"
        )?;
        write!(
            formatter,
            "unknown processes, wrong statuses, lost acknowledged operations, innocents hit, leftovers: {} rounds {:?}",
            self.failed.len(),
            self.failed
        )
    }
}
