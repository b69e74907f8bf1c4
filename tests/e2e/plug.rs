//! `storage attach` of a VM that runs: the guest has the disk at once, and keeps it.

use std::fs::File;
use std::os::fd::AsFd;

use maqet_tests::monitor::Monitor;
use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::{Value, json};

use crate::bases::exchange;
use crate::facts::{status, until_serial};
use crate::linux;

/// An image in the sandbox's home.
fn image(sandbox: &Sandbox, name: &str) {
    qemu_img::create(&sandbox.home().join(name), "qcow2", "1M");
}

fn attach<'a>(vm: &'a str, image: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["storage", "attach", vm, image], words].concat()
}

/// Names of the nodes that QEMU has devices on, and of all that it has.
fn nodes(sandbox: &Sandbox, id: &str) -> (Vec<String>, Vec<String>) {
    let mut monitor = Monitor::of(sandbox, id);
    let list = |value: Value, pointer: &str| -> Vec<String> {
        let names = value.as_array().unwrap().iter();
        let names = names.filter_map(|one| one.pointer(pointer)?.as_str());
        let mut names: Vec<_> = names.map(ToOwned::to_owned).collect();
        names.sort_unstable();
        names
    };
    let devices = monitor.run("query-block", &json!({})).unwrap();
    let all = monitor.run("query-named-block-nodes", &json!({"flat": true}));
    (
        list(devices, "/inserted/node-name"),
        list(all.unwrap(), "/node-name"),
    )
}

/// Numbers of QEMU's descriptor sets.
fn sets(sandbox: &Sandbox, id: &str) -> Vec<u64> {
    let sets = Monitor::of(sandbox, id).run("query-fdsets", &json!({})).unwrap();
    let numbers = sets.as_array().unwrap().iter();
    numbers.map(|set| set["fdset-id"].as_u64().unwrap()).collect()
}

#[test]
fn a_linux_guest_gets_a_disk_while_it_runs_and_keeps_it() {
    let sandbox = Sandbox::new();
    let new = sandbox.home().join("new.raw");
    std::fs::write(&new, [&b"before\n"[..], &vec![0; 1 << 20]].concat()).unwrap();
    qemu_img::convert(("raw", &new), ("qcow2", &sandbox.home().join("new.qcow2")));
    linux::start(&sandbox, "linux", "loglevel=7 maqet.new=by-the-guest", "");
    until_serial(&sandbox, "linux", "maqet linux guest ready");
    let attached = sandbox.json(&attach("linux", "new.qcow2", &[]));
    assert_eq!(
        (&attached["disk"], &attached["live"]),
        (&json!("disk2"), &json!(true)),
        "{attached}"
    );
    until_serial(&sandbox, "linux", "maqet new disk held: before");
    until_serial(&sandbox, "linux", "maqet new disk holds: by-the-guest");

    // It is a disk as any other: in snapshots with the machine's memory, in sizes, in what is told.
    let made = sandbox.json(&["snapshot", "create", "linux", "with", "--memory"]);
    assert_eq!(made["disks"], json!(["root", "disk2"]), "{made}");
    let resized = sandbox.json(&["storage", "resize", "linux", "disk2", "+1M"]);
    assert_eq!(resized["live"], true, "{resized}");
    until_serial(&sandbox, "linux", "vdb\\] new size");
    let disk = &sandbox.status("linux")["disks"][1];
    assert_eq!(
        (&disk["name"], &disk["made"]),
        (&json!("disk2"), &json!(false)),
        "{disk}"
    );

    // The next start has it where it was, so that the memory fits.
    sandbox.maqet(&["stop", "linux"]).expect(0);
    assert!(qemu_img::content(&sandbox.home().join("new.qcow2")).starts_with(b"by-the-guest\n"));
    sandbox.maqet(&["start", "linux"]).expect(0);
    until_serial(&sandbox, "linux", "maqet new disk held: by-the-guest");
    sandbox
        .maqet(&["snapshot", "load", "linux", "with", "--memory"])
        .expect(0);
    assert_eq!(status(&sandbox, "linux"), "running");
    let events = sandbox.maqet(&["events", "--vm", "linux"]).expect(0).stdout;
    assert!(events.contains("vm.disk-attached"), "{events}");
}

