//! What must hold whenever a sandbox has come to rest: the list and the kernel tell the same.

use std::time::{Duration, Instant};

use maqet_process::ProcessHandle;
use serde_json::Value;

use crate::leftovers::Leftover;
use crate::sandbox::Sandbox;
use crate::wait::{self, PATIENCE};

/// What a process of a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `maqet-supervisor`.
    Supervisor,
    /// `maqet-runner` of a VM.
    Runner,
    /// A gate, or the QEMU it has become.
    Qemu,
    /// `maqet`, or something a test started.
    Other,
}

impl Kind {
    /// What this process is, by its command line.
    pub fn of(process: &Leftover) -> Self {
        let mut words = process.line.split(' ');
        let program = words.next().unwrap_or_default();
        let program = program.rsplit_once('/').map_or(program, |(_, name)| name);
        match (program, words.next()) {
            (_, Some("gate")) => Self::Qemu,
            (name, _) if name.starts_with("qemu-system") || name == "fake_qemu" => Self::Qemu,
            (name, _) if name.starts_with("maqet-supervisor") => Self::Supervisor,
            (name, Some("--vm")) if name.starts_with("maqet-runner") => Self::Runner,
            _ => Self::Other,
        }
    }
}

/// All processes of this kind; with an `id`, those of this VM.
pub fn processes(sandbox: &Sandbox, kind: Kind, id: Option<&str>) -> Vec<ProcessHandle> {
    let wanted =
        |process: &Leftover| Kind::of(process) == kind && id.is_none_or(|id| process.line.contains(id));
    let found = sandbox.processes().into_iter().filter(wanted);
    found.map(|process| process.handle).collect()
}

/// A sandbox that has come to rest.
#[derive(Debug)]
pub struct Rest {
    /// `maqet ls`.
    pub listed: Value,
    /// Time until it was so.
    pub took: Duration,
}

impl Rest {
    /// The VM of this name; `None` without one.
    pub fn vm(&self, name: &str) -> Option<&Value> {
        let vms = self.listed.as_array().unwrap();
        vms.iter().find(|vm| vm["name"] == name)
    }
}

/// Waits until nothing is under way, and every process is one that the list names, and every one it names is there.
#[track_caller]
pub fn settled(sandbox: &Sandbox) -> Rest {
    let begun = Instant::now();
    let listed = wait::until("the list and the kernel tell the same", PATIENCE, || {
        let listed = sandbox.json(&["ls"]);
        match agree(&listed, &sandbox.processes()) {
            Ok(()) => Ok(listed),
            Err(why) => Err(format!("{why}\n{listed}")),
        }
    });
    let took = begun.elapsed();
    Rest { listed, took }
}

/// Nothing is under way; all that is named is there, and all that is there is named.
fn agree(listed: &Value, found: &[Leftover]) -> Result<(), String> {
    let mut known = Vec::new();
    for vm in listed.as_array().unwrap() {
        known.extend(named(vm)?);
    }
    let missing = known
        .iter()
        .find(|(kind, pid)| !found.iter().any(|process| is(process, *kind, *pid)));
    if let Some((kind, pid)) = missing {
        return Err(format!("{kind:?} {pid} is named and not there"));
    }
    let supervisors = found
        .iter()
        .filter(|process| Kind::of(process) == Kind::Supervisor);
    if supervisors.count() > 1 {
        return Err("more than one supervisor".to_owned());
    }
    let stranger = found
        .iter()
        .filter(|process| Kind::of(process) != Kind::Supervisor)
        .find(|process| !known.iter().any(|(kind, pid)| is(process, *kind, *pid)));
    stranger.map_or(Ok(()), |process| Err(format!("nobody knows {process}")))
}

fn is(process: &Leftover, kind: Kind, pid: i64) -> bool {
    Kind::of(process) == kind && i64::from(process.handle.pid()) == pid
}

/// Processes that the list names for a VM at rest.
fn named(vm: &Value) -> Result<Vec<(Kind, i64)>, String> {
    let running = vm["status"] == "running";
    let pids = (vm["pid"].as_i64(), vm["runner_pid"].as_i64());
    match pids {
        _ if vm["activity"] != "idle" => Err(format!("{} is {}", vm["name"], vm["activity"])),
        _ if running && !vm["silent_since"].is_null() => Err(format!("{} is silent", vm["name"])),
        (Some(qemu), Some(runner)) if running => Ok(vec![(Kind::Qemu, qemu), (Kind::Runner, runner)]),
        (None, None) if !running => Ok(Vec::new()),
        (None | Some(_), None | Some(_)) => Err(format!("{} is half there", vm["name"])),
    }
}
