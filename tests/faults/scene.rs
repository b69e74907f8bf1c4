//! One VM whose guest counts ticks, and the three processes behind it.

use std::any::Any;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use maqet_process::{ProcessHandle, Signal};
use maqet_state::change::Change;
use maqet_state::mirror::Mirror;
use maqet_state::record::{Launch, VmRecord, VmState};
use maqet_state::store::Store;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

/// Name of the VM.
pub(crate) const VM: &str = "web";

/// Ticks that must come before a guest counts as going on.
const MORE_TICKS: usize = 5;

/// A sandbox with one running VM.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) id: String,
}

impl Scene {
    /// A running VM that ticks, under an autostarted supervisor.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// The same with more words for the guest.
    pub(crate) fn with(options: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let id = Guest::tiny(VM)
            .options(&["ticks"])
            .options(options)
            .start(&sandbox);
        Self { sandbox, id }
    }

    /// A running VM like this one, which is named [`VM`].
    pub(crate) fn of(guest: &Guest) -> Self {
        let sandbox = Sandbox::new();
        let id = guest.start(&sandbox);
        Self { sandbox, id }
    }

    pub(crate) fn status(&self) -> Value {
        self.sandbox.status(VM)
    }

    /// The supervisor.
    pub(crate) fn supervisor(&self) -> ProcessHandle {
        let output = self.sandbox.json(&["supervisor", "status", "--no-autostart"]);
        process(&output["pid"])
    }

    /// The VM's runner and its QEMU.
    pub(crate) fn processes(&self) -> (ProcessHandle, ProcessHandle) {
        let status = self.status();
        (process(&status["runner_pid"]), process(&status["pid"]))
    }

    /// All ticks the guest has told so far; they are counted without a gap.
    pub(crate) fn ticks(&self) -> usize {
        let log = self
            .sandbox
            .data_dir()
            .join("vms")
            .join(&self.id)
            .join("serial.log");
        let text = fs::read_to_string(log).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _rest)| whole);
        let ticks: Vec<usize> = whole
            .lines()
            .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok())
            .collect();
        let gap = ticks.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(gap, None, "the guest lost ticks");
        ticks.last().copied().unwrap_or_default()
    }

    /// The guest goes on counting.
    #[track_caller]
    pub(crate) fn assert_ticking(&self) {
        let before = self.ticks();
        wait::until("more ticks", PATIENCE, || {
            let now = self.ticks();
            if now >= before + MORE_TICKS {
                Ok(())
            } else {
                Err(now)
            }
        });
    }

    /// Waits until a runner serves the VM that is not this one; returns it.
    #[track_caller]
    pub(crate) fn adopted_after(&self, lost: &ProcessHandle) -> ProcessHandle {
        wait::until("a new runner serves the VM", PATIENCE, || {
            let status = self.status();
            let another = status["runner_pid"].as_i64() != Some(lost.pid().into());
            if another && status["silent_since"].is_null() {
                Ok(process(&status["runner_pid"]))
            } else {
                Err(status)
            }
        })
    }

    /// The guest goes on under another runner than this one.
    #[track_caller]
    pub(crate) fn assert_taken_over(&self, runner: &ProcessHandle, qemu: &ProcessHandle) {
        self.adopted_after(runner);
        assert!(wait::exited(runner, PATIENCE), "two runners");
        let (_, present) = self.processes();
        assert_eq!(present.pid(), qemu.pid());
        self.assert_ticking();
        self.assert_answering();
    }

    /// QEMU can be talked to.
    #[track_caller]
    pub(crate) fn assert_answering(&self) {
        let status = self.sandbox.json(&["qmp", "run", VM, "query-status"]);
        assert_eq!(status["status"], "running", "{status}");
    }

    /// A plain stop works and has the right reason.
    #[track_caller]
    pub(crate) fn assert_stops(&self) {
        self.assert_stops_beside(0);
    }

    /// The same beside so many processes of other VMs.
    #[track_caller]
    pub(crate) fn assert_stops_beside(&self, others: usize) {
        let stopped = self.sandbox.json(&["stop", VM]);
        assert_eq!(stopped[0]["how"], "guest", "{stopped}");
        let status = self.status();
        assert_eq!(status["status"], "stopped", "{status}");
        assert_eq!(status["last_exit"]["cause"], "stop", "{status}");
        self.assert_processes(1 + others);
    }

    /// Waits until the VM has this status; returns how it ended last.
    #[track_caller]
    pub(crate) fn ended(&self, status: &str) -> Value {
        wait::until(status, PATIENCE, || {
            let seen = self.status();
            if seen["status"] == status {
                Ok(seen["last_exit"].clone())
            } else {
                Err(seen)
            }
        })
    }

    /// So many processes are left of this sandbox, once those that are ending have ended.
    #[track_caller]
    pub(crate) fn assert_processes(&self, count: usize) {
        assert_processes(&self.sandbox, count);
    }

    /// Changes what the store has of the VM's launch while no supervisor runs.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut Launch)) {
        edit(&self.sandbox, |record| match &mut record.state {
            VmState::Running(launch) => change(launch),
            state @ (VmState::Created | VmState::Stopped | VmState::Failed) => panic!("{state:?}"),
        });
    }
}

