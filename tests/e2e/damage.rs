//! After an unclean end no image is written to before it was checked, and a damaged one not at all.

use std::path::PathBuf;

use maqet_process::{Sent, Signal};
use maqet_tests::qemu_img::damage;
use maqet_tests::{Guest, Sandbox, wait};
use serde_json::Value;

use crate::facts::{one, qemu, status, until_serial};

const DISK: &str = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";

fn image(sandbox: &Sandbox) -> PathBuf {
    sandbox.home().join("root.qcow2")
}

/// A VM that has written to its disk and whose QEMU was killed.
fn killed(sandbox: &Sandbox) {
    Guest::tiny("web").options(&["write"]).line(DISK).start(sandbox);
    until_serial(sandbox, "web", "wrote \\d+ sectors");
    // What was written is in the image once the guest is halted.
    sandbox.maqet(&["pause", "web"]).expect(0);
    assert_eq!(
        qemu(sandbox, "web").signal(Signal::Kill).unwrap(),
        Sent::Delivered
    );
    sandbox.maqet(&["wait", "web", "failed"]).expect(0);
}

/// The journal's entries of one kind.
fn events(sandbox: &Sandbox, kind: &str) -> Vec<Value> {
    let text = sandbox
        .maqet(&["events", "--vm", "web", "--since", "0"])
        .expect(0)
        .stdout;
    let all = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|event| event["kind"] == kind).collect()
}

fn trouble(sandbox: &Sandbox) -> Value {
    sandbox.status("web")["disks"][0]["trouble"].clone()
}

#[test]
fn a_whole_image_is_checked_once_and_started_on() {
    let sandbox = Sandbox::new();
    killed(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(0);
    let checked = events(&sandbox, "vm.disk-checked");
    assert_eq!(checked.len(), 1, "{checked:?}");
    assert_eq!(
        (&checked[0]["disk"], &checked[0]["leaks"]),
        (&"root".into(), &0.into())
    );
    // After an orderly end nothing is checked.
    assert_eq!(one(&sandbox.json(&["stop", "web"]))["status"], "stopped");
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(events(&sandbox, "vm.disk-checked").len(), 1);
}

#[test]
fn a_damaged_image_is_not_written_to() {
    let sandbox = Sandbox::new();
    killed(&sandbox);
    damage(&image(&sandbox));
    let before = std::fs::read(image(&sandbox)).unwrap();
    for _ in 0..2 {
        let refused = sandbox.maqet(&["start", "web", "-o", "json"]).expect(3).error();
        assert_eq!(refused["code"], "disk-damaged", "{refused}");
        let words = refused.to_string();
        for expected in [
            "disk `root` of `web` is damaged",
            "in its tables",
            "maqet storage accept web root",
        ] {
            assert!(words.contains(expected), "{words}");
        }
    }
    assert_eq!(std::fs::read(image(&sandbox)).unwrap(), before);
    assert_eq!(events(&sandbox, "vm.disk-quarantined").len(), 1);
    assert_eq!(trouble(&sandbox)["problem"], "damaged");
    let told = sandbox.maqet(&["status", "web"]).expect(0).stdout;
    assert!(told.contains("damaged: "), "{told}");
    let told = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(told.contains("disk `root` was found damaged"), "{told}");
}

/// Nor is it worked on by anything else, which would write to it, or repair it without a word.
#[test]
fn a_damaged_image_is_not_worked_on() {
    let sandbox = Sandbox::new();
    killed(&sandbox);
    damage(&image(&sandbox));
    let before = std::fs::read(image(&sandbox)).unwrap();
    let verbs: [&[&str]; 3] = [
        &["snapshot", "create", "web", "s1"],
        &["storage", "resize", "web", "root", "8M"],
        &["start", "web"],
    ];
    for verb in verbs {
        let refused = sandbox.maqet(verb).expect(3).stderr;
        assert!(refused.contains("is damaged"), "{refused}");
    }
    assert_eq!(std::fs::read(image(&sandbox)).unwrap(), before);
    sandbox.maqet(&["storage", "verify", "web"]).expect(1);
    sandbox.maqet(&["storage", "verify", "web", "--repair"]).expect(0);
    sandbox.maqet(&["snapshot", "create", "web", "s1"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn what_is_accepted_is_accepted_for_one_run() {
    let sandbox = Sandbox::new();
    killed(&sandbox);
    damage(&image(&sandbox));
    sandbox.maqet(&["start", "web"]).expect(3);
    // The next supervisor knows it too.
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(3);
    sandbox.maqet(&["storage", "accept", "web", "root"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(status(&sandbox, "web"), "running");
    assert_eq!(
        qemu(&sandbox, "web").signal(Signal::Kill).unwrap(),
        Sent::Delivered
    );
    sandbox.maqet(&["wait", "web", "failed"]).expect(0);
    damage(&image(&sandbox));
    sandbox.maqet(&["start", "web"]).expect(3);
}

#[test]
fn a_repaired_image_may_be_written_to_again() {
    let sandbox = Sandbox::new();
    killed(&sandbox);
    damage(&image(&sandbox));
    sandbox.maqet(&["start", "web"]).expect(3);
    // A check alone changes nothing.
    sandbox.maqet(&["storage", "verify", "web"]).expect(1);
    sandbox.maqet(&["start", "web"]).expect(3);
    sandbox.maqet(&["storage", "verify", "web", "--repair"]).expect(0);
    let repaired = events(&sandbox, "vm.disk-repaired");
    assert_eq!(repaired.len(), 1, "{repaired:?}");
    assert_eq!(repaired[0]["whole"], true, "{repaired:?}");
    assert!(trouble(&sandbox).is_null());
    sandbox.maqet(&["start", "web"]).expect(0);
    // Why it was repaired is told as long as this run lasts.
    let told = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    for expected in ["disk `root` was found damaged", "disk `root` was repaired"] {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_restart_policy_does_not_get_past_the_check() {
    let sandbox = Sandbox::new();
    let policy = "restart: {policy: on-failure, backoff: 1s, tries: 1}";
    Guest::tiny("web")
        .options(&["write"])
        .line(DISK)
        .line(policy)
        .start(&sandbox);
    until_serial(&sandbox, "web", "wrote \\d+ sectors");
    sandbox.maqet(&["pause", "web"]).expect(0);
    let qemu = qemu(&sandbox, "web");
    damage(&image(&sandbox));
    assert_eq!(qemu.signal(Signal::Kill).unwrap(), Sent::Delivered);
    wait::until("the restart is refused", wait::PATIENCE, || {
        let trouble = trouble(&sandbox);
        if trouble["problem"] == "damaged" {
            Ok(())
        } else {
            Err(trouble)
        }
    });
    assert_eq!(status(&sandbox, "web"), "failed");
}
