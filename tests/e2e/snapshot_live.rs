//! Snapshots of a VM that runs: by QEMU, with and without memory; a Linux guest goes on from where it was.

use maqet_tests::{Guest, Sandbox, qemu_img, wait};
use regex::Regex;

use crate::facts::until_serial;
use crate::linux;

const BOTH: &str = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                    data: {path: ./data.qcow2, size: 4M, interface: ide}}";

fn running() -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).line(BOTH).start(&sandbox);
    sandbox
}

fn names(sandbox: &Sandbox, vm: &str) -> Vec<String> {
    let list = sandbox.json(&["snapshot", "list", vm]);
    let name = |one: &serde_json::Value| one["name"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

fn serial(sandbox: &Sandbox, vm: &str) -> String {
    sandbox.maqet(&["logs", vm]).expect(0).stdout
}

/// Every number the guest has counted, and the one that its disk kept before it.
fn counts(sandbox: &Sandbox, vm: &str) -> Vec<(u64, u64)> {
    let count = Regex::new(r"(?m)^maqet count (\d+) kept (\d+)\r?\n").unwrap();
    let log = serial(sandbox, vm);
    let number = |text: &str| text.parse().unwrap();
    let found = count.captures_iter(&log);
    found
        .map(|found| (number(&found[1]), number(&found[2])))
        .collect()
}

/// Waits until the guest has counted so many times more than `seen`.
fn counted(sandbox: &Sandbox, vm: &str, seen: usize) -> Vec<(u64, u64)> {
    wait::until("the guest counts", wait::PATIENCE, || {
        let counts = counts(sandbox, vm);
        if counts.len() > seen {
            Ok(counts)
        } else {
            Err(counts.len())
        }
    })
}

/// What the guest's disk keeps, as an image that nobody has open.
fn kept(sandbox: &Sandbox) -> u64 {
    let bytes = qemu_img::content(&sandbox.home().join("linux.qcow2"));
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
    String::from_utf8(line.to_vec()).unwrap().parse().unwrap()
}

#[test]
fn a_linux_guest_goes_on_from_its_snapshot_and_its_disk_is_what_it_was() {
    let sandbox = Sandbox::new();
    linux::start(&sandbox, "linux", "maqet.count", "");
    until_serial(&sandbox, "linux", "maqet linux guest ready");
    let before = counted(&sandbox, "linux", 3).last().unwrap().0;
    let made = sandbox.json(&["snapshot", "create", "linux", "first", "--memory"]);
    assert_eq!(
        (&made["live"], &made["memory"]),
        (&true.into(), &true.into()),
        "{made}"
    );
    let after = counts(&sandbox, "linux");
    let list = sandbox.json(&["snapshot", "list", "linux"]);
    let bytes = list[0]["vm_state_bytes"].as_u64().unwrap();
    assert!(
        bytes > 1 << 20 && list[0]["vm_clock_ms"].as_u64().unwrap() > 0,
        "{list}"
    );

    let far = counted(&sandbox, "linux", after.len() + 6);
    sandbox
        .maqet(&["snapshot", "load", "linux", "first", "--memory"])
        .expect(0);
    assert_eq!(sandbox.status("linux")["run_state"], "running");
    let all = counted(&sandbox, "linux", counts(&sandbox, "linux").len() + 3);
    let back = all
        .windows(2)
        .find(|two| two[1].0 <= two[0].0)
        .map(|two| two[1].0);
    let resumed = back.unwrap_or_else(|| panic!("the counter never went back: {all:?}"));
    let latest = after.last().unwrap().0 + 1;
    assert!(
        (before..=latest).contains(&resumed),
        "{resumed}: {before} to {latest}, {all:?}"
    );
    // What the disk keeps goes with the memory: in every line, also in the first after the way back.
    let all_fit = all.iter().skip(1).all(|(count, kept)| count - 1 == *kept);
    assert!(all_fit && far.last().unwrap().0 > latest, "{all:?}");

    // The same of a guest that does not run: the disk alone, and that is said.
    sandbox.maqet(&["stop", "linux", "--force"]).expect(0);
    assert!(kept(&sandbox) >= resumed);
    let loaded = sandbox.maqet(&["snapshot", "load", "linux", "first"]).expect(0);
    let words = "the memory kept with the snapshot was not loaded";
    assert!(loaded.stderr.contains(words), "{loaded:#?}");
    let now = kept(&sandbox);
    assert!((before..=resumed).contains(&now), "{now}: {before} to {resumed}");
    sandbox.maqet(&["start", "linux"]).expect(0);
    until_serial(&sandbox, "linux", &format!("maqet found: {now}\\b"));
}

/// How often the guest has found this on its disk at its boot.
fn boots_that_found(sandbox: &Sandbox, number: u64) -> usize {
    let line = Regex::new(&format!(r"(?m)^maqet found: {number}\r?\n")).unwrap();
    line.find_iter(&serial(sandbox, "linux")).count()
}

/// It boots, and finds this on its disk for the `time`th time.
fn boots_with(sandbox: &Sandbox, number: u64, time: usize) {
    sandbox.maqet(&["start", "linux"]).expect(0);
    wait::until("the guest finds what it wrote", wait::PATIENCE, || {
        let found = boots_that_found(sandbox, number);
        if found == time { Ok(()) } else { Err(found) }
    });
}

#[test]
fn a_linux_guest_reads_what_it_wrote_before_an_offline_snapshot() {
    let sandbox = Sandbox::new();
    linux::start(&sandbox, "linux", "maqet.count", "");
    until_serial(&sandbox, "linux", "maqet linux guest ready");
    counted(&sandbox, "linux", 3);
    sandbox.maqet(&["stop", "linux"]).expect(0);
    let before = kept(&sandbox);
    let made = sandbox.json(&["snapshot", "create", "linux", "first"]);
    assert_eq!(made["live"], false, "{made}");
    boots_with(&sandbox, before, 1);
    // It writes over it, from 1 on.
    until_serial(&sandbox, "linux", &format!("maqet count {}\\b", before + 2));
    sandbox.maqet(&["stop", "linux", "--force"]).expect(0);
    assert!(kept(&sandbox) > before);
    sandbox.maqet(&["snapshot", "load", "linux", "first"]).expect(0);
    assert_eq!(kept(&sandbox), before);
    boots_with(&sandbox, before, 2);
    sandbox.maqet(&["stop", "linux", "--force"]).expect(0);
}

#[test]
fn disks_of_a_running_vm_are_kept_at_one_moment() {
    let sandbox = running();
    let made = sandbox.json(&["snapshot", "create", "web", "one"]);
    assert_eq!(
        (&made["live"], &made["memory"]),
        (&true.into(), &false.into()),
        "{made}"
    );
    assert_eq!(made["disks"], serde_json::json!(["root", "data"]));
    sandbox.maqet(&["snapshot", "create", "web", "one"]).expect(5);
    sandbox
        .maqet(&["snapshot", "create", "web", "one", "--overwrite"])
        .expect(0);
    sandbox.maqet(&["snapshot", "create", "web", "two"]).expect(0);
    assert_eq!(names(&sandbox, "web"), ["one", "two"]);
    assert_eq!(sandbox.status("web")["run_state"], "running");
    sandbox.maqet(&["snapshot", "delete", "web", "one"]).expect(0);
    assert_eq!(names(&sandbox, "web"), ["two"]);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(names(&sandbox, "web"), ["two"]);
    sandbox.maqet(&["snapshot", "load", "web", "two"]).expect(0);
}

#[test]
fn memory_is_kept_loaded_replaced_and_deleted() {
    let sandbox = running();
    sandbox
        .maqet(&["snapshot", "create", "web", "warm", "--memory"])
        .expect(0);
    let replace = ["snapshot", "create", "web", "warm", "--memory", "--overwrite"];
    sandbox.maqet(&replace).expect(0);
    assert_eq!(names(&sandbox, "web"), ["warm"]);
    for _ in 0..3 {
        sandbox
            .maqet(&["snapshot", "load", "web", "warm", "--memory"])
            .expect(0);
    }
    // A paused guest stays paused.
    sandbox.maqet(&["pause", "web"]).expect(0);
    sandbox
        .maqet(&["snapshot", "create", "web", "cold", "--memory"])
        .expect(0);
    assert_eq!(sandbox.status("web")["run_state"], "paused");
    sandbox
        .maqet(&["snapshot", "load", "web", "cold", "--memory"])
        .expect(0);
    assert_eq!(sandbox.status("web")["run_state"], "paused");
    sandbox.maqet(&["resume", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "delete", "web", "warm"]).expect(0);
    assert_eq!(names(&sandbox, "web"), ["cold"]);
    sandbox
        .maqet(&["snapshot", "web", "create", "root", "--name", "old", "--live"])
        .expect(0);
    assert_eq!(names(&sandbox, "web"), ["cold", "old"]);
}

#[test]
fn what_cannot_be_loaded_into_a_running_vm_is_said() {
    let sandbox = running();
    sandbox.maqet(&["snapshot", "create", "web", "disks"]).expect(0);
    let refused = sandbox
        .maqet(&["-o", "json", "snapshot", "load", "web", "disks"])
        .expect(3);
    let error = refused.error();
    assert_eq!(
        (&error["code"], &error["state"]),
        (&"wrong-state".into(), &"running".into()),
        "{error}"
    );
    assert_eq!(error["hint"], "maqet stop web first", "{error}");
    let refused = sandbox
        .maqet(&["-o", "json", "snapshot", "load", "web", "disks", "--memory"])
        .expect(3);
    assert!(
        refused.error()["message"]
            .as_str()
            .unwrap()
            .contains("no memory is kept"),
        "{refused:#?}"
    );
    sandbox
        .maqet(&["snapshot", "load", "web", "never", "--memory"])
        .expect(4);
    assert_eq!(sandbox.status("web")["run_state"], "running");
}
