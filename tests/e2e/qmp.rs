//! `qmp run`: QEMU's answers and refusals through all hops, and what may not be asked.

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox, wait};

use crate::facts::{kinds, runner, send, status};

#[test]
fn arguments_are_words_or_json() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let list = |args: &[&str]| {
        let mut words = vec!["qmp", "run", "web", "qom-list"];
        words.extend(args);
        sandbox.json(&words)
    };
    let by_word = list(&["path=/machine"]);
    assert!(
        by_word.as_array().is_some_and(|list| !list.is_empty()),
        "{by_word}"
    );
    assert_eq!(list(&[r#"{"path": "/machine"}"#]), by_word);
}

#[test]
fn an_error_of_qemu_is_an_error_with_its_words() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let error = sandbox
        .maqet(&["qmp", "run", "web", "no-such-thing", "-o", "json"])
        .expect(1)
        .error();
    assert_eq!(
        (&error["code"], &error["vm"]),
        (&"qmp-failed".into(), &"web".into())
    );
    assert!(
        error["message"]
            .to_string()
            .contains("The command no-such-thing has not been found"),
        "{error}"
    );
    let error = sandbox
        .maqet(&["qmp", "run", "web", "qom-list", "path=/nowhere"])
        .expect(1)
        .stderr;
    assert!(error.contains("/nowhere"), "{error}");
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn a_reply_of_many_bytes_comes_through_whole() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let schema = sandbox.json(&["qmp", "run", "web", "query-qmp-schema"]);
    let entries = schema.as_array().unwrap();
    let named = |name: &str| {
        entries
            .iter()
            .any(|entry| entry["name"] == name && entry["meta-type"] == "command")
    };
    assert!(named("query-status") && named("quit"));
    assert!(schema.to_string().len() > 100_000);

    Guest::fake("fake", "long-reply").start(&sandbox);
    let name = sandbox.json(&["qmp", "run", "fake", "query-name"]);
    assert_eq!(name["name"].as_str().unwrap().len(), 200_000);
}

#[test]
fn what_belongs_to_maqet_is_refused() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let forbidden: [&[&str]; 7] = [
        &["quit"],
        &["qmp_capabilities"],
        &["getfd", "fdname=x"],
        &["remove-fd", "fdset-id=0"],
        &["migrate", "uri=exec:true"],
        &["human-monitor-command", r#"{"command-line": "quit"}"#],
        &["no such name"],
    ];
    for words in forbidden {
        let args = [&["qmp", "run", "web"], words, &["-o", "json"]].concat();
        let error = sandbox.maqet(&args).expect(2).error();
        assert!(
            error["message"].to_string().contains("is refused"),
            "{words:?}: {error}"
        );
    }
    assert_eq!(status(&sandbox, "web"), "running");
    let asked = sandbox.json(&[
        "qmp",
        "run",
        "web",
        "human-monitor-command",
        r#"{"command-line": "info status"}"#,
    ]);
    assert!(asked.to_string().contains("running"), "{asked}");
}

#[test]
fn only_a_running_vm_is_asked() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let error = sandbox
        .maqet(&["qmp", "run", "web", "query-status", "-o", "json"])
        .expect(3)
        .error();
    assert_eq!(
        (&error["code"], &error["state"]),
        (&"wrong-state".into(), &"created".into())
    );
}

#[test]
fn a_command_that_is_never_answered_ends_at_its_deadline() {
    let sandbox = Sandbox::new();
    Guest::fake("web", "hang-stop").start(&sandbox);
    let error = sandbox.maqet(&["qmp", "run", "web", "stop", "--timeout", "500ms", "-o", "json"]);
    assert!(matches!(error.code, 1 | 124), "{error:#?}");
    sandbox.maqet(&["stop", "--force", "web"]).expect(0);
}

#[test]
fn what_a_command_changes_is_seen() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["qmp", "run", "web", "stop"]).expect(0);
    sandbox.maqet(&["qmp", "run", "web", "query-status"]).expect(0);
    let paused = wait::until("paused", wait::PATIENCE, || {
        let status = sandbox.status("web");
        if status["run_state"] == "paused" {
            Ok(status)
        } else {
            Err(status)
        }
    });
    assert_eq!(paused["status"], "running");
}

#[test]
fn no_file_is_written_where_maqet_would_not_write_itself() {
    let sandbox = Sandbox::new();
    Guest::tiny("web")
        .line("sandbox: off")
        .line("vga: std")
        .start(&sandbox);
    std::os::unix::fs::symlink("/etc", sandbox.home().join("innocent")).unwrap();
    let key = sandbox.data_dir().join("control.key");
    let before = std::fs::read(&key).unwrap();
    let refused = |why: &str, path: &std::path::Path| {
        let filename = format!("filename={}", path.display());
        let error = sandbox
            .maqet(&["qmp", "run", "web", "screendump", &filename, "-o", "json"])
            .expect(2)
            .error();
        assert_eq!(error["code"], "invalid-call", "{error}");
        assert!(error["causes"].to_string().contains(why), "{error}");
        assert!(!error["hint"].is_null(), "{error}");
    };
    let attempts = || {
        refused("belongs to the system", "/etc/maqet-never".as_ref());
        refused(
            "belongs to the system",
            &sandbox.home().join("innocent/maqet-never"),
        );
        refused("credentials", &sandbox.home().join(".ssh/authorized_keys"));
        refused("maqet keeps its own files", &key);
        refused("is not an absolute path", "screen.ppm".as_ref());
    };
    attempts();
    let screen = sandbox.home().join("screen.ppm");
    let filename = format!("filename={}", screen.display());
    sandbox
        .maqet(&["qmp", "run", "web", "screendump", &filename])
        .expect(0);
    assert!(std::fs::read(&screen).unwrap().starts_with(b"P6"));

    // A later runner knows as much.
    send(&runner(&sandbox, "web"), Signal::Kill);
    wait::until("another runner", wait::PATIENCE, || {
        let kinds = kinds(&sandbox, "web");
        if kinds.iter().any(|kind| kind == "runner.adopted") {
            Ok(())
        } else {
            Err(kinds)
        }
    });
    attempts();
    assert_eq!(std::fs::read(&key).unwrap(), before);
}
