//! Where rounds are played: one sandbox with a VM that is hit, one that must not notice, and innocents beside them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use maqet_process::ProcessHandle;
use maqet_tests::truth::{self, Kind, Rest};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Output, Running, Sandbox};
use serde_json::Value;

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
    innocents: Vec<Running>,
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
    /// How the client ended; `None` without one.
    pub(crate) code: Option<i32>,
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
        let mut world = Self {
            sandbox,
            id,
            neighbour,
            innocents: Vec::new(),
            present: Vec::new(),
            usually: BTreeMap::new(),
        };
        world.innocents = world.innocents();
        world
    }

    /// Processes with the command lines of a runner and a QEMU of this very VM, which are neither.
    fn innocents(&self) -> Vec<Running> {
        self.sandbox.maqet(&["start", VM]).expect(0);
        let found = self.sandbox.processes();
        let lines = found.iter().filter(|process| process.line.contains(&self.id));
        let hidden = self.sandbox.path().display().to_string();
        let innocents = lines.map(|process| {
            let mut command = Command::new("sh");
            command.args(["-c", "read word"]);
            // Those with the sandbox's directory on their command line would count as its own.
            command.args(process.line.split(' ').filter(|word| !word.contains(&hidden)));
            Running::start(command)
        });
        let innocents = innocents.collect();
        // They carry the id of a launch that is over; with that of a present one `doctor --leaks` would tell of them.
        self.sandbox.maqet(&["stop", VM]).expect(0);
        innocents
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
            before: before.map(|qemu| qemu.pid().into()),
            code: output.map(|output| output.code),
            crashed: rest.vm(VM).is_some_and(crashed),
            settled: rest.took,
        };
        if let Err(why) = judge(phase, &outcome, rest.vm(VM)) {
            panic!("{why}\n{outcome:?}\n{output:#?}\n{}", rest.listed);
        }
        self.assert_harmless(&rest);
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
        for innocent in &self.innocents {
            assert!(
                !innocent.handle().has_exited(),
                "an innocent was hit: {innocent:?}"
            );
        }
        let neighbour = rest.vm(NEIGHBOUR).unwrap();
        assert_eq!(
            neighbour["pid"].as_i64(),
            Some(self.neighbour.pid().into()),
            "the neighbour was hit: {neighbour}"
        );
        wait::until("nothing is left behind", PATIENCE, || {
            let left = self.leftovers(rest.vm(VM));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        // Whoever is killed while the list is right already may still be on its way out.
        wait::until("`doctor --leaks` finds nothing", PATIENCE, || {
            let looked = self.sandbox.maqet(&["doctor", "--leaks", "-o", "json"]);
            if looked.code == 0 { Ok(()) } else { Err(looked) }
        });
    }

    /// Files that should have gone with the launch, or with the VM.
    fn leftovers(&self, vm: Option<&Value>) -> Vec<PathBuf> {
        let below = |place: PathBuf| place.join("vms").join(&self.id);
        let (data, runtime) = (below(self.sandbox.data_dir()), below(self.sandbox.runtime_dir()));
        match vm {
            None => [data, runtime]
                .into_iter()
                .filter(|place| place.exists())
                .collect(),
            Some(vm) if vm["status"] == "running" => Vec::new(),
            Some(_) => sockets(&runtime),
        }
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

fn sockets(directory: &std::path::Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;

    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).collect()
}
