//! `storage info`, `verify`, `orphaned`, `resize`: what there is of disks, and work on them.

use std::fs;

use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::{Value, json};

use crate::facts::one;

const ROOT: &str = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";

fn stopped(line: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(line).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
}

/// A VM with a disk to be made, and an overlay with a snapshot.
fn with_overlay() -> Sandbox {
    let sandbox = Sandbox::new();
    qemu_img::run_in(sandbox.home(), &["create", "-q", "-f", "raw", "base.raw", "1M"]);
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
            "2M",
        ],
    );
    qemu_img::run_in(sandbox.home(), &["snapshot", "-c", "one", "top.qcow2"]);
    let disks = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                 top: {path: ./top.qcow2, interface: ide}}";
    Guest::tiny("web").line(disks).add(&sandbox);
    sandbox
}

#[test]
fn info_tells_of_every_disk_before_and_while_it_runs() {
    let sandbox = with_overlay();
    let before = &sandbox.json(&["storage", "info", "web"])["disks"];
    assert_eq!(
        (&before[0]["state"], &before[1]["state"]),
        (&json!("to-be-made"), &json!("new")),
        "{before}"
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    let disks = &sandbox.json(&["storage-info", "web"])["disks"];
    let root = &disks[0];
    assert_eq!(
        (&root["state"], &root["made"]),
        (&json!("ok"), &json!(true)),
        "{root}"
    );
    assert_eq!(root["holder"], json!({"vm": "web", "disk": "root"}), "{root}");
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(
        sandbox.json(&["storage", "info", "web"])["disks"][0]["holder"],
        Value::Null
    );
}

#[test]
fn info_tells_what_a_disk_stands_on_also_when_that_is_gone() {
    let sandbox = with_overlay();
    let disks = &sandbox.json(&["storage", "info", "web"])["disks"];
    let layers = disks[1]["chain"].as_array().unwrap().iter();
    let layers = layers.map(|image| json!([image["format"], image["virtual_bytes"], image["snapshots"]]));
    assert_eq!(
        layers.collect::<Vec<_>>(),
        [json!(["qcow2", 2 << 20, 1]), json!(["raw", 1 << 20, 0])]
    );
    fs::remove_file(sandbox.home().join("base.raw")).unwrap();
    let text = sandbox.maqet(&["storage", "info", "web"]).expect(0).stdout;
    assert!(text.contains("unusable") && text.contains("base.raw"), "{text}");
}

#[test]
fn verify_says_what_is_wrong_and_nothing_of_what_it_did_not_check() {
    let sandbox = stopped(ROOT);
    let text = sandbox.maqet(&["storage", "verify", "web"]).expect(0).stdout;
    assert!(text.starts_with("root: sound"), "{text}");
    qemu_img::damage(&sandbox.home().join("root.qcow2"));
    let output = sandbox.maqet(&["storage", "verify", "web"]).expect(1);
    assert!(output.stdout.contains("errors in its tables"), "{output:?}");
    assert!(
        output.stderr.contains("something is wrong with root of web"),
        "{output:?}"
    );
    let repaired = sandbox.json(&["storage", "verify", "web", "--repair"]);
    assert!(
        repaired["disks"][0]["repaired"].to_string().contains("repaired"),
        "{repaired}"
    );
    sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
    let running = sandbox.json(&["storage", "verify", "web"]);
    assert_eq!(running["tables"], false, "{running}");
    sandbox.maqet(&["storage", "verify", "web", "--repair"]).expect(3);
}

#[test]
fn verify_sees_lost_exchanged_and_shared_files() {
    let sandbox = stopped(ROOT);
    let root = sandbox.home().join("root.qcow2");
    let kept = sandbox.home().join("kept");
    let wrong = |words: &str| {
        let output = sandbox.maqet(&["storage", "verify", "web"]).expect(1);
        assert!(output.stdout.contains(words), "{words}: {output:?}");
    };
    fs::rename(&root, &kept).unwrap();
    wrong("there is no file");
    fs::copy(&kept, &root).unwrap();
    wrong("another file than the one on record");
    fs::rename(&kept, &root).unwrap();
    fs::hard_link(&root, &kept).unwrap();
    wrong("2 names instead of one");
    fs::remove_file(&kept).unwrap();
    sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    // No disks are no sound disks.
    Guest::none("bare").add(&sandbox);
    let text = sandbox.maqet(&["storage", "verify", "bare"]).expect(0).stdout;
    assert_eq!(text.trim(), "bare has no disks");
}

#[test]
fn orphaned_lists_what_no_vm_has_and_deletes_nothing() {
    let sandbox = Sandbox::new();
    // The supervisor makes its own directory.
    sandbox.maqet(&["ls"]).expect(0);
    let images = sandbox.data_dir().join("disks");
    fs::create_dir_all(&images).unwrap();
    let at = |name: &str| images.join(name).display().to_string();
    qemu_img::run_in(
        sandbox.home(),
        &["create", "-q", "-f", "raw", &at("base.raw"), "1M"],
    );
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
            &at("top.qcow2"),
        ],
    );
    qemu_img::run_in(
        sandbox.home(),
        &["create", "-q", "-f", "qcow2", &at("nobodys"), "1M"],
    );
    let disk = format!("disks: {{top: {{path: '{}', interface: ide}}}}", at("top.qcow2"));
    Guest::tiny("web").line(&disk).add(&sandbox);
    let orphans = sandbox.json(&["storage", "orphaned"]);
    let paths: Vec<_> = orphans["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["path"])
        .collect();
    assert_eq!(paths, [&json!(at("nobodys"))], "{orphans}");
    assert!(images.join("nobodys").exists());
    sandbox.maqet(&["rm", "web"]).expect(0);
    let names = sandbox
        .maqet(&["storage", "orphaned", "-o", "name"])
        .expect(0)
        .stdout;
    assert_eq!(names.lines().count(), 3, "{names}");
}

