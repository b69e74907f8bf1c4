//! Work on snapshots that is cut off: every disk is as before or as wanted, all together, and the VM starts.
#![cfg(debug_assertions)]

use std::ffi::OsStr;
use std::path::PathBuf;

use maqet_process::point::Point;
use maqet_tests::{Guest, Held, Sandbox, qemu_img};
use serde_json::json;

use crate::cut::{bereave, cut_off};
use crate::scene::{kill, say};
use crate::small_disk::SmallDisk;

const POINTS: [Point; 4] = [
    Point::SnapshotIntended,
    Point::SnapshotDisk,
    Point::SnapshotBegun,
    Point::SnapshotSettled,
];
const DISKS: [&str; 2] = ["root", "data"];
/// What the disks hold when the snapshot is made, and later.
const OLD: u8 = 1;
const NOW: u8 = 2;

/// What a disk holds, and what its only snapshot does, if it has one.
type Holds = (u8, Option<u8>);

/// A stopped VM of two disks.
struct Scene {
    sandbox: Sandbox,
}

impl Scene {
    /// With a snapshot `snap`, written to since, if `with_old`.
    fn new(with_old: bool) -> Self {
        let sandbox = Sandbox::new();
        let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                     data: {path: ./data.qcow2, size: 4M, interface: ide}}";
        Guest::tiny("web").line(disks).start(&sandbox);
        sandbox.maqet(&["stop", "web"]).expect(0);
        let scene = Self { sandbox };
        if with_old {
            scene.write(OLD);
            scene
                .sandbox
                .maqet(&["snapshot", "create", "web", "snap"])
                .expect(0);
        }
        scene.write(NOW);
        scene
    }

    fn image(&self, disk: &str) -> PathBuf {
        self.sandbox.home().join(format!("{disk}.qcow2"))
    }

    fn write(&self, pattern: u8) {
        for disk in DISKS {
            qemu_img::write(&self.image(disk), pattern);
        }
    }

    /// What the disk holds; every image is sound.
    fn holds(&self, disk: &str) -> Holds {
        let image = self.image(disk);
        assert_eq!(qemu_img::check(&image), qemu_img::Found::Clean, "{disk}");
        let names = qemu_img::snapshots(&image);
        assert!(names.is_empty() || names == ["snap"], "{disk}: {names:?}");
        let snapshot = names.first().map(|name| qemu_img::content_at(&image, name)[0]);
        (qemu_img::content(&image)[0], snapshot)
    }
}

/// Kills the supervisor at every point of one operation; both disks hold what is allowed, and agree.
fn cut_off_everywhere(words: &[&str], with_old: bool, allowed: [Holds; 2]) {
    for point in POINTS {
        let scene = Scene::new(with_old);
        // The supervisor that serves the call, known before it is held.
        let supervisor = scene.sandbox.json(&["supervisor", "status"])["pid"].clone();
        let mut held = Held::at(&scene.sandbox, point);
        let client = scene.sandbox.spawn(words);
        held.reached();
        say(&format!("{words:?} at {}", point.name()));
        let pid = i32::try_from(supervisor.as_i64().unwrap()).unwrap();
        let supervisor = maqet_process::ProcessHandle::open(pid).unwrap().unwrap();
        kill(&[client.handle(), &supervisor]);
        drop(held);
        // Whoever comes first finds it settled: a list or a start.
        if point == Point::SnapshotDisk {
            scene.sandbox.maqet(&["start", "web"]).expect(0);
            scene.sandbox.maqet(&["stop", "web"]).expect(0);
        }
        let list = scene.sandbox.json(&["snapshot", "list", "web"]);
        let found = DISKS.map(|disk| scene.holds(disk));
        assert_eq!(found[0], found[1], "{words:?} at {}: {list}", point.name());
        assert!(
            allowed.contains(&found[0]),
            "{words:?} at {}: {found:?}",
            point.name()
        );
        assert_eq!(
            list.as_array().unwrap().len(),
            usize::from(found[0].1.is_some()),
            "{list}"
        );
        let events = scene.sandbox.maqet(&["events"]).expect(0).stdout;
        assert!(
            events.contains("vm.snapshot-recovered"),
            "{}: {events}",
            point.name()
        );
        scene.sandbox.maqet(&["start", "web"]).expect(0);
    }
}

