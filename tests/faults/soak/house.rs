//! Where the steps are taken: VMs, the disk under them, clients, and whoever does them violence.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use maqet_process::{ProcessHandle, Signal};
use maqet_state::store::Store;
use maqet_tests::truth::{self, Kind};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Output, Running, Sandbox};
use serde_json::Value;

use super::plan::{Deed, Fault, Ground, SELF_WILLED, Step, VMS, Violence};
use crate::play::{Innocents, Phase, Victim};
use crate::scene::{at_most, kill, process, signal, store_path};
use crate::small_disk::SmallDisk;

/// Nobody does anything to this VM.
pub(super) const STEADY: &str = "steady";

/// Room for a store, its copies and the logs of five VMs.
const MEBIBYTES: u32 = 48;

/// The house.
#[derive(Debug)]
pub(super) struct House {
    pub(super) sandbox: Sandbox,
    disk: Option<SmallDisk>,
    pub(super) steady: ProcessHandle,
    pub(super) innocents: Innocents,
}

/// A client with an order, as it ended.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) vm: &'static str,
    /// `None` if it only looked.
    pub(super) deed: Option<Deed>,
    pub(super) output: Output,
}

/// Somebody who was there when violence was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) victim: Victim,
    /// Whose: of a runner, a QEMU, or a client with an order.
    pub(super) vm: Option<&'static str>,
}

/// What came of a step before anybody looks.
#[derive(Debug, Default)]
pub(super) struct Acted {
    pub(super) called: Vec<Called>,
    pub(super) killed: Vec<Hit>,
    pub(super) frozen: Vec<Hit>,
}

/// A client under way.
struct Call {
    vm: &'static str,
    deed: Option<Deed>,
    running: Running,
}

