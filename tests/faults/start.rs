//! The supervisor is killed during a start, at random moments.

use std::time::Duration;

use maqet_tests::{Guest, Sandbox};
use rand::RngExt;

use crate::scene::{Scene, assert_processes, kill, process, random};

/// A start takes some tens of milliseconds on an idle host.
const MOMENTS_MS: std::ops::Range<u64> = 0..250;

#[test]
fn a_client_that_waits_gets_its_vm() {
    let mut random = random();
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    for _ in 0..5 {
        let moment = Duration::from_millis(random.random_range(MOMENTS_MS));
        let supervisor = supervisor(&sandbox);
        let start = sandbox.spawn(&["start", "web"]);
        maqet_tests::wait::exited(start.handle(), moment);
        kill(&[&supervisor]);
        // It asks the next supervisor the same, under the same key.
        let started = start.output();
        assert_eq!(started.code, 0, "after {moment:?}: {started:#?}");
        let status = sandbox.status("web");
        assert_eq!(status["status"], "running", "after {moment:?}: {status}");
        process(&status["pid"]);
        // One runner, one QEMU, and nothing of the start that was cut off.
        assert_processes(&sandbox, 3);
        sandbox.maqet(&["stop", "web", "--force"]).expect(0);
    }
}

#[test]
fn without_a_client_the_next_supervisor_tells_what_came_of_it() {
    let mut random = random();
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    for _ in 0..8 {
        let moment = Duration::from_millis(random.random_range(MOMENTS_MS));
        let supervisor = supervisor(&sandbox);
        let start = sandbox.spawn(&["start", "web"]);
        maqet_tests::wait::exited(start.handle(), moment);
        kill(&[start.handle(), &supervisor]);

        let listed = sandbox.json(&["ls"]);
        assert_eq!(
            listed[0]["id"].as_str(),
            Some(id.as_str()),
            "after {moment:?}: {listed}"
        );
        let running = listed[0]["status"] == "running";
        if running {
            process(&listed[0]["pid"]);
        } else {
            assert!(listed[0]["pid"].is_null(), "after {moment:?}: {listed}");
        }
        assert_processes(&sandbox, if running { 3 } else { 1 });
        // Whatever it was, it can be started and stopped.
        sandbox.maqet(&["start", "web"]).expect(0);
        sandbox.maqet(&["stop", "web", "--force"]).expect(0);
        assert_processes(&sandbox, 1);
    }
}

#[test]
fn a_restart_whose_second_half_fails_leaves_a_failed_vm() {
    let scene = Scene::new();
    let image = scene.sandbox.tiny_image();
    std::fs::remove_file(image).unwrap();
    let refused = scene.sandbox.maqet(&["restart", "web", "-o", "json"]).expect(1);
    assert_eq!(refused.error()["code"], "start-failed", "{refused:#?}");
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    assert_eq!(status["last_exit"]["cause"], "start-failed", "{status}");
    assert_processes(&scene.sandbox, 1);
    scene.sandbox.tiny_image();
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

/// The supervisor; one is started when there is none.
fn supervisor(sandbox: &Sandbox) -> maqet_process::ProcessHandle {
    sandbox.maqet(&["ls"]).expect(0);
    process(&sandbox.json(&["supervisor", "status", "--no-autostart"])["pid"])
}
