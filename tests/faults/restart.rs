//! What the restart policy does when things die, and when somebody means something else.

use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

use crate::scene::{Scene, VM, count, kill, kinds, process, wait_for, wait_status};

/// A pause that nobody here lives to see the end of.
const ENDLESS: &str = "{policy: on-failure, backoff: 1h, tries: 1, window: 24h}";

fn guest(restart: &str) -> Guest {
    Guest::tiny(VM)
        .options(&["ticks"])
        .line(&format!("restart: {restart}"))
}

fn runs_as_another(sandbox: &Sandbox, before: i32) -> Value {
    wait_status(sandbox, VM, "it runs again", |status| {
        status["status"] == "running" && status["activity"] == "idle" && status["pid"] != json!(before)
    })
}

/// Kills QEMU; returns the status once the end is on record and the next restart is due.
fn killed(scene: &Scene) -> Value {
    let (_runner, qemu) = scene.processes();
    kill(&[&qemu]);
    wait_status(&scene.sandbox, VM, "a restart is due", |status| {
        status["status"] == "failed" && status["restart_state"]["next_at"].is_string()
    })
}

#[test]
fn a_killed_vm_comes_back_after_a_pause() {
    let scene = Scene::of(&guest("{policy: on-failure, backoff: 200ms}"));
    let (_runner, qemu) = scene.processes();
    kill(&[&qemu]);
    let status = runs_as_another(&scene.sandbox, qemu.pid());
    let state = &status["restart_state"];
    assert_eq!(status["restart"], "on-failure", "{status}");
    assert_eq!(
        (&state["tries"], &state["next_at"]),
        (&json!(1), &Value::Null),
        "{status}"
    );
    scene.assert_answering();
    let order: Vec<_> = kinds(&scene.sandbox)
        .into_iter()
        .filter(|kind| kind.starts_with("vm."))
        .skip_while(|kind| kind != "vm.failed")
        .collect();
    assert_eq!(order, ["vm.failed", "vm.restarting", "vm.starting", "vm.running"]);
    scene.assert_stops();
    assert_eq!(count(&scene.sandbox, "vm.starting"), 2);
}

#[test]
fn a_crash_loop_is_given_up_until_somebody_starts_the_vm() {
    let scene = Scene::of(&guest("{policy: always, backoff: 50ms, tries: 2}"));
    for round in 0..3 {
        let (_runner, qemu) = scene.processes();
        kill(&[&qemu]);
        if round < 2 {
            runs_as_another(&scene.sandbox, qemu.pid());
        }
    }
    wait_for(&scene.sandbox, "vm.crash-loop");
    let listed = scene.sandbox.json(&["ls"]);
    assert_eq!(listed[0]["status"], "failed", "{listed}");
    assert_eq!(listed[0]["restart_state"]["gave_up"], true, "{listed}");
    assert_eq!(listed[0]["restart_state"]["tries"], 2, "{listed}");
    let table = scene.sandbox.maqet(&["ls"]).expect(0).stdout;
    assert!(table.contains("failed (crash loop)"), "{table}");
    let report = scene.sandbox.json(&["doctor"]);
    let mut checks = report["checks"].as_array().unwrap().iter();
    let told = checks.find(|check| check["check"] == "vm-crash-loop");
    assert_eq!(told.unwrap()["where"], VM, "{report}");
    // It stays so, also for the next supervisor.
    kill(&[&scene.supervisor()]);
    assert_eq!(scene.status()["restart_state"]["gave_up"], true);
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", VM]).expect(0);
    let state = scene.status()["restart_state"].clone();
    assert_eq!(
        (&state["gave_up"], &state["tries"]),
        (&json!(false), &json!(0)),
        "{state}"
    );
    scene.assert_stops();
}

#[test]
fn a_guest_that_powers_off_is_restarted_only_by_always() {
    for (policy, starts) in [("on-failure", 1), ("always", 2)] {
        let restart = format!("{{policy: {policy}, backoff: 50ms, tries: 1}}");
        let sandbox = Sandbox::new();
        let line = format!("restart: {restart}");
        Guest::tiny(VM).options(&["poweroff"]).line(&line).start(&sandbox);
        let gives_up = policy == "always";
        let status = wait_status(&sandbox, VM, "the last end", |status| {
            status["status"] == "stopped"
                && status["restart_state"]["gave_up"] == json!(gives_up)
                && status["restart_state"]["next_at"].is_null()
        });
        assert_eq!(status["last_exit"]["cause"], "guest-shutdown", "{status}");
        assert_eq!(count(&sandbox, "vm.running"), starts, "{policy}");
    }
}

