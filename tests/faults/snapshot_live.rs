//! Snapshots of a VM that runs, with whoever takes part in them killed: every disk has the snapshot or none, the list tells
//! which, images are sound, and the VM starts.
#![cfg(debug_assertions)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;

use maqet_process::point::Point;
use maqet_process::signal::Signal;
use maqet_process::{ProcessHandle, Sent};
use maqet_tests::{Guest, Held, Running, Sandbox, qemu_img, truth, wait};
use serde_json::Value;

use crate::scene::{kill, say};

const DISKS: [&str; 2] = ["root", "data"];
/// What the disks hold when a snapshot is made, and later.
const OLD: u8 = 1;
const NOW: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Supervisor,
    Runner,
    Qemu,
}

const SETS: [&[Victim]; 4] = [
    &[Victim::Supervisor],
    &[Victim::Runner],
    &[Victim::Qemu],
    &[Victim::Supervisor, Victim::Runner, Victim::Qemu],
];

struct Scene(Sandbox);

impl Scene {
    fn new(with_snapshot: bool) -> Self {
        let sandbox = Sandbox::new();
        let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                     data: {path: ./data.qcow2, size: 4M, interface: ide}}";
        Guest::tiny("web").options(&["ticks"]).line(disks).start(&sandbox);
        if with_snapshot {
            sandbox
                .maqet(&["snapshot", "create", "web", "snap", "--memory"])
                .expect(0);
        }
        Self(sandbox)
    }

    /// With a snapshot of what the disks held before.
    fn written_since() -> Self {
        let scene = Self::new(false);
        scene.0.maqet(&["stop", "web"]).expect(0);
        let write = |byte| DISKS.map(|disk| qemu_img::write(&scene.image(disk), byte));
        write(OLD);
        scene.0.maqet(&["snapshot", "create", "web", "snap"]).expect(0);
        write(NOW);
        scene.0.maqet(&["start", "web"]).expect(0);
        scene
    }

    fn image(&self, disk: &str) -> PathBuf {
        self.0.home().join(format!("{disk}.qcow2"))
    }

    fn find(&self, victim: Victim) -> ProcessHandle {
        let status = self.0.status("web");
        let pid = match victim {
            Victim::Supervisor => self.0.json(&["supervisor", "status"])["pid"].clone(),
            Victim::Runner => status["runner_pid"].clone(),
            Victim::Qemu => status["pid"].clone(),
        };
        let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
        ProcessHandle::open(pid).unwrap().unwrap()
    }

    /// The list, as soon as somebody can tell; a runner may just be replaced.
    fn list(&self) -> Vec<Value> {
        let listed = wait::until("the snapshots are listed", wait::PATIENCE, || {
            let output = self.0.maqet(&["-o", "json", "snapshot", "list", "web"]);
            if output.code == 0 { Ok(output) } else { Err(output) }
        });
        listed.json().as_array().unwrap().clone()
    }

    /// Whether the image has the snapshot; it is sound and has no other.
    fn has(&self, disk: &str) -> bool {
        let image = self.image(disk);
        qemu_img::check(&image);
        let names = qemu_img::snapshots(&image);
        assert!(names.len() <= 1, "{disk}: {names:?}");
        let known = |name: &String| name == "snap" || name == "snap.new";
        assert!(names.iter().all(known), "{disk}: {names:?}");
        !names.is_empty()
    }
}

/// Holds whoever passes the point for this time, the first being 1.
fn hold(sandbox: &Sandbox, point: Point, words: &[&str], time: usize) -> (Running, Held) {
    let mut held = Held::at(sandbox, point);
    let client = sandbox.spawn(words);
    held.reached();
    for _earlier in 1..time {
        let next = Held::at(sandbox, point);
        drop(std::mem::replace(&mut held, next));
        held.reached();
    }
    (client, held)
}

