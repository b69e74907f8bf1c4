//! Whatever is left is found, whatever is not ours is left alone.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use maqet_process::Signal;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use maqet_state::store::Store;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Running, Sandbox};
use serde_json::Value;

use crate::scene::{Scene, VM, kill, process, store_path, wait_for};

/// An id no VM has.
const STRANGER: &str = "0123456789abcdef0123456789abcdef";

/// `doctor --leaks`, which must end with this code.
#[track_caller]
fn leaks(sandbox: &Sandbox, words: &[&str], code: i32) -> Value {
    let words: Vec<&str> = ["doctor", "--leaks", "-o", "json"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    sandbox.maqet(&words).expect(code).json()
}

/// Kind and last part of each leak.
fn found(report: &Value) -> Vec<(String, String)> {
    let leaks = report["leaks"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    leaks
        .map(|leak| {
            (
                text(&leak["kind"]),
                text(&leak["what"]).rsplit('/').next().unwrap().to_owned(),
            )
        })
        .collect()
}

fn runtime_of(scene: &Scene) -> PathBuf {
    scene.sandbox.runtime_dir().join("vms").join(&scene.id)
}

#[test]
fn nothing_is_left_while_running_after_stopping_and_after_removing() {
    let scene = Scene::new();
    let running = leaks(&scene.sandbox, &[], 0);
    assert_eq!(running["looked_at"]["vms"], 1, "{running}");
    assert_eq!(running["looked_at"]["sockets"], 5, "{running}");
    assert_eq!(running["looked_at"]["directories"], 2, "{running}");
    assert!(
        running["looked_at"]["processes"].as_u64().unwrap() >= 3,
        "{running}"
    );
    scene.sandbox.maqet(&["stop", VM]).expect(0);
    let text = scene.sandbox.maqet(&["doctor", "--leaks"]).expect(0).stdout;
    assert!(text.starts_with("nothing is left: 1 VMs"), "{text}");
    scene.sandbox.maqet(&["rm", VM]).expect(0);
    assert_eq!(leaks(&scene.sandbox, &[], 0)["looked_at"]["directories"], 0);
}

#[test]
fn nothing_is_left_after_anything_was_killed() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&runner, &qemu]);
    scene.ended("failed");
    leaks(&scene.sandbox, &[], 0);

    scene.sandbox.maqet(&["start", VM]).expect(0);
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    leaks(&scene.sandbox, &[], 0);
    assert_eq!(scene.status()["status"], "failed");
}

#[test]
fn sockets_of_a_vm_that_rests_are_found_and_only_dead_ones_deleted() {
    let scene = Scene::new();
    scene.sandbox.maqet(&["stop", VM]).expect(0);
    let directory = runtime_of(&scene);
    drop(UnixListener::bind(directory.join("qmp0.sock")).unwrap());
    let _listening = UnixListener::bind(directory.join("mine.sock")).unwrap();
    drop(UnixListener::bind(scene.sandbox.runtime_dir().join("loose.sock")).unwrap());

    let report = leaks(&scene.sandbox, &[], 1);
    let names: Vec<_> = found(&report)
        .into_iter()
        .map(|(kind, what)| format!("{kind} {what}"))
        .collect();
    assert_eq!(
        names,
        ["socket loose.sock", "socket mine.sock", "socket qmp0.sock"]
    );
    assert!(
        report["leaks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|leak| leak["since"].is_string()),
        "{report}"
    );

    let report = leaks(&scene.sandbox, &["--fix"], 1);
    assert_eq!(found(&report), [("socket".to_owned(), "mine.sock".to_owned())]);
    assert_eq!(report["actions"].as_array().unwrap().len(), 3, "{report}");
    assert!(directory.join("mine.sock").exists());
    assert!(!directory.join("qmp0.sock").exists());
}

#[test]
fn directories_of_nobody_are_found_and_what_may_be_of_worth_is_kept() {
    let sandbox = Sandbox::new();
    Guest::none("web").add(&sandbox);
    let below = |half: PathBuf| half.join("vms").join(STRANGER);
    let (runtime, data) = (below(sandbox.runtime_dir()), below(sandbox.data_dir()));
    for directory in [&runtime, &data] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("serial.log"), "x").unwrap();
    }
    let report = leaks(&sandbox, &[], 1);
    assert_eq!(
        found(&report),
        [
            ("directory".to_owned(), STRANGER.to_owned()),
            ("directory".to_owned(), STRANGER.to_owned())
        ]
    );
    let report = leaks(&sandbox, &["--fix"], 1);
    assert_eq!(report["leaks"][0]["what"], data.display().to_string(), "{report}");
    assert!(data.join("serial.log").exists() && !runtime.exists());
}

/// A process that carries a command line of ours, and nothing else.
fn forge(words: &[&str]) -> Running {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "cat; :"]).args(words);
    Running::start(command)
}

