//! Work on snapshots as files of their own that is cut off, or has no room: every disk is as before or as wanted, all
//! together, no file is left that nobody needs, and the VM starts.
#![cfg(debug_assertions)]

use std::path::PathBuf;
use std::process::Command;

use maqet_process::point::Point;
use maqet_tests::{Guest, Held, Sandbox, leftovers, qemu_img};
use serde_json::{Value, json};

use crate::cut::cut_off;
use crate::scene::{kill, say};
use crate::small_disk::SmallDisk;

const POINTS: [Point; 3] = [Point::LayersIntended, Point::LayerDone, Point::LayersRecorded];
const DISKS: &str = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                     data: {path: ./data.qcow2, size: 4M, interface: ide}}";

/// A stopped VM of two disks, that hold 2; below each, if it has one, is a snapshot `snap` that holds 1.
fn scene(with_snapshot: bool) -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(DISKS).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    if with_snapshot {
        write(&sandbox, 1);
        sandbox
            .maqet(&["snapshot", "create", "web", "snap", "--external"])
            .expect(0);
    }
    write(&sandbox, 2);
    sandbox
}

/// The disks with all that they stand on.
fn info(sandbox: &Sandbox) -> Vec<Value> {
    let info = sandbox.json(&["storage", "info", "web"]);
    info["disks"].as_array().unwrap().clone()
}

fn path_of(disk: &Value) -> PathBuf {
    disk["path"].as_str().unwrap().into()
}

fn write(sandbox: &Sandbox, pattern: u8) {
    for disk in info(sandbox) {
        let done = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", &format!("write -P {pattern} 0 1M")])
            .arg(path_of(&disk))
            .output();
        assert!(done.unwrap().status.success());
    }
}

/// What the disks hold, all the same; every image of theirs is sound, and there is no other image.
pub(crate) fn held(sandbox: &Sandbox, context: &str) -> u8 {
    let disks = info(sandbox);
    let chains = disks.iter().flat_map(|disk| disk["chain"].as_array().unwrap());
    let mut used: Vec<PathBuf> = chains.map(path_of).collect();
    for image in &used {
        assert_eq!(
            qemu_img::check(image),
            qemu_img::Found::Clean,
            "{context}: {}",
            image.display()
        );
    }
    let entries = std::fs::read_dir(sandbox.home()).unwrap();
    let mut there: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "qcow2"))
        .collect();
    used.sort();
    there.sort();
    assert_eq!(there, used, "{context}");
    let held: Vec<u8> = disks
        .iter()
        .map(|disk| qemu_img::content(&path_of(disk))[0])
        .collect();
    assert_eq!(held[0], held[1], "{context}");
    held[0]
}

/// What each disk holds.
pub(crate) fn content(sandbox: &Sandbox) -> Vec<u8> {
    let disks = info(sandbox);
    let first = |disk: &Value| qemu_img::content(&path_of(disk))[0];
    disks.iter().map(first).collect()
}

/// Kills the supervisor at every point of one operation. `allowed` are pairs of what the disks hold and how many
/// snapshots are listed.
fn cut_off_everywhere(words: &[&str], with_snapshot: bool, allowed: &[(u8, usize)]) {
    for (point, by_start) in POINTS
        .into_iter()
        .flat_map(|point| [(point, false), (point, true)])
    {
        let sandbox = scene(with_snapshot);
        let supervisor = sandbox.json(&["supervisor", "status"])["pid"].clone();
        let mut held_at = Held::at(&sandbox, point);
        let client = sandbox.spawn(words);
        held_at.reached();
        let context = format!("{words:?} at {}, then a start: {by_start}", point.name());
        say(&context);
        let pid = i32::try_from(supervisor.as_i64().unwrap()).unwrap();
        let supervisor = maqet_process::ProcessHandle::open(pid).unwrap().unwrap();
        kill(&[client.handle(), &supervisor]);
        drop(held_at);
        // Whoever comes first takes away what nobody needs.
        if by_start {
            sandbox.maqet(&["start", "web"]).expect(0);
            sandbox.maqet(&["stop", "web"]).expect(0);
        }
        let list = sandbox.json(&["snapshot", "list", "web"]);
        let found = (held(&sandbox, &context), list.as_array().unwrap().len());
        assert!(allowed.contains(&found), "{context}: {found:?} {list}");
        sandbox.maqet(&["start", "web"]).expect(0);
        sandbox.maqet(&["stop", "web"]).expect(0);
        // The same again is no trouble.
        let again = sandbox.maqet(words);
        assert!([0, 4, 5].contains(&again.code), "{context}: {again:#?}");
        held(&sandbox, &context);
    }
}

#[test]
fn a_snapshot_that_is_cut_off_is_there_or_not() {
    let words = ["snapshot", "create", "web", "snap", "--external"];
    cut_off_everywhere(&words, false, &[(2, 0), (2, 1)]);
}

#[test]
fn a_load_that_is_cut_off_is_done_or_not() {
    cut_off_everywhere(&["snapshot", "load", "web", "snap"], true, &[(2, 1), (1, 1)]);
}