fn play(words: &[&str], point: Point, victims: &[Victim]) {
    let loads = words.contains(&"load");
    let scene = Scene::new(loads);
    let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
    let mut held = Held::at(&scene.0, point);
    let client = scene.0.spawn(words);
    held.reached();
    let context = format!("{words:?} at {}, {victims:?} killed", point.name());
    say(&context);
    kill(&found.iter().collect::<Vec<_>>());
    drop(held);
    let output = client.output();
    let list = scene.list();
    let running = scene.0.status("web")["status"] == "running";
    assert_eq!(running, !victims.contains(&Victim::Qemu), "{context}");
    if running {
        scene.0.maqet(&["stop", "web", "--force"]).expect(0);
    }
    let has = DISKS.map(|disk| scene.has(disk));
    assert_eq!(has, [!list.is_empty(); 2], "{context}: {list:?}");
    assert!(output.code != 0 || !list.is_empty(), "{context}: {output:#?}");
    assert!(!loads || !list.is_empty(), "{context}");
    if loads && !running {
        scene.0.maqet(&["start", "web"]).expect(3);
        scene.0.maqet(&["snapshot", "load", "web", "snap"]).expect(0);
    }
    scene.0.maqet(&["start", "web"]).expect(0);
    assert_eq!(scene.list().len(), list.len(), "{context}");
}

fn play_all(words: &[&str], points: &[Point]) {
    for point in points {
        for victims in SETS {
            play(words, *point, victims);
        }
    }
}

#[test]
fn a_snapshot_of_disks_is_there_or_not() {
    let points = [
        Point::SnapshotIntended,
        Point::SnapshotAsked,
        Point::SnapshotBegun,
    ];
    play_all(&["snapshot", "create", "web", "snap"], &points);
}

#[test]
fn a_snapshot_with_memory_is_there_or_not() {
    let points = [Point::SnapshotAsked, Point::SnapshotJob, Point::SnapshotSettled];
    play_all(&["snapshot", "create", "web", "snap", "--memory"], &points);
}

#[test]
fn a_snapshot_that_is_being_loaded_stays() {
    let points = [Point::SnapshotAsked, Point::SnapshotJob];
    play_all(&["snapshot", "load", "web", "snap", "--memory"], &points);
}

/// Kills QEMU, or everybody, at each of the steps that QEMU is asked to do; then all is settled by whoever looks first.
fn cut_off_at_each_step(
    words: &[&str],
    steps: usize,
    scene: impl Fn() -> Scene,
    judge: impl Fn(&Scene, &[Value], &str),
) {
    for time in 1..=steps {
        for victims in [SETS[2], SETS[3]] {
            let scene = scene();
            let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
            let (client, held) = hold(&scene.0, Point::SnapshotAsked, words, time);
            let context = format!("{words:?}, {victims:?} killed at step {time}");
            say(&context);
            kill(&found.iter().collect::<Vec<_>>());
            drop(held);
            client.output();
            truth::settled(&scene.0);
            let list = scene.list();
            let has = DISKS.map(|disk| scene.has(disk));
            assert_eq!(has, [!list.is_empty(); 2], "{context}: {list:?}");
            judge(&scene, &list, &context);
            scene.0.maqet(&["start", "web"]).expect(0);
            assert_eq!(scene.list().len(), list.len(), "{context}");
        }
    }
}

#[test]
fn a_snapshot_that_is_being_deleted_goes_from_every_disk() {
    let words = ["snapshot", "delete", "web", "snap"];
    let gone =
        |_scene: &Scene, list: &[Value], context: &str| assert!(list.is_empty(), "{context}: {list:?}");
    cut_off_at_each_step(&words, DISKS.len(), || Scene::new(true), gone);
}

/// A keeper on all disks, the old one gone from each, the new one on all, the keeper gone from each.
const STEPS_OF_REPLACING: usize = 2 + 2 * DISKS.len();

#[test]
fn a_snapshot_that_is_being_replaced_is_the_old_or_the_new_one_on_every_disk() {
    let words = ["snapshot", "create", "web", "snap", "--overwrite"];
    let one = |scene: &Scene, list: &[Value], context: &str| {
        assert_eq!(list.len(), 1, "{context}: {list:?}");
        let kept = DISKS.map(|disk| qemu_img::content_at(&scene.image(disk), "snap")[0]);
        assert!(kept == [OLD; 2] || kept == [NOW; 2], "{context}: {kept:?}");
        let now = DISKS.map(|disk| qemu_img::content(&scene.image(disk))[0]);
        assert_eq!(now, [NOW; 2], "{context}");
    };
    cut_off_at_each_step(&words, STEPS_OF_REPLACING, Scene::written_since, one);
}

