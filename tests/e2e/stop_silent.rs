//! Stopping a QEMU, or a runner, that answers nothing.

use maqet_process::{ProcessHandle, Signal};
use maqet_tests::{Guest, Sandbox, wait};

use crate::facts::{cause, kinds, nothing_runs, one, qemu, runner, send, status, until_serial};

/// `web`, whose QEMU was frozen by SIGSTOP.
fn frozen(sandbox: &Sandbox) -> ProcessHandle {
    Guest::tiny("web").line("stop: {timeout: 2s}").start(sandbox);
    until_serial(sandbox, "web", "ready");
    let qemu = qemu(sandbox, "web");
    send(&qemu, Signal::Stop);
    qemu
}

#[test]
fn a_plain_stop_leaves_a_frozen_qemu_alone_and_says_so() {
    let sandbox = Sandbox::new();
    let qemu = frozen(&sandbox);
    let output = sandbox.maqet(&["stop", "web"]).expect(124);
    assert!(output.stderr.contains("still running"), "{output:?}");
    assert!(
        output.stderr.contains("hint: maqet stop --force web"),
        "{output:?}"
    );
    let error = sandbox
        .maqet(&["stop", "web", "--timeout", "1s", "-o", "json"])
        .expect(124)
        .error();
    assert_eq!(
        (&error["code"], &error["state"], &error["hint"]),
        (
            &"timeout".into(),
            &"running".into(),
            &"maqet stop --force web".into()
        )
    );
    assert!(!qemu.has_exited());
    assert_eq!(status(&sandbox, "web"), "running");
    // It is shown that it does not answer, and what it had been asked is what it does when it can again.
    let table = sandbox.maqet(&["ls"]).expect(0).stdout;
    assert!(table.contains("not answering"), "{table}");
    send(&qemu, Signal::Cont);
    sandbox.maqet(&["stop", "web"]).expect(0);
}

#[test]
fn force_ends_a_frozen_qemu_before_it_returns() {
    let sandbox = Sandbox::new();
    let qemu = frozen(&sandbox);
    let stopped = sandbox.json(&["stop", "--force", "web"]);
    assert_eq!(
        (&one(&stopped)["how"], &one(&stopped)["status"]),
        (&"killed".into(), &"stopped".into())
    );
    assert!(qemu.has_exited());
    let proc = std::path::PathBuf::from(format!("/proc/{}", qemu.pid()));
    assert!(!proc.exists(), "a zombie stays");
    let last = &sandbox.status("web")["last_exit"];
    assert_eq!(
        (&last["cause"], &last["signal"]),
        (&"stop-forced".into(), &9.into())
    );
    assert!(last["detail"].to_string().contains("unclean"), "{last}");
    nothing_runs(&sandbox);
}

#[test]
fn a_frozen_qemu_holds_up_neither_questions_nor_other_vms() {
    let sandbox = Sandbox::new();
    let qemu = frozen(&sandbox);
    let stop = sandbox.spawn(&["stop", "web", "--timeout", "2s"]);
    Guest::tiny("other").start(&sandbox);
    assert_eq!(one(&sandbox.json(&["stop", "other"]))["how"], "guest");
    assert_eq!(sandbox.json(&["ls"]).as_array().unwrap().len(), 2);
    stop.output().expect(124);
    send(&qemu, Signal::Cont);
}

#[test]
fn a_qemu_that_thaws_is_stopped_like_any_other() {
    let sandbox = Sandbox::new();
    let qemu = frozen(&sandbox);
    sandbox.maqet(&["stop", "web", "--timeout", "500ms"]).expect(124);
    wait::until("vm.silent", wait::PATIENCE, || {
        let kinds = kinds(&sandbox, "web");
        let told = kinds.iter().any(|kind| kind == "vm.silent");
        if told { Ok(()) } else { Err(kinds) }
    });
    send(&qemu, Signal::Cont);
    // The press of the power button that it could not take is taken now.
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(status(&sandbox, "web"), "stopped");
    let cause = cause(&sandbox, "web");
    assert!(matches!(cause.as_str(), "stop" | "guest-shutdown"), "{cause}");
}

#[test]
fn force_does_without_a_frozen_runner() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let (qemu, runner) = (qemu(&sandbox, "web"), runner(&sandbox, "web"));
    send(&runner, Signal::Stop);
    let stopped = sandbox.json(&["stop", "--force", "web"]);
    assert_eq!(one(&stopped)["how"], "killed");
    assert!(qemu.has_exited() && runner.has_exited());
    assert_eq!(cause(&sandbox, "web"), "stop-forced");
    nothing_runs(&sandbox);
}

#[test]
fn a_qemu_that_stays_after_quit_is_killed_because_its_disks_are_flushed() {
    let sandbox = Sandbox::new();
    let fake = Guest::fake("web", "ignore-powerdown+ignore-quit");
    fake.line("stop: {timeout: 500ms}").start(&sandbox);
    let qemu = qemu(&sandbox, "web");
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(one(&stopped)["how"], "killed", "{stopped}");
    assert!(qemu.has_exited());
}
