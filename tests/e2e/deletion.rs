//! `rm --delete-storage`: what maqet made goes, everything else stays and is told.

use std::fs;
use std::path::PathBuf;

use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::{Value, json};

use crate::facts::one;

/// A disk that maqet makes, in YAML's flow style.
fn made(name: &str) -> String {
    format!("{name}: {{path: ./{name}.qcow2, size: 1M, interface: ide}}")
}

/// A VM that has run with these disks.
fn used(disks: &[&str]) -> Sandbox {
    let sandbox = Sandbox::new();
    let line = format!("disks: {{{}}}", disks.join(", "));
    Guest::tiny("web").line(&line).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
}

fn image(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.home().join(format!("{name}.qcow2"))
}

fn remove(sandbox: &Sandbox, more: &[&str]) -> Value {
    let args = [&["rm", "web", "--delete-storage"], more].concat();
    one(&sandbox.json(&args)).clone()
}

/// Why this image was kept.
fn why(removed: &Value, path: &PathBuf) -> String {
    let reasons = removed["reasons"].as_array().unwrap();
    let reason = reasons.iter().find(|reason| reason["path"] == json!(path));
    assert!(
        removed["kept"].as_array().unwrap().contains(&json!(path)),
        "{removed}"
    );
    assert!(path.exists());
    reason.unwrap()["why"].as_str().unwrap().to_owned()
}

/// What stands on an image is known while its directory is elsewhere.
#[test]
fn what_a_disk_that_is_away_stands_on_is_kept() {
    let sandbox = Sandbox::new();
    Guest::tiny("golden")
        .line("disks: {root: {path: ./golden.qcow2, size: 1M, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", "golden"]).expect(0);
    let (mounted, away) = (sandbox.home().join("mounted"), sandbox.home().join("away"));
    fs::create_dir(&mounted).unwrap();
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "../golden.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ];
    qemu_img::run_in(&mounted, &words);
    Guest::tiny("web")
        .line("disks: {root: {path: ./mounted/top.qcow2, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::rename(&mounted, &away).unwrap();
    let removed = one(&sandbox.json(&["rm", "golden", "--delete-storage"])).clone();
    let golden = sandbox.home().join("golden.qcow2");
    let told = "disk `root` of `web` cannot be looked at, and was or stood on it when it was last used";
    assert_eq!(why(&removed, &golden), told);
    fs::rename(&away, &mounted).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn another_file_at_the_path_stays() {
    let sandbox = used(&[&made("root")]);
    let root = image(&sandbox, "root");
    fs::rename(&root, sandbox.home().join("mine")).unwrap();
    fs::write(&root, "not maqet's").unwrap();
    let removed = remove(&sandbox, &[]);
    // What is at the path cannot even be looked at as qcow2: nobody's but its owner's.
    assert!(why(&removed, &root).contains("another file"), "{removed}");
    assert_eq!(fs::read_to_string(&root).unwrap(), "not maqet's");
    assert!(sandbox.home().join("mine").exists());
}

#[test]
fn a_link_at_the_path_stays_and_what_it_leads_to_as_well() {
    let sandbox = used(&[&made("root")]);
    let (root, moved) = (image(&sandbox, "root"), sandbox.home().join("moved"));
    fs::rename(&root, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &root).unwrap();
    let removed = remove(&sandbox, &[]);
    assert_eq!(why(&removed, &root), "it is a symbolic link now");
    assert!(moved.exists());
}

#[test]
fn what_another_vm_uses_or_stands_on_stays() {
    let sandbox = used(&[&made("root"), &made("data"), &made("alone")]);
    qemu_img::run_in(
        sandbox.home(),
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "root.qcow2",
            "-F",
            "qcow2",
            "top.qcow2",
        ],
    );
    let disks = "disks: {top: {path: ./top.qcow2, interface: ide}, \
                 copy: {path: ./data.qcow2, interface: ide}}";
    Guest::tiny("db").line(disks).add(&sandbox);
    let removed = remove(&sandbox, &[]);
    let (root, data) = (image(&sandbox, "root"), image(&sandbox, "data"));
    assert_eq!(why(&removed, &root), "disk `top` of `db` stands on it");
    assert_eq!(why(&removed, &data), "it is disk `copy` of `db` as well");
    assert_eq!(removed["deleted"], json!([image(&sandbox, "alone")]));
    sandbox.maqet(&["start", "db"]).expect(0);
}

#[test]
fn snapshots_are_kept_when_asked_for_and_go_when_not() {
    let sandbox = used(&[&made("root"), &made("data")]);
    qemu_img::run_in(sandbox.home(), &["snapshot", "-c", "one", "root.qcow2"]);
    let text = sandbox
        .maqet(&["rm", "web", "--delete-storage", "--keep-snapshots"])
        .expect(0);
    let (root, data) = (image(&sandbox, "root"), image(&sandbox, "data"));
    let told = format!("kept {}: it holds a snapshot", root.display());
    assert!(text.stderr.contains(&told), "{text:?}");
    assert!(
        text.stderr.contains(&format!("deleted {}", data.display())),
        "{text:?}"
    );
    assert!(root.exists() && !data.exists());

    let sandbox = used(&[&made("root")]);
    qemu_img::run_in(sandbox.home(), &["snapshot", "-c", "one", "root.qcow2"]);
    assert_eq!(remove(&sandbox, &[])["deleted"], json!([image(&sandbox, "root")]));
}

#[test]
fn what_was_accepted_is_not_maqets() {
    let sandbox = used(&[&made("root")]);
    let root = image(&sandbox, "root");
    fs::copy(&root, sandbox.home().join("copy")).unwrap();
    fs::rename(sandbox.home().join("copy"), &root).unwrap();
    sandbox.maqet(&["storage", "accept", "web", "root"]).expect(0);
    assert_eq!(why(&remove(&sandbox, &[]), &root), "maqet did not make it");
}

/// The file is not at its path any more, wherever that leads now.
#[test]
fn a_directory_that_became_a_link_is_not_followed() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.home().join("vm")).unwrap();
    let disk = "disks: {root: {path: ./vm/root.qcow2, size: 1M, interface: ide}}";
    Guest::tiny("web").line(disk).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::rename(sandbox.home().join("vm"), sandbox.home().join("moved")).unwrap();
    std::os::unix::fs::symlink("/etc", sandbox.home().join("vm")).unwrap();
    // Nothing there any more: the VM goes, and nothing else.
    let removed = remove(&sandbox, &[]);
    assert_eq!((&removed["deleted"], &removed["kept"]), (&json!([]), &json!([])));
    assert!(sandbox.home().join("moved/root.qcow2").exists());
}

/// Whoever asks for it to be deleted hears that it was not.
#[test]
fn an_image_whose_directory_is_away_is_told_as_kept() {
    let sandbox = Sandbox::new();
    let (usb, away) = (sandbox.home().join("usb"), sandbox.home().join("away"));
    fs::create_dir(&usb).unwrap();
    let disks = format!(
        "disks: {{root: {{path: ./usb/root.qcow2, size: 1M, interface: ide}}, {}}}",
        made("data")
    );
    Guest::tiny("web").line(&disks).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::rename(&usb, &away).unwrap();
    let removed = remove(&sandbox, &[]);
    assert_eq!(removed["deleted"], json!([image(&sandbox, "data")]));
    let why = "its directory is not there, or cannot be looked into";
    assert_eq!(
        removed["reasons"],
        json!([{"path": usb.join("root.qcow2"), "why": why}])
    );
    assert!(away.join("root.qcow2").exists());
}