#[test]
fn a_process_that_only_looks_like_ours_is_told_of_and_never_signalled() {
    let scene = Scene::new();
    let (runner, _qemu) = scene.processes();
    let line = fs::read_to_string(format!("/proc/{}/cmdline", runner.pid())).unwrap();
    let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
    let launch = words
        .iter()
        .position(|word| *word == "--launch-id")
        .map(|at| words[at + 1])
        .unwrap();
    let forged = [
        forge(&words),
        forge(&["qemu", &format!("socket,id=qmp0-{launch}")]),
    ];
    for words in [&[][..], &["--fix"]] {
        let report = leaks(&scene.sandbox, words, 1);
        let mut pids: Vec<String> = found(&report).into_iter().map(|(kind, _)| kind).collect();
        pids.dedup();
        assert_eq!(
            (report["leaks"].as_array().unwrap().len(), pids),
            (2, vec!["process".to_owned()]),
            "{report}"
        );
        for leak in report["leaks"].as_array().unwrap() {
            assert_eq!(leak["vm"], VM, "{leak}");
        }
    }
    for process in &forged {
        assert!(!process.handle().has_exited());
    }
    scene.assert_answering();
    drop(forged);
    leaks(&scene.sandbox, &[], 0);
}

#[test]
fn a_runner_that_nobody_has_is_told_of() {
    let scene = Scene::new();
    scene.sandbox.leaves_processes();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    // Its VM is forgotten while nobody looks: the store of another day.
    let store = Store::open(&store_path(&scene.sandbox)).unwrap().store;
    let id = store.vms().unwrap().remove(0).id;
    fs::remove_file(
        scene
            .sandbox
            .data_dir()
            .join("vms")
            .join(id.as_str())
            .join("vm.json"),
    )
    .unwrap();
    store.commit(vec![Change::remove(id)]).unwrap();
    drop(store);
    let report = leaks(&scene.sandbox, &["--fix"], 1);
    let told = report["leaks"].to_string();
    for process in [&runner, &qemu] {
        assert!(told.contains(&format!("\"{}: ", process.pid())), "{told}");
        assert!(!process.has_exited());
    }
    assert!(
        runtime_of(&scene).exists(),
        "a directory in use is not taken away"
    );
}

/// Enters files in the ledger as being made for the only VM, while no supervisor runs.
fn enter(sandbox: &Sandbox, files: &[(&PathBuf, clock::Timestamp)]) {
    let store = Store::open(&store_path(sandbox)).unwrap().store;
    let id = store.vms().unwrap().remove(0).id;
    let mut change = Change::default();
    for (path, at) in files {
        let what = path.display().to_string();
        let line = LedgerEntry::new(LedgerKind::File, what, id.clone(), *at);
        change = change.ledger(LedgerEdit::Enter(line));
    }
    assert!(store.commit(vec![change]).unwrap().iter().all(Result::is_ok));
}

/// Kind and last part of each leak, as text.
fn named(report: &Value) -> Vec<String> {
    let found = found(report).into_iter();
    found.map(|(kind, what)| format!("{kind} {what}")).collect()
}

#[test]
fn a_making_that_was_cut_off_is_found_and_undone() {
    let sandbox = Sandbox::new();
    let disk = sandbox.home().join("web.raw");
    let disks = format!(
        "disks: {{root: {{path: {}, size: 1M, format: raw}}}}",
        disk.display()
    );
    Guest::tiny("web").line(&disks).add(&sandbox);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let [made, gone, kept] = ["made.raw", "gone.raw", "kept.raw"].map(|name| sandbox.home().join(name));
    // Older than its line: somebody else's.
    fs::write(&kept, "data").unwrap();
    let now = clock::now();
    let later = clock::Timestamp(now.0 + 5000);
    enter(
        &sandbox,
        &[(&made, now), (&gone, now), (&kept, later), (&disk, now)],
    );
    for path in [&made, &disk] {
        fs::write(path, "").unwrap();
    }
    let report = leaks(&sandbox, &[], 1);
    let expected = [
        "file kept.raw",
        "file made.raw",
        "ledger gone.raw",
        "ledger web.raw",
    ];
    assert_eq!(named(&report), expected, "{report}");
    let report = leaks(&sandbox, &["--fix"], 1);
    assert_eq!(named(&report), ["file kept.raw"], "{report}");
    assert!(kept.exists() && disk.exists() && !made.exists());
}

#[test]
fn a_frozen_runner_on_its_way_out_is_not_taken_for_a_leak() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    runner.signal(Signal::Stop).map(drop).unwrap();
    kill(&[&qemu]);
    scene.ended("failed");
    wait_for(&scene.sandbox, "vm.failed");
    leaks(&scene.sandbox, &[], 0);
    scene.sandbox.maqet(&["start", VM]).expect(0);
    assert!(wait::exited(&runner, PATIENCE));
    leaks(&scene.sandbox, &[], 0);
    drop(process(&scene.status()["pid"]));
}
