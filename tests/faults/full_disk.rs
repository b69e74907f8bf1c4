//! The host's disk is full, or becomes full, under work on disks and images: it is told with the bytes needed and free, nothing
//! half-made is left, and the VM is as it was.
#![cfg(debug_assertions)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use maqet_process::point::Point;
use maqet_tests::{Guest, Held, Output, Sandbox, qemu_img};
use serde_json::{Value, json};

use crate::cut::{assert_boots, assert_whole, disk, files};
use crate::scene::{VM, say};
use crate::small_disk::SmallDisk;

const KIBIBYTE: u64 = 1 << 10;
const MEBIBYTE: u64 = 1 << 20;
const DISKS: &str = "disks: {root: {path: ./small/root.qcow2, size: 4M, interface: ide}}";

/// A small disk at `small` in the home of a sandbox.
fn small(mebibytes: u32) -> Option<(Sandbox, SmallDisk)> {
    let sandbox = Sandbox::new();
    let small = SmallDisk::mount(sandbox.home().join("small"), mebibytes)?;
    Some((sandbox, small))
}

fn image(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.home().join(name)
}

/// It was refused for want of room, in numbers.
#[track_caller]
fn assert_told(refused: &Output) {
    assert_eq!(refused.code, 1, "{refused:#?}");
    let text = &refused.stderr;
    let numbers = text.split_once(" bytes needed, ").and_then(|(before, after)| {
        let needed: u64 = before.rsplit(' ').next()?.parse().ok()?;
        let free: u64 = after.split_once(" free")?.0.parse().ok()?;
        Some((needed, free))
    });
    let (needed, free) = numbers.unwrap_or_else(|| panic!("no numbers: {refused:#?}"));
    assert!(needed > free, "{refused:#?}");
}

/// Has the disk filled while whoever carries out these words is held at the point.
#[track_caller]
fn fill_at(sandbox: &Sandbox, small: &SmallDisk, point: Point, words: &[&str]) -> Output {
    let mut held = Held::at(sandbox, point);
    let client = sandbox.spawn(words);
    held.reached();
    say(&format!("{words:?}, full at {}", point.name()));
    small.fill();
    drop(held);
    client.output()
}

/// A library on a small disk, and the words that import an image of 2 MiB.
fn small_library() -> Option<(Sandbox, SmallDisk, [String; 3])> {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.data_dir()).unwrap();
    fs::set_permissions(sandbox.data_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let small = SmallDisk::mount(sandbox.data_dir().join("images"), 8)?;
    let file = image(&sandbox, "base.qcow2");
    qemu_img::filled(&file, 2);
    let words = ["image", "import", file.to_str().unwrap()].map(str::to_owned);
    Some((sandbox, small, words))
}

/// The library holds these images, all sound, and nothing else but what fills its disk.
#[track_caller]
fn assert_library(sandbox: &Sandbox, images: &[&str]) {
    assert_whole(sandbox);
    let listed = sandbox.json(&["image", "ls"]);
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["name"].clone())
        .collect();
    assert_eq!(names, images);
    let mut there = files(&sandbox.data_dir().join("images"));
    there.retain(|path| path != "filler" && !path.ends_with("overlays"));
    assert_eq!(there.len(), 2 * images.len(), "{there:?}");
}

#[test]
fn an_import_finds_no_room_at_any_of_its_steps() {
    let Some((sandbox, small, import)) = small_library() else {
        return;
    };
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    let (mut refused, mut done) = (0, 0);
    let nearly = (1..8).map(|more| 2 * MEBIBYTE + more * 64 * KIBIBYTE);
    for free in [0, 4 * KIBIBYTE, 64 * KIBIBYTE, MEBIBYTE, 2 * MEBIBYTE]
        .into_iter()
        .chain(nearly)
    {
        small.leave(free);
        let output = sandbox.maqet(&import);
        if output.code == 0 {
            done += 1;
            assert_library(&sandbox, &["base"]);
            sandbox.maqet(&["image", "verify"]).expect(0);
            sandbox.maqet(&["image", "rm", "base"]).expect(0);
        } else {
            refused += 1;
            assert_told(&output);
            assert_library(&sandbox, &[]);
        }
        small.free();
    }
    say(&format!("{refused} refused, {done} done"));
    assert!(refused > 4 && done > 0);
    for (point, fits) in [
        (Point::ImportBegun, false),
        (Point::ImportCopied, false),
        (Point::ImportDescribed, true),
    ] {
        let output = fill_at(&sandbox, &small, point, &import);
        if fits {
            output.expect(0);
        } else {
            assert_told(&output);
        }
        assert_library(&sandbox, if fits { &["base"] } else { &[] });
        small.free();
    }
    // Deleting needs no room.
    small.fill();
    sandbox.maqet(&["image", "rm", "base"]).expect(0);
    assert_library(&sandbox, &[]);
}

