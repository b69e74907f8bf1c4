//! Snapshots of a VM that does not run: all disks as one, errors that are errors, both orders of words.

use std::path::PathBuf;
use std::process::Command;

use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

const BOTH: &str = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                    data: {path: ./data.qcow2, size: 8M, interface: ide}}";
const DISKS: [&str; 2] = ["root", "data"];

/// A VM of two disks that has run once and is stopped.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(BOTH).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
}

fn image(sandbox: &Sandbox, disk: &str) -> PathBuf {
    sandbox.home().join(format!("{disk}.qcow2"))
}

fn qemu_io(sandbox: &Sandbox, disk: &str, words: &str) -> String {
    let done = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", words])
        .arg(image(sandbox, disk))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Fills the beginning of both disks.
fn write(sandbox: &Sandbox, pattern: u8) {
    for disk in DISKS {
        qemu_io(sandbox, disk, &format!("write -P {pattern} 0 1M"));
    }
}

#[track_caller]
fn assert_holds(sandbox: &Sandbox, disk: &str, pattern: u8) {
    let said = qemu_io(sandbox, disk, &format!("read -P {pattern} 0 1M"));
    assert!(!said.contains("verification failed"), "{disk}: {said}");
}

/// Names and disks of what `list` shows.
fn listed(sandbox: &Sandbox) -> Vec<(String, Vec<String>)> {
    let list = sandbox.json(&["snapshot", "list", "web"]);
    let of = |one: &Value| {
        let disks = one["disks"].as_array().unwrap().iter();
        let disks = disks.map(|disk| disk.as_str().unwrap().to_owned()).collect();
        (one["name"].as_str().unwrap().to_owned(), disks)
    };
    list.as_array().unwrap().iter().map(of).collect()
}

fn on_both(name: &str) -> (String, Vec<String>) {
    (name.to_owned(), DISKS.map(str::to_owned).to_vec())
}

#[test]
fn all_disks_go_back_to_what_they_were() {
    let sandbox = stopped();
    write(&sandbox, 1);
    let done = sandbox.json(&["snapshot", "create", "web", "before"]);
    let told = (&done["action"], &done["live"], &done["memory"]);
    assert_eq!(told, (&"create".into(), &false.into(), &false.into()), "{done}");
    write(&sandbox, 2);
    sandbox.maqet(&["snapshot", "load", "web", "before"]).expect(0);
    for disk in DISKS {
        assert_holds(&sandbox, disk, 1);
    }
    let list = sandbox.json(&["snapshot", "list", "web"]);
    let one = &list[0];
    let shown = (
        &one["name"],
        &one["complete"],
        &one["vm_state_bytes"],
        &one["vm_clock_ms"],
    );
    assert_eq!(
        shown,
        (&"before".into(), &true.into(), &0.into(), &0.into()),
        "{list}"
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "delete", "web", "before"]).expect(0);
    assert_eq!(listed(&sandbox), []);
    let events = sandbox.maqet(&["events"]).expect(0).stdout;
    for kind in ["created", "loaded", "deleted"] {
        assert!(events.contains(&format!("vm.snapshot-{kind}")), "{events}");
    }
}

#[test]
fn one_disk_alone_has_snapshots_too() {
    let sandbox = stopped();
    write(&sandbox, 1);
    sandbox
        .maqet(&["snapshot", "create", "web", "half", "--disk", "data"])
        .expect(0);
    write(&sandbox, 2);
    assert_eq!(listed(&sandbox), [("half".to_owned(), vec!["data".to_owned()])]);
    let list = sandbox.maqet(&["snapshot", "list", "web"]).expect(0).stdout;
    let line = list.lines().find(|line| line.starts_with("half")).unwrap();
    assert!(line.ends_with("no"), "{list}");
    // Of all disks it would be half a load.
    let refused = sandbox.maqet(&["snapshot", "load", "web", "half"]).expect(4);
    assert!(
        refused.stderr.contains("disk `root` does not have it"),
        "{refused:#?}"
    );
    sandbox
        .maqet(&["snapshot", "load", "web", "half", "--disk", "data"])
        .expect(0);
    assert_holds(&sandbox, "data", 1);
    assert_holds(&sandbox, "root", 2);
}

