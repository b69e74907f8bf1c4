//! Whatever is left is found, whatever is not ours is left alone.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use maqet_process::{ProcessHandle, ProcessIdentity, Role, Signal};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::id::VmId;
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
    assert!(text.starts_with("nothing is left: 1 VM ("), "{text}");
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

/// A scene whose VM is forgotten while nobody looks and its processes live: the store of another day. `keeping` says which
/// lines of the ledger that store has.
fn orphaned(keeping: fn(&LedgerEntry) -> bool) -> Scene {
    let scene = Scene::new();
    scene.sandbox.leaves_processes();
    kill(&[&scene.supervisor()]);
    let store = Store::open(&store_path(&scene.sandbox)).unwrap().store;
    let id = store.vms().unwrap().remove(0).id;
    let directory = scene.sandbox.data_dir().join("vms").join(id.as_str());
    fs::remove_file(directory.join("vm.json")).unwrap();
    let mut change = Change::remove(id);
    let ledger = store.ledger().unwrap();
    for line in ledger.iter().filter(|line| !keeping(line)) {
        change = change.ledger(line.strike());
    }
    store.commit(vec![change]).unwrap();
    scene
}

/// Processes that the report names, by number.
fn told(report: &Value, process: &ProcessHandle) -> bool {
    report["leaks"]
        .to_string()
        .contains(&format!("\"{}: ", process.pid()))
}

#[test]
fn orphans_that_the_ledger_identifies_are_ended_when_that_is_asked_for() {
    let (runner, qemu) = {
        let scene = orphaned(|_line| true);
        let (runner, qemu) = orphans(&scene);
        let report = leaks(&scene.sandbox, &[], 1);
        for process in [&runner, &qemu] {
            assert!(told(&report, process) && !process.has_exited(), "{report}");
        }
        let report = leaks(&scene.sandbox, &["--fix"], 1);
        let left = found(&report);
        assert_eq!(left, [("directory".to_owned(), scene.id.clone())], "{report}");
        assert!(!runtime_of(&scene).exists(), "{report}");
        let log = fs::read_to_string(
            scene
                .sandbox
                .data_dir()
                .join("vms")
                .join(&scene.id)
                .join("serial.log"),
        );
        assert!(log.unwrap().contains("powering off"), "the guest was shut down");
        scene.sandbox.maqet(&["cleanup", "--force"]).expect(0);
        assert_eq!(leaks(&scene.sandbox, &[], 0)["looked_at"]["ledger"], 0);
        (runner, qemu)
    };
    assert!(wait::exited(&runner, PATIENCE) && wait::exited(&qemu, PATIENCE));
}

/// Runner and QEMU of a scene that was orphaned, by the census of its own directory.
fn orphans(scene: &Scene) -> (ProcessHandle, ProcessHandle) {
    let mut all = scene.sandbox.processes();
    all.retain(|left| !left.line.contains("maqet-supervisor"));
    let at = all
        .iter()
        .position(|left| left.line.contains("--launch-id"))
        .unwrap();
    let runner = all.remove(at).handle;
    (runner, all.remove(0).handle)
}

#[test]
fn orphans_that_nothing_identifies_are_told_of_and_left_alone() {
    let scene = orphaned(|line| line.kind != LedgerKind::Process);
    let (runner, qemu) = orphans(&scene);
    let report = leaks(&scene.sandbox, &["--fix"], 1);
    for process in [&runner, &qemu] {
        assert!(told(&report, process) && !process.has_exited(), "{report}");
    }
    assert!(
        runtime_of(&scene).exists(),
        "a directory in use is not taken away"
    );
}

/// Commits lines for the only VM, while no supervisor runs.
fn enter_lines(sandbox: &Sandbox, lines: impl FnOnce(VmId) -> Vec<LedgerEntry>) {
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let store = Store::open(&store_path(sandbox)).unwrap().store;
    let id = store.vms().unwrap().remove(0).id;
    let edits = lines(id).into_iter().map(LedgerEdit::Enter);
    let change = edits.fold(Change::default(), Change::ledger);
    assert!(store.commit(vec![change]).unwrap().iter().all(Result::is_ok));
}