/// Gives a VM, which runs with one SCSI disk, one disk by each way, and starts it again.
fn all_ways(sandbox: &Sandbox, machine: &str, ways: &[&str]) {
    let vm = machine;
    let scsi = format!("disks: {{root: {{path: ./{vm}.qcow2, size: 1M, interface: scsi}}}}");
    let id = Guest::tiny(vm).machine(machine).line(&scsi).start(sandbox);
    let mut devices = vec!["root".to_owned()];
    for interface in ways {
        let name = format!("{vm}-{interface}.qcow2");
        image(sandbox, &name);
        let words = ["--interface", interface, "--disk", interface];
        let attached = sandbox.json(&attach(vm, &name, &words));
        assert_eq!(attached["live"], true, "{machine}, {interface}: {attached}");
        devices.extend((*interface != "none").then(|| (*interface).to_owned()));
        let (with_device, all) = nodes(sandbox, &id);
        devices.sort_unstable();
        assert_eq!(with_device, devices, "{machine}, {interface}");
        assert!(
            all.contains(&(*interface).to_owned()),
            "{machine}, {interface}: {all:?}"
        );
    }
    sandbox.maqet(&["restart", vm]).expect(0);
    assert_eq!(nodes(sandbox, &id).0, devices);
    assert_eq!(
        sandbox.status(vm)["disks"].as_array().unwrap().len(),
        1 + ways.len()
    );
}

#[test]
fn every_way_in_that_a_machine_has_while_it_runs() {
    let sandbox = Sandbox::new();
    image(&sandbox, "refused.qcow2");
    for machine in ["pc", "q35"] {
        all_ways(&sandbox, machine, &["virtio", "nvme", "scsi", "none"]);
        for interface in ["ide", "sata"] {
            let words = ["--interface", interface, "-o", "json"];
            let error = sandbox
                .maqet(&attach(machine, "refused.qcow2", &words))
                .expect(3)
                .error();
            assert!(
                error["causes"][0].as_str().unwrap().contains(interface),
                "{error}"
            );
            assert!(
                error["hint"].as_str().unwrap().contains("--interface scsi"),
                "{error}"
            );
        }
    }
}

/// With a network card behind the disks of the start.
#[test]
fn on_a_pc_it_has_the_same_place_at_the_next_start() {
    let sandbox = Sandbox::new();
    image(&sandbox, "new.qcow2");
    Guest::tiny("web")
        .line("disks: {root: {path: ./web.qcow2, size: 1M}}")
        .line("networks: {lan: {}}")
        .start(&sandbox);
    sandbox.maqet(&attach("web", "new.qcow2", &[])).expect(0);
    let memory = |verb| ["snapshot", verb, "web", "with", "--memory"];
    sandbox.maqet(&memory("create")).expect(0);
    sandbox.maqet(&["restart", "web"]).expect(0);
    sandbox.maqet(&memory("load")).expect(0);
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn what_cannot_come_is_told_before_anything_is_done() {
    let sandbox = Sandbox::new();
    image(&sandbox, "own.qcow2");
    image(&sandbox, "theirs.qcow2");
    std::fs::write(sandbox.home().join("text"), "text").unwrap();
    let id = Guest::tiny("web")
        .line("disks: {root: {path: ./web.qcow2, size: 1M, interface: ide}}")
        .start(&sandbox);
    Guest::tiny("db")
        .line("disks: {root: {path: ./theirs.qcow2, interface: ide}}")
        .start(&sandbox);
    let before = (
        nodes(&sandbox, &id),
        sets(&sandbox, &id),
        sandbox.json(&["info", "web"]),
    );
    for (image, words, code) in [
        ("theirs.qcow2", &[][..], 5),
        ("text", &[], 78),
        ("missing", &[], 78),
        ("/etc/passwd", &["--format", "raw"], 78),
        ("own.qcow2", &["--disk", "root"], 5),
        ("own.qcow2", &["--disk", "Not A Name"], 78),
        ("own.qcow2", &["--interface", "scsi"], 3),
        ("own.qcow2", &["--interface", "ide"], 3),
    ] {
        sandbox.maqet(&attach("web", image, words)).expect(code);
    }
    let after = (
        nodes(&sandbox, &id),
        sets(&sandbox, &id),
        sandbox.json(&["info", "web"]),
    );
    assert_eq!(before, after);
    // What it had it still has.
    Guest::tiny("thief")
        .line("disks: {root: {path: ./web.qcow2, interface: ide}}")
        .add(&sandbox);
    sandbox.maqet(&["start", "thief"]).expect(5);
    // What nobody has now may be had.
    sandbox.maqet(&attach("web", "own.qcow2", &[])).expect(0);
    sandbox.maqet(&attach("db", "own.qcow2", &[])).expect(5);
}

#[test]
fn what_qemu_refuses_is_taken_away_again() {
    let sandbox = Sandbox::new();
    image(&sandbox, "own.qcow2");
    let id = Guest::tiny("web").start(&sandbox);
    let other = Guest::tiny("other").start(&sandbox);
    // Another QEMU has the image without maqet's knowledge, and its lock.
    let mut monitor = Monitor::of(&sandbox, &other);
    let file = File::options()
        .read(true)
        .write(true)
        .open(sandbox.home().join("own.qcow2"))
        .unwrap();
    monitor.add_fd(file.as_fd(), 77).unwrap();
    drop(file);
    let node = json!({"driver": "file", "node-name": "hidden", "filename": "/dev/fdset/77"});
    monitor.run("blockdev-add", &node).unwrap();
    let device = json!({"driver": "virtio-blk-pci", "drive": "hidden", "id": "hidden0"});
    monitor.run("device_add", &device).unwrap();

    let before = (nodes(&sandbox, &id), sets(&sandbox, &id));
    let refused = sandbox.maqet(&attach("web", "own.qcow2", &["-o", "json"]));
    let error = refused.expect(1).error();
    assert!(error.to_string().contains("lock"), "{error}");
    assert_eq!((nodes(&sandbox, &id), sets(&sandbox, &id)), before);
    assert_eq!(sandbox.status("web")["activity"], "idle");
    let events = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    assert!(events.contains("vm.disk-not-attached"), "{events}");

    sandbox.maqet(&["stop", "other", "--force"]).expect(0);
    sandbox.maqet(&attach("web", "own.qcow2", &[])).expect(0);
    assert_eq!(nodes(&sandbox, &id).0, ["root"].map(ToOwned::to_owned));
}

#[test]
fn what_it_stands_on_comes_with_it() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.home().join("base.raw"), vec![7; 1 << 20]).unwrap();
    qemu_img::overlay_on("base.raw", &sandbox.home().join("middle.qcow2"));
    let over = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "middle.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ];
    qemu_img::run_in(sandbox.home(), &over);
    let id = Guest::tiny("web").start(&sandbox);
    sandbox
        .maqet(&attach("web", "top.qcow2", &["--disk", "data"]))
        .expect(0);
    let (devices, all) = nodes(&sandbox, &id);
    assert_eq!(devices, ["data"]);
    let names = ["below.0.1", "below.0.2", "data", "file.0", "file.0.1", "file.0.2"];
    assert_eq!(all, names);
    let mut monitor = Monitor::of(&sandbox, &id);
    let devices = monitor.run("query-block", &json!({})).unwrap();
    let line = format!(
        "qemu-io -d {} \"read -P 7 0 1M\"",
        devices[0]["qdev"].as_str().unwrap()
    );
    let line = json!({"command-line": line});
    monitor.run("human-monitor-command", &line).unwrap();
    // What is below is the VM's too, and on record: one that is exchanged is told.
    let info = sandbox.json(&["storage", "info", "web"]);
    assert_eq!(info["disks"][0]["chain"].as_array().unwrap().len(), 3, "{info}");
    sandbox.maqet(&["stop", "web"]).expect(0);
    // QEMU writes down what came of that when it ends.
    let told = sandbox.maqet(&["logs", "web", "--qemu"]).expect(0).stdout;
    assert!(
        told.contains("read 1048576/1048576") && !told.contains("failed"),
        "{told}"
    );
    exchange(&sandbox, "base.raw");
    sandbox.maqet(&["start", "web"]).expect(5);
}