#[test]
fn what_is_there_is_replaced_only_when_that_is_asked_for() {
    let sandbox = stopped();
    write(&sandbox, 1);
    sandbox.maqet(&["snapshot", "create", "web", "nightly"]).expect(0);
    write(&sandbox, 2);
    let refused = sandbox
        .maqet(&["-o", "json", "snapshot", "create", "web", "nightly"])
        .expect(5);
    assert_eq!(refused.error()["code"], "conflict", "{refused:#?}");
    sandbox
        .maqet(&["snapshot", "create", "web", "nightly", "--overwrite"])
        .expect(0);
    assert_eq!(listed(&sandbox), [on_both("nightly")]);
    write(&sandbox, 3);
    sandbox.maqet(&["snapshot", "load", "web", "nightly"]).expect(0);
    assert_holds(&sandbox, "root", 2);
    assert_holds(&sandbox, "data", 2);
}

#[test]
fn every_failure_is_one() {
    let sandbox = stopped();
    for (words, code, exit) in [
        (&["load", "web", "never"][..], "snapshot-not-found", 4),
        (&["delete", "web", "never"], "snapshot-not-found", 4),
        (&["create", "web", "a", "--disk", "nvram"], "disk-not-found", 4),
        (&["create", "nobody", "a"], "vm-not-found", 4),
        (&["create", "web", "a", "--memory"], "wrong-state", 3),
        (&["create", "web", "42"], "invalid-call", 2),
        (&["create", "web", "a b"], "invalid-call", 2),
        (&["create", "web", ".maqet-work"], "invalid-call", 2),
        (
            &["create", "web", "a", "--memory", "--disk", "root"],
            "invalid-call",
            2,
        ),
    ] {
        let words = [&["-o", "json", "snapshot"], words].concat();
        let refused = sandbox.maqet(&words).expect(exit);
        assert_eq!(refused.error()["code"], code, "{words:?}: {refused:#?}");
    }
    sandbox.maqet(&["snapshot", "web", "before"]).expect(2);
    sandbox.maqet(&["snapshot", "create", "web"]).expect(2);
    assert_eq!(listed(&sandbox), []);
}

#[test]
fn the_python_tools_order_of_words_is_understood() {
    let sandbox = stopped();
    write(&sandbox, 1);
    sandbox
        .maqet(&["snapshot", "web", "create", "root", "--name", "old-way"])
        .expect(0);
    write(&sandbox, 2);
    sandbox
        .maqet(&["snapshot", "web", "load", "root", "--name", "old-way"])
        .expect(0);
    assert_holds(&sandbox, "root", 1);
    assert_holds(&sandbox, "data", 2);
    let list = sandbox.json(&["snapshot", "web", "list", "root"]);
    assert_eq!(list[0]["name"], "old-way", "{list}");
}

#[test]
fn a_raw_disk_that_is_written_to_is_named_and_nothing_is_done() {
    let sandbox = Sandbox::new();
    let disks = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                 plain: {path: ./plain.raw, size: 1M, format: raw, interface: ide}}";
    Guest::tiny("web").line(disks).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let refused = sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(3);
    assert!(
        refused.stderr.contains("disk `plain` of `web` is raw"),
        "{refused:#?}"
    );
    assert!(refused.stderr.contains("qemu-img convert"), "{refused:#?}");
    assert_eq!(listed(&sandbox), []);
    sandbox
        .maqet(&["snapshot", "create", "web", "a", "--disk", "root"])
        .expect(0);
}

#[test]
fn an_image_that_another_vm_uses_is_left_alone() {
    let sandbox = stopped();
    let disk = "disks: {root: {path: ./root.qcow2, interface: ide}}";
    Guest::tiny("other").line(disk).start(&sandbox);
    let refused = sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(5);
    assert!(refused.stderr.contains("in use by `other`"), "{refused:#?}");
    sandbox.maqet(&["stop", "other"]).expect(0);
    sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(0);
}

#[test]
fn another_file_in_a_disks_place_is_left_alone() {
    let sandbox = stopped();
    let (path, own) = (image(&sandbox, "root"), image(&sandbox, "own"));
    std::fs::rename(&path, &own).unwrap();
    std::fs::copy(&own, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(5);
    assert!(
        refused.stderr.contains("maqet storage accept web root"),
        "{refused:#?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::rename(&own, &path).unwrap();
    sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(0);
}
