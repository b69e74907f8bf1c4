//! What tests ask of a VM.

use std::fs;
use std::path::{Path, PathBuf};

use maqet_process::{ProcessHandle, Sent, Signal};
use maqet_tests::{Running, Sandbox, wait};
use serde_json::Value;

/// `created`, `running`, `stopped` or `failed`.
#[track_caller]
pub(crate) fn status(sandbox: &Sandbox, vm: &str) -> String {
    text(&sandbox.status(vm)["status"])
}

/// Cause of the last end.
#[track_caller]
pub(crate) fn cause(sandbox: &Sandbox, vm: &str) -> String {
    text(&sandbox.status(vm)["last_exit"]["cause"])
}

/// The text of a JSON string.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// QEMU of a running VM.
#[track_caller]
pub(crate) fn qemu(sandbox: &Sandbox, vm: &str) -> ProcessHandle {
    process(&sandbox.status(vm)["pid"])
}

/// Runner of a running VM.
#[track_caller]
pub(crate) fn runner(sandbox: &Sandbox, vm: &str) -> ProcessHandle {
    process(&sandbox.status(vm)["runner_pid"])
}

#[track_caller]
fn process(pid: &Value) -> ProcessHandle {
    let pid = pid.as_i64().and_then(|pid| pid.try_into().ok());
    ProcessHandle::open(pid.unwrap()).unwrap().unwrap()
}

/// Waits until the VM is in the middle of this: `starting`, `stopping`.
#[track_caller]
pub(crate) fn until_activity(sandbox: &Sandbox, vm: &str, activity: &str) {
    wait::until(activity, wait::PATIENCE, || {
        let status = sandbox.status(vm);
        if status["activity"] == activity {
            Ok(())
        } else {
            Err(status)
        }
    });
}

/// Waits for the line of the serial port.
#[track_caller]
pub(crate) fn until_serial(sandbox: &Sandbox, vm: &str, pattern: &str) {
    let condition = format!("serial={pattern}");
    sandbox
        .maqet(&["wait", vm, &condition, "--timeout", "60s"])
        .expect(0);
}

/// Waits for the end of a VM that ends by itself.
#[track_caller]
pub(crate) fn until_ended(sandbox: &Sandbox, vm: &str) {
    sandbox.maqet(&["wait", vm, "exit", "--timeout", "60s"]).expect(0);
}

/// One VM's object of `stop -o json` and the like.
#[track_caller]
pub(crate) fn one(list: &Value) -> &Value {
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    list.first().unwrap()
}

/// Kinds of the journal's events about a VM, oldest first.
#[track_caller]
pub(crate) fn kinds(sandbox: &Sandbox, vm: &str) -> Vec<String> {
    let output = sandbox.maqet(&["events", "--vm", vm]).expect(0);
    let events = output.stdout.lines();
    events
        .map(|line| text(&serde_json::from_str::<Value>(line).unwrap()["kind"]))
        .collect()
}

/// Fails unless nothing of a VM is left: neither runner nor QEMU nor gate nor socket, only the supervisor.
#[track_caller]
pub(crate) fn nothing_runs(sandbox: &Sandbox) {
    let left = left(sandbox);
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// The same for an end nobody waited for: the runner tells of it before it goes itself.
#[track_caller]
pub(crate) fn until_nothing_runs(sandbox: &Sandbox) {
    wait::until("nothing runs", wait::PATIENCE, || {
        let left = left(sandbox);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn left(sandbox: &Sandbox) -> Vec<String> {
    let sockets = sockets(&sandbox.runtime_dir().join("vms"));
    let processes = sandbox.processes();
    let supervisor = usize::from(!processes.is_empty());
    let processes = processes.iter().skip(supervisor).map(ToString::to_string);
    let sockets = sockets.iter().map(|path| path.display().to_string());
    processes.chain(sockets).collect()
}

/// Socket files below a directory.
fn sockets(dir: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut pending = vec![dir.to_path_buf()];
    let mut found = Vec::new();
    while let Some(place) = pending.pop() {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_socket() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Runs commands at the same time; their outputs in the order given.
#[track_caller]
pub(crate) fn at_once(sandbox: &Sandbox, commands: &[&[&str]]) -> Vec<maqet_tests::Output> {
    let running: Vec<Running> = commands.iter().map(|args| sandbox.spawn(args)).collect();
    running.into_iter().map(Running::output).collect()
}

/// Sends a signal to a process that lives.
#[track_caller]
pub(crate) fn send(process: &ProcessHandle, signal: Signal) {
    assert_eq!(process.signal(signal).unwrap(), Sent::Delivered, "{signal:?}");
}
