//! `rm`: what goes, what stays, and what it takes.

use std::fs;

use maqet_tests::{Guest, Sandbox};

use crate::facts::{at_once, kinds, nothing_runs, one, qemu, status, text, until_activity};

/// Names of all VMs.
fn names(sandbox: &Sandbox) -> Vec<String> {
    sandbox
        .json(&["ls"])
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| text(&vm["name"]))
        .collect()
}

#[test]
fn a_created_vm_is_removed() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    let removed = sandbox.json(&["rm", "web"]);
    let removed = one(&removed);
    assert_eq!(
        (&removed["vm"], &removed["id"]),
        (&"web".into(), &id.as_str().into())
    );
    assert!(names(&sandbox).is_empty());
    sandbox.maqet(&["status", "web"]).expect(4);
    sandbox.maqet(&["status", &id]).expect(4);
}

#[test]
fn a_stopped_vm_is_removed_with_its_directories() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let places = [
        sandbox.data_dir().join("vms").join(&id),
        sandbox.runtime_dir().join("vms").join(&id),
    ];
    assert!(places.iter().any(|place| place.exists()), "{places:?}");
    sandbox.maqet(&["rm", "web"]).expect(0);
    assert!(!places.iter().any(|place| place.exists()), "{places:?}");
}

#[test]
fn a_failed_vm_is_removed() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").arg("-device").arg("nope").add(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(1);
    sandbox.maqet(&["rm", "web"]).expect(0);
    assert!(names(&sandbox).is_empty());
}

#[test]
fn a_running_vm_is_not() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let error = sandbox.maqet(&["rm", "web", "-o", "json"]).expect(3).error();
    assert_eq!(
        (&error["code"], &error["state"], &error["vm"]),
        (&"wrong-state".into(), &"running".into(), &"web".into())
    );
    assert!(
        error["hint"].to_string().contains("maqet rm --force web"),
        "{error}"
    );
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn force_ends_a_running_vm_first() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ignore-acpi"]).start(&sandbox);
    let qemu = qemu(&sandbox, "web");
    sandbox.maqet(&["rm", "--force", "web"]).expect(0);
    assert!(qemu.has_exited());
    assert!(names(&sandbox).is_empty());
    nothing_runs(&sandbox);
}

#[test]
fn force_ends_a_vm_in_the_middle_of_anything() {
    let sandbox = Sandbox::new();
    Guest::fake("starting", "mute").add(&sandbox);
    Guest::tiny("stopping").options(&["ignore-acpi"]).start(&sandbox);
    let start = sandbox.spawn(&["start", "starting"]);
    let stop = sandbox.spawn(&["stop", "stopping", "--timeout", "1h"]);
    until_activity(&sandbox, "starting", "starting");
    until_activity(&sandbox, "stopping", "stopping");
    sandbox
        .maqet(&["rm", "--force", "starting", "stopping"])
        .expect(0);
    start.output().expect(3);
    stop.output().expect(0);
    assert!(names(&sandbox).is_empty());
    nothing_runs(&sandbox);
}

#[test]
fn all_go_when_that_is_confirmed() {
    let sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        Guest::tiny(name).add(&sandbox);
    }
    // Without a terminal nobody can be asked.
    let refused = sandbox.maqet(&["rm", "--all"]).expect(2);
    assert!(
        refused.stderr.contains("hint: maqet rm --all --yes"),
        "{refused:?}"
    );
    assert_eq!(names(&sandbox), ["a", "b", "c"]);
    sandbox.maqet(&["rm", "--all", "--yes"]).expect(0);
    assert!(names(&sandbox).is_empty());
    sandbox.maqet(&["rm", "--all", "--yes"]).expect(0);
}

#[test]
fn all_without_force_spares_the_running() {
    let sandbox = Sandbox::new();
    Guest::tiny("idle").add(&sandbox);
    Guest::tiny("busy").start(&sandbox);
    sandbox.maqet(&["rm", "--all", "--yes"]).expect(3);
    assert_eq!(names(&sandbox), ["busy"]);
    sandbox.maqet(&["rm", "--all", "--yes", "--force"]).expect(0);
    assert!(names(&sandbox).is_empty());
    nothing_runs(&sandbox);
}

#[test]
fn an_unknown_vm_is_not_found() {
    let sandbox = Sandbox::new();
    let error = sandbox.maqet(&["rm", "nobody", "-o", "json"]).expect(4).error();
    assert_eq!(
        (&error["code"], &error["vm"]),
        (&"vm-not-found".into(), &"nobody".into())
    );
    sandbox.maqet(&["rm", "--force", "nobody"]).expect(4);
}

#[test]
fn a_name_is_free_again() {
    let sandbox = Sandbox::new();
    let first = Guest::tiny("web").add(&sandbox);
    let file = Guest::tiny("web").write(&sandbox);
    let file = file.to_str().unwrap();
    let error = sandbox.maqet(&["add", file, "-o", "json"]).expect(5).error();
    assert_eq!(error["code"], "name-taken");
    sandbox.maqet(&["rm", "web"]).expect(0);
    let second = Guest::tiny("web").add(&sandbox);
    assert_ne!(first, second);
    assert_eq!(status(&sandbox, "web"), "created");
}

#[test]
fn the_journal_remembers_what_was_removed() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    sandbox.maqet(&["rm", "web"]).expect(0);
    let events = sandbox.maqet(&["events"]).expect(0).stdout;
    let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["kind"], &last["id"], &last["vm"]),
        (&"vm.removed".into(), &id.into(), &"web".into())
    );
}

#[test]
fn two_removals_at_once_make_one() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let rm: &[&str] = &["rm", "--force", "web"];
    let mut codes: Vec<i32> = at_once(&sandbox, &[rm, rm])
        .iter()
        .map(|output| output.code)
        .collect();
    codes.sort_unstable();
    // The second one shares the removal, or finds a VM that is being removed, or none at all.
    assert!(matches!(codes.as_slice(), [0, 0 | 4 | 5]), "{codes:?}");
    assert!(names(&sandbox).is_empty());
}

#[test]
fn neighbours_stay() {
    let sandbox = Sandbox::new();
    Guest::tiny("stays").start(&sandbox);
    let before = sandbox.status("stays");
    Guest::tiny("goes").start(&sandbox);
    sandbox.maqet(&["rm", "--force", "goes"]).expect(0);
    assert_eq!(sandbox.status("stays")["pid"], before["pid"]);
    assert!(kinds(&sandbox, "stays").iter().all(|kind| kind != "vm.removed"));
}

#[test]
fn files_of_people_stay() {
    let sandbox = Sandbox::new();
    let own = sandbox.home().join("notes.txt");
    fs::write(&own, "mine").unwrap();
    Guest::tiny("web").start(&sandbox);
    sandbox
        .maqet(&["rm", "--force", "--delete-storage", "web"])
        .expect(0);
    assert_eq!(fs::read_to_string(own).unwrap(), "mine");
    assert!(sandbox.tiny_image().exists());
}
