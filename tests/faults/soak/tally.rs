//! How it goes: what was done, what came of it, and how the supervisor ages.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use super::check::deeds;
use super::house::Acted;
use super::plan::{Deed, Ground, Step};
use crate::play::{Victim, spread};

/// Descriptors a supervisor may have more than in its first step: connections come and go.
const FDS_MORE_MAX: usize = 16;

/// Descriptors for each VM that runs: its processes' handles, the connections to its runner.
const FDS_PER_VM: usize = 8;

/// Memory a supervisor may have more than after its first step, KiB.
const MEMORY_MORE_MAX: u64 = 24 << 10;

/// What a supervisor holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holds {
    /// Resident, KiB.
    memory: u64,
    fds: usize,
    running: usize,
}

impl Holds {
    /// What this process holds, beside so many VMs that run; `None` when it has gone.
    pub(super) fn of(pid: i32, running: usize) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = memory.split_ascii_whitespace().next()?.parse().ok()?;
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        Some(Self { memory, fds, running })
    }
}

/// One supervisor, from its first step to its last.
#[derive(Clone, Copy, Debug)]
struct Life {
    pid: i32,
    steps: u32,
    first: Holds,
    last: Holds,
}

impl Life {
    /// It does not grow.
    fn assert_bounded(&self) {
        let more = self.last.running.saturating_sub(self.first.running);
        let fds = self.first.fds + FDS_PER_VM * more + FDS_MORE_MAX;
        let memory = self.first.memory + MEMORY_MORE_MAX;
        assert!(
            self.last.fds <= fds && self.last.memory <= memory,
            "the supervisor grows: {self:?}"
        );
    }
}

/// Counts over all steps so far.
#[derive(Debug)]
pub(super) struct Tally {
    seed: u64,
    begun: Instant,
    pub(super) steps: u32,
    grounds: BTreeMap<Ground, u32>,
    /// By deed: clients that got what they wanted, those that were refused, those that were killed.
    deeds: BTreeMap<Deed, [u32; 3]>,
    killed: [u32; Victim::ALL.len()],
    frozen: [u32; Victim::ALL.len()],
    missed: u32,
    settled: Vec<Duration>,
    lives: Vec<Life>,
}

impl Tally {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            begun: Instant::now(),
            steps: 0,
            grounds: BTreeMap::new(),
            deeds: BTreeMap::new(),
            killed: Default::default(),
            frozen: Default::default(),
            missed: 0,
            settled: Vec::new(),
            lives: Vec::new(),
        }
    }

    /// How long it goes.
    pub(super) fn lasts(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A step after which all was as it should be.
    pub(super) fn taken(&mut self, step: &Step, acted: &Acted, settled: Duration) {
        self.steps += 1;
        *self.grounds.entry(step.ground).or_default() += 1;
        for (deed, code) in deeds(acted) {
            let place = match code {
                0 => 0,
                137 => 2,
                _ => 1,
            };
            self.deeds.entry(deed).or_default()[place] += 1;
        }
        acted
            .killed
            .iter()
            .for_each(|hit| self.killed[hit.victim.place()] += 1);
        acted
            .frozen
            .iter()
            .for_each(|hit| self.frozen[hit.victim.place()] += 1);
        let hit = acted.killed.len() + acted.frozen.len();
        self.missed += u32::try_from(step.faults.len() - hit).unwrap();
        self.settled.push(settled);
    }

    /// The supervisor as it is after this step.
    pub(super) fn ages(&mut self, pid: i32, now: Holds) {
        match self.lives.last_mut() {
            Some(life) if life.pid == pid => {
                life.steps += 1;
                life.last = now;
                life.assert_bounded();
            }
            Some(_) | None => self.lives.push(Life {
                pid,
                steps: 1,
                first: now,
                last: now,
            }),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, most, longest] = spread(&self.settled);
        writeln!(
            formatter,
            "{} steps in {} s, seed {}; at rest after {median:?} (median), {most:?} (99 %), {longest:?} (longest)",
            self.steps,
            self.lasts().as_secs(),
            self.seed
        )?;
        writeln!(formatter, "ground      {}", listed(&self.grounds))?;
        for (deed, [done, refused, killed]) in &self.deeds {
            let deed = format!("{deed:?}");
            writeln!(
                formatter,
                "{deed:<10} {done:>5} done {refused:>5} refused {killed:>5} clients killed"
            )?;
        }
        for victim in Victim::ALL {
            let (killed, frozen) = (self.killed[victim.place()], self.frozen[victim.place()]);
            let victim = format!("{victim:?}");
            writeln!(formatter, "{victim:<10} {killed:>5} killed {frozen:>5} frozen")?;
        }
        write!(
            formatter,
            "{} acts of violence met nobody; {} supervisors",
            self.missed,
            self.lives.len()
        )?;
        if let Some(life) = self.lives.iter().max_by_key(|life| life.steps) {
            write!(
                formatter,
                ", the oldest {} steps: {} KiB and {} descriptors with {} VMs first, {} KiB and {} with {} last",
                life.steps,
                life.first.memory,
                life.first.fds,
                life.first.running,
                life.last.memory,
                life.last.fds,
                life.last.running
            )?;
        }
        Ok(())
    }
}

fn listed(counts: &BTreeMap<Ground, u32>) -> String {
    let counts = counts.iter().map(|(ground, count)| format!("{ground:?} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}
