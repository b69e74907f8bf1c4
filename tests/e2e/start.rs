//! `start`: from every state, by every name, once and for all callers.

use maqet_tests::{Guest, Running, Sandbox, wait};

use crate::facts::{at_once, cause, kinds, nothing_runs, one, qemu, runner, status, text, until_activity};

#[test]
fn a_created_vm_starts() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    assert_eq!(status(&sandbox, "web"), "created");
    let started = sandbox.json(&["start", "web"]);
    let started = one(&started);
    assert_eq!(
        (&started["name"], &started["id"], &started["already"]),
        (&"web".into(), &id.into(), &false.into())
    );
    let now = sandbox.status("web");
    assert_eq!(
        (&now["status"], &now["run_state"]),
        (&"running".into(), &"running".into())
    );
    assert_eq!(now["pid"], started["pid"]);
    assert_eq!(now["accel"], "tcg");
    assert!(now["last_exit"].is_null());
    assert!(!qemu(&sandbox, "web").has_exited());
}

#[test]
fn a_start_is_told_in_one_line() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let output = sandbox.maqet(&["start", "web"]).expect(0);
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(sandbox.redact(&output.stderr), "web: running (pid [PID], [MS])\n");
}

#[test]
fn a_stopped_vm_starts_again_as_another_process() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let first = qemu(&sandbox, "web");
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert!(first.has_exited());
    sandbox.maqet(&["start", "web"]).expect(0);
    let second = sandbox.status("web");
    assert_eq!(second["status"], "running");
    assert_eq!(second["last_exit"]["cause"], "stop");
    assert!(!qemu(&sandbox, "web").has_exited());
}

#[test]
fn a_failed_vm_starts_again() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["panic", "later"]).start(&sandbox);
    sandbox
        .maqet(&["wait", "web", "failed", "--timeout", "60s"])
        .expect(0);
    assert_eq!(cause(&sandbox, "web"), "guest-panic");
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn starting_what_runs_is_a_success() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let before = sandbox.status("web");
    let again = sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(
        sandbox.redact(&again.stderr),
        "web: running already (pid [PID])\n"
    );
    assert_eq!(one(&sandbox.json(&["start", "web"]))["already"], true);
    assert_eq!(sandbox.status("web")["pid"], before["pid"]);
}

#[test]
fn strict_makes_already_running_an_error() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let error = sandbox
        .maqet(&["start", "--strict", "web", "-o", "json"])
        .expect(3)
        .error();
    assert_eq!(
        (&error["code"], &error["state"], &error["vm"]),
        (&"wrong-state".into(), &"running".into(), &"web".into())
    );
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn two_starts_at_once_make_one_vm() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    // The supervisor is started by whoever comes first as well.
    for _ in 0..3 {
        let outputs = at_once(
            &sandbox,
            &[&["start", "web", "-o", "json"], &["start", &id, "-o", "json"]],
        );
        let started: Vec<_> = outputs
            .into_iter()
            .map(|output| output.expect(0).json())
            .collect();
        let pids: Vec<_> = started.iter().map(|list| &one(list)["pid"]).collect();
        assert_eq!(pids.first(), pids.last());
        // Supervisor, runner, QEMU.
        assert_eq!(sandbox.processes().len(), 3, "{:?}", sandbox.processes());
        sandbox.maqet(&["stop", "web"]).expect(0);
    }
    let starts = kinds(&sandbox, "web");
    assert_eq!(starts.iter().filter(|kind| *kind == "vm.running").count(), 3);
}

#[test]
fn a_vm_is_started_by_the_beginning_of_its_id() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    let (eight, seven) = (id.get(..8).unwrap(), id.get(..7).unwrap());
    sandbox.maqet(&["start", seven]).expect(4);
    sandbox.maqet(&["start", eight]).expect(0);
    assert_eq!(status(&sandbox, &id), "running");
}