/// Until it is recorded the snapshot is listed, as one that cannot be gone back to.
#[test]
fn a_deletion_that_is_cut_off_loses_nothing_of_the_present() {
    cut_off_everywhere(&["snapshot", "delete", "web", "snap"], true, &[(2, 1), (2, 0)]);
}

#[test]
fn what_was_half_merged_is_no_place_to_go_back_to() {
    let sandbox = scene(true);
    let supervisor = sandbox.json(&["supervisor", "status"])["pid"].clone();
    let mut held_at = Held::at(&sandbox, Point::LayerDone);
    let client = sandbox.spawn(&["snapshot", "delete", "web", "snap"]);
    held_at.reached();
    let pid = i32::try_from(supervisor.as_i64().unwrap()).unwrap();
    kill(&[
        client.handle(),
        &maqet_process::ProcessHandle::open(pid).unwrap().unwrap(),
    ]);
    drop(held_at);
    let error = sandbox
        .maqet(&["snapshot", "load", "web", "snap", "-o", "json"])
        .expect(5)
        .error();
    assert_eq!(error["hint"], "finish it: maqet snapshot delete web snap");
    let list = sandbox.json(&["snapshot", "list", "web"]);
    assert_eq!(list[0]["complete"], false, "{list}");
    let told = sandbox.maqet(&["storage", "info", "web"]).expect(0).stdout;
    assert!(
        told.contains("the delete of snapshot `snap` was cut off; the disks are whole"),
        "{told}"
    );
    // The guest may write meanwhile.
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    write(&sandbox, 3);
    sandbox.maqet(&["snapshot", "delete", "web", "snap"]).expect(0);
    assert_eq!(held(&sandbox, "finished"), 3);
}

/// None of the bases is what it was, whichever disk is named when it goes on.
#[test]
fn a_deletion_that_was_cut_off_is_finished_on_all_its_disks() {
    let sandbox = scene(true);
    cut_off(&sandbox, &["snapshot", "delete", "web", "snap"], Point::LayerDone);
    let words = ["snapshot", "delete", "web", "snap", "--disk", "data"];
    let done = sandbox.json(&words);
    assert_eq!(done["disks"], json!(["root", "data"]), "{done}");
    assert_eq!(sandbox.json(&["snapshot", "list", "web"]), json!([]));
    assert_eq!(held(&sandbox, "finished"), 2);
    sandbox.maqet(&["start", "web"]).expect(0);
}

/// What is superfluous and cannot be deleted is not forgotten because something else begins.
#[test]
fn images_that_cannot_be_deleted_are_in_the_way_of_the_next() {
    let sandbox = scene(true);
    let overlay = sandbox.home().join("root.snap.qcow2");
    let mut held_at = Held::at(&sandbox, Point::LayersRecorded);
    let client = sandbox.spawn(&["snapshot", "load", "web", "snap"]);
    held_at.reached();
    // A file that something is mounted on stays, for root too.
    let mut mount = Command::new("mount");
    let mounted = mount.arg("--bind").args([&overlay, &overlay]).output().unwrap();
    drop(held_at);
    client.output().expect(0);
    if !mounted.status.success() {
        return say("WARNING: an image that cannot be deleted is NOT EXERCISED: only root can mount");
    }
    let create = ["snapshot", "create", "web", "two", "--external"];
    let refused = sandbox.maqet(&create).expect(1);
    assert!(refused.stderr.contains("cannot be deleted"), "{refused:?}");
    let list = sandbox.json(&["snapshot", "list", "web"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert!(overlay.exists());
    leftovers::unmount(&overlay);
    sandbox.maqet(&create).expect(0);
    assert_eq!(held(&sandbox, "unmounted"), 1);
    assert!(!overlay.exists());
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let sandbox = Sandbox::new();
    let Some(small) = SmallDisk::mount(sandbox.home().join("small"), 8) else {
        return;
    };
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 data: {path: ./small/data.qcow2, size: 4M, interface: ide}}";
    Guest::tiny("web").line(disks).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let refused = |words: &[&str]| {
        let filler = small.fill();
        let refused = sandbox.maqet(words).expect(1);
        assert!(refused.stderr.contains("bytes needed, 0 free"), "{refused:#?}");
        std::fs::remove_file(filler).unwrap();
    };
    refused(&["snapshot", "create", "web", "snap", "--external"]);
    assert!(!sandbox.home().join("root.snap.qcow2").exists());
    sandbox
        .maqet(&["snapshot", "create", "web", "snap", "--external"])
        .expect(0);
    write(&sandbox, 2);
    refused(&["snapshot", "load", "web", "snap"]);
    refused(&["snapshot", "delete", "web", "snap"]);
    for disk in info(&sandbox) {
        assert_eq!(qemu_img::content(&path_of(&disk))[0], 2);
    }
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "delete", "web", "snap"]).expect(0);
    for disk in info(&sandbox) {
        assert_eq!(qemu_img::content(&path_of(&disk))[0], 2);
    }
}
