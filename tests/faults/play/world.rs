//! Where rounds are played: one sandbox with a VM that is hit, one that must not notice, and innocents beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use maqet_process::ProcessHandle;
use maqet_tests::truth::{self, Kind, Rest};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Output, Running, Sandbox};
use serde_json::Value;

use super::harmless::{Innocents, assert_no_leaks, leftovers};
use super::verdict::{crashed, judge};
use super::{Phase, Victim};
use crate::scene::{kill, process, say};

/// The VM that is hit.
pub(crate) const VM: &str = "web";

/// The VM that must not notice.
const NEIGHBOUR: &str = "steady";

/// How long a phase takes before any was measured.
const USUALLY: Duration = Duration::from_millis(150);

/// A round that takes longer to come to rest is worth a look.
const SLOW: Duration = Duration::from_secs(3);

/// A world.
#[derive(Debug)]
pub(crate) struct World {
    sandbox: Sandbox,
    id: String,
    /// QEMU of the neighbour, from its first start to the end.
    neighbour: ProcessHandle,
    innocents: Innocents,
    /// Who was there when the present phase began.
    present: Vec<(Victim, ProcessHandle)>,
    /// How long each phase takes when nobody is killed too early to tell.
    usually: BTreeMap<usize, Duration>,
}

/// What a round came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Who was there to be killed.
    pub(crate) hit: Vec<Victim>,
    /// QEMU before the round.
    pub(crate) before: Option<i64>,
    /// How it had ended before, where that is still told of it.
    pub(crate) last_exit: Option<Value>,
    /// How the client ended; `None` without one.
    pub(crate) code: Option<i32>,
    /// Other ways for it to end that the circumstances excuse.
    pub(crate) excused: &'static [i32],
    /// QEMU took itself down.
    pub(crate) crashed: bool,
    /// Time until the list was right.
    pub(crate) settled: Duration,
}

