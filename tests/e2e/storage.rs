//! Which file is whose: what is on record, and what happens when another file is there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

/// One disk that maqet makes.
const ROOT: &str = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";

fn image(sandbox: &Sandbox) -> PathBuf {
    sandbox.home().join("root.qcow2")
}

/// A VM that has run and does not any more.
fn used(line: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(line).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox
}

fn disk(sandbox: &Sandbox) -> Value {
    sandbox.status("web")["disks"][0].clone()
}

fn refused(sandbox: &Sandbox, words: &str) -> Value {
    let error = sandbox.maqet(&["start", "web", "-o", "json"]).expect(5).error();
    assert!(error["message"].to_string().contains(words), "{error}");
    assert_eq!(error["code"], "conflict", "{error}");
    let hint = error["hint"].to_string();
    assert!(hint.contains("maqet storage accept web root"), "{error}");
    error
}

fn accept(sandbox: &Sandbox) -> Value {
    sandbox.json(&["storage", "accept", "web", "root"])
}

/// The same bytes in another file at the same path.
fn copy_back(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    fs::remove_file(path).unwrap();
    fs::copy(&copy, path).unwrap();
}

#[test]
fn a_file_is_on_record_from_the_first_start() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.home().join("data.raw"), vec![0; 1 << 20]).unwrap();
    let both = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                data: {path: ./data.raw, format: raw, interface: ide}}";
    Guest::tiny("web").line(both).add(&sandbox);
    let before = &sandbox.status("web")["disks"];
    assert!(
        before[0].get("file").is_none() && before[0]["made"] == false,
        "{before}"
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    let disks = &sandbox.status("web")["disks"];
    for (disk, name, made) in [(&disks[0], "root.qcow2", true), (&disks[1], "data.raw", false)] {
        use std::os::unix::fs::MetadataExt;
        let file = fs::metadata(sandbox.home().join(name)).unwrap();
        assert_eq!(
            (&disk["file"]["inode"], &disk["file"]["dev"], &disk["made"]),
            (&json!(file.ino()), &json!(file.dev()), &json!(made)),
            "{disks}"
        );
    }
    sandbox.maqet(&["restart", "web"]).expect(0);
    assert_eq!(&sandbox.status("web")["disks"], disks);
}

#[test]
fn another_file_is_refused_until_somebody_accepts_it() {
    let sandbox = used(ROOT);
    let before = disk(&sandbox);
    fs::rename(image(&sandbox), sandbox.home().join("old.qcow2")).unwrap();
    fs::copy(sandbox.home().join("old.qcow2"), image(&sandbox)).unwrap();
    let error = refused(
        &sandbox,
        "disk `root` of `web` is another file than the one on record",
    );
    let causes = error["causes"].to_string();
    for known in [
        &image(&sandbox).display().to_string(),
        &before["file"]["inode"].to_string(),
    ] {
        assert!(causes.contains(known), "{error}");
    }
    // A refusal changes nothing, and a new supervisor knows as much.
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    refused(&sandbox, "another file");
    assert_eq!(disk(&sandbox), before);

    let accepted = accept(&sandbox);
    assert_eq!(accepted["already"], false, "{accepted}");
    assert_eq!(accept(&sandbox)["already"], true);
    sandbox.maqet(&["start", "web"]).expect(0);
    let after = disk(&sandbox);
    assert_eq!(after["file"]["inode"], accepted["file"]["inode"]);
    // maqet did not make this one.
    assert_eq!(after["made"], false, "{after}");
    let events = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    assert_eq!(events.matches("vm.disk-accepted").count(), 1, "{events}");
}

