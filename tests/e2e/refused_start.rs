//! Starts that fail: quickly, in QEMU's own words, with nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use maqet_tests::{Guest, Output, Running, Sandbox};
use serde_json::Value;

use crate::facts::{cause, nothing_runs, status, until_ended, until_nothing_runs};

/// Far more than the second it may take, because the host may be busy.
const QUICKLY: Duration = Duration::from_secs(5);

/// Starts a VM that cannot start; returns the error.
#[track_caller]
fn fails(sandbox: &Sandbox, vm: &str) -> (Output, Value) {
    fails_with(sandbox, vm, 1, "start-failed")
}

/// The same with an exit code of its own.
#[track_caller]
fn fails_with(sandbox: &Sandbox, vm: &str, exit: i32, code: &str) -> (Output, Value) {
    let output = sandbox.maqet(&["start", vm, "-o", "json"]).expect(exit);
    let error = output.error();
    assert_eq!(
        (&error["code"], &error["vm"]),
        (&code.into(), &vm.into()),
        "{error}"
    );
    assert_eq!(status(sandbox, vm), "failed");
    assert_eq!(cause(sandbox, vm), "start-failed");
    nothing_runs(sandbox);
    (output, error)
}

#[test]
fn a_command_line_qemu_rejects_fails_at_once_with_its_words() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").arg("-device").arg("nope").add(&sandbox);
    let (output, error) = fails(&sandbox, "web");
    assert!(output.took < QUICKLY, "{:?}", output.took);
    assert_eq!(error["message"], "QEMU ended during its start with exit code 1");
    let words = "'nope' is not a valid device model name";
    assert!(error["causes"].to_string().contains(words), "{error}");
    let status = sandbox.status("web");
    assert!(
        status["last_exit"]["detail"].to_string().contains(words),
        "{status}"
    );
    assert_eq!(status["last_exit"]["exit_code"], 1);
    // The log keeps them, and so does the answer for people.
    let log = sandbox.maqet(&["logs", "web", "--qemu"]).expect(0).stdout;
    assert!(log.contains(words), "{log}");
    let shown = sandbox.maqet(&["start", "web"]).expect(1).stderr;
    assert!(
        shown.contains(words) && shown.contains("hint: maqet logs web --qemu"),
        "{shown}"
    );
}

#[test]
fn a_busy_port_fails_the_start_until_it_is_free() {
    let sandbox = Sandbox::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let line = format!("networks: {{lan: {{type: user, forwards: ['tcp:127.0.0.1:{port}:22']}}}}");
    Guest::tiny("web").line(&line).add(&sandbox);
    let output = sandbox.maqet(&["start", "web", "-o", "json"]);
    assert!(matches!(output.code, 1 | 5), "{output:#?}");
    assert!(
        output.error().to_string().contains(&port.to_string()),
        "{output:#?}"
    );
    assert_eq!(status(&sandbox, "web"), "failed");
    nothing_runs(&sandbox);
    drop(holder);
    sandbox.maqet(&["start", "web"]).expect(0);
    let ports = &sandbox.status("web")["ports"];
    assert_eq!(ports[0]["host_port"], port);
}

#[test]
fn a_disk_that_went_away_fails_the_start() {
    let sandbox = Sandbox::new();
    let disk = sandbox.home().join("root.raw");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    Guest::tiny("web")
        .line("disks: {root: {path: ./root.raw, format: raw}}")
        .add(&sandbox);
    fs::remove_file(&disk).unwrap();
    // What is stored does not work on this host any more.
    let (_, error) = fails_with(&sandbox, "web", 78, "invalid-spec");
    assert!(error.to_string().contains("root.raw"), "{error}");
}