/// The start is refused, and the disk is as before: not there.
#[track_caller]
fn assert_not_made(sandbox: &Sandbox, output: &Output) {
    assert_told(output);
    assert_whole(sandbox);
    assert_ne!(sandbox.status(VM)["status"], "running");
    assert_eq!(disk(sandbox, "root")["state"], "to-be-made");
    assert!(!image(sandbox, "small/root.qcow2").exists());
}

#[test]
fn a_disk_from_an_image_finds_no_room_at_any_of_its_steps() {
    let Some((sandbox, small)) = small(8) else { return };
    let file = image(&sandbox, "base.qcow2");
    qemu_img::filled(&file, 2);
    sandbox
        .maqet(&["image", "import", file.to_str().unwrap()])
        .expect(0);
    Guest::tiny(VM)
        .line("disks: {root: {path: ./small/root.qcow2, from: base, interface: ide}}")
        .add(&sandbox);
    for free in [0, 4 * KIBIBYTE, 64 * KIBIBYTE, MEBIBYTE] {
        small.leave(free);
        assert_not_made(&sandbox, &sandbox.maqet(&["start", VM]));
        small.free();
    }
    let output = fill_at(&sandbox, &small, Point::DiskNoted, &["start", VM]);
    assert_not_made(&sandbox, &output);
    small.free();
    assert_boots(&sandbox);
    disk(&sandbox, "root");
    sandbox.maqet(&["rm", VM, "--delete-storage"]).expect(0);
    sandbox.maqet(&["image", "rm", "base"]).expect(0);
}

#[test]
fn a_disk_is_not_made_where_the_library_cannot_note_it() {
    let Some((sandbox, library, import)) = small_library() else {
        return;
    };
    sandbox.maqet(&import.each_ref().map(String::as_str)).expect(0);
    fs::create_dir(image(&sandbox, "small")).unwrap();
    Guest::tiny(VM)
        .line("disks: {root: {path: ./small/root.qcow2, from: base, interface: ide}}")
        .add(&sandbox);
    library.fill();
    assert_not_made(&sandbox, &sandbox.maqet(&["start", VM]));
    assert_library(&sandbox, &["base"]);
    library.free();
    assert_boots(&sandbox);
}

/// A VM whose disk is on a small disk, which has room for its memory.
fn scene() -> Option<(Sandbox, SmallDisk)> {
    let (sandbox, small) = small(40)?;
    Guest::tiny(VM).options(&["ticks"]).line(DISKS).start(&sandbox);
    Some((sandbox, small))
}

/// Size of the disk as everybody tells it.
fn size(sandbox: &Sandbox) -> Value {
    let told = disk(sandbox, "root");
    assert_eq!(told["state"], "ok", "{told}");
    let spec = sandbox.json(&["info", VM])["spec"]["disks"][0]["size"].clone();
    assert_eq!(spec, told["chain"][0]["virtual_bytes"]);
    spec
}

#[test]
fn a_disk_is_not_resized_without_room() {
    let Some((sandbox, small)) = scene() else { return };
    let words = ["storage", "resize", VM, "root", "6M"];
    small.fill();
    assert_told(&sandbox.maqet(&words));
    assert_eq!(sandbox.status(VM)["run_state"], "running");
    assert_eq!(size(&sandbox), 4 * MEBIBYTE);
    sandbox.maqet(&["stop", VM]).expect(0);
    assert_told(&sandbox.maqet(&words));
    assert_eq!(size(&sandbox), 4 * MEBIBYTE);
    small.free();
    assert_told(&fill_at(&sandbox, &small, Point::WorkBegun, &words));
    assert_eq!(size(&sandbox), 4 * MEBIBYTE);
    assert_whole(&sandbox);
    assert_boots(&sandbox);
    small.free();
    sandbox.maqet(&words).expect(0);
    assert_eq!(size(&sandbox), 6 * MEBIBYTE);
    assert_boots(&sandbox);
}

