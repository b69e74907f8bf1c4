//! The ledger: whatever a VM has outside the store is in it, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;

use maqet_state::ledger::{LedgerEntry, LedgerKind};
use maqet_state::store::Store;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

use crate::scene::{Scene, VM, kill, process, store_path};

const FORWARDS: &str =
    "networks: {lan: {type: user, forwards: ['tcp:127.0.0.1:auto:22', 'udp:127.0.0.1:auto:53']}}";

/// Lines of the ledger, as text; read while no supervisor has the store.
fn lines(sandbox: &Sandbox) -> Vec<LedgerEntry> {
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    Store::open(&store_path(sandbox)).unwrap().store.ledger().unwrap()
}

fn shown(lines: &[LedgerEntry]) -> BTreeSet<String> {
    let row = |line: &LedgerEntry| match &line.identity {
        Some(identity) => format!("{} {}", identity.role.as_str(), identity.pid),
        None => format!("{} {}", line.kind, line.what),
    };
    lines.iter().map(row).collect()
}

/// The directories that a stored VM has, or may have.
fn directories(sandbox: &Sandbox, id: &str) -> BTreeSet<String> {
    let halves = [sandbox.data_dir(), sandbox.runtime_dir()];
    let path = |half: std::path::PathBuf| half.join("vms").join(id);
    halves
        .map(|half| format!("directory {}", path(half).display()))
        .into()
}

/// Everything that the running VM has, as the kernel and the file system tell it.
fn there(sandbox: &Sandbox, id: &str, status: &Value) -> BTreeSet<String> {
    let mut there = directories(sandbox, id);
    there.insert(format!("runner {}", status["runner_pid"]));
    there.insert(format!("qemu {}", status["pid"]));
    for entry in fs::read_dir(sandbox.runtime_dir().join("vms").join(id)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_socket() {
            there.insert(format!("socket {}", entry.path().display()));
        }
    }
    for (table, protocol) in [("tcp", "tcp"), ("udp", "udp")] {
        let bound = ports_of(&status["pid"], table);
        there.extend(
            bound
                .into_iter()
                .map(|port| format!("port {protocol}:127.0.0.1:{port}")),
        );
    }
    there
}

/// Ports of 127.0.0.1 that a process listens on or has bound, by what the kernel says of its descriptors.
fn ports_of(pid: &Value, table: &str) -> Vec<u16> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links: BTreeSet<String> = descriptors
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let rows = fs::read_to_string(format!("/proc/net/{table}")).unwrap();
    let fields = rows
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let own = fields.filter(|row| links.contains(&format!("socket:[{}]", row[9])));
    let bound = own.filter_map(|row| row[1].strip_prefix("0100007F:"));
    bound.map(|port| u16::from_str_radix(port, 16).unwrap()).collect()
}

fn scene() -> Scene {
    Scene::of(&Guest::tiny(VM).options(&["ticks"]).line(FORWARDS))
}

#[test]
fn a_running_vm_is_in_it_with_all_that_it_has() {
    let scene = scene();
    let status = scene.status();
    let there = there(&scene.sandbox, &scene.id, &status);
    assert_eq!(there.len(), 10, "{there:#?}");
    let entered = lines(&scene.sandbox);
    assert_eq!(shown(&entered), there);
    for line in &entered {
        assert_eq!(line.id.as_ref().unwrap().as_str(), scene.id);
        assert_eq!(line.identity.is_some(), line.kind == LedgerKind::Process);
    }
    scene.assert_answering();
}

#[test]
fn what_ended_is_struck_however_it_ended() {
    let scene = scene();
    let left = directories(&scene.sandbox, &scene.id);
    scene.sandbox.maqet(&["stop", VM]).expect(0);
    assert_eq!(shown(&lines(&scene.sandbox)), left, "after a stop");

    scene.sandbox.maqet(&["start", VM]).expect(0);
    scene.sandbox.maqet(&["kill", VM]).expect(0);
    assert_eq!(shown(&lines(&scene.sandbox)), left, "after a kill");

    scene.sandbox.maqet(&["start", VM]).expect(0);
    let (_runner, qemu) = scene.processes();
    kill(&[&qemu]);
    scene.ended("failed");
    assert_eq!(shown(&lines(&scene.sandbox)), left, "after QEMU was killed");

    scene.sandbox.maqet(&["start", VM]).expect(0);
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    assert_eq!(scene.status()["status"], "failed");
    assert_eq!(shown(&lines(&scene.sandbox)), left, "after everything was killed");

    scene.sandbox.maqet(&["start", VM]).expect(0);
    scene.sandbox.maqet(&["rm", VM, "--force"]).expect(0);
    assert_eq!(
        shown(&lines(&scene.sandbox)),
        BTreeSet::new(),
        "after the removal"
    );
}

#[test]
fn a_new_runner_takes_the_old_ones_line() {
    let scene = scene();
    let (runner, qemu) = scene.processes();
    kill(&[&runner]);
    wait::until("another runner", PATIENCE, || match scene.status() {
        status if status["runner_pid"].is_i64() && status["runner_pid"] != json!(runner.pid()) => Ok(()),
        status => Err(status),
    });
    let status = scene.status();
    assert_eq!(status["pid"], json!(qemu.pid()));
    let there = there(&scene.sandbox, &scene.id, &status);
    assert_eq!(shown(&lines(&scene.sandbox)), there);
    drop(process(&status["runner_pid"]));
}

#[test]
fn a_start_that_fails_leaves_no_line_and_takes_no_ones() {
    let scene = scene();
    let status = scene.status();
    let port = status["ports"][0]["host_port"].as_u64().unwrap();
    let line = format!("networks: {{lan: {{type: user, forwards: ['tcp:127.0.0.1:{port}:22']}}}}");
    let other = Guest::tiny("other").line(&line).add(&scene.sandbox);
    scene.sandbox.maqet(&["start", "other"]).expect(5);
    let mut expected = there(&scene.sandbox, &scene.id, &status);
    expected.extend(directories(&scene.sandbox, &other));
    assert_eq!(shown(&lines(&scene.sandbox)), expected);
}

#[test]
fn a_ledger_that_was_lost_is_made_anew_from_what_is_on_record() {
    let scene = scene();
    let there = there(&scene.sandbox, &scene.id, &scene.status());
    kill(&[&scene.supervisor()]);
    let store = Store::open(&store_path(&scene.sandbox)).unwrap().store;
    let mut change = maqet_state::change::Change::default();
    for line in store.ledger().unwrap() {
        change = change.ledger(line.strike());
    }
    store.commit(vec![change]).unwrap();
    drop(store);
    scene.assert_answering();
    assert_eq!(shown(&lines(&scene.sandbox)), there);
}
