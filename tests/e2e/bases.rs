//! Images below the disks of other VMs: nobody writes to them, whether those VMs run or not.

use std::fs;

use maqet_tests::{Guest, Output, Sandbox, qemu_img};
use serde_json::json;

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
        let (words, hint) = if rustix::process::geteuid().is_root() {
            let words = "disk `root` of `web` is an image of the library";
            (words, "hint: write `from: IMAGE`")
        } else {
            ("Permission denied", "hint: write `readonly: true`")
        };
        assert!(told.contains(words) && told.contains(hint), "{told}");
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

/// A VM whose disk stands on two others, and that has run.
fn tower() -> Sandbox {
    let sandbox = Sandbox::new();
    let img = |words: &[&str]| qemu_img::run_in(sandbox.home(), words);
    img(&["create", "-q", "-f", "raw", "base.img", "1M"]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.img",
        "-F",
        "raw",
        "middle.qcow2",
    ]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "middle.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ]);
    let disk = "disks: {root: {path: ./top.qcow2, interface: ide}}";
    Guest::tiny("web").line(disk).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
}

/// Another file of the same content takes the place of this one, which is kept.
pub(crate) fn exchange(sandbox: &Sandbox, name: &str) {
    let (at, aside) = (sandbox.home().join(name), sandbox.home().join("aside"));
    fs::rename(&at, &aside).unwrap();
    fs::copy(&aside, &at).unwrap();
}

#[test]
fn an_image_below_that_was_exchanged_is_refused_until_somebody_accepts_it() {
    let sandbox = tower();
    exchange(&sandbox, "base.img");
    let told = "disk `root` of `web` stands on another file than the one on record";
    let output = sandbox.maqet(&["start", "web"]).expect(5);
    assert!(output.stderr.contains(told), "{output:?}");
    let base = sandbox.home().join("base.img").display().to_string();
    assert!(output.stderr.contains(&format!("`{base}` is ")), "{output:?}");
    assert!(
        output
            .stderr
            .contains("hint: if it is the right one: maqet storage accept web root"),
        "{output:?}"
    );
    nothing_runs(&sandbox);
    let copy = sandbox.home().join("copy.qcow2").display().to_string();
    let output = sandbox
        .maqet(&["storage", "clone", "web", "root", &copy])
        .expect(5);
    assert!(output.stderr.contains(told), "{output:?}");
    let info = &sandbox.json(&["storage", "info", "web"])["disks"][0];
    assert_eq!(
        (&info["state"], &info["trouble"][0]),
        (
            &json!("another-file"),
            &json!("it stands on another file than the one on record")
        )
    );
    let verified = sandbox.maqet(&["storage", "verify", "web"]).expect(1);
    assert!(
        verified.stdout.contains("it stands on another file"),
        "{verified:?}"
    );
    let doctor = sandbox.maqet(&["doctor"]);
    assert!(
        doctor.stdout.contains("is not used: it stands on another file"),
        "{doctor:?}"
    );
    // The right one is back.
    fs::rename(sandbox.home().join("aside"), sandbox.home().join("base.img")).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    exchange(&sandbox, "middle.qcow2");
    sandbox.maqet(&["start", "web"]).expect(5);
    sandbox.maqet(&["storage", "accept", "web", "root"]).expect(0);
    sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_link_below_that_leads_elsewhere_is_another_file() {
    let sandbox = tower();
    let at = sandbox.home().join("base.img");
    fs::copy(&at, sandbox.home().join("other.img")).unwrap();
    fs::rename(&at, sandbox.home().join("aside")).unwrap();
    std::os::unix::fs::symlink("aside", &at).unwrap();
    // The same file, found by another way.
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::remove_file(&at).unwrap();
    std::os::unix::fs::symlink("other.img", &at).unwrap();
    sandbox.maqet(&["start", "web"]).expect(5);
}

/// What maqet does itself to a chain is no exchange; nor is it that people put a disk on another image.
#[test]
fn a_chain_that_was_changed_on_purpose_is_the_same_disk() {
    let sandbox = tower();
    for name in ["one", "two"] {
        sandbox
            .maqet(&["snapshot", "create", "web", name, "--external"])
            .expect(0);
    }
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox
        .maqet(&["snapshot", "create", "web", "three", "--external"])
        .expect(0);
    sandbox.maqet(&["snapshot", "delete", "web", "two"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    for name in ["one", "three"] {
        sandbox.maqet(&["snapshot", "delete", "web", name]).expect(0);
        sandbox.maqet(&["start", "web"]).expect(0);
        sandbox.maqet(&["stop", "web"]).expect(0);
    }
    qemu_img::run_in(
        sandbox.home(),
        &[
            "rebase",
            "-f",
            "qcow2",
            "-b",
            "base.img",
            "-F",
            "raw",
            "top.qcow2",
        ],
    );
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn what_stands_on_an_image_is_known_while_it_is_away() {
    let sandbox = golden("qcow2");
    let usb = sandbox.home().join("usb");
    fs::create_dir(&usb).unwrap();
    let base = sandbox.home().join("golden.img").display().to_string();
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        &base,
        "-F",
        "qcow2",
        "usb/top.qcow2",
    ];
    qemu_img::run_in(sandbox.home(), &words);
    sandbox.maqet(&["rm", "web"]).expect(0);
    let disk = "disks: {root: {path: ./usb/top.qcow2, interface: ide}}";
    Guest::tiny("web").line(disk).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::rename(&usb, sandbox.home().join("elsewhere")).unwrap();
    let told = refused(&sandbox, &["start", "golden"]).stderr;
    assert!(told.contains("cannot be looked at, and stood on"), "{told}");
}

#[test]
fn a_snapshot_on_top_hides_nothing_below() {
    let sandbox = golden("raw");
    sandbox
        .maqet(&["snapshot", "create", "web", "one", "--external"])
        .expect(0);
    refused(&sandbox, &["start", "golden"]);
}

#[test]
fn a_merge_changes_nothing_below_another_disk_of_the_same_vm() {
    let sandbox = Sandbox::new();
    let disk = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("web").line(disk).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
        .maqet(&["snapshot", "create", "web", "one", "--external"])
        .expect(0);
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "root.qcow2",
        "-F",
        "qcow2",
        "side.qcow2",
    ];
    qemu_img::run_in(sandbox.home(), &words);
    let side = sandbox.home().join("side.qcow2").display().to_string();
    sandbox
        .maqet(&["storage", "attach", "web", &side, "--disk", "side"])
        .expect(0);
    let told = sandbox
        .maqet(&["snapshot", "delete", "web", "one"])
        .expect(5)
        .stderr;
    assert!(
        told.contains("disk `side` of `web` stands on an image that would change"),
        "{told}"
    );
    // What was written since would go, with the image that keeps it.
    sandbox.maqet(&["snapshot", "load", "web", "one"]).expect(5);
}
