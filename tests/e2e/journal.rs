//! `why`, `events`, `logs`: what has happened, and what is happening.

use maqet_process::Signal;
use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::facts::{kinds, qemu, send, text, until_ended, until_serial};

/// Events of the journal, with these words after `events`.
fn events(sandbox: &Sandbox, args: &[&str]) -> Vec<Value> {
    let output = sandbox.maqet(&[&["events"], args].concat()).expect(0);
    output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_life_is_told_in_order() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox.maqet(&["rm", "web"]).expect(0);
    let all = events(&sandbox, &[]);
    let kinds: Vec<String> = all
        .iter()
        .map(|event| text(&event["kind"]))
        .filter(|kind| kind.starts_with("vm."))
        .collect();
    assert_eq!(
        kinds,
        [
            "vm.added",
            "vm.starting",
            "vm.running",
            "vm.stopping",
            "vm.stopped",
            "vm.removed"
        ]
    );
    let cursors: Vec<u64> = all
        .iter()
        .map(|event| event["cursor"].as_u64().unwrap())
        .collect();
    assert!(
        cursors
            .windows(2)
            .all(|pair| matches!(pair, [one, next] if one + 1 == *next)),
        "{cursors:?}"
    );
    for event in &all {
        assert!(event["at"].is_string() && event["vm"] == "web", "{event}");
    }
}

#[test]
fn a_cursor_says_where_to_go_on() {
    let sandbox = Sandbox::new();
    Guest::tiny("a").add(&sandbox);
    let cursor = events(&sandbox, &[]).last().unwrap()["cursor"].to_string();
    assert!(events(&sandbox, &["--since", &cursor]).is_empty());
    let beyond = sandbox.maqet(&["events", "--since", "999999"]).expect(0);
    let words = format!("nothing comes after 999999: the journal ends at {cursor}\n");
    assert_eq!((beyond.stdout, beyond.stderr), (String::new(), words));
    Guest::tiny("b").add(&sandbox);
    Guest::tiny("c").add(&sandbox);
    let news = events(&sandbox, &["--since", &cursor]);
    let vms: Vec<String> = news.iter().map(|event| text(&event["vm"])).collect();
    assert_eq!(vms, ["b", "c"]);
    assert_eq!(kinds(&sandbox, "b"), ["vm.added"]);
}

#[test]
fn following_shows_what_happens() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    Guest::tiny("other").add(&sandbox);
    let follow = sandbox.spawn(&["events", "-f", "--since", "0", "--vm", "web"]);
    follow.says("vm.added");
    sandbox.maqet(&["start", "web", "other"]).expect(0);
    follow.says("vm.running");
    sandbox.maqet(&["stop", "web"]).expect(0);
    let seen = follow.says("vm.stopped");
    assert!(!seen.contains("other"), "{seen}");
    assert!(seen.contains("qmp.POWERDOWN"), "{seen}");
    assert!(!follow.handle().has_exited());
}

#[test]
fn following_goes_on_over_a_new_supervisor() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let follow = sandbox.spawn(&["events", "-f", "--since", "0"]);
    follow.says("vm.added");
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
    let seen = follow.says("vm.running");
    let cursors: Vec<u64> = seen
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["cursor"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(
        cursors
            .windows(2)
            .all(|pair| matches!(pair, [one, next] if one < next)),
        "{cursors:?}"
    );
}

#[test]
fn why_tells_the_chain_behind_the_state() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    send(&qemu(&sandbox, "web"), Signal::Kill);
    until_ended(&sandbox, "web");
    let shown = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(shown.starts_with("web is failed since"), "{shown}");
    let because = "because: QEMU was killed, and not by maqet (signal 9, SIGKILL)\n";
    assert!(
        shown.contains(because) && shown.contains("cause: qemu-killed\n"),
        "{shown}"
    );
    let steps = [
        "a command asked for its start",
        "QEMU ran (process ",
        "it failed: QEMU was killed",
    ];
    let places = steps.map(|step| shown.find(step));
    assert!(places.is_sorted() && places[0].is_some(), "{shown}");
    assert!(shown.ends_with("next: maqet start web\n"), "{shown}");
    let chain = sandbox.json(&["why", "web"]);
    assert_eq!(
        (&chain["status"], &chain["last_exit"]["cause"]),
        (&"failed".into(), &"qemu-killed".into())
    );
}

#[test]
fn logs_are_shown_and_followed() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).add(&sandbox);
    // Nothing yet is no error.
    assert_eq!(sandbox.maqet(&["logs", "web"]).expect(0).stdout, "");
    let follow = sandbox.spawn(&["logs", "web", "-f"]);
    sandbox.maqet(&["start", "web"]).expect(0);
    let seen = follow.says("tick 3");
    assert!(seen.starts_with("maqet tiny guest ready"), "{seen}");
    assert!(!follow.handle().has_exited());
    drop(follow);
    until_serial(&sandbox, "web", "tick 3");
    let serial = sandbox.maqet(&["logs", "web", "--serial"]).expect(0).stdout;
    assert!(serial.contains("tick 3"), "{serial}");
    let runner = sandbox.maqet(&["logs", "web", "--runner"]).expect(0);
    assert!(
        runner.stdout.contains("QEMU") || runner.stdout.is_empty(),
        "{runner:?}"
    );
    sandbox.maqet(&["logs", "web", "--qemu", "--runner"]).expect(2);
}
