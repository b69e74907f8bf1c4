//! `image import`, `image rm` and disks made from an image, with the supervisor killed at each of their steps: in the library
//! whole or not at all, and what is made on it is a VM's disk or does not exist.
#![cfg(debug_assertions)]

use std::path::PathBuf;

use maqet_process::point::Point;
use maqet_tests::{Guest, Held, Sandbox, qemu_img};
use serde_json::json;

use crate::cut::{assert_boots, assert_whole, cut_off, disk, files};
use crate::scene::VM;

/// A file that can be imported; returns the words that do.
fn source(sandbox: &Sandbox) -> [String; 3] {
    let file = sandbox.home().join("base.qcow2");
    qemu_img::filled(&file, 2);
    ["image", "import", file.to_str().unwrap()].map(str::to_owned)
}

fn words(of: &[String; 3]) -> [&str; 3] {
    [&of[0], &of[1], &of[2]]
}

/// Names of images, as they are listed; each is sound, and nothing else is in the library.
#[track_caller]
fn listed(sandbox: &Sandbox) -> Vec<String> {
    assert_whole(sandbox);
    let listed = sandbox.json(&["image", "ls"]);
    let names = listed.as_array().unwrap().iter();
    let names: Vec<_> = names
        .map(|image| image["name"].as_str().unwrap().to_owned())
        .collect();
    let there = files(&sandbox.data_dir().join("images"));
    let expected = names
        .iter()
        .flat_map(|name| ["image.json", "image.qcow2"].map(|file| PathBuf::from(name).join(file)));
    assert_eq!(there, expected.collect(), "{listed}");
    if !names.is_empty() {
        sandbox.maqet(&["image", "verify"]).expect(0);
    }
    names
}

#[test]
fn an_import_that_is_cut_off_is_there_whole_or_not_at_all() {
    for (point, is_there) in [
        (Point::ImportBegun, false),
        (Point::ImageWritten, false),
        (Point::ImageNamed, false),
        (Point::ImportCopied, false),
        (Point::ImportDescribed, false),
        (Point::ImportPlaced, true),
    ] {
        let sandbox = Sandbox::new();
        let import = source(&sandbox);
        let before = files(&sandbox.home());
        cut_off(&sandbox, &words(&import), point);
        assert_eq!(listed(&sandbox).len(), usize::from(is_there), "{}", point.name());
        assert_eq!(files(&sandbox.home()), before);
        sandbox
            .maqet(&words(&import))
            .expect(if is_there { 5 } else { 0 });
        assert_eq!(listed(&sandbox), ["base"]);
    }
}

#[test]
fn an_image_whose_removal_is_cut_off_is_gone() {
    for point in [Point::DiscardAside, Point::DiscardDone] {
        let sandbox = Sandbox::new();
        let import = source(&sandbox);
        sandbox.maqet(&words(&import)).expect(0);
        cut_off(&sandbox, &["image", "rm", "base"], point);
        assert!(listed(&sandbox).is_empty(), "{}", point.name());
        sandbox.maqet(&["image", "rm", "base"]).expect(4);
        sandbox.maqet(&words(&import)).expect(0);
        assert_eq!(listed(&sandbox), ["base"]);
    }
}

/// What nothing stands on is deleted, and nothing comes to stand on it meanwhile.
#[test]
fn no_disk_is_made_on_an_image_that_is_going() {
    let sandbox = Sandbox::new();
    let import = source(&sandbox);
    sandbox.maqet(&words(&import)).expect(0);
    let mut held = Held::at(&sandbox, Point::DiscardBegun);
    let going = sandbox.spawn(&["image", "rm", "base"]);
    held.reached();
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, from: base, interface: ide}}")
        .add(&sandbox);
    let refused = sandbox.maqet(&["start", VM]).expect(5).stderr;
    assert!(refused.contains("image `base` is being deleted"), "{refused}");
    assert!(refused.contains("disk `root` of `web`"), "{refused}");
    drop(held);
    going.output().expect(0);
    assert!(listed(&sandbox).is_empty());
    assert!(!sandbox.home().join("root.qcow2").exists());
    sandbox.maqet(&words(&import)).expect(0);
    assert_boots(&sandbox);
}

#[test]
fn a_disk_from_an_image_that_is_cut_off_is_made_once() {
    let sandbox = Sandbox::new();
    let import = source(&sandbox);
    sandbox.maqet(&words(&import)).expect(0);
    for point in [Point::DiskNoted, Point::ImageWritten, Point::ImageNamed] {
        let before = files(&sandbox.home());
        Guest::tiny(VM)
            .line("disks: {root: {path: ./root.qcow2, from: base, interface: ide}}")
            .add(&sandbox);
        cut_off(&sandbox, &["start", VM], point);
        assert_whole(&sandbox);
        let is_there = sandbox.home().join("root.qcow2").exists();
        assert_eq!(is_there, point == Point::ImageNamed, "{}", point.name());
        assert_boots(&sandbox);
        assert_eq!(disk(&sandbox, "root")["state"], "ok");
        let refused = sandbox.maqet(&["image", "rm", "base"]).expect(5).stderr;
        assert!(refused.contains("`web` has one"), "{refused}");
        // It was made by maqet, whatever came between: it goes with the VM.
        sandbox.maqet(&["rm", VM, "--delete-storage"]).expect(0);
        let mut left = files(&sandbox.home());
        left.retain(|path| !before.contains(path));
        assert!(
            left.iter()
                .all(|path| ["web.yaml", "tiny.bin"].contains(&path.to_str().unwrap())),
            "{left:?}"
        );
        assert_eq!(sandbox.json(&["image", "ls"])[0]["used_by"], json!([]));
    }
    sandbox.maqet(&["image", "rm", "base"]).expect(0);
    assert!(listed(&sandbox).is_empty());
}

/// Nobody asks for the disk of a VM that is removed to be deleted where none was made.
#[test]
fn the_directory_of_a_disk_that_was_never_made_goes_with_its_vm() {
    let sandbox = Sandbox::new();
    let import = source(&sandbox);
    sandbox.maqet(&words(&import)).expect(0);
    Guest::tiny(VM)
        .line("disks: {root: {from: base, interface: ide}}")
        .add(&sandbox);
    cut_off(&sandbox, &["start", VM], Point::ImageWritten);
    let directory = sandbox.data_dir().join("disks").join(VM);
    assert!(directory.exists());
    sandbox.maqet(&["rm", VM]).expect(0);
    assert!(!directory.exists());
}