#[test]
fn a_disk_grows_while_its_vm_rests_and_its_spec_follows() {
    let sandbox = stopped(ROOT);
    let resized = sandbox.json(&["storage", "resize", "web", "root", "2M"]);
    assert_eq!(
        (&resized["before"], &resized["after"], &resized["live"]),
        (&json!(1 << 20), &json!(2 << 20), &json!(false)),
        "{resized}"
    );
    assert_eq!(
        sandbox.json(&["storage", "resize", "web", "root", "+1M"])["after"],
        3 << 20
    );
    let spec = sandbox.json(&["info", "web"]);
    assert_eq!(spec["spec"]["disks"][0]["size"], 3 << 20, "{spec}");
    let text = sandbox
        .maqet(&["storage", "resize", "web", "root", "3M"])
        .expect(0)
        .stdout;
    assert!(text.contains("3M already"), "{text}");
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_disk_shrinks_only_when_told() {
    let sandbox = stopped(ROOT);
    let error = sandbox
        .maqet(&["storage", "resize", "web", "root", "512K", "-o", "json"])
        .expect(2)
        .error();
    assert!(
        error["causes"].to_string().contains("what lies behind is lost"),
        "{error}"
    );
    assert!(error["hint"].to_string().contains("--shrink"), "{error}");
    sandbox
        .maqet(&["storage", "resize", "web", "root", "512K", "--shrink"])
        .expect(0);
    let error = sandbox
        .maqet(&["storage", "resize", "web", "root", "10GB"])
        .expect(2);
    assert!(error.stderr.contains("write `10G`"), "{error:?}");
}

#[test]
fn no_other_file_is_resized_and_no_disk_that_somebody_has() {
    let sandbox = stopped(ROOT);
    let root = sandbox.home().join("root.qcow2");
    let other = "disks: {copy: {path: ./root.qcow2, interface: ide}}";
    Guest::tiny("db").line(other).start(&sandbox);
    let error = sandbox
        .maqet(&["storage", "resize", "web", "root", "2M", "-o", "json"])
        .expect(5)
        .error();
    assert!(error["message"].to_string().contains("in use by `db`"), "{error}");
    sandbox.maqet(&["stop", "db"]).expect(0);
    fs::rename(&root, sandbox.home().join("kept")).unwrap();
    fs::copy(sandbox.home().join("kept"), &root).unwrap();
    let before = fs::read(&root).unwrap();
    sandbox
        .maqet(&["storage", "resize", "web", "root", "2M"])
        .expect(5);
    assert!(fs::read(&root).unwrap() == before);
    sandbox
        .maqet(&["storage", "resize", "web", "boot", "2M"])
        .expect(4);
}

#[test]
fn work_on_disks_is_in_the_journal() {
    let sandbox = stopped(ROOT);
    sandbox
        .maqet(&["storage", "resize", "web", "root", "2M"])
        .expect(0);
    let events = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    let event = events
        .lines()
        .find(|line| line.contains("vm.disk-resized"))
        .unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(
        (&event["disk"], &event["after"]),
        (&json!("root"), &json!(2 << 20))
    );
    assert_eq!(one(&sandbox.json(&["ls"]))["activity"], "idle");
}

#[test]
fn what_is_forbidden_is_told_as_that_whether_or_not_it_is_there() {
    let sandbox = Sandbox::new();
    for (line, why) in [
        (
            "disks: {root: {path: /etc/never/root.qcow2, size: 1M}}",
            "`/etc` belongs to the system",
        ),
        (
            "disks: {root: {path: ./.ssh/never/root.qcow2, size: 1M}}",
            "holds credentials",
        ),
        ("shares: {own: {path: ./.ssh/never}}", "holds credentials"),
        (
            "sandbox: {write: [/etc/never/out]}",
            "`/etc` belongs to the system",
        ),
    ] {
        let file = Guest::tiny("web").line(line).write(&sandbox);
        let refused = sandbox.maqet(&["add", &file.display().to_string()]).expect(78);
        assert!(refused.stderr.contains(why), "{line}: {}", refused.stderr);
    }
}