/// File systems give the inode number of a deleted file to the next one.
#[test]
fn a_copy_that_took_the_place_of_a_deleted_file_is_another_file() {
    let sandbox = used(ROOT);
    copy_back(&image(&sandbox));
    refused(&sandbox, "another file");
    accept(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn the_file_that_was_moved_away_and_back_is_the_same_file() {
    let sandbox = used(ROOT);
    let elsewhere = sandbox.home().join("elsewhere");
    fs::rename(image(&sandbox), &elsewhere).unwrap();
    refused(&sandbox, "disk `root` of `web` is gone");
    fs::rename(&elsewhere, image(&sandbox)).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    // Over a link as well: what counts is the file.
    fs::rename(image(&sandbox), &elsewhere).unwrap();
    symlink(&elsewhere, image(&sandbox)).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_lost_disk_is_told_and_not_made_anew_in_silence() {
    let sandbox = used(ROOT);
    fs::remove_file(image(&sandbox)).unwrap();
    refused(&sandbox, "disk `root` of `web` is gone");
    assert!(!image(&sandbox).exists());
    let accepted = accept(&sandbox);
    assert_eq!(
        (&accepted["file"], &accepted["already"]),
        (&Value::Null, &json!(false))
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    assert!(image(&sandbox).exists());
    assert_eq!(disk(&sandbox)["made"], true);
}

/// An image that no QEMU ever had holds nothing: it is made again.
#[test]
fn an_image_that_was_never_used_is_made_again() {
    let sandbox = Sandbox::new();
    let broken = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                  data: {path: ./data.raw, format: raw, interface: ide}}";
    let data = sandbox.home().join("data.raw");
    fs::write(&data, vec![0; 1 << 20]).unwrap();
    Guest::tiny("web").line(broken).add(&sandbox);
    fs::remove_file(&data).unwrap();
    sandbox.maqet(&["start", "web"]).expect(78);
    assert_eq!(disk(&sandbox)["made"], true);
    fs::remove_file(image(&sandbox)).unwrap();
    fs::write(&data, vec![0; 1 << 20]).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
}

/// Whoever wants to work on a disk is told what a start would tell.
#[test]
fn a_disk_that_is_not_there_is_yet_to_be_made_or_gone() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(ROOT).add(&sandbox);
    let orders: [&[&str]; 3] = [
        &["storage", "clone", "web", "root", "copy.qcow2"],
        &["storage", "resize", "web", "root", "8M"],
        &["snapshot", "create", "web", "snap", "--external"],
    ];
    for order in orders {
        let told = sandbox.maqet(order).expect(3).stderr;
        assert!(told.contains("disk `root` of `web` has no image yet"), "{told}");
        assert!(told.contains("maqet start web"), "{told}");
    }
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    fs::remove_file(image(&sandbox)).unwrap();
    for order in orders {
        let told = sandbox.maqet(order).expect(5).stderr;
        assert!(told.contains("disk `root` of `web` is gone"), "{told}");
    }
}

#[test]
fn what_is_no_image_is_not_accepted() {
    let sandbox = used(ROOT);
    let other = sandbox.home().join("other");
    fs::rename(image(&sandbox), &other).unwrap();
    fs::create_dir(image(&sandbox)).unwrap();
    sandbox.maqet(&["storage", "accept", "web", "root"]).expect(78);
    fs::remove_dir(image(&sandbox)).unwrap();
    fs::hard_link(&other, image(&sandbox)).unwrap();
    let error = sandbox
        .maqet(&["storage", "accept", "web", "root", "-o", "json"])
        .expect(78)
        .error();
    assert!(error["causes"].to_string().contains("2 names"), "{error}");
}

#[test]
fn accepting_needs_a_disk_and_a_vm_that_rests() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(ROOT).start(&sandbox);
    let error = sandbox
        .maqet(&["storage", "accept", "web", "boot", "-o", "json"])
        .expect(4)
        .error();
    assert_eq!(error["code"], "disk-not-found", "{error}");
    assert!(error["hint"].to_string().contains("root"), "{error}");
    let error = sandbox
        .maqet(&["storage", "accept", "web", "root", "-o", "json"])
        .expect(3)
        .error();
    assert_eq!(error["hint"], "maqet stop web", "{error}");
    sandbox.maqet(&["storage", "accept", "nobody", "root"]).expect(4);
}