impl House {
    /// All VMs added, the steady one running.
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(sandbox.data_dir(), MEBIBYTES);
        Guest::tiny(STEADY).options(&["ticks"]).start(&sandbox);
        for vm in VMS {
            guest(vm).add(&sandbox);
        }
        let id = sandbox.status(VMS[0])["id"].as_str().unwrap().to_owned();
        Self {
            steady: process(&sandbox.status(STEADY)["pid"]),
            innocents: Innocents::beside(&sandbox, VMS[0], &id),
            sandbox,
            disk,
        }
    }

    /// Takes a step among VMs that were `listed` before it.
    pub(super) fn act(&self, step: &Step, listed: &Value) -> Acted {
        let filler = self.undermine(step.ground, listed);
        let calls = self.call(step, listed);
        let mut acted = Acted::default();
        for fault in &step.faults {
            self.hurt(fault, listed, &calls, &mut acted);
        }
        acted.called = calls.into_iter().map(Call::ended).collect();
        if let Some(filler) = filler {
            fs::remove_file(filler).unwrap();
            self.is_writable();
        }
        acted.called.iter().for_each(|called| self.overtake(called));
        acted
    }

    /// An `add` whose client was killed may still be on its way, and no list tells. The next one of that name comes after
    /// it, or makes it come to nothing. A stop whose client was killed is carried out sooner or later, unless it is taken
    /// back.
    fn overtake(&self, called: &Called) {
        if called.output.code != 137 {
            return;
        }
        match called.deed {
            Some(Deed::Add) => {
                let file = self.sandbox.home().join(format!("{}.yaml", called.vm));
                let again = self.sandbox.maqet(&["add", &file.display().to_string()]);
                assert!([0, 5].contains(&again.code), "{again:#?}");
            }
            Some(deed) if deed.phase().is_some_and(Phase::ends) => self.take_back(called.vm),
            Some(_) | None => {}
        }
    }

    /// Has a VM that still runs run on; one that is stopped by now, or about to be, stays so.
    fn take_back(&self, vm: &str) {
        let rest = truth::settled(&self.sandbox);
        if rest.vm(vm).is_some_and(|line| line["status"] == "running") {
            let started = self.sandbox.maqet(&["start", vm]);
            assert!([0, 3, 4, 5].contains(&started.code), "{started:#?}");
        }
    }

    /// Takes away what the step shall do without; returns what fills the disk.
    fn undermine(&self, ground: Ground, listed: &Value) -> Option<PathBuf> {
        match ground {
            Ground::Solid => {}
            Ground::FullDisk => return self.disk.as_ref().map(SmallDisk::fill),
            Ground::NoControlSocket => self.without_control_socket(),
            Ground::NoRunnerSockets => self.without_runner_sockets(listed),
            Ground::NoSupervisor => self.without_supervisor(),
        }
        None
    }

    /// Whoever comes before it is there again is told that nobody can be reached, or that somebody holds the place.
    fn without_control_socket(&self) {
        let path = self.sandbox.runtime_dir().join("control.sock");
        // A supervisor that was killed left none that anybody would serve.
        drop(fs::remove_file(path));
        wait::until("the control socket is there again", PATIENCE, || {
            let output = self.sandbox.maqet(&["ls"]);
            assert!([0, 6, 75].contains(&output.code), "{output:#?}");
            if output.code == 0 { Ok(()) } else { Err(output) }
        });
    }

    fn without_runner_sockets(&self, listed: &Value) {
        let ids = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| vm["id"].as_str().unwrap());
        for id in ids {
            let directory = self.sandbox.runtime_dir().join("vms").join(id);
            // Only running ones have one.
            drop(fs::remove_file(directory.join("runner.sock")));
        }
    }

    /// Stops it in order, and verifies what it wrote.
    fn without_supervisor(&self) {
        let present = truth::processes(&self.sandbox, Kind::Supervisor, None);
        self.sandbox.maqet(&["supervisor", "stop"]).expect(0);
        for supervisor in present {
            assert!(wait::exited(&supervisor, PATIENCE), "the supervisor does not end");
        }
        self.verify_journal();
    }

    /// The chain of the journal is whole. No supervisor may run.
    pub(super) fn verify_journal(&self) {
        let store = Store::open(&store_path(&self.sandbox)).unwrap().store;
        store.verify_journal().unwrap();
    }

    /// Room again: the store takes changes before the next step.
    fn is_writable(&self) {
        wait::until("the store takes changes", PATIENCE, || {
            // Starts one, if there is none.
            self.sandbox.maqet(&["ls"]).expect(0);
            let status = self.sandbox.json(&["supervisor", "status"]);
            let trouble = &status["store"]["read_only"];
            if trouble.is_null() {
                Ok(())
            } else {
                Err(trouble.clone())
            }
        });
    }

    /// Starts all clients of a step.
    fn call(&self, step: &Step, listed: &Value) -> Vec<Call> {
        let orders = step.deeds.iter().map(|(vm, deed)| {
            let deed = deed.fitting(vm, line(listed, vm).is_some());
            let file = self.sandbox.home().join(format!("{vm}.yaml"));
            let file = file.display().to_string();
            let words = if deed == Deed::Add {
                vec!["add", &file]
            } else {
                deed.words(vm)
            };
            Call {
                vm,
                deed: Some(deed),
                running: self.sandbox.spawn(&words),
            }
        });
        let looks: [&[&str]; 3] = [&["ls"], &["status", STEADY], &["events", "--since", "0"]];
        let lookers = looks.iter().cycle().take(step.lookers).map(|words| Call {
            vm: STEADY,
            deed: None,
            running: self.sandbox.spawn(words),
        });
        orders.chain(lookers).collect()
    }

    /// Does violence to whoever is there of those that are meant.
    fn hurt(&self, fault: &Fault, listed: &Value, calls: &[Call], acted: &mut Acted) {
        at_most(&self.steady, fault.moment);
        let (found, vm) = self.find(fault, listed, calls);
        let living: Vec<ProcessHandle> = found.into_iter().filter(|found| !found.has_exited()).collect();
        if living.is_empty() {
            return;
        }
        let victim = fault.victim;
        let hit = Hit { victim, vm };
        match fault.what {
            Violence::Kill => {
                kill(&living.iter().collect::<Vec<_>>());
                acted.killed.push(hit);
            }
            Violence::Freeze(stretch) => {
                send(&living, Signal::Stop);
                at_most(&self.steady, stretch);
                send(&living, Signal::Cont);
                acted.frozen.push(hit);
            }
        }
    }

    fn find(
        &self,
        fault: &Fault,
        listed: &Value,
        calls: &[Call],
    ) -> (Vec<ProcessHandle>, Option<&'static str>) {
        let kind = match fault.victim {
            Victim::Supervisor => return (truth::processes(&self.sandbox, Kind::Supervisor, None), None),
            Victim::Cli => {
                let call = calls.iter().find(|call| !call.running.handle().has_exited());
                let client = call.map(|call| call.running.handle().try_clone().unwrap());
                return (client.into_iter().collect(), call.map(|call| call.vm));
            }
            Victim::Runner => Kind::Runner,
            Victim::Qemu => Kind::Qemu,
        };
        // Where the one that is meant has none, the next one has to do.
        let meant = VMS
            .iter()
            .cycle()
            .skip_while(|vm| **vm != fault.vm)
            .take(VMS.len());
        let of = |vm: &'static str| {
            let id = line(listed, vm)?["id"].as_str()?;
            let found = truth::processes(&self.sandbox, kind, Some(id));
            (!found.is_empty()).then_some((found, Some(vm)))
        };
        meant.copied().find_map(of).unwrap_or_default()
    }

    /// Ends everything as a person would, and looks at the journal once more.
    pub(super) fn close(self) {
        let Self { sandbox, disk, .. } = self;
        sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
        sandbox.maqet(&["supervisor", "stop"]).expect(0);
        let store = store_path(&sandbox);
        wait::until("the store is let go of", PATIENCE, || {
            let opened = Store::open(&store);
            opened.map(|opened| opened.store.verify_journal().unwrap())
        });
        drop(disk);
        fs::remove_dir(sandbox.data_dir()).unwrap();
    }

    /// Keeps what there is for a look, and ends everything by force. Returns where it is.
    pub(super) fn keep(self) -> PathBuf {
        let kept = tempfile::Builder::new()
            .prefix("maqet-soak-")
            .disable_cleanup(true)
            .tempdir()
            .unwrap();
        let kept = kept.path().to_path_buf();
        let Self { sandbox, disk, .. } = self;
        copy(&sandbox.data_dir(), &kept.join("data"));
        copy(&sandbox.runtime_dir(), &kept.join("run"));
        let left = maqet_tests::leftovers::find(sandbox.path());
        maqet_tests::leftovers::end(sandbox.path(), left);
        sandbox.leaves_processes();
        drop(disk);
        kept
    }
}

fn send(processes: &[ProcessHandle], what: Signal) {
    for process in processes {
        signal(process, what);
    }
}

/// Whatever is a file; the rest is sockets.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if path.is_file() {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// What each VM is.
fn guest(vm: &str) -> Guest {
    let guest = Guest::tiny(vm).options(&["ticks"]);
    if vm == SELF_WILLED {
        guest.line("restart: {policy: on-failure, backoff: 100ms, backoff_max: 1s}")
    } else {
        guest
    }
}

/// A VM's line of the list.
pub(super) fn line<'l>(listed: &'l Value, vm: &str) -> Option<&'l Value> {
    listed.as_array().unwrap().iter().find(|line| line["name"] == vm)
}

impl Call {
    fn ended(self) -> Called {
        Called {
            vm: self.vm,
            deed: self.deed,
            output: self.running.output(),
        }
    }
}

/// How long the clients took that were not held up.
pub(super) fn longest(called: &[Called]) -> Duration {
    let looks = called.iter().filter(|called| called.deed.is_none());
    looks.map(|called| called.output.took).max().unwrap_or_default()
}
