//! Images below the disks of other VMs: nobody writes to them, whether those VMs run or not.

use std::fs;

use maqet_tests::{Guest, Output, Sandbox, qemu_img};

use crate::facts::{nothing_runs, status};

/// A VM that has run, and whose disk another VM's then stands on; that one has never run.
fn golden(format: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let disk = format!("disks: {{root: {{path: ./golden.img, size: 1M, format: {format}, interface: ide}}}}");
    Guest::tiny("golden").line(&disk).start(&sandbox);
    sandbox.maqet(&["stop", "golden"]).expect(0);
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "golden.img",
        "-F",
        format,
        "top.qcow2",
    ];
    qemu_img::run_in(sandbox.home(), &words);
    let disk = "disks: {root: {path: ./top.qcow2, interface: ide}}";
    Guest::tiny("web").line(disk).add(&sandbox);
    sandbox
}

#[track_caller]
fn refused(sandbox: &Sandbox, words: &[&str]) -> Output {
    let before = fs::read(sandbox.home().join("golden.img")).unwrap();
    let output = sandbox.maqet(words).expect(5);
    let told = "disk `root` of `golden` is below disk `root` of `web`";
    assert!(output.stderr.contains(told), "{output:?}");
    assert_eq!(fs::read(sandbox.home().join("golden.img")).unwrap(), before);
    output
}

#[test]
fn a_vm_does_not_write_below_the_disk_of_another_that_rests() {
    let sandbox = golden("raw");
    let output = refused(&sandbox, &["start", "golden"]);
    insta::assert_snapshot!(sandbox.redact(&output.stderr), @"
    error: disk `root` of `golden` is below disk `root` of `web`
      `[DIR]/home/top.qcow2` stands on `[DIR]/home/golden.img`: what is written to the latter changes the former
    hint: let `golden` write to an image of its own: maqet snapshot create golden NAME --external; or have `web` stand alone: maqet storage clone web root [DIR]/home/top.copy.qcow2, and name that in its file
    ");
    nothing_runs(&sandbox);
    refused(&sandbox, &["storage", "resize", "golden", "root", "2M"]);
    // The same file under another name.
    std::os::unix::fs::symlink("golden.img", sandbox.home().join("link.img")).unwrap();
    Guest::tiny("third").add(&sandbox);
    let link = sandbox.home().join("link.img");
    let attach = [
        "storage",
        "attach",
        "third",
        &link.to_string_lossy(),
        "--format",
        "raw",
    ];
    let told = sandbox.maqet(&attach).expect(5).stderr;
    assert!(
        told.contains("of `third` is below disk `root` of `web`"),
        "{told}"
    );
    // Who only reads changes nothing.
    sandbox.maqet(&["storage", "verify", "golden"]).expect(0);
    let disk = "disks: {root: {path: ./golden.img, format: raw, interface: virtio, readonly: true}}";
    Guest::tiny("reader").line(disk).start(&sandbox);
    sandbox.maqet(&["stop", "reader"]).expect(0);
    // The way out that the hint tells: both run at the same time.
    sandbox
        .maqet(&["snapshot", "create", "golden", "shared", "--external"])
        .expect(0);
    sandbox.maqet(&["start", "golden", "web"]).expect(0);
    assert_eq!(
        (status(&sandbox, "golden"), status(&sandbox, "web")),
        ("running".to_owned(), "running".to_owned())
    );
}

#[test]
fn what_an_image_held_before_does_not_come_back_below_another() {
    let sandbox = golden("qcow2");
    sandbox
        .maqet(&["snapshot", "create", "golden", "early"])
        .expect(0);
    refused(&sandbox, &["snapshot", "load", "golden", "early"]);
    // The other way out: a disk that stands alone.
    let copy = sandbox.home().join("alone.qcow2");
    sandbox
        .maqet(&["storage", "clone", "web", "root", &copy.to_string_lossy()])
        .expect(0);
    let disk = "disks: {root: {path: ./alone.qcow2, interface: ide}}";
    sandbox.maqet(&["rm", "web"]).expect(0);
    Guest::tiny("web").line(disk).add(&sandbox);
    sandbox.maqet(&["snapshot", "load", "golden", "early"]).expect(0);
    sandbox.maqet(&["start", "golden", "web"]).expect(0);
}

#[test]
fn an_image_that_keeps_a_snapshot_of_another_vm_stays_as_it_is() {
    let sandbox = Sandbox::new();
    let disk = |path: &str| format!("disks: {{root: {{path: {path}, size: 1M, interface: ide}}}}");
    Guest::tiny("web").line(&disk("./web.qcow2")).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
        .maqet(&["snapshot", "create", "web", "early", "--external"])
        .expect(0);
    Guest::tiny("other").line(&disk("./web.qcow2")).add(&sandbox);
    let told = sandbox.maqet(&["start", "other"]).expect(5).stderr;
    assert!(
        told.contains("disk `root` of `other` is below disk `root` of `web`"),
        "{told}"
    );
    // Nor does its own VM, while the other has it as its disk.
    sandbox.maqet(&["snapshot", "delete", "web", "early"]).expect(5);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn no_vm_writes_to_an_image_of_the_library() {
    let sandbox = Sandbox::new();
    qemu_img::create(&sandbox.home().join("a.qcow2"), "qcow2", "1M");
    sandbox
        .maqet(&["image", "import", "a.qcow2", "--name", "base"])
        .expect(0);
    let image = sandbox.data_dir().join("images/base/image.qcow2");
    std::os::unix::fs::symlink(&image, sandbox.home().join("link.qcow2")).unwrap();
    for path in [image.to_str().unwrap(), "./link.qcow2"] {
        let disk = |more: &str| format!("disks: {{root: {{path: {path}, interface: virtio{more}}}}}");
        let file = Guest::tiny("web").line(&disk("")).write(&sandbox);
        let told = sandbox.maqet(&["add", &file.to_string_lossy()]).expect(78).stderr;
        assert!(
            told.contains("disk `root` of `web` is an image of the library"),
            "{told}"
        );
        assert!(told.contains("hint: write `from: IMAGE`"), "{told}");
        Guest::tiny("web").line(&disk(", readonly: true")).start(&sandbox);
        sandbox.maqet(&["kill", "web"]).expect(0);
        sandbox.maqet(&["rm", "web"]).expect(0);
    }
    // One that leads there only later.
    qemu_img::create(&sandbox.home().join("later.qcow2"), "qcow2", "1M");
    Guest::tiny("web")
        .line("disks: {root: {path: ./later.qcow2, interface: ide}}")
        .add(&sandbox);
    fs::remove_file(sandbox.home().join("later.qcow2")).unwrap();
    std::os::unix::fs::symlink(&image, sandbox.home().join("later.qcow2")).unwrap();
    let told = sandbox.maqet(&["start", "web"]).expect(78).stderr;
    assert!(
        told.contains("disk `root` of `web` is an image of the library"),
        "{told}"
    );
    sandbox.maqet(&["image", "verify", "base"]).expect(0);
}
