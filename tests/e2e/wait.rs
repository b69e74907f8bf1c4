//! `wait`: each condition, several of them, and conditions that cannot hold.

use std::fs;

use maqet_tests::{Guest, Running, Sandbox};

use crate::facts::{one, status};

/// Waits in the background; asserts that it does not hold already.
#[track_caller]
fn waiting(sandbox: &Sandbox, words: &[&str]) -> Running {
    let early = sandbox.maqet(&[&["wait"], words, &["--timeout", "200ms"]].concat());
    assert_eq!(early.code, 124, "{early:#?}");
    sandbox.spawn(&[&["wait"], words, &["--timeout", "60s"]].concat())
}

#[test]
fn for_a_status() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let running = waiting(&sandbox, &["web", "running"]);
    sandbox.maqet(&["start", "web"]).expect(0);
    running.output().expect(0);
    sandbox.maqet(&["wait", "web", "running"]).expect(0);

    let stopped = waiting(&sandbox, &["web", "stopped"]);
    let exit = waiting(&sandbox, &["web", "exit"]);
    sandbox.maqet(&["stop", "web"]).expect(0);
    stopped.output().expect(0);
    exit.output().expect(0);
}

#[test]
fn for_a_failure() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["panic", "later"]).add(&sandbox);
    let failed = waiting(&sandbox, &["web", "failed"]);
    let exit = waiting(&sandbox, &["web", "exit"]);
    sandbox.maqet(&["start", "web"]).expect(0);
    failed.output().expect(0);
    exit.output().expect(0);
    assert_eq!(status(&sandbox, "web"), "failed");
}

#[test]
fn for_words_of_the_guest() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).start(&sandbox);
    let output = sandbox
        .maqet(&["wait", "web", "serial=tick [34]", "--timeout", "60s"])
        .expect(0);
    assert!(output.took.as_secs() < 60);
    // What was said in this run counts, what was said before it does not.
    sandbox
        .maqet(&[
            "wait",
            "web",
            "serial=^maqet tiny guest ready",
            "--timeout",
            "60s",
        ])
        .expect(0);
    sandbox.maqet(&["restart", "web"]).expect(0);
    sandbox
        .maqet(&["wait", "web", "serial=tick 9999", "--timeout", "300ms"])
        .expect(124);
    sandbox
        .maqet(&["wait", "web", "serial=(", "--timeout", "300ms"])
        .expect(2);
}

#[test]
fn for_an_event() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let reset = waiting(&sandbox, &["web", "event=qmp.RESET"]);
    // The event has to come after the waiting began; the second press is for a wait that is slow to begin.
    while !reset.handle().has_exited() {
        sandbox.maqet(&["reset", "web"]).expect(0);
    }
    reset.output().expect(0);
}

#[test]
fn for_a_port_that_is_forwarded() {
    let sandbox = Sandbox::new();
    let network = "networks: {lan: {type: user, forwards: ['tcp:127.0.0.1:auto:22']}}";
    Guest::tiny("web").line(network).start(&sandbox);
    // QEMU takes connections for a guest that does not: that is not an answer. One that is, is in `linux`.
    sandbox
        .maqet(&["wait", "web", "port=22", "--timeout", "500ms"])
        .expect(124);
    let error = sandbox
        .maqet(&["wait", "web", "port=80", "--timeout", "60s", "-o", "json"])
        .expect(1)
        .error();
    assert_eq!(error["code"], "impossible");
    assert!(error["hint"].to_string().contains("forwards"), "{error}");
}

#[test]
fn for_a_file() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let path = sandbox.home().join("flag");
    let condition = format!("file={}", path.display());
    let appears = waiting(&sandbox, &["web", &condition]);
    fs::write(&path, "").unwrap();
    appears.output().expect(0);
}

#[test]
fn for_all_or_for_any() {
    let sandbox = Sandbox::new();
    Guest::tiny("a").start(&sandbox);
    Guest::tiny("b").add(&sandbox);
    let args = ["wait", "a", "b", "running", "--timeout"];
    sandbox.maqet(&[&args[..], &["300ms"]].concat()).expect(124);
    let held = sandbox.json(&[&args[..], &["60s", "--any"]].concat());
    assert_eq!(
        (&one(&held)["vm"], &one(&held)["condition"]),
        (&"a".into(), &"running".into())
    );
    let any = sandbox.json(&["wait", "a", "stopped", "running", "--any", "--timeout", "60s"]);
    assert_eq!(one(&any)["condition"], "running");
    sandbox.maqet(&["start", "b"]).expect(0);
    let all = sandbox.json(&[&args[..], &["60s"]].concat());
    assert_eq!(all.as_array().unwrap().len(), 2);
}

#[test]
fn no_longer_than_said() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let error = sandbox
        .maqet(&["wait", "web", "running", "--timeout", "300ms", "-o", "json"])
        .expect(124)
        .error();
    assert_eq!(
        (&error["code"], &error["vm"], &error["state"]),
        (&"timeout".into(), &"web".into(), &"created".into())
    );
}

#[test]
fn not_for_what_can_never_be() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    // It has stopped: its guest will not say anything more, and it has not failed.
    for condition in ["serial=never", "failed"] {
        let error = sandbox
            .maqet(&["wait", "web", condition, "--timeout", "60s", "-o", "json"])
            .expect(1)
            .error();
        assert_eq!(
            (&error["code"], &error["state"]),
            (&"vm-ended".into(), &"stopped".into()),
            "{condition}"
        );
    }
    sandbox.maqet(&["wait", "nobody", "running"]).expect(4);
    sandbox.maqet(&["wait", "web", "bored"]).expect(2);
    let error = sandbox
        .maqet(&["wait", "web", "agent", "-o", "json"])
        .expect(1)
        .error();
    assert_eq!(error["code"], "impossible");
}

#[test]
fn not_for_one_that_was_removed() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let gone = waiting(&sandbox, &["web", "running"]);
    sandbox.maqet(&["rm", "web"]).expect(0);
    gone.output().expect(4);
}
