//! `stop`, `kill`: by the guest, by QMP, by signal; once and for all callers.

use maqet_tests::{Guest, Sandbox, wait};

use crate::facts::{
    at_once, cause, kinds, nothing_runs, one, qemu, runner, status, text, until_activity, until_serial,
};

/// A VM whose guest does not listen to the power button.
fn deaf(sandbox: &Sandbox) {
    Guest::tiny("web").options(&["ignore-acpi"]).start(sandbox);
}

/// Stops `web` with these words; tells how it ended.
#[track_caller]
fn how(sandbox: &Sandbox, args: &[&str]) -> String {
    text(&one(&sandbox.json(args))["how"])
}

#[test]
fn a_guest_that_listens_ends_itself() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let (qemu, runner) = (qemu(&sandbox, "web"), runner(&sandbox, "web"));
    let stopped = sandbox.json(&["stop", "web"]);
    let stopped = one(&stopped);
    assert_eq!(
        (&stopped["vm"], &stopped["status"], &stopped["how"]),
        (&"web".into(), &"stopped".into(), &"guest".into())
    );
    assert!(stopped["took_ms"].is_u64());
    assert!(qemu.has_exited() && runner.has_exited());
    assert_eq!(cause(&sandbox, "web"), "stop");
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(log.contains("powering off"), "{log}");
    nothing_runs(&sandbox);
}

#[test]
fn a_stop_is_told_in_one_line() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let output = sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(sandbox.redact(&output.stdout), "web: stopped (guest, [MS])\n");
}

#[test]
fn a_guest_that_does_not_listen_is_quit_after_its_budget() {
    let sandbox = Sandbox::new();
    Guest::tiny("web")
        .options(&["ignore-acpi"])
        .line("stop: {timeout: 1s}")
        .start(&sandbox);
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(one(&stopped)["how"], "quit");
    assert!(one(&stopped)["took_ms"].as_u64().unwrap() >= 1000, "{stopped}");
    assert_eq!(
        (status(&sandbox, "web"), cause(&sandbox, "web")),
        ("stopped".into(), "stop".into())
    );
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(log.contains("power button ignored"), "{log}");
}

#[test]
fn a_timeout_given_with_the_stop_wins() {
    let sandbox = Sandbox::new();
    Guest::tiny("web")
        .options(&["ignore-acpi"])
        .line("stop: {timeout: 1h}")
        .start(&sandbox);
    assert_eq!(how(&sandbox, &["stop", "web", "--timeout", "500ms"]), "quit");
}

#[test]
fn a_timeout_of_nothing_asks_nobody() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    until_serial(&sandbox, "web", "ready");
    assert_eq!(how(&sandbox, &["stop", "web", "--timeout", "0"]), "quit");
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(!log.contains("power button"), "{log}");
}

#[test]
fn a_guest_that_makes_progress_gets_more_time() {
    let sandbox = Sandbox::new();
    let guest = Guest::tiny("web").options(&["ticks", "later"]);
    guest.line("stop: {timeout: 100ms}").start(&sandbox);
    // It ends by itself some ticks after the button, or is quit; either way nothing is cut off without `stop`.
    let how = how(&sandbox, &["stop", "web"]);
    assert!(matches!(how.as_str(), "guest" | "quit"), "{how}");
    assert_eq!(cause(&sandbox, "web"), "stop");
}

#[test]
fn a_paused_guest_is_quit_at_once() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line("stop: {timeout: 1h}").start(&sandbox);
    sandbox.maqet(&["pause", "web"]).expect(0);
    assert_eq!(how(&sandbox, &["stop", "web"]), "quit");
}

#[test]
fn stopping_what_does_not_run_is_a_success() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    assert_eq!(how(&sandbox, &["stop", "web"]), "already");
    assert_eq!(status(&sandbox, "web"), "created");
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(how(&sandbox, &["stop", "web"]), "already");
    assert_eq!(how(&sandbox, &["kill", "web"]), "already");
    let told = sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(told.stdout, "web: stopped already\n");
}

#[test]
fn strict_makes_already_stopped_an_error() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let error = sandbox
        .maqet(&["stop", "--strict", "web", "-o", "json"])
        .expect(3)
        .error();
    assert_eq!(
        (&error["code"], &error["state"]),
        (&"wrong-state".into(), &"created".into())
    );
    sandbox.maqet(&["kill", "--strict", "web"]).expect(3);
}

#[test]
fn stopping_a_failed_vm_changes_nothing() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").arg("-device").arg("nope").add(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(1);
    assert_eq!(how(&sandbox, &["stop", "web"]), "already");
    assert_eq!(
        (status(&sandbox, "web"), cause(&sandbox, "web")),
        ("failed".into(), "start-failed".into())
    );
}