#[test]
fn a_line_that_names_an_innocent_process_ends_nobody() {
    let scene = Scene::new();
    let launch = "f".repeat(32);
    let innocent = forge(&["nothing"]);
    let carrier = forge(&["qemu", &format!("socket,id=qmp0-{launch}")]);
    let gone = forge(&["nothing"]);
    let take = |process: &Running, role| {
        ProcessIdentity::take(process.handle(), role, &launch, 1, Vec::new()).unwrap()
    };
    let lines = [take(&innocent, Role::Qemu), take(&gone, Role::Runner)];
    gone.signal(Signal::Kill);
    gone.output();
    enter_lines(&scene.sandbox, |id| {
        lines
            .map(|identity| LedgerEntry::process(identity, id.clone(), clock::now()))
            .to_vec()
    });
    for words in [&[][..], &["--fix"]] {
        let report = leaks(&scene.sandbox, words, 1);
        assert!(told(&report, carrier.handle()), "{report}");
        assert!(
            report["leaks"].to_string().contains("nobody can tell whether"),
            "{report}"
        );
        assert_eq!(report["leaks"].as_array().unwrap().len(), 2, "{report}");
    }
    assert!(!innocent.handle().has_exited() && !carrier.handle().has_exited());
    scene.assert_answering();
}

#[test]
fn ports_in_the_ledger_are_held_against_who_has_them() {
    let scene = Scene::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = |listener: &TcpListener| format!("tcp:{}", listener.local_addr().unwrap());
    let (taken_name, free_name) = (name(&taken), name(&free));
    drop(free);
    let lines = |id: VmId| {
        let line = |what: &String| LedgerEntry::new(LedgerKind::Port, what, id.clone(), clock::now());
        vec![line(&taken_name), line(&free_name)]
    };
    // Of a running VM: nobody knows whether its QEMU was told to let one go, but it must not be another's.
    enter_lines(&scene.sandbox, lines);
    let report = leaks(&scene.sandbox, &[], 1);
    assert_eq!(report["looked_at"]["ports"], 2, "{report}");
    assert_eq!(report["leaks"][0]["kind"], "port", "{report}");
    assert_eq!(report["leaks"].as_array().unwrap().len(), 1, "{report}");
    let detail = report["leaks"][0]["detail"].as_str().unwrap();
    assert_eq!(
        detail,
        format!("process {} has it, and not the VM's QEMU", std::process::id())
    );
    let report = leaks(&scene.sandbox, &["--fix"], 0);
    assert!(
        report["actions"][0]["done"] == true && taken.local_addr().is_ok(),
        "{report}"
    );
    scene.assert_answering();
    // Once the VM rests, what is left of its lines is struck by the next supervisor.
    scene.sandbox.maqet(&["stop", VM]).expect(0);
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    assert_eq!(leaks(&scene.sandbox, &[], 0)["looked_at"]["ports"], 0);
}

#[test]
fn a_temporary_image_is_left_of_a_making_only_when_nobody_has_it_open() {
    let sandbox = Sandbox::new();
    let disk = sandbox.home().join("web.raw");
    let disks = format!(
        "disks: {{root: {{path: {}, size: 1M, format: raw}}}}",
        disk.display()
    );
    Guest::tiny("web").line(&disks).add(&sandbox);
    let [dead, open, linked, other] = [
        ".maqet-new-0123456789abcdef.tmp",
        ".maqet-new-1123456789abcdef.tmp",
        ".maqet-new-2123456789abcdef.tmp",
        ".maqet-new-mine.tmp",
    ]
    .map(|name| sandbox.home().join(name));
    for path in [&dead, &linked, &other] {
        fs::write(path, "x").unwrap();
    }
    let _making = fs::File::create(&open).unwrap();
    fs::hard_link(&linked, sandbox.home().join("kept.raw")).unwrap();
    let report = leaks(&sandbox, &[], 1);
    let expected = [
        "file .maqet-new-0123456789abcdef.tmp",
        "file .maqet-new-2123456789abcdef.tmp",
    ];
    assert_eq!(named(&report), expected, "{report}");
    assert_eq!(report["leaks"][0]["vm"], "web", "{report}");
    let report = leaks(&sandbox, &["--fix"], 1);
    assert_eq!(named(&report), [expected[1]], "{report}");
    assert!(!dead.exists() && open.exists() && linked.exists() && other.exists());
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
