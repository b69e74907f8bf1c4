//! `why`: each end that can be made here, told so that a person understands it.

use maqet_process::Signal;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::facts::{qemu, runner, send, until_ended, until_nothing_runs};

/// What is told, with moments and numbers of processes taken out.
fn told(sandbox: &Sandbox) -> Vec<String> {
    let chain = sandbox.json(&["why", "web"]);
    let because = chain["because"].as_str().map(str::to_owned);
    let steps = chain["steps"].as_array().unwrap().iter();
    let texts = steps.map(|step| step["text"].as_str().unwrap().to_owned());
    because.into_iter().chain(texts).collect()
}

/// Asserts that each of these begins a line of what is told, in this order.
#[track_caller]
fn assert_told(sandbox: &Sandbox, words: &[&str]) {
    let told = told(sandbox);
    let mut rest = told.iter();
    for word in words {
        assert!(
            rest.any(|line| line.starts_with(word)),
            "no `{word}` at its place in {told:#?}"
        );
    }
}

fn until_told(sandbox: &Sandbox, kind: &str) {
    wait::until(kind, PATIENCE, || {
        let chain = sandbox.json(&["why", "web"]);
        let mut events = chain["events"].as_array().unwrap().iter();
        if events.any(|event| event["kind"] == kind) {
            Ok(())
        } else {
            Err(chain)
        }
    });
}

#[test]
fn a_crash_loop_is_told_from_its_beginning_to_its_end() {
    let sandbox = Sandbox::new();
    let policy = "restart: {policy: on-failure, backoff: 50ms, tries: 2}";
    Guest::tiny("web")
        .options(&["panic"])
        .line(policy)
        .start(&sandbox);
    until_told(&sandbox, "vm.crash-loop");
    let failed = "it failed: the guest's kernel panicked";
    assert_told(
        &sandbox,
        &[
            "the guest's kernel panicked",
            "a command asked for its start",
            failed,
            "its restart policy will start it again in",
            "its restart policy started it again",
            failed,
            "its restart policy will start it again in",
            "its restart policy started it again",
            failed,
            "its restart policy gave up: 2 restarts within",
        ],
    );
    let shown = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(
        shown.starts_with("web is failed (crash loop) since") && shown.contains("(restart 2 of 2)"),
        "{shown}"
    );
    assert!(shown.ends_with("next: maqet logs web\n"), "{shown}");
}

#[test]
fn who_asked_is_told() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    assert_told(&sandbox, &["nobody has started it yet", "it was added"]);
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_told(
        &sandbox,
        &[
            "a command asked for its start",
            "a command asked for its start",
            "QEMU ran",
        ],
    );
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_told(
        &sandbox,
        &[
            "it was stopped, as somebody had asked",
            "a command asked it to stop",
            "it ended: it was stopped",
        ],
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["kill", "web"]).expect(0);
    assert_told(
        &sandbox,
        &[
            "a command asked for its start",
            "a command asked for its end by force",
            "it ended: it was",
        ],
    );
    // The id is as good as the name.
    assert_eq!(sandbox.json(&["why", &id])["vm"], "web");
}

#[test]
fn a_start_with_the_supervisor_is_told_as_one() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.config(), "on_exit: stop\n").unwrap();
    let supervisor = sandbox.supervisor();
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["enable", "web"]).expect(0);
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    wait::until("it runs again", PATIENCE, || match sandbox.status("web") {
        status if status["status"] == "running" => Ok(()),
        status => Err(status),
    });
    assert_told(
        &sandbox,
        &[
            "it was started with the supervisor, because it is enabled",
            "it was started with",
        ],
    );
    let events = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    assert!(events.contains(r#""by":"supervisor-exit""#), "{events}");
}

#[test]
fn a_start_that_fails_shows_what_qemu_said() {
    let sandbox = Sandbox::new();
    Guest::tiny("web")
        .arg("-device")
        .arg("no-such-device")
        .add(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(1);
    assert_told(
        &sandbox,
        &[
            "it could not be started (exit code 1)",
            "a command asked",
            "it failed: it could not",
        ],
    );
    let shown = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(
        shown.contains("  | ") && shown.contains("no-such-device"),
        "{shown}"
    );
    assert!(shown.ends_with("next: maqet logs web --qemu\n"), "{shown}");
}

#[test]
fn what_recovery_found_is_told_as_found() {
    let sandbox = Sandbox::new();
    let supervisor = sandbox.supervisor();
    Guest::tiny("web").start(&sandbox);
    let processes = [runner(&sandbox, "web"), qemu(&sandbox, "web")];
    supervisor.signal(Signal::Kill);
    supervisor.output();
    for process in &processes {
        send(process, Signal::Kill);
    }
    for process in &processes {
        assert!(wait::exited(process, PATIENCE));
    }
    assert_told(
        &sandbox,
        &["the runner, the process of maqet", "it failed: the runner"],
    );
    let last = told(&sandbox).pop().unwrap();
    assert!(
        last.ends_with("; found so by a new supervisor, which was not there when it happened"),
        "{last}"
    );
}

#[test]
fn the_end_of_the_host_is_told() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    send(&runner(&sandbox, "web"), Signal::Term);
    until_ended(&sandbox, "web");
    until_nothing_runs(&sandbox);
    assert_told(
        &sandbox,
        &[
            "its runner was told to end",
            "the guest was asked to shut down",
            "it ended: its runner",
        ],
    );
}

#[test]
fn the_answer_for_programs_has_all_its_parts() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let chain = sandbox.json(&["why", "web"]);
    for part in [
        "vm",
        "status",
        "since",
        "last_exit",
        "because",
        "steps",
        "next",
        "events",
    ] {
        assert!(chain.get(part).is_some(), "no `{part}`: {chain}");
    }
    assert_eq!(
        (&chain["last_exit"], &chain["next"]),
        (&Value::Null, &Value::Null)
    );
    for part in ["cursor", "at", "kind", "text"] {
        assert!(chain["steps"][0].get(part).is_some(), "no `{part}`: {chain}");
    }
}