#[test]
fn a_disk_that_cannot_be_made_fails_the_start() {
    let sandbox = Sandbox::new();
    let dir = sandbox.home().join("disks");
    fs::create_dir(&dir).unwrap();
    Guest::tiny("web")
        .line("disks: {root: {path: ./disks/root.qcow2, size: 1M}}")
        .add(&sandbox);
    fs::remove_dir(&dir).unwrap();
    let (_, error) = fails(&sandbox, "web");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("disk `root` of `web` cannot be created"),
        "{error}"
    );
    fs::create_dir(&dir).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_qemu_that_went_away_fails_the_start() {
    let sandbox = Sandbox::new();
    let own = sandbox.home().join("qemu");
    std::os::unix::fs::symlink(maqet_tests::built("fake_qemu"), &own).unwrap();
    let yaml = Guest::tiny("web").yaml(&sandbox) + &format!("binary: {}\n", own.display());
    let file = sandbox.write_vm("web", &yaml);
    sandbox.maqet(&["add", path(&file)]).expect(0);
    fs::remove_file(&own).unwrap();
    let (_, error) = fails(&sandbox, "web");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("QEMU program of `web` cannot be used"),
        "{error}"
    );
}

#[test]
fn without_a_runner_nothing_starts() {
    let sandbox = Sandbox::new();
    let mut supervisor = sandbox.command("maqet-supervisor-under-test");
    supervisor.env("MAQET_RUNNER_BIN", sandbox.home().join("nowhere"));
    let _supervisor = Running::start(supervisor);
    Guest::tiny("web").add(&sandbox);
    let output = sandbox.maqet(&["start", "web", "-o", "json"]).expect(1);
    assert!(output.error().to_string().contains("nowhere"), "{output:#?}");
    assert_eq!(status(&sandbox, "web"), "failed");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_qemu_that_ends_as_soon_as_it_runs_is_a_failure_either_way() {
    let sandbox = Sandbox::new();
    for (script, cause_of_end, field, number) in [
        ("exit=0", "qemu-exited", "exit_code", 0),
        ("exit=3", "qemu-exited", "exit_code", 3),
        ("segv", "qemu-crashed", "signal", 11),
    ] {
        let name = script.replace('=', "-");
        Guest::fake(&name, script).add(&sandbox);
        let output = sandbox.maqet(&["start", &name, "-o", "json"]);
        assert!(output.took < QUICKLY, "{script}: {:?}", output.took);
        until_ended(&sandbox, &name);
        // It did run, if only for a moment: whether the start was over by then, the answer and the record agree.
        let expected = match output.code {
            0 => cause_of_end,
            1 => "start-failed",
            code => panic!("{script}: exit {code}: {output:#?}"),
        };
        assert_eq!(cause(&sandbox, &name), expected, "{script}");
        assert_eq!(status(&sandbox, &name), "failed", "{script}");
        assert_eq!(sandbox.status(&name)["last_exit"][field], number, "{script}");
        until_nothing_runs(&sandbox);
    }
}

#[test]
fn a_qemu_that_fails_before_its_greeting_fails_the_start() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "fail").add(&sandbox);
    let (_, error) = fails(&sandbox, "web");
    assert!(
        error["causes"]
            .to_string()
            .contains("'nope' is not a valid device model name"),
        "{error}"
    );
}

#[test]
fn a_qemu_that_never_greets_is_given_up() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "mute").add(&sandbox);
    let (_, error) = fails(&sandbox, "web");
    assert_eq!(error["message"], "QEMU did not come up", "{error}");
}

#[test]
fn a_qemu_that_hangs_up_or_refuses_is_given_up() {
    let sandbox = Sandbox::new();
    Guest::fake("closes", "close").add(&sandbox);
    Guest::fake("refuses", "reject-capabilities").add(&sandbox);
    fails(&sandbox, "closes");
    let (_, error) = fails(&sandbox, "refuses");
    assert!(error["causes"].to_string().contains("not to my taste"), "{error}");
}

#[test]
fn a_qemu_that_is_slow_to_greet_is_waited_for() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "late-greeting=1500").start(&sandbox);
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn replies_to_somebody_else_do_not_disturb_a_start() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "stale").start(&sandbox);
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(stopped[0]["how"], "guest");
}
