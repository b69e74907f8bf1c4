//! `storage attach` and `storage clone`.

use std::fs;
use std::time::Duration;

use maqet_tests::{Guest, Sandbox, qemu_img, wait};
use serde_json::json;

fn with_image() -> Sandbox {
    let sandbox = Sandbox::new();
    qemu_img::run_in(
        sandbox.home(),
        &["create", "-q", "-f", "qcow2", "own.qcow2", "1M"],
    );
    sandbox
}

#[test]
fn an_attached_disk_is_the_vms() {
    let sandbox = with_image();
    let disk = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("web").line(disk).add(&sandbox);
    let attach = ["storage", "attach", "web", "own.qcow2", "--interface", "ide"];
    let attached = sandbox.json(&attach);
    assert_eq!(attached["disk"], "disk2", "{attached}");
    sandbox.maqet(&["start", "web"]).expect(0);
    let disks = &sandbox.status("web")["disks"];
    assert_eq!(
        disks[1]["path"],
        json!(sandbox.home().join("own.qcow2")),
        "{disks}"
    );
    assert_eq!(disks[1]["made"], false, "{disks}");
    let events = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    assert!(events.contains("vm.disk-attached"), "{events}");
}

#[test]
fn nothing_is_attached_that_a_start_would_refuse() {
    let sandbox = with_image();
    let disk = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("web").line(disk).add(&sandbox);
    let own = "disks: {root: {path: ./own.qcow2, interface: ide}}";
    Guest::tiny("db").line(own).start(&sandbox);
    fs::write(sandbox.home().join("text"), "text").unwrap();
    for (words, code) in [
        (&["own.qcow2"][..], 5),
        (&["text"], 78),
        (&["missing"], 78),
        (&["/etc/passwd", "--format", "raw"], 78),
        (&["own.qcow2", "--disk", "root"], 5),
        (&["own.qcow2", "--disk", "Not A Name"], 78),
    ] {
        sandbox
            .maqet(&[&["storage", "attach", "web"], words].concat())
            .expect(code);
    }
    let missing = sandbox.maqet(&["storage", "attach", "web", "missing"]).stderr;
    assert!(missing.contains("hint: qemu-img create -f qcow2 /"), "{missing}");
    assert_eq!(sandbox.status("web")["disks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_new_vm_may_be_made_around_an_image() {
    let sandbox = with_image();
    let file = Guest::tiny("template").write(&sandbox);
    let file = file.to_str().unwrap();
    let attach = [
        "storage",
        "attach",
        "web",
        "own.qcow2",
        file,
        "--interface",
        "ide",
    ];
    sandbox.maqet(&attach).expect(0);
    assert_eq!(sandbox.status("web")["disks"][0]["name"], "root");
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&attach).expect(5);
}

#[test]
fn a_clone_stands_alone_and_replaces_nothing() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.home().join("base.raw"), vec![7; 1 << 20]).unwrap();
    qemu_img::run_in(
        sandbox.home(),
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "top.qcow2",
        ],
    );
    let disk = "disks: {root: {path: ./top.qcow2, interface: ide}}";
    Guest::tiny("web").line(disk).add(&sandbox);
    let cloned = sandbox.json(&["storage", "clone", "web", "root", "copy.raw", "--format", "raw"]);
    assert_eq!(cloned["virtual_bytes"], 1 << 20, "{cloned}");
    let copy = sandbox.home().join("copy.raw");
    assert!(fs::read(&copy).unwrap() == vec![7; 1 << 20]);
    fs::write(&copy, "mine").unwrap();
    sandbox
        .maqet(&["storage", "clone", "web", "root", "copy.raw"])
        .expect(5);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "mine");
    sandbox
        .maqet(&["storage", "clone", "web", "root", "/etc/copy.raw"])
        .expect(78);
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox
        .maqet(&["storage", "clone", "web", "root", "other"])
        .expect(3);
}

/// Whoever hangs up ends the work, and nothing of it is left.
#[test]
fn a_clone_that_nobody_waits_for_is_given_up() {
    let sandbox = Sandbox::new();
    let data: Vec<u8> = (0_u32..64 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(sandbox.home().join("big.raw"), data).unwrap();
    let disk = "disks: {root: {path: ./big.raw, format: raw, interface: ide}}";
    Guest::tiny("web").line(disk).add(&sandbox);
    let copy = sandbox.home().join("copy");
    let output = sandbox.maqet(&["storage", "clone", "web", "root", "copy", "--deadline", "100ms"]);
    wait::until("the VM to rest", Duration::from_secs(20), || {
        let activity = sandbox.status("web")["activity"].clone();
        if activity == "idle" { Ok(()) } else { Err(activity) }
    });
    // A host that is fast enough has copied it.
    if output.code == 124 {
        assert!(!copy.exists(), "{output:?}");
    }
    sandbox.maqet(&["start", "web"]).expect(0);
}