#[test]
fn a_disk_is_not_cloned_without_room() {
    let Some((sandbox, small)) = small(8) else { return };
    qemu_img::filled(&image(&sandbox, "root.qcow2"), 2);
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", VM]).expect(0);
    let words = ["storage", "clone", VM, "root", "small/copy.qcow2"];
    for free in [0, 4 * KIBIBYTE, MEBIBYTE, 2 * MEBIBYTE] {
        small.leave(free);
        assert_told(&sandbox.maqet(&words));
        assert_whole(&sandbox);
        assert!(!image(&sandbox, "small/copy.qcow2").exists());
        small.free();
    }
    assert_told(&fill_at(&sandbox, &small, Point::WorkBegun, &words));
    assert!(!image(&sandbox, "small/copy.qcow2").exists());
    small.free();
    sandbox.maqet(&words).expect(0);
    assert_eq!(
        qemu_img::check(&image(&sandbox, "small/copy.qcow2")),
        qemu_img::Found::Clean
    );
    assert_boots(&sandbox);
}

/// Names of the snapshots, which are also those in the image.
fn snapshots(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.json(&["snapshot", "list", VM]);
    let names = listed.as_array().unwrap().iter();
    let mut names: Vec<_> = names
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    let mut there = qemu_img::snapshots(&image(sandbox, "small/root.qcow2"));
    names.sort();
    there.sort();
    assert_eq!(names, there);
    names
}

#[test]
fn snapshots_on_a_full_disk_are_worked_on_or_left_alone() {
    let Some((sandbox, small)) = scene() else { return };
    let order = |words: &[&str]| sandbox.maqet(&[&["snapshot"], words].concat());
    for name in ["one", "two", "three"] {
        order(&["create", VM, name]).expect(0);
    }
    // The guest's memory finds no room in the middle of being written.
    let words = ["snapshot", "create", VM, "memory", "--memory"];
    assert_told(&fill_at(&sandbox, &small, Point::SnapshotAsked, &words));
    assert_eq!(sandbox.status(VM)["run_state"], "running");
    assert_eq!(snapshots(&sandbox), ["one", "three", "two"]);
    assert_told(&order(&["create", VM, "four"]));
    // Deleting needs no room.
    order(&["delete", VM, "one"]).expect(0);
    assert_eq!(snapshots(&sandbox), ["three", "two"]);
    sandbox.maqet(&["stop", VM]).expect(0);
    small.free();
    small.fill();
    assert_told(&order(&["load", VM, "two"]));
    order(&["delete", VM, "three"]).expect(0);
    assert_eq!(snapshots(&sandbox), ["two"]);
    disk(&sandbox, "root");
    assert_boots(&sandbox);
    small.free();
    order(&["load", VM, "two"]).expect(0);
    disk(&sandbox, "root");
    assert_boots(&sandbox);
}

#[test]
fn memory_is_loaded_from_a_full_disk_or_all_is_as_before() {
    let Some((sandbox, small)) = scene() else { return };
    let words = ["snapshot", "create", VM, "memory", "--memory"];
    sandbox.maqet(&words).expect(0);
    small.fill();
    let loaded = sandbox.maqet(&["snapshot", "load", VM, "memory", "--memory"]);
    say(&format!("{} {}", loaded.code, loaded.stderr));
    if loaded.code != 0 {
        assert_told(&loaded);
    }
    assert_eq!(sandbox.status(VM)["run_state"], "running");
    assert_eq!(snapshots(&sandbox), ["memory"]);
    sandbox.maqet(&["snapshot", "delete", VM, "memory"]).expect(0);
    sandbox.maqet(&["stop", VM]).expect(0);
    disk(&sandbox, "root");
    assert_boots(&sandbox);
    assert_eq!(sandbox.json(&["snapshot", "list", VM]), json!([]));
}
