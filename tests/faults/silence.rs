//! Somebody does not answer: nobody else is kept waiting, and it is shown since when.

use std::time::{Duration, Instant};

use maqet_process::{ProcessHandle, Signal};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

use crate::scene::{Scene, VM, kill, kinds, process, say, signal};

/// `ls` and everything about other VMs takes milliseconds; so much is allowed on a crowded host, and is less than any
/// deadline that somebody silent is given.
const PROMPT: Duration = Duration::from_millis(1500);

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}

fn line(sandbox: &Sandbox, name: &str) -> Value {
    let listed = sandbox.json(&["ls"]);
    let found = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["name"] == name);
    found.unwrap().clone()
}

/// Neighbours are listed, looked at, paused, resumed and talked to as if nothing were.
#[track_caller]
fn assert_others_are_served(sandbox: &Sandbox) {
    let words: [&[&str]; 5] = [
        &["ls"],
        &["status", "well"],
        &["pause", "well"],
        &["resume", "well"],
        &["qmp", "run", "well", "query-version"],
    ];
    for words in words {
        let output = sandbox.maqet(words).expect(0);
        assert!(output.took < PROMPT, "{words:?} took {:?}", output.took);
    }
}

/// A VM falls silent: what each verb makes of it. Returns what it took `status` to notice.
#[track_caller]
fn assert_silence_is_noticed(scene: &Scene) -> Duration {
    assert_eq!(line(&scene.sandbox, VM)["silent_since"], Value::Null);
    let (status, took) = timed(|| scene.status());
    assert_eq!(status["status"], "running", "{status}");
    assert!(status["silent_since"].is_string(), "{status}");
    assert!(took < Duration::from_secs(10), "status took {took:?}");
    // Known now: nobody waits for it any more.
    let (again, took_again) = timed(|| scene.status());
    assert_eq!(again["silent_since"], status["silent_since"]);
    assert!(took_again < PROMPT, "status took {took_again:?} the second time");
    assert_eq!(line(&scene.sandbox, VM)["silent_since"], status["silent_since"]);
    let table = scene.sandbox.maqet(&["ls"]).expect(0).stdout;
    assert!(table.contains("not answering since 20"), "{table}");
    took
}

/// The silent one is heard again, and works as before.
#[track_caller]
fn assert_heard_again(scene: &Scene, silent: &ProcessHandle) {
    signal(silent, Signal::Cont);
    wait::until("it is heard again", PATIENCE, || {
        let line = line(&scene.sandbox, VM);
        if line["silent_since"].is_null() {
            Ok(())
        } else {
            Err(line)
        }
    });
    let kinds = kinds(&scene.sandbox);
    let told: Vec<_> = kinds
        .iter()
        .filter(|kind| ["vm.silent", "vm.answering"].contains(&kind.as_str()))
        .collect();
    assert_eq!(told, ["vm.silent", "vm.answering"]);
    scene.assert_answering();
    scene.assert_ticking();
}

/// A VM whose runner or QEMU freezes, a neighbour beside it, and the time in which that was noticed.
#[track_caller]
fn with_a_silent(
    one: impl FnOnce(ProcessHandle, ProcessHandle) -> ProcessHandle,
) -> (Scene, ProcessHandle, Duration) {
    let scene = Scene::new();
    Guest::none("well").start(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    let silent = one(runner, qemu);
    signal(&silent, Signal::Stop);
    assert_others_are_served(&scene.sandbox);
    let noticed = assert_silence_is_noticed(&scene);
    assert_others_are_served(&scene.sandbox);
    (scene, silent, noticed)
}

#[test]
fn a_runner_that_freezes_stalls_nothing_but_itself() {
    let (scene, runner, noticed) = with_a_silent(|runner, _qemu| runner);
    let qemu = process(&scene.status()["pid"]);
    let stop = ["stop", VM, "--timeout", "1s", "-o", "json"];
    let (output, refused) = timed(|| scene.sandbox.maqet(&stop));
    let error = output.expect(1).error();
    assert_eq!(error["code"], "not-answering", "{error}");
    assert_eq!(error["hint"], "maqet stop --force web", "{error}");
    let (output, asked) = timed(|| {
        scene
            .sandbox
            .maqet(&["qmp", "run", VM, "query-status", "--timeout", "1s"])
    });
    assert_ne!(output.code, 0, "{output:#?}");
    assert!(
        refused.max(asked) < Duration::from_secs(15),
        "{refused:?}, {asked:?}"
    );
    say(&format!(
        "a frozen runner: status noticed in {noticed:.0?}, stop refused in {refused:.0?}, qmp in {asked:.0?}"
    ));
    assert!(!qemu.has_exited());
    assert_heard_again(&scene, &runner);
    scene.assert_stops_beside(2);
}

#[test]
fn a_qemu_that_freezes_stalls_nothing_but_itself() {
    let (scene, qemu, noticed) = with_a_silent(|_runner, qemu| qemu);
    let (output, asked) = timed(|| scene.sandbox.maqet(&["pause", VM]));
    assert_ne!(output.code, 0, "{output:#?}");
    assert!(asked < Duration::from_secs(15), "{asked:?}");
    say(&format!(
        "a frozen QEMU: status noticed in {noticed:.0?}, pause refused in {asked:.0?}"
    ));
    assert_heard_again(&scene, &qemu);
}

#[test]
fn a_mute_monitor_is_noticed_by_whoever_asks() {
    let sandbox = Sandbox::new();
    Guest::fake(VM, "silent").add(&sandbox);
    let (output, took) = timed(|| sandbox.maqet(&["start", VM, "-o", "json"]));
    let error = output.expect(1).error();
    assert!(took < Duration::from_mins(1), "{took:?}: {error}");
    say(&format!(
        "a monitor that answers nothing: start refused in {took:.0?}: {}",
        error["message"]
    ));
    assert_eq!(line(&sandbox, VM)["status"], "failed");
}

#[test]
fn a_forced_stop_does_not_wait_for_a_frozen_runner() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    let (stopped, took) = timed(|| scene.sandbox.json(&["stop", VM, "--force"]));
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(qemu.has_exited());
    scene.assert_processes(1);
}

#[test]
fn a_qemu_known_to_be_dead_is_never_shown_as_running() {
    for frozen in [false, true] {
        let scene = Scene::new();
        let (runner, qemu) = scene.processes();
        if frozen {
            // Nobody will tell how it ended; the kernel does.
            signal(&runner, Signal::Stop);
        }
        kill(&[&qemu]);
        let (line, took) = timed(|| line(&scene.sandbox, VM));
        assert_eq!(line["status"], "failed", "{line}");
        assert_eq!(line["last_exit"]["cause"], "qemu-killed", "{line}");
        assert_eq!(line["last_exit"]["signal"], 9, "{line}");
        assert_eq!((&line["pid"], &line["run_state"]), (&json!(null), &json!(null)));
        say(&format!(
            "QEMU dead, runner frozen: {frozen}; the first `ls` says failed after {took:.0?}"
        ));
        let exit = scene.ended("failed");
        assert_eq!(exit["cause"], "qemu-killed", "{exit}");
        if frozen {
            signal(&runner, Signal::Cont);
        }
        scene.sandbox.maqet(&["start", VM]).expect(0);
        scene.assert_stops();
    }
}
