//! Disk images: made at the first start, kept, written, deleted only when asked.

use std::fs;
use std::path::Path;

use maqet_supervisor::guest::{WRITTEN_SECTORS, written_sector};
use maqet_tests::{Guest, Sandbox, qemu_img};

use crate::facts::{one, until_serial};

const BOTH: &str = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                    data: {path: ./data.raw, size: 2M, format: raw, interface: ide}}";

/// The first sectors of the guest's disk as a raw image has them.
fn sectors(image: &Path) -> Vec<u8> {
    let mut bytes = qemu_img::content(image);
    bytes.truncate(usize::from(WRITTEN_SECTORS) * 512);
    bytes
}

#[test]
fn missing_images_are_made_by_the_first_start() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(BOTH).add(&sandbox);
    let (root, data) = (sandbox.home().join("root.qcow2"), sandbox.home().join("data.raw"));
    assert!(!root.exists() && !data.exists());
    sandbox.maqet(&["start", "web"]).expect(0);
    let (root, data) = (qemu_img::info(&root), qemu_img::info(&data));
    assert_eq!(
        (&root["format"], &root["virtual-size"]),
        (&"qcow2".into(), &(1 << 20).into())
    );
    assert_eq!(
        (&data["format"], &data["virtual-size"]),
        (&"raw".into(), &(2 << 20).into())
    );
    let disks = &sandbox.status("web")["disks"];
    assert_eq!(disks.as_array().unwrap().len(), 2, "{disks}");
}

#[test]
fn an_image_is_made_once() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(BOTH).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let data = sandbox.home().join("data.raw");
    fs::write(&data, vec![7; 2 << 20]).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert!(fs::read(data).unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn what_the_guest_wrote_and_did_not_flush_is_there_after_a_stop() {
    let sandbox = Sandbox::new();
    let disk = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("acpi").options(&["write"]).line(disk).start(&sandbox);
    until_serial(&sandbox, "acpi", "wrote \\d+ sectors");
    assert_eq!(one(&sandbox.json(&["stop", "acpi"]))["how"], "guest");
    let expected: Vec<u8> = (0..WRITTEN_SECTORS).flat_map(written_sector).collect();
    let image = sandbox.home().join("root.qcow2");
    assert!(sectors(&image) == expected, "the disk has other bytes");

    // The same by `quit`, on an image of its own.
    let disk = "disks: {root: {path: ./other.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("deaf")
        .options(&["write", "ignore-acpi"])
        .line(disk)
        .start(&sandbox);
    until_serial(&sandbox, "deaf", "wrote \\d+ sectors");
    assert_eq!(
        one(&sandbox.json(&["stop", "deaf", "--timeout", "500ms"]))["how"],
        "quit"
    );
    let image = sandbox.home().join("other.qcow2");
    assert!(sectors(&image) == expected, "the disk has other bytes");
}

#[test]
fn images_outlive_the_vm_unless_storage_is_deleted_too() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(BOTH).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let removed = sandbox.json(&["rm", "web"]);
    assert_eq!(one(&removed)["kept"].as_array().unwrap().len(), 2, "{removed}");
    assert!(sandbox.home().join("root.qcow2").exists());
    assert!(sandbox.home().join("data.raw").exists());
}

#[test]
fn deleting_storage_deletes_what_maqet_made_and_nothing_else() {
    let sandbox = Sandbox::new();
    let own = sandbox.home().join("data.raw");
    fs::write(&own, vec![0; 2 << 20]).unwrap();
    Guest::tiny("web").line(BOTH).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let removed = sandbox.json(&["rm", "web", "--delete-storage"]);
    let removed = one(&removed);
    let path = |name: &str| serde_json::json!([sandbox.home().join(name)]);
    assert_eq!(
        (&removed["deleted"], &removed["kept"]),
        (&path("root.qcow2"), &path("data.raw"))
    );
    assert!(own.exists());
    assert!(!sandbox.home().join("root.qcow2").exists());
}

/// A chain of three images, each of which says where the next one is relative to itself.
#[test]
fn an_overlay_gets_what_it_stands_on_and_writes_only_to_itself() {
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.home().join(name);
    fs::create_dir(at("bases")).unwrap();
    let create = |args: &[&str]| {
        qemu_img::run_in(sandbox.home(), &[&["create", "-q", "-f"], args].concat());
    };
    create(&["raw", "bases/base.raw", "1M"]);
    create(&["qcow2", "-b", "base.raw", "-F", "raw", "bases/middle.qcow2"]);
    create(&["qcow2", "-b", "bases/middle.qcow2", "-F", "qcow2", "root.qcow2"]);
    let before = fs::read(at("bases/middle.qcow2")).unwrap();
    let disk = "disks: {root: {path: ./root.qcow2, interface: ide}}";
    Guest::tiny("acpi").options(&["write"]).line(disk).start(&sandbox);
    until_serial(&sandbox, "acpi", "wrote \\d+ sectors");
    assert_eq!(one(&sandbox.json(&["stop", "acpi"]))["how"], "guest");
    let expected: Vec<u8> = (0..WRITTEN_SECTORS).flat_map(written_sector).collect();
    assert!(sectors(&at("root.qcow2")) == expected, "the disk has other bytes");
    assert!(
        fs::read(at("bases/middle.qcow2")).unwrap() == before,
        "the backing file was written to"
    );
    assert!(
        fs::read(at("bases/base.raw"))
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn an_image_that_stands_on_a_file_of_the_host_does_not_start() {
    let sandbox = Sandbox::new();
    let root = sandbox.home().join("root.qcow2");
    qemu_img::overlay_on("/etc/passwd", &root);
    Guest::tiny("web")
        .line("disks: {root: {path: ./root.qcow2, interface: ide}}")
        .add(&sandbox);
    let error = sandbox.maqet(&["start", "web", "-o", "json"]).expect(78).error();
    let told = error.to_string();
    for words in [
        "disk `root` cannot be opened",
        "stands on `/etc/passwd`",
        "belongs to the system",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

/// One image, two VMs: the second is told who has it, also by a supervisor that finds the first one running.
#[test]
fn an_image_in_use_is_refused_with_the_name_of_who_has_it() {
    let sandbox = Sandbox::new();
    let disk = |path: &str, readonly: bool| {
        format!("disks: {{root: {{path: '{path}', format: raw, interface: virtio, readonly: {readonly}}}}}")
    };
    fs::write(sandbox.home().join("one.raw"), vec![0; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("one.raw", sandbox.home().join("link.raw")).unwrap();
    Guest::tiny("one").line(&disk("./one.raw", false)).start(&sandbox);
    Guest::tiny("two").line(&disk("./link.raw", false)).add(&sandbox);
    Guest::tiny("reader").line(&disk("./one.raw", true)).add(&sandbox);
    let refused = |vm: &str| {
        let error = sandbox.maqet(&["start", vm, "-o", "json"]).expect(5).error();
        assert_eq!(
            error["message"],
            format!("disk `root` of `{vm}` is in use by `one`"),
            "{error}"
        );
    };
    refused("two");
    refused("reader");
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    sandbox.maqet(&["ls"]).expect(0);
    refused("two");
    sandbox.maqet(&["stop", "one"]).expect(0);
    // Who only reads does not mind another who only reads.
    sandbox.maqet(&["start", "reader"]).expect(0);
    Guest::tiny("second-reader")
        .line(&disk("./one.raw", true))
        .start(&sandbox);
    let error = sandbox.maqet(&["start", "one", "-o", "json"]).expect(5).error();
    assert!(error["message"].to_string().contains("reader"), "{error}");
}