/// Nobody but maqet knows how to finish it.
#[test]
fn a_vm_whose_load_is_not_finished_is_not_forgotten_by_the_way() {
    let scene = Scene::new(true);
    let supervisor = crate::cut::supervisor(&scene.sandbox);
    let mut held = Held::at(&scene.sandbox, Point::SnapshotBegun);
    let client = scene.sandbox.spawn(&["snapshot", "load", "web", "snap"]);
    held.reached();
    kill(&[client.handle(), &supervisor]);
    drop(held);
    let refused = scene.sandbox.maqet(&["rm", "web"]).expect(3).stderr;
    assert!(refused.contains("different moments"), "{refused}");
    assert!(refused.contains("maqet snapshot list web"), "{refused}");
    scene.sandbox.json(&["snapshot", "list", "web"]);
    assert_eq!(DISKS.map(|disk| scene.holds(disk)), [(OLD, Some(OLD)); 2]);
    scene.sandbox.maqet(&["rm", "web"]).expect(0);
}

#[test]
fn a_snapshot_that_is_cut_off_is_there_or_not() {
    let words = ["snapshot", "create", "web", "snap"];
    cut_off_everywhere(&words, false, [(NOW, None), (NOW, Some(NOW))]);
}

#[test]
fn a_replacement_that_is_cut_off_leaves_the_old_or_the_new_one() {
    let words = ["snapshot", "create", "web", "snap", "--overwrite"];
    cut_off_everywhere(&words, true, [(NOW, Some(OLD)), (NOW, Some(NOW))]);
}

#[test]
fn a_load_that_is_cut_off_is_done_or_not() {
    let words = ["snapshot", "load", "web", "snap"];
    cut_off_everywhere(&words, true, [(NOW, Some(OLD)), (OLD, Some(OLD))]);
}

#[test]
fn a_deletion_that_is_cut_off_is_done() {
    let words = ["snapshot", "delete", "web", "snap"];
    cut_off_everywhere(&words, true, [(NOW, None), (NOW, None)]);
}

/// The client asks the next supervisor, under the same key, which finds its snapshot made.
#[test]
fn whoever_waits_for_a_snapshot_gets_it_once() {
    for running in [false, true] {
        for point in [
            Point::SnapshotIntended,
            Point::SnapshotBegun,
            Point::SnapshotSettled,
        ] {
            let scene = Scene::new(false);
            if running {
                scene.sandbox.maqet(&["start", "web"]).expect(0);
            }
            let words = ["snapshot", "create", "web", "snap", "-o", "json"];
            let told = bereave(&scene.sandbox, &words, point).expect(0).json();
            assert_eq!(
                (&told["name"], &told["live"]),
                (&json!("snap"), &json!(running)),
                "{told}"
            );
            let list = scene.sandbox.json(&["snapshot", "list", "web"]);
            assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
            scene
                .sandbox
                .maqet(&["snapshot", "delete", "web", "snap"])
                .expect(0);
        }
    }
}

/// A disk that a load has reached and one that it has not are not copied, resized or put below others like that.
#[test]
fn a_load_that_was_cut_off_is_settled_before_other_work() {
    let verbs: [&[&str]; 3] = [
        &["snapshot", "create", "web", "outside", "--external"],
        &["storage", "clone", "web", "data", "copy.qcow2"],
        &["storage", "resize", "web", "data", "8M"],
    ];
    for verb in verbs {
        let scene = Scene::new(true);
        let sandbox = &scene.sandbox;
        let supervisor = crate::cut::supervisor(sandbox);
        let mut held = Held::at(sandbox, Point::SnapshotDisk);
        let client = sandbox.spawn(&["snapshot", "load", "web", "snap"]);
        held.reached();
        // A keeper on each disk, then the first disk goes back.
        for _step in 0..DISKS.len() {
            let next = Held::at(sandbox, Point::SnapshotDisk);
            drop(std::mem::replace(&mut held, next));
            held.reached();
        }
        kill(&[client.handle(), &supervisor]);
        drop(held);
        assert_eq!(
            DISKS.map(|disk| qemu_img::content(&scene.image(disk))[0]),
            [OLD, NOW]
        );
        sandbox.maqet(verb).expect(0);
        assert_eq!(
            DISKS.map(|disk| qemu_img::content(&scene.image(disk))[0]),
            [OLD, OLD],
            "{verb:?}"
        );
        let copy = scene.image("copy");
        assert!(!copy.exists() || qemu_img::content(&copy)[0] == OLD, "{verb:?}");
        sandbox.maqet(&["start", "web"]).expect(0);
    }
}