#[test]
fn a_stop_during_the_pause_is_final() {
    let scene = Scene::of(&guest(ENDLESS));
    killed(&scene);
    let stopped = scene.sandbox.json(&["stop", VM]);
    assert_eq!(stopped[0]["how"], "already", "{stopped}");
    kill(&[&scene.supervisor()]);
    let status = scene.status();
    assert_eq!(status["restart_state"]["next_at"], Value::Null, "{status}");
    assert_eq!(status["last_exit"]["cause"], "qemu-killed", "{status}");
    assert_eq!(count(&scene.sandbox, "vm.restart-cancelled"), 1);
    scene.assert_processes(1);
}

#[test]
fn a_start_during_the_pause_starts_at_once_and_counts_anew() {
    let scene = Scene::of(&guest(ENDLESS));
    killed(&scene);
    scene.sandbox.maqet(&["start", VM]).expect(0);
    let state = scene.status()["restart_state"].clone();
    assert_eq!(
        (&state["next_at"], &state["tries"]),
        (&Value::Null, &json!(0)),
        "{state}"
    );
    scene.assert_answering();
    // The one restart there is was not used up.
    assert!(killed(&scene)["restart_state"]["next_at"].is_string());
}

#[test]
fn a_vm_in_its_pause_can_be_removed() {
    let scene = Scene::of(&guest(ENDLESS));
    killed(&scene);
    scene.sandbox.maqet(&["rm", VM, "--yes"]).expect(0);
    scene.sandbox.maqet(&["status", VM]).expect(4);
    scene.assert_processes(1);
}

#[test]
fn a_pause_outlives_the_supervisor_and_one_end_is_answered_once() {
    let scene = Scene::of(&guest("{policy: on-failure, backoff: 3s, tries: 3}"));
    let (_runner, qemu) = scene.processes();
    let due = killed(&scene)["restart_state"]["next_at"].clone();
    kill(&[&scene.supervisor()]);
    // Any call starts the next supervisor, which goes on waiting for the same moment.
    let status = scene.status();
    assert_eq!(status["restart_state"]["next_at"], due, "{status}");
    runs_as_another(&scene.sandbox, qemu.pid());
    kill(&[&scene.supervisor()]);
    let status = scene.status();
    assert_eq!(
        (&status["status"], &status["restart_state"]["tries"]),
        (&json!("running"), &json!(1)),
        "{status}"
    );
    assert_eq!(count(&scene.sandbox, "vm.starting"), 2);
    scene.assert_processes(3);
    scene.assert_stops();
}

#[test]
fn what_died_while_no_supervisor_was_there_is_restarted_by_the_next_one() {
    let scene = Scene::of(&guest("{policy: on-failure, backoff: 100ms}"));
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    let status = runs_as_another(&scene.sandbox, qemu.pid());
    assert_eq!(status["last_exit"]["cause"], "runner-lost", "{status}");
    scene.assert_processes(3);
    scene.assert_stops();
}

#[test]
fn a_restart_that_fails_is_tried_again_until_it_is_given_up() {
    let scene = Scene::of(&guest("{policy: on-failure, backoff: 50ms, tries: 2}"));
    std::fs::remove_file(scene.sandbox.tiny_image()).unwrap();
    let (_runner, qemu) = scene.processes();
    kill(&[&qemu]);
    wait_for(&scene.sandbox, "vm.crash-loop");
    let status = scene.status();
    assert_eq!(status["last_exit"]["cause"], "start-failed", "{status}");
    assert_eq!(count(&scene.sandbox, "vm.restarting"), 2);
    // Whoever starts it is told, and nothing is tried behind their back.
    scene.sandbox.maqet(&["start", VM]).expect(1);
    assert_eq!(scene.status()["restart_state"]["next_at"], Value::Null);
    assert_eq!(count(&scene.sandbox, "vm.restarting"), 2);
    scene.assert_processes(1);
}

#[test]
fn a_stop_cancels_a_restart_that_has_begun() {
    let sandbox = Sandbox::new();
    let line = "restart: {policy: always, backoff: 20ms, backoff_max: 1s, tries: 50}";
    Guest::tiny(VM).options(&["poweroff"]).line(line).start(&sandbox);
    for _round in 0..5 {
        wait_for(&sandbox, "vm.restarting");
        let stopped = sandbox.json(&["stop", VM]);
        let starts = count(&sandbox, "vm.starting");
        let status = sandbox.status(VM);
        assert_eq!(
            (&status["activity"], &status["pid"]),
            (&json!("idle"), &Value::Null),
            "{stopped} {status}"
        );
        assert_eq!(
            status["restart_state"]["next_at"],
            Value::Null,
            "{stopped} {status}"
        );
        kill(&[&process(&sandbox.json(&["supervisor", "status"])["pid"])]);
        sandbox.maqet(&["ls"]).expect(0);
        assert_eq!(count(&sandbox, "vm.starting"), starts, "{stopped}");
        sandbox.maqet(&["start", VM]).expect(0);
    }
}
