//! Enabled VMs, and whoever starts and stops besides.

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

use crate::scene::{Scene, VM, count, edit, kill, process, signal, wait_for, wait_status};

fn kill_supervisor(sandbox: &Sandbox) {
    kill(&[&process(&sandbox.json(&["supervisor", "status"])["pid"])]);
}

fn runs(sandbox: &Sandbox, vm: &str) -> Value {
    wait_status(sandbox, vm, "it runs", |status| status["status"] == "running")
}

/// What the journal says of starts, in order.
fn starts(sandbox: &Sandbox) -> Vec<(String, String)> {
    let events = sandbox.maqet(&["events", "--since", "0", "-o", "json"]).expect(0);
    let events = events
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = |event: Value| {
        [&event["kind"], &event["vm"]].map(|text| text.as_str().unwrap_or_default().to_owned())
    };
    let starts = events
        .map(told)
        .filter(|[kind, _vm]| kind == "vm.starting" || kind == "vm.running");
    starts.map(|[kind, vm]| (kind, vm)).collect()
}

#[test]
fn enabled_vms_are_started_in_order_and_the_others_are_not() {
    let sandbox = Sandbox::new();
    for name in ["last", "first", "second", "none"] {
        Guest::tiny(name).add(&sandbox);
    }
    sandbox
        .maqet(&["enable", "first", "--order", "1", "--delay", "200ms"])
        .expect(0);
    sandbox.maqet(&["enable", "second", "--order", "1"]).expect(0);
    sandbox.maqet(&["enable", "last", "--order", "2"]).expect(0);
    kill_supervisor(&sandbox);
    sandbox.maqet(&["ls"]).expect(0);
    for name in ["first", "second", "last"] {
        runs(&sandbox, name);
    }
    assert_eq!(sandbox.status("none")["status"], "created");
    let starts = starts(&sandbox);
    let place = |kind: &str, vm: &str| {
        starts
            .iter()
            .position(|start| start.0 == kind && start.1 == vm)
            .unwrap()
    };
    for earlier in ["first", "second"] {
        assert!(
            place("vm.running", earlier) < place("vm.starting", "last"),
            "{starts:?}"
        );
    }
    // One that runs is left alone.
    kill_supervisor(&sandbox);
    sandbox.maqet(&["ls"]).expect(0);
    assert_eq!(count(&sandbox, "vm.starting"), 3);
}

#[test]
fn enabling_is_shown_kept_and_taken_back() {
    let sandbox = Sandbox::new();
    Guest::tiny(VM).add(&sandbox);
    let set = sandbox.json(&["enable", VM, "--order", "3", "--delay", "1s"]);
    assert_eq!(
        set,
        json!([{"vm": VM, "already": false, "autostart": {"order": 3, "delay_ms": 1000}}])
    );
    sandbox.maqet(&["enable", VM, "--strict"]).expect(3);
    let set = sandbox.json(&["enable", VM, "--order", "4"]);
    assert_eq!(
        set[0]["autostart"],
        json!({"order": 4, "delay_ms": 1000}),
        "{set}"
    );
    let status = sandbox.maqet(&["status", VM]).expect(0).stdout;
    assert!(status.contains("order 4, then a pause of 1000 ms"), "{status}");
    let set = sandbox.json(&["disable", VM]);
    assert_eq!(
        (&set[0]["already"], &set[0]["autostart"]),
        (&json!(false), &Value::Null),
        "{set}"
    );
    sandbox.maqet(&["disable", VM, "--strict"]).expect(3);
    kill_supervisor(&sandbox);
    let status = sandbox.status(VM);
    assert_eq!(
        (&status["status"], &status["autostart"]),
        (&json!("created"), &Value::Null),
        "{status}"
    );
}

#[test]
fn a_stop_outlives_the_supervisor_but_not_the_boot() {
    let scene = Scene::new();
    scene.sandbox.maqet(&["enable", VM]).expect(0);
    scene.assert_stops();
    for _supervisor in 0..2 {
        kill(&[&scene.supervisor()]);
        // The barrier: once another enabled VM runs, this one was passed over.
        let other = Guest::tiny("other");
        if scene.sandbox.json(&["ls"]).as_array().unwrap().len() == 1 {
            other.add(&scene.sandbox);
            scene
                .sandbox
                .maqet(&["enable", "other", "--order", "9"])
                .expect(0);
        } else {
            runs(&scene.sandbox, "other");
        }
        assert_eq!(scene.status()["status"], "stopped");
    }
    scene
        .sandbox
        .maqet(&["rm", "other", "--force", "--yes"])
        .expect(0);
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    edit(&scene.sandbox, |record| {
        record.upkeep.boot_id = "an earlier one".to_owned();
    });
    runs(&scene.sandbox, VM);
    scene.assert_stops();
}

#[test]
fn a_stop_before_any_start_counts_as_well() {
    let sandbox = Sandbox::new();
    Guest::tiny(VM).add(&sandbox);
    sandbox.maqet(&["enable", VM]).expect(0);
    let stopped = sandbox.json(&["stop", VM]);
    assert_eq!(stopped[0]["how"], "already", "{stopped}");
    Guest::tiny("other").add(&sandbox);
    sandbox.maqet(&["enable", "other", "--order", "1"]).expect(0);
    kill_supervisor(&sandbox);
    runs(&sandbox, "other");
    assert_eq!(sandbox.status(VM)["status"], "created");
}

#[test]
fn the_end_of_host_or_supervisor_is_no_persons_stop() {
    let scene = Scene::new();
    scene.sandbox.maqet(&["enable", VM]).expect(0);
    // As at the shutdown of the host.
    let (runner, _qemu) = scene.processes();
    signal(&runner, Signal::Term);
    assert_eq!(scene.ended("stopped")["cause"], "host-shutdown");
    kill(&[&scene.supervisor()]);
    runs(&scene.sandbox, VM);
    std::fs::write(scene.sandbox.config(), "on_exit: stop\n").unwrap();
    kill(&[&scene.supervisor()]);
    runs(&scene.sandbox, VM);
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    scene.assert_processes(0);
    runs(&scene.sandbox, VM);
    scene.assert_answering();
}

#[test]
fn an_enabled_vm_that_does_not_start_is_told_of_and_its_policy_tries_again() {
    let sandbox = Sandbox::new();
    let line = "restart: {policy: on-failure, backoff: 50ms, tries: 2}";
    Guest::tiny(VM).line(line).add(&sandbox);
    sandbox.maqet(&["enable", VM]).expect(0);
    std::fs::remove_file(sandbox.tiny_image()).unwrap();
    kill_supervisor(&sandbox);
    sandbox.maqet(&["ls"]).expect(0);
    wait_for(&sandbox, "vm.crash-loop");
    assert_eq!(count(&sandbox, "vm.failed"), 3);
    // The next supervisor does not begin it all again.
    kill_supervisor(&sandbox);
    assert_eq!(sandbox.status(VM)["restart_state"]["gave_up"], true);
    assert_eq!(count(&sandbox, "vm.failed"), 3);
}
