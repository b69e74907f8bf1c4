//! What must be so after every step.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use maqet_tests::truth::{self, Kind, Rest};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Sandbox, leftovers::Leftover};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde_json::{Value, json};

use super::house::{Acted, Called, House, STEADY, line, longest};
use super::judge::Fate;
use super::plan::{Deed, Ground, SELF_WILLED, Step, VMS};
use crate::play::{Victim, assert_no_leaks, leftovers};

/// A look is answered from memory; so much is allowed on a crowded host when the supervisor was left alone.
const PROMPT: Duration = Duration::from_secs(5);

/// How long QEMU may take to answer a question.
const QMP_DEADLINE: Duration = Duration::from_secs(20);

/// What the guest says first.
const READY: &str = "maqet tiny guest ready";

/// Bytes of each serial log before which ticks may be missing: the log was on a full disk.
pub(super) type Forgiven = BTreeMap<String, usize>;

impl House {
    /// Waits for rest, then holds everything to what was done. Returns the list.
    pub(super) fn check(&self, step: &Step, acted: &Acted, before: &Value, forgiven: &mut Forgiven) -> Rest {
        looks_were_answered(acted);
        let rest = truth::settled(&self.sandbox);
        for vm in VMS {
            let fate = fate(vm, step, acted, line(before, vm));
            if let Err(why) = fate.judge(rest.vm(vm)) {
                panic!("{vm}: {why}\n{fate:?}\n{acted:#?}\n{}", rest.listed);
            }
        }
        let steady = rest.vm(STEADY).unwrap();
        assert_eq!(steady["pid"].as_i64(), Some(self.steady.pid().into()), "{steady}");
        self.innocents.assert_alive();
        self.nothing_is_left(before);
        if step.ground == Ground::FullDisk {
            self.forgive(&rest.listed, forgiven);
        }
        self.guests_go_on(&rest.listed, forgiven);
        rest
    }

