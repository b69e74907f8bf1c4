//! `on_runner_loss: stop`: a QEMU is brought to its end when its runner is gone.

use maqet_process::Signal;
use maqet_tests::Guest;
use serde_json::{Value, json};

use crate::scene::{Scene, VM, count, kill, signal, wait_for, wait_status};

/// The guest says nothing: one that does makes progress, and gets more time to stop.
fn scene(options: &[&str], lines: &[&str]) -> Scene {
    let guest = Guest::tiny(VM).options(options).line("on_runner_loss: stop");
    Scene::of(&lines.iter().fold(guest, |guest, line| guest.line(line)))
}

#[track_caller]
fn assert_lost(scene: &Scene) -> Value {
    let exit = scene.ended("failed");
    assert_eq!(exit["cause"], "runner-lost", "{exit}");
    assert!(exit["detail"].to_string().contains("on_runner_loss"), "{exit}");
    scene.assert_processes(1);
    exit
}

#[test]
fn the_guest_is_shut_down_in_order() {
    let scene = scene(&[], &[]);
    let (runner, _qemu) = scene.processes();
    kill(&[&runner]);
    let exit = assert_lost(&scene);
    assert_eq!(exit["exit_code"], 0, "{exit}");
    let serial = scene.sandbox.maqet(&["logs", VM]).expect(0).stdout;
    assert!(serial.contains("powering off"), "{serial}");
    // Everything was released.
    scene.sandbox.maqet(&["start", VM]).expect(0);
    scene.assert_stops();
}

#[test]
fn a_guest_that_does_not_listen_is_flushed_and_ended() {
    let scene = scene(&["ignore-acpi"], &["stop: {timeout: 1s}"]);
    let (runner, _qemu) = scene.processes();
    kill(&[&runner]);
    let exit = assert_lost(&scene);
    assert_eq!(exit["exit_code"], 0, "{exit}");
}

#[test]
fn a_qemu_that_answers_nothing_is_ended_all_the_same() {
    let scene = scene(&[], &["stop: {timeout: 1s}"]);
    let (runner, qemu) = scene.processes();
    signal(&qemu, Signal::Stop);
    kill(&[&runner]);
    let exit = assert_lost(&scene);
    assert_eq!(exit["signal"], 9, "{exit}");
}

#[test]
fn recovery_ends_what_lost_its_runner_while_nobody_looked() {
    let scene = scene(&[], &[]);
    let (runner, _qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner]);
    assert_lost(&scene);
}

#[test]
fn the_next_supervisor_goes_on_with_it() {
    let scene = scene(&["ignore-acpi"], &["stop: {timeout: 3s}"]);
    let (runner, _qemu) = scene.processes();
    kill(&[&runner]);
    wait_for(&scene.sandbox, "vm.stopping");
    kill(&[&scene.supervisor()]);
    assert_lost(&scene);
}

#[test]
fn it_is_a_failure_for_the_restart_policy() {
    let scene = scene(&[], &["restart: {policy: on-failure, backoff: 50ms}"]);
    let (runner, qemu) = scene.processes();
    kill(&[&runner]);
    let status = wait_status(&scene.sandbox, VM, "it runs again", |status| {
        status["status"] == "running" && status["pid"] != json!(qemu.pid())
    });
    assert_eq!(status["last_exit"]["cause"], "runner-lost", "{status}");
    scene.assert_stops();
}

#[test]
fn a_person_who_joins_the_stop_makes_it_theirs() {
    let scene = scene(
        &["ignore-acpi"],
        &["stop: {timeout: 2s}", "restart: {policy: always, backoff: 1ms}"],
    );
    let (runner, _qemu) = scene.processes();
    kill(&[&runner]);
    wait_for(&scene.sandbox, "vm.stopping");
    let stopped = scene.sandbox.json(&["stop", VM]);
    assert_eq!(stopped[0]["status"], "stopped", "{stopped}");
    let status = scene.status();
    assert_eq!(status["last_exit"]["cause"], "stop", "{status}");
    assert_eq!(count(&scene.sandbox, "vm.restarting"), 0);
    scene.assert_processes(1);
}