/// Whichever it is, its memory is whole, and it is known by a name that can be loaded.
#[test]
fn memory_that_is_being_replaced_is_the_old_or_the_new_one() {
    let words = ["snapshot", "create", "web", "snap", "--memory", "--overwrite"];
    let names = RefCell::new(BTreeSet::new());
    let one = |scene: &Scene, list: &[Value], context: &str| {
        assert_eq!(list.len(), 1, "{context}: {list:?}");
        let is_whole = list[0]["complete"] == true && list[0]["vm_state_bytes"].as_u64() > Some(0);
        assert!(is_whole, "{context}: {list:?}");
        let name = list[0]["name"].as_str().unwrap();
        scene.0.maqet(&["start", "web"]).expect(0);
        scene
            .0
            .maqet(&["snapshot", "load", "web", name, "--memory"])
            .expect(0);
        names.borrow_mut().insert(name.to_owned());
    };
    cut_off_at_each_step(&words, STEPS_OF_REPLACING, || Scene::new(true), one);
    // Once the old one is gone from one disk, there is the keeper alone.
    let expected = ["snap", "snap.new"].map(ToOwned::to_owned);
    assert_eq!(names.into_inner(), expected.into());
}

/// What a keeper is to be called must be free.
#[test]
fn a_snapshot_that_has_the_name_of_a_keeper_is_left_alone() {
    let scene = Scene::new(true);
    scene
        .0
        .maqet(&["snapshot", "create", "web", "snap.new"])
        .expect(0);
    let words = ["snapshot", "create", "web", "snap", "--memory", "--overwrite"];
    let refused = scene.0.maqet(&words).expect(5);
    assert!(
        refused.stderr.contains("maqet snapshot delete web snap.new"),
        "{refused:?}"
    );
    assert_eq!(scene.list().len(), 2);
    scene
        .0
        .maqet(&["snapshot", "delete", "web", "snap.new"])
        .expect(0);
    scene.0.maqet(&words).expect(0);
    // Of work that nobody knows of any more, and that is taken for nobody's.
    scene.0.maqet(&["stop", "web"]).expect(0);
    qemu_img::run(
        ["snapshot", "-c", ".maqet-work"]
            .map(OsStr::new)
            .into_iter()
            .chain([scene.image("data").as_os_str()]),
    );
    let refused = scene.0.maqet(&["snapshot", "load", "web", "snap"]).expect(5);
    assert!(
        refused.stderr.contains("qemu-img snapshot -d .maqet-work"),
        "{refused:?}"
    );
}

#[test]
fn a_frozen_qemu_is_asked_for_seconds_and_the_vm_is_free_again() {
    let scene = Scene::new(true);
    let qemu = scene.find(Victim::Qemu);
    assert_eq!(qemu.signal(Signal::Stop).unwrap(), Sent::Delivered);
    scene.0.maqet(&["snapshot", "list", "web"]).expect(124);
    assert_eq!(qemu.signal(Signal::Cont).unwrap(), Sent::Delivered);
    assert_eq!(scene.list().len(), 1);
    scene.0.maqet(&["snapshot", "delete", "web", "snap"]).expect(0);
}

#[test]
fn a_vm_is_ended_by_force_while_its_memory_is_kept() {
    let scene = Scene::new(false);
    let mut held = Held::at(&scene.0, Point::SnapshotIntended);
    let client = scene.0.spawn(&["snapshot", "create", "web", "snap", "--memory"]);
    held.reached();
    // The supervisor is held, so the client's call waits for it as well.
    let end = scene.0.spawn(&["kill", "web"]);
    drop(held);
    end.output().expect(0);
    client.output();
    let list = scene.list();
    let has = DISKS.map(|disk| scene.has(disk));
    assert_eq!(has, [!list.is_empty(); 2], "{list:?}");
    scene.0.maqet(&["start", "web"]).expect(0);
}