/// Other programs make several of one name.
#[test]
fn a_new_snapshot_takes_the_place_of_all_of_its_name() {
    let scene = Scene::new(true);
    for disk in DISKS {
        qemu_img::run(
            ["snapshot", "-c", "snap"]
                .map(OsStr::new)
                .into_iter()
                .chain([scene.image(disk).as_os_str()]),
        );
        assert_eq!(qemu_img::snapshots(&scene.image(disk)), ["snap", "snap"]);
    }
    let words = ["snapshot", "create", "web", "snap", "--overwrite"];
    scene.sandbox.maqet(&words).expect(0);
    assert_eq!(DISKS.map(|disk| scene.holds(disk)), [(NOW, Some(NOW)); 2]);
}

/// What work leaves that was cut off is put right; what is wrong with an image beside that is a person's to repair.
#[test]
fn an_image_that_is_damaged_is_not_repaired_because_work_was_cut_off() {
    let words = ["snapshot", "create", "web", "snap"];
    for way_out in [
        &["storage", "verify", "web", "--repair"][..],
        &["storage", "accept", "web", "root"],
    ] {
        let scene = Scene::new(false);
        let sandbox = &scene.sandbox;
        cut_off(sandbox, &words, Point::SnapshotDisk);
        qemu_img::damage(&scene.image("root"));
        let before = std::fs::read(scene.image("root")).unwrap();
        for asked in [&["start", "web"][..], &["snapshot", "list", "web"], &words] {
            let refused = sandbox.maqet(asked);
            assert_eq!(refused.code, 3, "{refused:?}");
            let told = "disk `root` of `web` is damaged and is not written to";
            assert!(refused.stderr.contains(told), "{refused:?}");
        }
        assert!(std::fs::read(scene.image("root")).unwrap() == before);
        let events = sandbox.maqet(&["events"]).expect(0).stdout;
        assert_eq!(events.matches("vm.disk-quarantined").count(), 1, "{events}");
        sandbox.maqet(way_out).expect(0);
        sandbox.maqet(&["start", "web"]).expect(0);
        sandbox.maqet(&["stop", "web"]).expect(0);
        assert_eq!(qemu_img::content(&scene.image("root"))[0], NOW);
        assert_eq!(qemu_img::content(&scene.image("data"))[0], NOW);
    }
}

#[test]
fn a_full_disk_leaves_no_half_of_a_snapshot() {
    let sandbox = Sandbox::new();
    let Some(small) = SmallDisk::mount(sandbox.home().join("small"), 8) else {
        return;
    };
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 data: {path: ./small/data.qcow2, size: 4M, interface: ide}}";
    Guest::tiny("web").line(disks).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let filler = small.fill();
    let refused = sandbox
        .maqet(&["-o", "json", "snapshot", "create", "web", "snap"])
        .expect(1);
    let error = refused.error();
    assert_eq!(error["code"], "storage-failed", "{error}");
    let words = error["causes"].to_string();
    assert!(words.contains("bytes needed, 0 free"), "{error}");
    for path in ["root.qcow2", "small/data.qcow2"] {
        let image = sandbox.home().join(path);
        assert!(qemu_img::snapshots(&image).is_empty(), "{path}");
        assert_eq!(qemu_img::check(&image), qemu_img::Found::Clean, "{path}");
    }
    std::fs::remove_file(filler).unwrap();
    sandbox.maqet(&["snapshot", "create", "web", "snap"]).expect(0);
    is_refused_at_every_step(&sandbox, &small);
    sandbox.maqet(&["snapshot", "create", "web", "a"]).expect(0);
}

/// With one snapshot and no room: a load, and what QEMU would do, which must not find out in the middle.
fn is_refused_at_every_step(sandbox: &Sandbox, small: &SmallDisk) {
    let filler = small.fill();
    let refused = |words: &[&str]| {
        let refused = sandbox.maqet(words).expect(1);
        assert!(refused.stderr.contains("bytes needed, 0 free"), "{refused:#?}");
    };
    refused(&["snapshot", "load", "web", "snap"]);
    sandbox.maqet(&["start", "web"]).expect(0);
    refused(&["snapshot", "create", "web", "a"]);
    refused(&["snapshot", "create", "web", "a", "--memory"]);
    assert_eq!(sandbox.status("web")["run_state"], "running");
    let list = sandbox.json(&["snapshot", "list", "web"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    std::fs::remove_file(filler).unwrap();
}
