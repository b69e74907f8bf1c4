//! The supervisor dies or freezes.

use maqet_process::Signal;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use rand::RngExt;
use serde_json::json;

use crate::scene::{Scene, at_most, kill, kinds, process, random, signal};

#[test]
fn an_idle_supervisor_that_is_killed_is_not_missed() {
    let scene = Scene::new();
    // Acknowledged, so not to be lost.
    let other = Guest::tiny("other").add(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    for _ in 0..3 {
        let supervisor = scene.supervisor();
        kill(&[&supervisor]);
        // The first answer of the next one is right.
        let listed = scene.sandbox.json(&["ls"]);
        assert_eq!(listed[0]["id"], json!(other), "{listed}");
        assert_eq!(listed[1]["status"], "running", "{listed}");
        assert_eq!(listed[1]["pid"], json!(qemu.pid()), "{listed}");
        assert_eq!(listed[1]["runner_pid"], json!(runner.pid()), "{listed}");
        assert_ne!(scene.supervisor().pid(), supervisor.pid());
        scene.assert_ticking();
    }
    scene.assert_answering();
    scene.assert_processes(3);
    scene.assert_stops();
}

#[test]
fn a_supervisor_that_is_killed_during_a_stop_does_not_spoil_it() {
    let mut random = random();
    let scene = Scene::with(&["later"]);
    for round in 0..4 {
        if round > 0 {
            scene.sandbox.maqet(&["start", "web"]).expect(0);
        }
        let supervisor = scene.supervisor();
        let stop = scene.sandbox.spawn(&["stop", "web", "-o", "json"]);
        let moment = std::time::Duration::from_millis(random.random_range(0..1500));
        at_most(stop.handle(), moment);
        kill(&[&supervisor]);
        // The client asks the next supervisor the same.
        let stopped = stop.output().expect(0).json();
        assert_eq!(stopped[0]["status"], "stopped", "after {moment:?}: {stopped}");
        let status = scene.status();
        assert_eq!(status["status"], "stopped", "after {moment:?}: {status}");
        assert_eq!(status["last_exit"]["cause"], "stop", "after {moment:?}: {status}");
        scene.assert_processes(1);
    }
}

#[test]
fn a_frozen_supervisor_does_not_hold_up_a_client_with_a_deadline() {
    let scene = Scene::new();
    let supervisor = scene.supervisor();
    signal(&supervisor, Signal::Stop);
    scene.sandbox.maqet(&["ls", "--deadline", "1s"]).expect(124);
    scene.assert_ticking();
    signal(&supervisor, Signal::Cont);
    assert_eq!(scene.sandbox.json(&["ls"])[0]["status"], "running");
    scene.assert_stops();
}

#[test]
fn a_qemu_that_outlives_both_is_adopted() {
    let scene = Scene::new();
    for _ in 0..2 {
        let (runner, qemu) = scene.processes();
        kill(&[&scene.supervisor(), &runner]);
        let listed = scene.sandbox.json(&["ls"]);
        assert_eq!(listed[0]["status"], "running", "{listed}");
        assert_eq!(listed[0]["pid"], json!(qemu.pid()), "{listed}");
        scene.adopted_after(&runner);
        scene.assert_answering();
        scene.assert_ticking();
        scene.assert_processes(3);
    }
    scene.assert_stops();
}

#[test]
fn a_supervisor_that_is_killed_while_it_adopts_does_not_cost_the_guest() {
    let mut random = random();
    let scene = Scene::new();
    let (_runner, qemu) = scene.processes();
    for _ in 0..8 {
        let supervisor = scene.supervisor();
        let (runner, _qemu) = scene.processes();
        kill(&[&runner]);
        let moment = std::time::Duration::from_millis(random.random_range(0..80));
        at_most(&supervisor, moment);
        kill(&[&supervisor]);
        let listed = scene.sandbox.json(&["ls"]);
        assert_eq!(listed[0]["status"], "running", "after {moment:?}: {listed}");
        assert!(!qemu.has_exited(), "after {moment:?}");
        scene.adopted_after(&runner);
        scene.assert_processes(3);
    }
    scene.assert_ticking();
    scene.assert_stops();
}

#[test]
fn when_all_three_are_killed_the_vm_has_failed_for_a_reason() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    assert_eq!(status["last_exit"]["cause"], "runner-lost", "{status}");
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn what_ended_while_no_supervisor_was_there_is_told_by_the_runner() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    kill(&[&qemu]);
    // Asked at once: the runner may still be noting it down.
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    assert_eq!(status["last_exit"]["cause"], "qemu-killed", "{status}");
    assert!(wait::exited(&runner, PATIENCE));
    scene.assert_processes(1);
}

#[test]
fn many_vms_are_found_again_at_once() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..6).map(|number| format!("vm{number}")).collect();
    for name in &names {
        Guest::none(name).start(&sandbox);
    }
    let pids = |listed: &serde_json::Value| -> Vec<i64> {
        let vms = listed.as_array().unwrap();
        vms.iter().map(|vm| vm["pid"].as_i64().unwrap()).collect()
    };
    let before = pids(&sandbox.json(&["ls"]));
    let supervisor = sandbox.json(&["supervisor", "status", "--no-autostart"]);
    kill(&[&process(&supervisor["pid"])]);
    let after = sandbox.json(&["ls", "--status", "running"]);
    assert_eq!(pids(&after), before);
    // The journal may follow the answer by a commit.
    wait::until("every adoption is on record", PATIENCE, || {
        let kinds = kinds(&sandbox);
        let adopted = kinds.iter().filter(|kind| *kind == "runner.adopted");
        if adopted.count() == names.len() {
            Ok(())
        } else {
            Err(kinds)
        }
    });
}