/// As [`Scene::assert_processes`].
#[track_caller]
pub(crate) fn assert_processes(sandbox: &Sandbox, count: usize) {
    wait::until("as many processes as there should be", PATIENCE, || {
        let found = sandbox.processes();
        if found.len() == count { Ok(()) } else { Err(found) }
    });
}

/// Changes the only record of the store while no supervisor runs.
pub(crate) fn edit(sandbox: &Sandbox, change: impl FnOnce(&mut VmRecord)) {
    let store = Store::open(&store_path(sandbox)).unwrap().store;
    let mut record = store.vms().unwrap().remove(0);
    change(&mut record);
    // In the VM's own directory, too, which otherwise knows better.
    let mirrored = Mirror::beside(&store).commit(&store, vec![Change::update(record)]);
    let committed = mirrored.result.unwrap();
    assert!(committed.iter().all(Result::is_ok), "{committed:?}");
}

/// The store's file.
pub(crate) fn store_path(sandbox: &Sandbox) -> PathBuf {
    sandbox.data_dir().join("state.redb")
}

/// What a store looks like of which everything behind the first page was overwritten.
pub(crate) fn damaged(mut bytes: Vec<u8>) -> Vec<u8> {
    for byte in bytes.iter_mut().skip(4096) {
        *byte ^= 0x5a;
    }
    bytes
}

/// The living process of this number.
#[track_caller]
pub(crate) fn process(pid: &Value) -> ProcessHandle {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    ProcessHandle::open(pid).unwrap().unwrap()
}

/// Sends a signal.
pub(crate) fn signal(process: &ProcessHandle, signal: Signal) {
    process.signal(signal).map(|_sent| ()).unwrap();
}

/// SIGKILL to all of them, then waits until they are gone.
#[track_caller]
pub(crate) fn kill(processes: &[&ProcessHandle]) {
    for process in processes {
        signal(process, Signal::Kill);
    }
    for process in processes {
        assert!(wait::exited(process, PATIENCE), "pid {} survives", process.pid());
    }
}

/// A number from the environment, if it is there.
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// Random numbers from a seed that is shown.
pub(crate) fn random() -> StdRng {
    let seed =
        std::env::var("MAQET_TEST_SEED").map_or_else(|_unset| rand::random(), |seed| seed.parse().unwrap());
    say(&format!("MAQET_TEST_SEED={seed}"));
    StdRng::seed_from_u64(seed)
}

/// Said where it is seen even when the test passes.
pub(crate) fn say(words: &str) {
    std::io::stderr()
        .write_all(format!("{words}\n").as_bytes())
        .unwrap();
}

/// All events so far, oldest first.
pub(crate) fn events(sandbox: &Sandbox) -> Vec<Value> {
    let output = sandbox.maqet(&["events", "--since", "0", "-o", "json"]).expect(0);
    let lines = output.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Their kinds.
pub(crate) fn kinds(sandbox: &Sandbox) -> Vec<String> {
    let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
    events(sandbox).iter().map(kind).collect()
}

/// How many events of this kind there are.
pub(crate) fn count(sandbox: &Sandbox, kind: &str) -> usize {
    kinds(sandbox).iter().filter(|seen| *seen == kind).count()
}

/// Waits until `status` of a VM satisfies `is`.
#[track_caller]
pub(crate) fn wait_status(sandbox: &Sandbox, vm: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, PATIENCE, || {
        let status = sandbox.status(vm);
        if is(&status) { Ok(status) } else { Err(status) }
    })
}

/// Waits until an event of this kind is on record.
#[track_caller]
pub(crate) fn wait_for(sandbox: &Sandbox, kind: &str) {
    wait::until(kind, PATIENCE, || {
        let seen = kinds(sandbox);
        if seen.iter().any(|seen| seen == kind) {
            Ok(())
        } else {
            Err(seen)
        }
    });
}

/// Lets up to this much time pass, or less if the process ends first.
pub(crate) fn at_most(process: &ProcessHandle, moment: Duration) {
    wait::exited(process, moment);
}
