//! QEMU dies.

use std::process::Command;

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox};

use crate::scene::{Scene, assert_processes, kill, signal};

#[test]
fn a_killed_qemu_is_a_failure_with_its_signal() {
    let scene = Scene::new();
    let (_runner, qemu) = scene.processes();
    kill(&[&qemu]);
    let exit = scene.ended("failed");
    assert_eq!(
        (&exit["cause"], &exit["signal"]),
        (&"qemu-killed".into(), &9.into()),
        "{exit}"
    );
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn a_qemu_that_hangs_up_because_it_is_leaving_is_stopped_not_silent() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "ignore-powerdown+leave-on-stop").start(&sandbox);
    let stopped = sandbox.json(&["stop", "web", "--timeout", "100ms"]);
    assert_eq!(stopped[0]["status"], "stopped", "{stopped}");
    assert_eq!(sandbox.status("web")["last_exit"]["cause"], "stop");
    assert_processes(&sandbox, 1);
}

#[test]
fn a_crashed_qemu_is_told_from_a_killed_one() {
    let scene = Scene::new();
    let (_runner, qemu) = scene.processes();
    // As a program does to itself; it lives, so the number is its own.
    let crash = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -SEGV {}", qemu.pid()))
        .status();
    assert!(crash.unwrap().success());
    let exit = scene.ended("failed");
    assert_eq!(
        (&exit["cause"], &exit["signal"]),
        (&"qemu-crashed".into(), &11.into()),
        "{exit}"
    );
    scene.assert_processes(1);
}

#[test]
fn a_frozen_qemu_keeps_nobody_waiting_and_can_be_forced() {
    let scene = Scene::new();
    let (_runner, qemu) = scene.processes();
    signal(&qemu, Signal::Stop);
    let listed = scene.sandbox.json(&["ls", "--deadline", "5s"]);
    assert_eq!(listed[0]["status"], "running", "{listed}");
    let stop = scene
        .sandbox
        .maqet(&["stop", "web", "--timeout", "1s", "-o", "json"]);
    let error = stop.expect(124).error();
    assert!(error["hint"].to_string().contains("--force"), "{error}");
    let stopped = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    assert!(qemu.has_exited());
    assert_eq!(scene.status()["last_exit"]["cause"], "stop-forced");
    scene.assert_processes(1);
}