    /// No file of a launch that is over or a VM that is gone, whatever the one that wills itself does meanwhile.
    fn nothing_is_left(&self, before: &Value) {
        wait::until("nothing is left behind", PATIENCE, || {
            let listed = self.sandbox.json(&["ls"]);
            let vms = before
                .as_array()
                .unwrap()
                .iter()
                .chain(listed.as_array().unwrap());
            let left = vms.flat_map(|vm| {
                let id = vm["id"].as_str().unwrap();
                let now = listed.as_array().unwrap().iter().find(|now| now["id"] == id);
                leftovers(&self.sandbox, id, now)
            });
            let left: Vec<_> = left.collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        assert_no_leaks(&self.sandbox);
    }

    /// Every guest that should run counts on without a gap, and its QEMU says of itself what the list says.
    fn guests_go_on(&self, listed: &Value, forgiven: &Forgiven) {
        let running = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|vm| vm["status"] == "running");
        let running: Vec<&Value> = running.collect();
        let before: Vec<u64> = running
            .iter()
            .map(|vm| ticks(&self.sandbox, vm, forgiven))
            .collect();
        for (vm, before) in running.into_iter().zip(before) {
            let run_state = asked(&self.sandbox, vm);
            assert_eq!(vm["run_state"], run_state, "QEMU knows better: {vm}");
            if run_state == "running" {
                self.goes_on(vm, before, forgiven);
            }
        }
    }

    fn goes_on(&self, vm: &Value, before: u64, forgiven: &Forgiven) {
        wait::until("more ticks", PATIENCE, || {
            let now = ticks(&self.sandbox, vm, forgiven);
            if now > before {
                Ok(())
            } else {
                Err((now, vm.clone()))
            }
        });
    }

    fn forgive(&self, listed: &Value, forgiven: &mut Forgiven) {
        for vm in listed.as_array().unwrap() {
            let id = vm["id"].as_str().unwrap().to_owned();
            let bytes = serial(&self.sandbox, &id).len();
            forgiven.insert(id, bytes);
        }
    }

    /// The supervisor that is there; `None` without one.
    pub(super) fn supervisor(&self) -> Option<Leftover> {
        let found = self.sandbox.processes();
        found
            .into_iter()
            .find(|process| Kind::of(process) == Kind::Supervisor)
    }
}

/// Whoever only looks gets an answer, and a prompt one unless the supervisor was hit.
fn looks_were_answered(acted: &Acted) {
    let supervisor = |hit: &[super::house::Hit]| hit.iter().any(|hit| hit.victim == Victim::Supervisor);
    let clients = |hit: &[super::house::Hit]| hit.iter().any(|hit| hit.victim == Victim::Cli);
    let dead = acted.killed.iter().filter(|hit| hit.victim == Victim::Supervisor);
    let supervisors = dead.count();
    for called in acted.called.iter().filter(|called| called.deed.is_none()) {
        let killed = called.output.code == 137 && clients(&acted.killed);
        // A client asks a second supervisor, and no third.
        let left_alone = called.output.code == 6 && supervisors > 1;
        assert!(
            called.output.code == 0 || killed || left_alone,
            "{:#?}",
            called.output
        );
    }
    let disturbed = supervisor(&acted.killed) || supervisor(&acted.frozen) || clients(&acted.frozen);
    let took = longest(&acted.called);
    assert!(disturbed || took < PROMPT, "a look took {took:?}: {acted:#?}");
}

/// All that has to do with this VM.
fn fate(vm: &str, step: &Step, acted: &Acted, before: Option<&Value>) -> Fate {
    let called = acted
        .called
        .iter()
        .find(|called| called.vm == vm && called.deed.is_some());
    let concerns = |hit: &&super::house::Hit| hit.vm.is_none_or(|whose| whose == vm);
    let troubled_ground = matches!(step.ground, Ground::FullDisk | Ground::NoRunnerSockets);
    Fate {
        before: before.cloned(),
        deed: called.and_then(|called| called.deed),
        code: called.map(code),
        hit: acted
            .killed
            .iter()
            .filter(concerns)
            .map(|hit| hit.victim)
            .collect(),
        troubled: troubled_ground || acted.frozen.iter().any(|hit| concerns(&hit)),
        self_willed: vm == SELF_WILLED,
    }
}

fn code(called: &Called) -> i32 {
    called.output.code
}

fn serial(sandbox: &Sandbox, id: &str) -> String {
    let log = sandbox.data_dir().join("vms").join(id).join("serial.log");
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The last tick since the guest booted; they are counted without a gap.
fn ticks(sandbox: &Sandbox, vm: &Value, forgiven: &Forgiven) -> u64 {
    let id = vm["id"].as_str().unwrap();
    let text = serial(sandbox, id);
    let known = forgiven.get(id).copied().unwrap_or_default();
    let text = text.get(known..).unwrap_or(&text);
    let booted = text.rfind(READY).unwrap_or_default();
    let whole = text[booted..]
        .rsplit_once('\n')
        .map_or("", |(whole, _rest)| whole);
    // The first line is the guest's greeting, or cut.
    let lines = whole.lines().skip(1);
    let ticks: Vec<u64> = lines
        .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok())
        .collect();
    let gap = ticks.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(gap, None, "the guest lost ticks: {vm}");
    ticks.last().copied().unwrap_or_default()
}

/// What QEMU says of itself on its spare monitor. It is the process that the list names.
fn asked(sandbox: &Sandbox, vm: &Value) -> String {
    let id = vm["id"].as_str().unwrap();
    let path = sandbox.runtime_dir().join("vms").join(id).join("qmp1.sock");
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(QMP_DEADLINE)).unwrap();
    let peer = getsockopt(&stream, PeerCredentials).unwrap().pid();
    assert_eq!(
        vm["pid"].as_i64(),
        Some(peer.into()),
        "somebody else listens: {vm}"
    );
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut answer = |question: Option<&str>| {
        if let Some(question) = question {
            let question = json!({"execute": question});
            (&stream).write_all(format!("{question}\n").as_bytes()).unwrap();
        }
        next_answer(&mut lines)
    };
    answer(None);
    answer(Some("qmp_capabilities"));
    let status = answer(Some("query-status"));
    status["return"]["status"].as_str().unwrap().to_owned()
}

/// Events may come between.
fn next_answer(lines: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        if value.get("event").is_none() {
            return value;
        }
    }
}

/// Every deed with the code its client ended with.
pub(super) fn deeds(acted: &Acted) -> impl Iterator<Item = (Deed, i32)> {
    let deeds = acted.called.iter();
    deeds.filter_map(|called| Some((called.deed?, called.output.code)))
}