#[test]
fn several_vms_start_with_one_command() {
    let sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        Guest::tiny(name).add(&sandbox);
    }
    let started = sandbox.json(&["start", "c", "a", "b"]);
    let names: Vec<String> = started
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| text(&vm["name"]))
        .collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_starting() {
    let sandbox = Sandbox::new();
    Guest::tiny("good").add(&sandbox);
    Guest::tiny("bad").arg("-device").arg("nope").add(&sandbox);
    let output = sandbox.maqet(&["start", "bad", "nobody", "good"]).expect(1);
    assert!(
        output.stderr.contains("'nope' is not a valid device model name"),
        "{output:#?}"
    );
    assert!(output.stderr.contains("no VM is named `nobody`"), "{output:#?}");
    assert_eq!(status(&sandbox, "good"), "running");
    assert_eq!(status(&sandbox, "bad"), "failed");
}

#[test]
fn add_can_start_at_once_and_reads_stdin() {
    let sandbox = Sandbox::new();
    let yaml = Guest::tiny("web").yaml(&sandbox);
    let mut add = sandbox.spawn(&["add", "-", "--start"]);
    add.type_in(&yaml);
    let id = add.output().expect(0).stdout;
    assert_eq!(status(&sandbox, id.trim()), "running");
}

#[test]
fn start_can_wait_for_what_the_guest_says() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).add(&sandbox);
    sandbox
        .maqet(&["start", "web", "--wait", "serial=tick 2"])
        .expect(0);
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(log.contains("tick 2"), "{log}");
}

#[test]
fn waiting_too_long_for_a_started_vm_leaves_it_running() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let late = sandbox.maqet(&[
        "start",
        "web",
        "--wait",
        "serial=never",
        "--timeout",
        "500ms",
        "-o",
        "json",
    ]);
    assert_eq!(late.expect(124).error()["code"], "timeout");
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn a_stop_cancels_a_start() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "mute").add(&sandbox);
    let start = sandbox.spawn(&["start", "web", "-o", "json"]);
    until_activity(&sandbox, "web", "starting");
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(one(&stopped)["how"], "killed");
    let error = start.output().expect(3).error();
    assert_eq!(error["message"], "the start of `web` was cancelled by a stop");
    nothing_runs(&sandbox);
    assert_ne!(status(&sandbox, "web"), "running");
}

#[test]
fn only_a_stop_gets_through_to_a_starting_vm() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "mute").add(&sandbox);
    let start = sandbox.spawn(&["start", "web"]);
    until_activity(&sandbox, "web", "starting");
    for verb in ["pause", "resume", "reset", "restart", "rm"] {
        let error = sandbox.maqet(&[verb, "web", "-o", "json"]).expect(5).error();
        assert_eq!(error["code"], "busy", "{verb}: {error}");
    }
    sandbox.maqet(&["stop", "web"]).expect(0);
    start.output().expect(3);
}

#[test]
fn a_second_start_shares_the_outcome_of_the_first() {
    let sandbox = Sandbox::new();
    Guest::fake("good", "late-greeting=1500").add(&sandbox);
    Guest::fake("bad", "mute").add(&sandbox);
    let first = ["good", "bad"].map(|vm| sandbox.spawn(&["start", vm, "-o", "json"]));
    until_activity(&sandbox, "bad", "starting");
    let second = ["good", "bad"].map(|vm| sandbox.spawn(&["start", vm, "-o", "json"]));
    let [good, bad] = first.map(Running::output);
    let [also_good, also_bad] = second.map(Running::output);
    assert_eq!(one(&good.json())["pid"], one(&also_good.json())["pid"]);
    assert_eq!(bad.expect(1).error(), also_bad.expect(1).error());
    assert_eq!(sandbox.processes().len(), 3, "{:?}", sandbox.processes());
}

#[test]
fn a_start_while_the_vm_stops_is_told_to_wait() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ignore-acpi"]).start(&sandbox);
    let stop = sandbox.spawn(&["stop", "web", "--timeout", "1h"]);
    until_activity(&sandbox, "web", "stopping");
    let error = sandbox.maqet(&["start", "web", "-o", "json"]).expect(5).error();
    assert_eq!(
        (&error["code"], &error["hint"]),
        (&"busy".into(), &"maqet wait web exit".into())
    );
    sandbox.maqet(&["kill", "web"]).expect(0);
    stop.output().expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_launch_leaves_one_runner_in_a_session_of_its_own() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let runner = runner(&sandbox, "web");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", runner.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // State, parent, group, session: proc_pid_stat(5).
    assert_eq!(fields.get(3), Some(&runner.pid().to_string().as_str()));
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert!(wait::exited(&runner, wait::PATIENCE));
}