#[test]
fn there_are_so_many_ports_and_then_it_is_told() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").machine("q35").start(&sandbox);
    for number in 0..8 {
        let name = format!("{number}.qcow2");
        image(&sandbox, &name);
        sandbox.maqet(&attach("web", &name, &[])).expect(0);
    }
    image(&sandbox, "more.qcow2");
    let error = sandbox
        .maqet(&attach("web", "more.qcow2", &["-o", "json"]))
        .expect(3)
        .error();
    assert!(
        error["causes"][0].as_str().unwrap().contains("the 8 places"),
        "{error}"
    );
    sandbox.maqet(&["restart", "web"]).expect(0);
    let spec = sandbox.json(&["info", "web"]);
    let ports = spec["spec"]["disks"].as_array().unwrap().iter();
    let ports: Vec<_> = ports.map(|disk| disk["port"].as_u64().unwrap()).collect();
    assert_eq!(ports, (0..8).collect::<Vec<_>>());
    // A VM that rests takes it in a place of its own.
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox.maqet(&attach("web", "more.qcow2", &[])).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
}

/// The record of a disk and its lease are of one VM.
#[test]
fn what_was_attached_is_held_and_let_go_as_any_other() {
    let sandbox = Sandbox::new();
    image(&sandbox, "own.qcow2");
    Guest::tiny("web").start(&sandbox);
    sandbox.maqet(&attach("web", "own.qcow2", &[])).expect(0);
    let info = sandbox.json(&["storage", "info", "web"]);
    assert_eq!(info["disks"][0]["holder"]["vm"], "web", "{info}");
    Guest::tiny("db")
        .line("disks: {root: {path: ./own.qcow2, interface: ide}}")
        .add(&sandbox);
    sandbox.maqet(&["start", "db"]).expect(5);
    sandbox.maqet(&["rm", "web", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["start", "db"]).expect(0);
}
