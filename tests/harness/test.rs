//! The harness on the real programs: if this fails, look here first.

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox, leftovers};

#[test]
fn a_sandbox_nobody_used_is_empty() {
    let sandbox = Sandbox::new();
    assert!(sandbox.processes().is_empty());
    assert!(!sandbox.data_dir().exists());
    assert_eq!(sandbox.maqet(&["ls", "--no-autostart"]).code, 6);
}

#[test]
fn a_vm_is_started_seen_and_stopped() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    let status = sandbox.status("web");
    assert_eq!(
        (status["status"].as_str(), status["id"].as_str()),
        (Some("running"), Some(id.as_str()))
    );
    // Supervisor, runner, QEMU.
    assert_eq!(sandbox.processes().len(), 3, "{:?}", sandbox.processes());
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(stopped[0]["how"], "guest");
    assert_eq!(
        sandbox.redact(&stopped.to_string()),
        r#"[{"how":"guest","status":"stopped","took_ms": "[MS]","vm":"web"}]"#
    );
}

#[test]
fn what_still_runs_is_stopped_with_the_sandbox() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ignore-acpi"]).start(&sandbox);
    Guest::fake("odd", "ignore-quit").start(&sandbox);
    let path = sandbox.path().to_path_buf();
    drop(sandbox);
    assert!(leftovers::find(&path).is_empty());
    assert!(!path.exists());
}

#[test]
fn a_supervisor_in_the_foreground_answers() {
    let sandbox = Sandbox::new();
    let supervisor = sandbox.supervisor();
    assert_eq!(sandbox.json(&["ls"]), serde_json::json!([]));
    supervisor.signal(Signal::Term);
    assert_eq!(supervisor.output().code, 0);
}

#[test]
fn a_test_that_leaves_a_process_behind_fails() {
    let sandbox = Sandbox::new();
    let mut stray = sandbox.command("fake_qemu");
    stray.args([
        "-S",
        "-name",
        "stray",
        "-global",
        "fake.script=mute",
        "-chardev",
        "socket,id=m,path=stray.sock",
    ]);
    let mut stray = stray.args(["-mon", "m"]).spawn().unwrap();
    let path = sandbox.path().to_path_buf();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(sandbox))).unwrap_err();
    let message = ended.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("left behind: ") && message.contains("stray"),
        "{message}"
    );
    assert!(!stray.wait().unwrap().success());
    assert!(leftovers::find(&path).is_empty());
}
