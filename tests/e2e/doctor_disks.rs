//! `doctor` about disks: what is wrong with them is told, with the way out.

use std::fs;
use std::path::Path;

use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::Value;

use crate::doctor::{check, doctor};

/// VMs of that name with a disk of that name in the home directory.
fn vm(sandbox: &Sandbox, name: &str, disk: &str) {
    Guest::tiny(name)
        .line(&format!("disks: {{root: {{path: ./{disk}, interface: ide}}}}"))
        .add(sandbox);
}

/// Runs once, so that what it had is on record.
fn run(sandbox: &Sandbox, name: &str) {
    sandbox.maqet(&["start", name]).expect(0);
    sandbox.maqet(&["kill", name]).expect(0);
}

#[track_caller]
fn assert_told(report: &Value, name: &str, outcome: &str, words: &str, place: &Path) {
    let check = check(report, name);
    assert_eq!(check["outcome"], outcome, "{check}");
    assert!(check["what"].as_str().unwrap().contains(words), "{check}");
    assert_eq!(check["where"], place.display().to_string(), "{check}");
    assert!(check["hint"].is_string(), "{check}");
}

#[test]
fn sound_disks_are_one_line() {
    let sandbox = Sandbox::new();
    qemu_img::create(&sandbox.home().join("a.qcow2"), "qcow2", "1M");
    vm(&sandbox, "web", "a.qcow2");
    run(&sandbox, "web");
    let report = doctor(&sandbox, &[]).expect(0).json();
    let found = check(&report, "disks");
    assert_eq!(found["outcome"], "ok", "{found}");
    assert_eq!(found["what"], "1, there and with room to grow");
}

#[test]
fn lost_exchanged_and_unusable_disks_are_failures_with_their_cure() {
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.home().join(name);
    for (name, disk) in [("lost", "a.qcow2"), ("exchanged", "b.qcow2")] {
        qemu_img::create(&at(disk), "qcow2", "1M");
        vm(&sandbox, name, disk);
        run(&sandbox, name);
    }
    qemu_img::create(&at("base.raw"), "raw", "1M");
    qemu_img::overlay_on("base.raw", &at("c.qcow2"));
    vm(&sandbox, "overlay", "c.qcow2");
    run(&sandbox, "overlay");
    fs::remove_file(at("a.qcow2")).unwrap();
    fs::rename(at("b.qcow2"), at("elsewhere")).unwrap();
    qemu_img::create(&at("b.qcow2"), "qcow2", "1M");
    fs::rename(at("base.raw"), at("base.aside")).unwrap();

    let output = doctor(&sandbox, &[]).expect(1);
    assert_eq!(output.error()["message"], "3 checks failed");
    let report = output.json();
    let lost = "disk `root` of `lost` has no file";
    assert_told(&report, "disk-missing", "fail", lost, &at("a.qcow2"));
    let exchanged = "is another file than the one on record";
    assert_told(&report, "disk-exchanged", "fail", exchanged, &at("b.qcow2"));
    assert_told(&report, "disk-unusable", "fail", "base.raw", &at("c.qcow2"));
    let text = sandbox.maqet(&["doctor"]).expect(1).stdout;
    assert!(text.contains("hint: disk-missing: put it back"), "{text}");
    // What the hints say helps.
    for vm in ["lost", "exchanged"] {
        sandbox.maqet(&["storage", "accept", vm, "root"]).expect(0);
    }
    fs::rename(at("elsewhere"), at("a.qcow2")).unwrap();
    fs::rename(at("base.aside"), at("base.raw")).unwrap();
    doctor(&sandbox, &[]).expect(0);
}