impl World {
    /// A supervisor, a VM at rest, a neighbour that runs, and innocents that look like them.
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox::new();
        Guest::tiny(NEIGHBOUR).options(&["ticks"]).start(&sandbox);
        let neighbour = process(&sandbox.status(NEIGHBOUR)["pid"]);
        let id = Guest::tiny(VM).add(&sandbox);
        Self {
            innocents: Innocents::beside(&sandbox, VM, &id),
            sandbox,
            id,
            neighbour,
            present: Vec::new(),
            usually: BTreeMap::new(),
        }
    }

    /// The sandbox.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// How long a phase takes when nobody is hit.
    pub(crate) fn usually(&self, phase: Phase) -> Duration {
        *self.usually.get(&phase.place()).unwrap_or(&USUALLY)
    }

    /// Waits until all has come to rest, and judges it.
    #[track_caller]
    pub(crate) fn judge(
        &mut self,
        phase: Phase,
        before: Option<&ProcessHandle>,
        hit: Vec<Victim>,
        output: Option<&Output>,
    ) -> Outcome {
        if let Some(output) = output.filter(|output| hit.is_empty() && output.code == 0) {
            self.usually.insert(phase.place(), output.took);
        }
        let rest = truth::settled(&self.sandbox);
        let outcome = Outcome {
            hit,
            excused: &[],
            last_exit: None,
            before: before.map(|qemu| qemu.pid().into()),
            code: output.map(|output| output.code),
            crashed: rest.vm(VM).is_some_and(crashed),
            settled: rest.took,
        };
        if let Err(why) = judge(phase, &outcome, rest.vm(VM)) {
            panic!("{why}\n{outcome:?}\n{output:#?}\n{}", rest.listed);
        }
        self.assert_harmless(&rest);
        if outcome.code != Some(0) && phase.ends() {
            // A stop whose client is gone is carried out sooner or later, unless it is taken back; the next round begins now.
            self.sandbox.maqet(&["start", VM]);
        }
        if rest.took > SLOW {
            say(&format!("slow: {outcome:?}"));
            self.tell();
        }
        outcome
    }

    /// Brings the VM to where the phase begins, which shows that it can be started after whatever came before. Returns
    /// its QEMU.
    pub(crate) fn prepare(&mut self, phase: Phase) -> Option<ProcessHandle> {
        if truth::settled(&self.sandbox).vm(VM).is_none() {
            self.id = Guest::tiny(VM).add(&self.sandbox);
        }
        let started = self.sandbox.maqet(&["start", VM]).expect(0);
        self.usually.entry(Phase::Start.place()).or_insert(started.took);
        if phase == Phase::Start {
            let stopped = self.sandbox.maqet(&["stop", VM]).expect(0);
            self.usually.entry(Phase::Stop.place()).or_insert(stopped.took);
        }
        let all = [Victim::Supervisor, Victim::Runner, Victim::Qemu];
        let present = all.map(|victim| (victim, self.find(victim, None)));
        let present = present
            .into_iter()
            .flat_map(|(victim, found)| found.into_iter().map(move |found| (victim, found)));
        self.present = present.collect();
        self.still_there(Victim::Qemu).pop()
    }

    /// Lets time pass, less if the client ends first.
    pub(crate) fn pass(&self, call: Option<&Running>, moment: Duration) {
        wait::exited(call.map_or(&self.neighbour, Running::handle), moment);
    }

    /// Kills one victim, if it is there or comes before the client has its answer.
    pub(crate) fn hit(&self, victim: Victim, call: Option<&Running>, pause: Duration) -> bool {
        let mut found = self.still_there(victim);
        if found.is_empty() {
            found = self.find(victim, call);
        }
        if let (true, Some(call)) = (found.is_empty(), call) {
            found = wait::until("the victim, or the client's end", PATIENCE, || {
                let found = self.find(victim, Some(call));
                let wait_on = found.is_empty() && !call.handle().has_exited();
                (!wait_on).then_some(found).ok_or(())
            });
            self.pass(Some(call), pause);
        }
        found.retain(|process| !process.has_exited());
        kill(&found.iter().collect::<Vec<_>>());
        !found.is_empty()
    }

    /// Looking for a process takes longer than some phases; those from before are at hand.
    fn still_there(&self, victim: Victim) -> Vec<ProcessHandle> {
        let wanted = self
            .present
            .iter()
            .filter(|(present, process)| *present == victim && !process.has_exited());
        wanted.map(|(_, process)| process.try_clone().unwrap()).collect()
    }

    pub(crate) fn find(&self, victim: Victim, call: Option<&Running>) -> Vec<ProcessHandle> {
        let kind = match victim {
            Victim::Supervisor => return truth::processes(&self.sandbox, Kind::Supervisor, None),
            Victim::Runner => Kind::Runner,
            Victim::Qemu => Kind::Qemu,
            Victim::Cli => {
                let client = call.map(|call| call.handle().try_clone().unwrap());
                return client.into_iter().collect();
            }
        };
        truth::processes(&self.sandbox, kind, Some(&self.id))
    }

    /// Nobody else was hit, and nothing lies about.
    #[track_caller]
    fn assert_harmless(&self, rest: &Rest) {
        self.innocents.assert_alive();
        let neighbour = rest.vm(NEIGHBOUR).unwrap();
        assert_eq!(
            neighbour["pid"].as_i64(),
            Some(self.neighbour.pid().into()),
            "the neighbour was hit: {neighbour}"
        );
        wait::until("nothing is left behind", PATIENCE, || {
            let left = leftovers(&self.sandbox, &self.id, rest.vm(VM));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        assert_no_leaks(&self.sandbox);
    }

    /// Says what happened last.
    fn tell(&self) {
        say(&self.sandbox.maqet(&["why", VM]).stdout);
    }

    /// Says all there is to say of a round that went wrong, and ends the world.
    pub(crate) fn diagnose(self, title: &str, why: &str) {
        say(&format!("=== {title} went wrong: {why}"));
        for process in self.sandbox.processes() {
            say(&format!("there is {process}"));
        }
        self.tell();
        say(&self.sandbox.maqet(&["events", "--since", "0", "--vm", VM]).stdout);
        say(&self.sandbox.logs());
        self.sandbox.leaves_processes();
    }
}
