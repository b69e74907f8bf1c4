//! Entries of the journal, each as it is told.

use serde_json::{Value, json};

use super::{Event, tell};

/// An entry of this kind.
fn event(kind: &str, data: &Value) -> Event {
    let mut event =
        json!({"cursor": 1, "at": "2026-01-02T03:04:05.678Z", "vm": "web", "id": null, "kind": kind});
    let data = data.as_object().unwrap().clone();
    event.as_object_mut().unwrap().extend(data);
    serde_json::from_value(event).unwrap()
}

#[test]
fn what_happened_is_told_without_jargon() {
    let told: Vec<String> = [
        ("vm.starting", json!({"by": "command", "generation": 1})),
        ("vm.starting", json!({"by": "policy"})),
        ("vm.starting", json!({"by": "autostart"})),
        ("vm.starting", json!({})),
        (
            "vm.running",
            json!({"pid": 7, "accel": "tcg", "took_ms": 57, "accel_fallback": "a test guest hangs"}),
        ),
        ("vm.stopping", json!({"force": false, "by": "command"})),
        ("vm.stopping", json!({"force": true, "by": "command"})),
        ("vm.stopping", json!({"force": false, "by": "supervisor-exit"})),
        ("vm.stopping", json!({"force": true, "by": "runner-lost"})),
        ("vm.failed", json!({"cause": "qemu-killed", "signal": 9})),
        (
            "vm.failed",
            json!({"cause": "runner-lost", "found_by": "recovery"}),
        ),
        (
            "vm.failed",
            json!({"cause": "qemu-killed", "signal": 9, "load_cut_off": "snap"}),
        ),
        ("vm.stopped", json!({"cause": "a-cause-of-tomorrow"})),
        ("vm.restarting", json!({"pause_ms": 1500, "try": 2, "tries": 5})),
        ("vm.crash-loop", json!({"tries": 5, "window_s": 600})),
        ("vm.stop-failed", json!({"message": "nothing answers"})),
        ("vm.removing", json!({"images": ["/vm/root", "/vm/data"]})),
        ("vm.removing", json!({"images": ["/vm/data"], "resumed": true})),
        (
            "vm.removal-failed",
            json!({"message": "cannot delete `/vm/data`", "deleted": ["/vm/root"], "left": ["/vm/data"]}),
        ),
        (
            "vm.removal-failed",
            json!({"message": "cannot delete `/vm/root`"}),
        ),
        ("vm.rebuilt", json!({"panic": "index out of bounds"})),
        ("qmp.SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"})),
        (
            "qmp.BLOCK_IO_ERROR",
            json!({"device": "root", "operation": "write", "reason": "No space left on device"}),
        ),
    ]
    .iter()
    .filter_map(|(kind, data)| tell(&event(kind, data)))
    .collect();
    assert_eq!(told.len(), 23);
    insta::assert_snapshot!(told.join("\n"));
}

fn about_disks() -> Vec<(&'static str, Value)> {
    vec![
        ("disk.created", json!({"path": "/vm/root"})),
        ("vm.disk-checked", json!({"disk": "root", "leaks": 0})),
        ("vm.disk-checked", json!({"disk": "root", "leaks": 1})),
        (
            "vm.disk-quarantined",
            json!({"disk": "root", "found": "2 errors"}),
        ),
        (
            "vm.disk-repaired",
            json!({"disk": "root", "whole": true, "repaired": ["`/vm/root`: 2 errors repaired"]}),
        ),
        (
            "vm.disk-repaired",
            json!({"disk": "root", "whole": true, "repaired": []}),
        ),
        ("vm.disk-full", json!({"disk": "root", "free_bytes": 7})),
        ("vm.disk-full", json!({"disk": "root"})),
        ("vm.disk-resumed", json!({"disk": "root"})),
        (
            "vm.disk-error",
            json!({"disk": "root", "detail": "a write failed"}),
        ),
        ("vm.disk-damaged", json!({"disk": "root", "detail": "bad"})),
        ("vm.disk-accepted", json!({"disk": "root"})),
        ("vm.disk-attached", json!({"disk": "root", "path": "/vm/root"})),
        (
            "vm.disk-attached",
            json!({"disk": "root", "path": "/vm/root", "live": true}),
        ),
        (
            "vm.disk-not-attached",
            json!({"disk": "root", "message": "in use"}),
        ),
        (
            "vm.disk-resized",
            json!({"disk": "root", "before": 1 << 30, "after": 2_u64 << 30}),
        ),
    ]
}

fn about_snapshots() -> Vec<(&'static str, Value)> {
    vec![
        ("vm.snapshot-created", json!({"name": "one", "memory": true})),
        ("vm.snapshot-loaded", json!({"name": "one", "memory": false})),
        ("vm.snapshot-deleted", json!({"name": "one", "memory": false})),
        ("vm.snapshot-failed", json!({"message": "no room"})),
        ("vm.snapshot-recovered", json!({"name": "one", "achieved": true})),
        ("vm.snapshot-recovered", json!({"name": "one", "achieved": false})),
        (
            "vm.snapshot-recovered",
            json!({"name": "one", "achieved": false, "kept_as": "one.new"}),
        ),
    ]
}

#[test]
fn what_happened_to_disks_is_told() {
    let told: Vec<String> = about_disks()
        .iter()
        .chain(&about_snapshots())
        .filter_map(|(kind, data)| tell(&event(kind, data)))
        .collect();
    assert_eq!(told.len(), 23);
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_only_programs_care_about_is_left_out() {
    for kind in ["qmp.NIC_RX_FILTER_CHANGED", "qmp.SHUTDOWN", "vm.kind-of-tomorrow"] {
        assert_eq!(tell(&event(kind, &json!({"guest": false}))), None, "{kind}");
    }
}
