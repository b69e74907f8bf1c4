//! Ends nobody asked maqet for: by the guest, by QEMU, from outside. Each has its own cause.

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::facts::{kinds, qemu, runner, send, status, text, until_ended, until_nothing_runs, until_serial};

/// Waits for the end of `web`; returns its status and how it ended.
#[track_caller]
fn end(sandbox: &Sandbox) -> (String, Value) {
    until_ended(sandbox, "web");
    let status = sandbox.status("web");
    until_nothing_runs(sandbox);
    (text(&status["status"]), status["last_exit"].clone())
}

/// Starts a tiny guest that ends itself, and waits for that.
#[track_caller]
fn ends_itself(options: &[&str], line: &str) -> (String, String) {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(options).line(line).start(&sandbox);
    let (status, exit) = end(&sandbox);
    let shown = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    let cause = text(&exit["cause"]);
    assert!(
        shown.contains("because: the guest") && shown.contains(&format!("cause: {cause}\n")),
        "{shown}"
    );
    let last = kinds(&sandbox, "web").pop();
    assert_eq!(last, Some(format!("vm.{status}")));
    (status, cause)
}

#[test]
fn a_guest_that_powers_off_is_stopped() {
    let end = ends_itself(&["poweroff", "later"], "");
    assert_eq!(end, ("stopped".into(), "guest-shutdown".into()));
}

#[test]
fn a_guest_that_powers_off_at_once_is_stopped() {
    let end = ends_itself(&["poweroff"], "");
    assert_eq!(end, ("stopped".into(), "guest-shutdown".into()));
}

#[test]
fn a_reset_ends_a_vm_that_is_not_to_reboot() {
    let end = ends_itself(&["reset"], "on_reboot: stop");
    assert_eq!(end, ("stopped".into(), "guest-reset".into()));
}

#[test]
fn a_triple_fault_is_a_reset_too() {
    let end = ends_itself(&["triple-fault"], "on_reboot: stop");
    assert_eq!(end, ("stopped".into(), "guest-reset".into()));
}

#[test]
fn a_panic_is_a_failure() {
    let end = ends_itself(&["panic"], "");
    assert_eq!(end, ("failed".into(), "guest-panic".into()));
}

#[test]
fn a_reset_is_part_of_life_otherwise() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["reset"]).start(&sandbox);
    until_serial(&sandbox, "web", "(?s)ready.*ready.*ready");
    assert_eq!(status(&sandbox, "web"), "running");
    // What it prints counts as progress; only a hard budget ends a guest that boots for ever soon.
    sandbox.maqet(&["stop", "web", "--timeout", "1s"]).expect(0);
}

#[test]
fn a_killed_qemu_is_a_failure_with_its_signal() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    send(&qemu(&sandbox, "web"), Signal::Kill);
    let (status, exit) = end(&sandbox);
    assert_eq!(
        (status.as_str(), &exit["cause"], &exit["signal"]),
        ("failed", &"qemu-killed".into(), &9.into())
    );
}

#[test]
fn a_crashed_qemu_is_a_failure_with_its_signal() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "segv-on-reset").start(&sandbox);
    sandbox.maqet(&["reset", "web"]);
    let (status, exit) = end(&sandbox);
    assert_eq!(
        (status.as_str(), &exit["cause"], &exit["signal"]),
        ("failed", &"qemu-crashed".into(), &11.into())
    );
}

#[test]
fn a_stray_sigterm_does_not_cut_the_power() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let qemu = qemu(&sandbox, "web");
    for signal in [Signal::Term, Signal::Int, Signal::Hup] {
        send(&qemu, signal);
    }
    assert_eq!(
        sandbox.json(&["qmp", "run", "web", "query-status"])["running"],
        true
    );
    assert_eq!(sandbox.json(&["stop", "web"])[0]["how"], "guest");
}

#[test]
fn a_runner_told_to_end_shuts_its_guest_down_first() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    send(&runner(&sandbox, "web"), Signal::Term);
    let (status, exit) = end(&sandbox);
    assert_eq!(
        (status.as_str(), &exit["cause"]),
        ("stopped", &"host-shutdown".into())
    );
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    assert!(log.contains("powering off"), "{log}");
}

#[test]
fn an_end_of_one_vm_is_none_of_anothers() {
    let sandbox = Sandbox::new();
    Guest::tiny("other").start(&sandbox);
    let before = sandbox.status("other");
    Guest::tiny("web").start(&sandbox);
    send(&qemu(&sandbox, "web"), Signal::Kill);
    until_ended(&sandbox, "web");
    let after = sandbox.status("other");
    assert_eq!(
        (&after["pid"], &after["status"]),
        (&before["pid"], &"running".into())
    );
}

#[test]
fn a_supervisor_that_ends_leaves_its_vms_running() {
    let sandbox = Sandbox::new();
    let supervisor = sandbox.supervisor();
    Guest::tiny("web").start(&sandbox);
    let before = sandbox.status("web");
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    assert_eq!(sandbox.processes().len(), 2);
    // The next command starts another supervisor, which finds it.
    let after = sandbox.status("web");
    assert_eq!(
        (&after["status"], &after["pid"]),
        (&"running".into(), &before["pid"])
    );
    assert_eq!(sandbox.json(&["stop", "web"])[0]["how"], "guest");
}

#[test]
fn a_supervisor_that_is_to_stop_its_vms_does() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.config(), "on_exit: stop\n").unwrap();
    let supervisor = sandbox.supervisor();
    for name in ["a", "b"] {
        Guest::tiny(name).start(&sandbox);
    }
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    assert!(sandbox.processes().is_empty(), "{:?}", sandbox.processes());
    assert_eq!(status(&sandbox, "a"), "stopped");
}
