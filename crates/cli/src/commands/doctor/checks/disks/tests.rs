//! Tests of what is told of disks.

use serde_json::{Value, json};

use super::*;

const AT: &str = "2026-01-02T03:04:05.678Z";

/// A sound disk of 4 GiB that takes one, on device 1 with 10 GiB free.
fn disk(name: &str) -> Value {
    json!({"disk": name, "path": format!("/vm/{name}"), "readonly": false, "state": "ok", "made": true,
        "recorded": null, "holder": null, "free_bytes": 10_u64 << 30, "chain": [{"path": format!("/vm/{name}"),
        "file": {"dev": 1, "inode": 2}, "format": "qcow2", "virtual_bytes": 4_u64 << 30, "file_bytes": 1 << 30,
        "actual_bytes": 1 << 30, "snapshots": 0}]})
}

fn with(name: &str, key: &str, value: Value) -> Value {
    let mut disk = disk(name);
    disk[key] = value;
    disk
}

fn storage(disks: &[Value]) -> VmStorage {
    serde_json::from_value(json!({"vm": "web", "disks": disks})).unwrap()
}

fn told(disk: Value) -> Check {
    let mut checks = of_vm(&storage(&[disk]));
    assert_eq!(checks.len(), 1, "{checks:?}");
    checks.remove(0)
}

#[test]
fn a_sound_disk_is_not_told_of() {
    let storage = storage(&[disk("root"), with("data", "state", json!("to-be-made"))]);
    assert_eq!(of_vm(&storage), []);
    assert!(room::checks(std::slice::from_ref(&storage)).is_empty());
    assert_eq!(count(&[storage]), "2, all there and with room to grow");
    assert_eq!(count(&[]), "none yet");
}

#[test]
fn what_keeps_a_vm_from_starting_is_a_failure() {
    for (state, name) in [
        ("another-file", "disk-exchanged"),
        ("missing", "disk-missing"),
        ("unusable", "disk-unusable"),
    ] {
        let check = told(with("root", "state", json!(state)));
        assert_eq!((check.name, check.outcome), (name, Outcome::Fail));
        assert!(check.what.contains("disk `root` of `web`"), "{check:?}");
        assert_eq!(check.place.as_deref(), Some("/vm/root"));
        assert!(check.hint.is_some_and(|hint| hint.contains("maqet storage")));
    }
}

#[test]
fn what_is_wrong_inside_is_told_with_what_was_found() {
    for (problem, name, outcome, words) in [
        ("damaged", "disk-damaged", Outcome::Fail, "2 errors"),
        ("host-full", "disk-full", Outcome::Fail, "is halted since"),
        ("error", "disk-error", Outcome::Warn, "2 errors"),
    ] {
        let problem = json!({"problem": problem, "detail": "2 errors", "since": AT});
        let check = told(with("root", "problem", problem));
        assert_eq!((check.name, check.outcome), (name, outcome));
        assert!(check.what.contains(words) && check.what.contains(AT), "{check:?}");
    }
}

#[test]
fn damage_that_was_accepted_is_no_failure_and_what_helps_is_the_supervisors_to_say() {
    let damage = |accepted: bool| json!({"problem": "damaged", "detail": "2 errors", "since": AT, "accepted": accepted, "hint": "do this"});
    for (accepted, outcome) in [(false, Outcome::Fail), (true, Outcome::Warn)] {
        let check = told(with("root", "problem", damage(accepted)));
        assert_eq!((check.outcome, check.hint.as_deref()), (outcome, Some("do this")));
        assert_eq!(check.what.contains("used as it is"), accepted, "{check:?}");
    }
}

#[test]
fn snapshot_work_that_was_cut_off_is_told() {
    let mut storage = storage(&[]);
    storage.unsettled = serde_json::from_value(json!({"action": "create", "name": "one"})).unwrap();
    let checks = of_vm(&storage);
    assert_eq!(
        checks[0].what,
        "the create of snapshot `one` was cut off; it is settled when the VM is used next"
    );
    let waiting = json!({"action": "delete", "name": "one", "kind": "external"});
    storage.unsettled = serde_json::from_value(waiting).unwrap();
    let hint = of_vm(&storage)[0].hint.clone();
    assert_eq!(hint.as_deref(), Some("finish it: maqet snapshot delete web one"));
}

#[test]
fn a_file_system_is_told_of_when_its_disks_may_run_out_soon() {
    let free = |free: u64| storage(&[with("root", "free_bytes", json!(free)), disk("data")]);
    for (bytes, outcome) in [
        (2 << 30, None),
        (1 << 30, None),
        ((1 << 30) - 1, Some(Outcome::Warn)),
        ((1 << 20) - 1, Some(Outcome::Fail)),
    ] {
        let checks = room::checks(&[free(bytes)]);
        assert_eq!(checks.first().map(|check| check.outcome), outcome, "{bytes}");
    }
    let checks = room::checks(&[free(512 << 20)]);
    assert_eq!(checks[0].what, "512M free for 2 disks that can still grow by 6G");
    // All that can come has room, be it ever so little.
    let mut full = with("root", "free_bytes", json!(0));
    full["chain"][0]["virtual_bytes"] = json!(1 << 30);
    assert!(room::checks(&[storage(&[full])]).is_empty());
    assert!(room::checks(&[storage(&[with("root", "readonly", json!(true))])]).is_empty());
}
