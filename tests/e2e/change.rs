//! `pause`, `resume`, `reset`, `restart`.

use maqet_tests::{Guest, Sandbox};

use crate::facts::{cause, kinds, one, qemu, status, text, until_activity, until_serial};

#[test]
fn pause_and_resume_change_the_run_state_only() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let pid = sandbox.status("web")["pid"].clone();
    let paused = sandbox.json(&["pause", "web"]);
    let paused = one(&paused);
    assert_eq!(
        (&paused["already"], &paused["run_state"]),
        (&false.into(), &"paused".into())
    );
    let now = sandbox.status("web");
    assert_eq!(
        (&now["status"], &now["run_state"], &now["pid"]),
        (&"running".into(), &"paused".into(), &pid)
    );
    assert!(
        sandbox
            .maqet(&["ls"])
            .expect(0)
            .stdout
            .contains("running (paused)")
    );
    assert_eq!(one(&sandbox.json(&["pause", "web"]))["already"], true);
    sandbox.maqet(&["pause", "--strict", "web"]).expect(3);

    let resumed = sandbox.json(&["resume", "web"]);
    assert_eq!(
        (&one(&resumed)["already"], &one(&resumed)["run_state"]),
        (&false.into(), &"running".into())
    );
    assert_eq!(one(&sandbox.json(&["resume", "web"]))["already"], true);
    sandbox.maqet(&["resume", "--strict", "web"]).expect(3);
    assert_eq!(
        sandbox.json(&["qmp", "run", "web", "query-status"])["status"],
        "running"
    );
}

#[test]
fn a_paused_guest_does_nothing() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).start(&sandbox);
    until_serial(&sandbox, "web", "tick 1");
    sandbox.maqet(&["pause", "web"]).expect(0);
    let count = || sandbox.maqet(&["logs", "web"]).expect(0).stdout.lines().count();
    let before = count();
    // A whole round through all programs is several ticks long.
    for _ in 0..3 {
        sandbox.status("web");
    }
    assert_eq!(count(), before);
    sandbox.maqet(&["resume", "web"]).expect(0);
    until_serial(&sandbox, "web", "tick 9");
}

#[test]
fn the_verbs_of_qmp_are_the_same() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["qmp", "pause", "web"]).expect(0);
    assert_eq!(sandbox.status("web")["run_state"], "paused");
    sandbox.maqet(&["qmp", "resume", "web"]).expect(0);
    assert_eq!(sandbox.status("web")["run_state"], "running");
}

#[test]
fn a_reset_starts_the_guest_anew_in_the_same_process() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    until_serial(&sandbox, "web", "ready");
    let before = sandbox.status("web");
    sandbox.maqet(&["reset", "web"]).expect(0);
    until_serial(&sandbox, "web", "(?s)ready.*ready");
    let after = sandbox.status("web");
    assert_eq!(
        (&after["pid"], &after["since"]),
        (&before["pid"], &before["since"])
    );
}

#[test]
fn what_does_not_run_cannot_be_changed() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    for verb in ["pause", "resume", "reset"] {
        let error = sandbox.maqet(&[verb, "web", "-o", "json"]).expect(3).error();
        assert_eq!(
            (&error["code"], &error["state"], &error["hint"]),
            (
                &"wrong-state".into(),
                &"created".into(),
                &"maqet start web".into()
            ),
            "{verb}"
        );
    }
}

#[test]
fn a_restart_is_a_stop_and_a_start() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let first = qemu(&sandbox, "web");
    let restarted = sandbox.json(&["restart", "web"]);
    assert_eq!(one(&restarted)["already"], false);
    assert!(first.has_exited());
    assert_eq!(
        (status(&sandbox, "web"), cause(&sandbox, "web")),
        ("running".into(), "stop".into())
    );
    let life: Vec<String> = kinds(&sandbox, "web")
        .into_iter()
        .filter(|kind| kind.starts_with("vm."))
        .collect();
    let expected = [
        "vm.added",
        "vm.starting",
        "vm.running",
        "vm.stopping",
        "vm.stopped",
        "vm.starting",
        "vm.running",
    ];
    assert_eq!(life, expected);
}

#[test]
fn a_restart_of_what_does_not_run_is_a_start() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    sandbox.maqet(&["restart", "web"]).expect(0);
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn a_restart_of_a_deaf_guest_has_the_same_ladder() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ignore-acpi"]).start(&sandbox);
    let first = qemu(&sandbox, "web");
    sandbox.maqet(&["restart", "web", "--timeout", "500ms"]).expect(0);
    assert!(first.has_exited());
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn a_stop_in_the_first_half_of_a_restart_means_it() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ignore-acpi"]).start(&sandbox);
    let restart = sandbox.spawn(&["restart", "web", "--timeout", "1h"]);
    until_activity(&sandbox, "web", "stopping");
    let stopped = sandbox.json(&["stop", "web", "--timeout", "100ms"]);
    assert_eq!(text(&one(&stopped)["status"]), "stopped");
    restart.output().expect(5);
    assert_eq!(status(&sandbox, "web"), "stopped");
}