#[test]
fn force_does_not_ask_the_guest() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    until_serial(&sandbox, "web", "ready");
    let qemu = qemu(&sandbox, "web");
    // A QEMU that answers gets the chance to flush and quit; the signal is for one that does not.
    let how = how(&sandbox, &["stop", "--force", "web"]);
    assert!(matches!(how.as_str(), "quit" | "killed"), "{how}");
    assert!(qemu.has_exited());
    assert_eq!(status(&sandbox, "web"), "stopped");
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(!log.contains("power button"), "{log}");
}

#[test]
fn kill_is_stop_with_force() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "ignore-quit").start(&sandbox);
    let qemu = qemu(&sandbox, "web");
    assert_eq!(how(&sandbox, &["kill", "web"]), "killed");
    assert!(qemu.has_exited());
    assert_eq!(status(&sandbox, "web"), "stopped");
    nothing_runs(&sandbox);
}

#[test]
fn two_stops_at_once_share_one_end() {
    let sandbox = Sandbox::new();
    deaf(&sandbox);
    let stop = ["stop", "web", "--timeout", "1s", "-o", "json"];
    let outputs = at_once(&sandbox, &[&stop, &stop]);
    for output in outputs {
        let report = output.expect(0).json();
        assert_eq!(
            (&one(&report)["how"], &one(&report)["status"]),
            (&"quit".into(), &"stopped".into())
        );
    }
    let stopping = kinds(&sandbox, "web");
    assert_eq!(
        stopping.iter().filter(|kind| *kind == "vm.stopping").count(),
        1,
        "{stopping:?}"
    );
}

#[test]
fn a_kill_hurries_a_stop_up() {
    let sandbox = Sandbox::new();
    deaf(&sandbox);
    let stop = sandbox.spawn(&["stop", "web", "--timeout", "1h", "-o", "json"]);
    until_activity(&sandbox, "web", "stopping");
    let killed = how(&sandbox, &["kill", "web"]);
    let stopped = stop.output().expect(0).json();
    assert_eq!(one(&stopped)["how"], killed.as_str());
    assert_eq!(status(&sandbox, "web"), "stopped");
}

#[test]
fn a_stop_with_less_time_hurries_another_up() {
    let sandbox = Sandbox::new();
    deaf(&sandbox);
    let patient = sandbox.spawn(&["stop", "web", "--timeout", "1h", "-o", "json"]);
    until_activity(&sandbox, "web", "stopping");
    assert_eq!(how(&sandbox, &["stop", "web", "--timeout", "100ms"]), "quit");
    assert_eq!(one(&patient.output().expect(0).json())["how"], "quit");
}

#[test]
fn giving_up_the_wait_does_not_give_up_the_stop() {
    let sandbox = Sandbox::new();
    deaf(&sandbox);
    let late = sandbox.maqet(&[
        "stop",
        "web",
        "--timeout",
        "2s",
        "--deadline",
        "300ms",
        "-o",
        "json",
    ]);
    assert_eq!(late.expect(124).error()["code"], "timeout");
    sandbox
        .maqet(&["wait", "web", "stopped", "--timeout", "60s"])
        .expect(0);
    assert_eq!(cause(&sandbox, "web"), "stop");
}

#[test]
fn a_stopping_vm_takes_no_other_orders() {
    let sandbox = Sandbox::new();
    deaf(&sandbox);
    let stop = sandbox.spawn(&["stop", "web", "--timeout", "1h"]);
    until_activity(&sandbox, "web", "stopping");
    for verb in ["start", "restart", "pause", "resume", "reset", "rm"] {
        let error = sandbox.maqet(&[verb, "web", "-o", "json"]).expect(5).error();
        assert_eq!(error["code"], "busy", "{verb}: {error}");
    }
    // Questions are answered all the while.
    sandbox.maqet(&["qmp", "run", "web", "query-status"]).expect(0);
    sandbox.maqet(&["kill", "web"]).expect(0);
    stop.output().expect(0);
}

#[test]
fn several_vms_stop_with_one_command() {
    let sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        Guest::tiny(name).start(&sandbox);
    }
    let stopped = sandbox.json(&["stop", "a", "b", "c"]);
    for report in stopped.as_array().unwrap() {
        assert_eq!(report["how"], "guest", "{stopped}");
    }
    nothing_runs(&sandbox);
}

#[test]
fn on_timeout_kill_is_the_vms_own_permission() {
    let sandbox = Sandbox::new();
    let fake = Guest::fake("web", "ignore-powerdown+hang-stop+hang-quit");
    fake.line("stop: {timeout: 500ms, on_timeout: kill}")
        .start(&sandbox);
    let qemu = qemu(&sandbox, "web");
    assert_eq!(how(&sandbox, &["stop", "web"]), "killed");
    assert!(wait::exited(&qemu, wait::PATIENCE));
    assert_eq!(cause(&sandbox, "web"), "stop-forced");
}
