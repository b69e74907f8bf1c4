//! QEMU is put on new images while its guest writes, and whoever takes part is killed: nothing that was written is lost, all
//! disks are on the same side of the snapshot, no image is left over, and the VM starts.
#![cfg(debug_assertions)]

use std::path::Path;

use maqet_process::point::Point;
use maqet_process::signal::Signal;
use maqet_process::{ProcessHandle, Sent};
use maqet_tests::monitor::Monitor;
use maqet_tests::{Guest, Held, Sandbox, wait};
use serde_json::{Value, json};

use crate::scene::{kill, process, say};
use crate::small_disk::SmallDisk;
use crate::snapshot_external::{content, held};

const POINTS: [Point; 6] = [
    Point::LayersIntended,
    Point::LayerDone,
    Point::LayersMade,
    Point::LayersAsked,
    Point::LayersSwitched,
    Point::LayersRecorded,
];
const DISKS: &str = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                     data: {path: ./data.qcow2, size: 4M, interface: ide}}";
const CREATE: [&str; 5] = ["snapshot", "create", "web", "snap", "--external"];
const DELETE: [&str; 4] = ["snapshot", "delete", "web", "snap"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Supervisor,
    Runner,
    Qemu,
}
use Victim::{Qemu, Runner, Supervisor};

const SETS: [&[Victim]; 6] = [
    &[Supervisor],
    &[Runner],
    &[Qemu],
    &[Supervisor, Runner],
    &[Supervisor, Qemu],
    &[Supervisor, Runner, Qemu],
];

struct Scene {
    sandbox: Sandbox,
    id: String,
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let id = Guest::tiny("web").line(DISKS).start(&sandbox);
        Self { sandbox, id }
    }

    /// What the guest writes to the beginning of each disk, and flushes.
    fn write(&self, pattern: u8) {
        let mut monitor = Monitor::of(&self.sandbox, &self.id);
        let devices = monitor.run("query-block", &json!({})).unwrap();
        for device in devices.as_array().unwrap() {
            for command in [&format!("write -P {pattern} 0 1M"), "flush"] {
                let device = device["qdev"].as_str().unwrap();
                let line = format!("qemu-io -d {device} \"{command}\"");
                let done = monitor
                    .run("human-monitor-command", &json!({"command-line": line}))
                    .unwrap();
                assert!(!done.as_str().unwrap().contains("rror"), "{line}: {done}");
            }
        }
    }

    fn find(&self, victim: Victim) -> ProcessHandle {
        let status = self.sandbox.status("web");
        process(&match victim {
            Supervisor => self.sandbox.json(&["supervisor", "status"])["pid"].clone(),
            Runner => status["runner_pid"].clone(),
            Qemu => status["pid"].clone(),
        })
    }

    /// The snapshots, as soon as somebody can tell; a runner may just be replaced.
    fn list(&self) -> Vec<Value> {
        let listed = wait::until("the snapshots are listed", wait::PATIENCE, || {
            let output = self.sandbox.maqet(&["-o", "json", "snapshot", "list", "web"]);
            if output.code == 0 { Ok(output) } else { Err(output) }
        });
        listed.json().as_array().unwrap().clone()
    }
}

impl Scene {
    /// One that was started with a snapshot `snap` below its disks, that hold 1, and holds 2.
    fn with_snapshot() -> Self {
        let scene = Self::new();
        scene.write(1);
        scene.sandbox.maqet(&["stop", "web"]).expect(0);
        scene.sandbox.maqet(&CREATE).expect(0);
        scene.sandbox.maqet(&["start", "web"]).expect(0);
        scene.write(2);
        scene
    }

    /// The guest runs, whoever is busy with it now.
    fn until_it_runs(&self) {
        wait::until("the guest runs", wait::PATIENCE, || {
            let status = self.sandbox.status("web");
            if status["run_state"] == "running" {
                Ok(())
            } else {
                Err(status)
            }
        });
    }
}

/// A snapshot is merged away under a guest that runs.
fn play_deletion(point: Point, victims: &[Victim]) {
    let context = format!("delete at {}, {victims:?} killed", point.name());
    say(&context);
    let scene = Scene::with_snapshot();
    let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
    let mut held_at = Held::at(&scene.sandbox, point);
    let client = scene.sandbox.spawn(&DELETE);
    held_at.reached();
    kill(&found.iter().collect::<Vec<_>>());
    drop(held_at);
    let output = client.output();
    let list = scene.list();
    assert!(output.code != 0 || list.is_empty(), "{context}: {output:#?}");
    let lives = scene.sandbox.status("web")["status"] == "running";
    assert_eq!(lives, !victims.contains(&Qemu), "{context}");
    if lives {
        scene.until_it_runs();
        scene.write(3);
        scene.sandbox.maqet(&["stop", "web", "--force"]).expect(0);
    }
    let kept = if lives { 3 } else { 2 };
    assert_eq!(content(&scene.sandbox), [kept, kept], "{context}");
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    if !scene.list().is_empty() {
        scene.sandbox.maqet(&DELETE).expect(0);
    }
    scene.until_it_runs();
    scene.write(4);
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(held(&scene.sandbox, &context), 4, "{context}");
    assert_eq!(scene.list().len(), 0, "{context}");
}

fn play(point: Point, victims: &[Victim]) {
    let context = format!("at {}, {victims:?} killed", point.name());
    say(&context);
    let scene = Scene::new();
    scene.write(1);
    let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
    let mut held_at = Held::at(&scene.sandbox, point);
    let client = scene.sandbox.spawn(&CREATE);
    held_at.reached();
    scene.write(2);
    kill(&found.iter().collect::<Vec<_>>());
    drop(held_at);
    let output = client.output();
    let list = scene.list();
    assert!(output.code != 0 || list.len() == 1, "{context}: {output:#?}");
    // The client asks the next supervisor, under the same key, and gets its own snapshot.
    let is_told = victims != [Supervisor] || output.code == 0;
    assert!(is_told, "{context}: {output:#?}");
    let lives = scene.sandbox.status("web")["status"] == "running";
    assert_eq!(lives, !victims.contains(&Qemu), "{context}");
    if lives {
        scene.write(3);
        scene.sandbox.maqet(&["stop", "web", "--force"]).expect(0);
    }
    assert_eq!(
        held(&scene.sandbox, &context),
        if lives { 3 } else { 2 },
        "{context}"
    );
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(scene.list().len(), list.len(), "{context}");
    // The same again is no trouble, and what is kept is of one moment.
    if list.is_empty() {
        scene.sandbox.maqet(&CREATE).expect(0);
    }
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    scene
        .sandbox
        .maqet(&["snapshot", "load", "web", "snap"])
        .expect(0);
    let kept = held(&scene.sandbox, &context);
    assert!((1..=3).contains(&kept), "{context}: {kept}");
}

fn play_all(points: &[Point]) {
    for point in points {
        for victims in SETS {
            play(*point, victims);
        }
    }
}

#[test]
fn a_deletion_at_the_supervisors_points() {
    for point in [Point::LayersIntended, Point::LayerDone, Point::LayersRecorded] {
        for victims in SETS {
            play_deletion(point, victims);
        }
    }
}

#[test]
fn a_deletion_at_the_runners_points() {
    for point in [Point::LayersMerging, Point::LayersEven, Point::LayersTurned] {
        for victims in SETS {
            play_deletion(point, victims);
        }
    }
}

#[test]
fn before_qemu_is_told() {
    play_all(&POINTS[..3]);
}

#[test]
fn once_qemu_is_told() {
    play_all(&POINTS[3..]);
}

/// What QEMU refuses leaves nothing behind, not in QEMU either.
#[test]
fn an_image_that_was_exchanged_is_not_given_to_qemu() {
    let scene = Scene::new();
    scene.write(1);
    let mut held_at = Held::at(&scene.sandbox, Point::LayersMade);
    let client = scene.sandbox.spawn(&CREATE);
    held_at.reached();
    let overlay = scene.sandbox.home().join("data.snap.qcow2");
    let aside = scene.sandbox.home().join("aside");
    std::fs::rename(&overlay, &aside).unwrap();
    std::fs::copy(&aside, &overlay).unwrap();
    drop(held_at);
    let output = client.output();
    assert_eq!(output.code, 5, "{output:#?}");
    assert!(scene.list().is_empty());
    std::fs::remove_file(&aside).unwrap();
    scene.write(2);
    scene.sandbox.maqet(&CREATE).expect(0);
    scene.write(3);
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(held(&scene.sandbox, "exchanged"), 3);
    scene
        .sandbox
        .maqet(&["snapshot", "load", "web", "snap"])
        .expect(0);
    assert_eq!(held(&scene.sandbox, "loaded"), 2);
}

/// QEMU would find out too late, and the guest with it.
#[test]
fn a_full_disk_is_told_before_qemu_finds_it() {
    let sandbox = Sandbox::new();
    let Some(small) = SmallDisk::mount(sandbox.home().join("small"), 8) else {
        return;
    };
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 data: {path: ./small/data.qcow2, size: 4M, interface: ide}}";
    let id = Guest::tiny("web").line(disks).start(&sandbox);
    let scene = Scene { sandbox, id };
    scene.write(1);
    let refused = |words: &[&str]| {
        let filler = small.fill();
        let refused = scene.sandbox.maqet(words).expect(1);
        assert!(refused.stderr.contains("bytes needed, 0 free"), "{refused:#?}");
        std::fs::remove_file(filler).unwrap();
        scene.until_it_runs();
    };
    refused(&CREATE);
    assert!(scene.list().is_empty());
    scene.sandbox.maqet(&CREATE).expect(0);
    scene.write(2);
    refused(&DELETE);
    scene.write(3);
    scene.sandbox.maqet(&DELETE).expect(0);
    scene.write(4);
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(content(&scene.sandbox), [4, 4]);
}

/// Whoever is frozen for a moment goes on where it was.
#[test]
fn a_deletion_is_finished_by_whoever_was_frozen_for_a_moment() {
    for victim in [Runner, Qemu, Supervisor] {
        let scene = Scene::with_snapshot();
        let frozen = scene.find(victim);
        let mut held_at = Held::at(&scene.sandbox, Point::LayersMerging);
        let client = scene.sandbox.spawn(&DELETE);
        held_at.reached();
        assert_eq!(frozen.signal(Signal::Stop).unwrap(), Sent::Delivered);
        drop(held_at);
        assert_eq!(frozen.signal(Signal::Cont).unwrap(), Sent::Delivered);
        assert_eq!(client.output().code, 0, "{victim:?}");
        scene.until_it_runs();
        scene.write(3);
        scene.sandbox.maqet(&["stop", "web"]).expect(0);
        assert_eq!(held(&scene.sandbox, "frozen"), 3, "{victim:?}");
    }
}

/// Which images QEMU is on is told once nobody puts it on others: not before, and never as none.
#[test]
fn a_question_waits_for_what_a_dead_supervisor_has_asked_for() {
    for number in 0..4 {
        let context = format!("asked in the middle, {number}");
        let scene = Scene::new();
        scene.write(1);
        let [qemu, runner, supervisor] = [Qemu, Runner, Supervisor].map(|victim| scene.find(victim));
        let mut held_at = Held::at(&scene.sandbox, Point::LayersMade);
        let client = scene.sandbox.spawn(&CREATE);
        held_at.reached();
        assert_eq!(qemu.signal(Signal::Stop).unwrap(), Sent::Delivered);
        drop(held_at);
        let overlay = scene.sandbox.home().join("data.snap.qcow2");
        wait::until("the runner has opened what comes on top", wait::PATIENCE, || {
            if has_open(runner.pid(), &overlay) {
                Ok(())
            } else {
                Err(())
            }
        });
        kill(&[client.handle(), &supervisor]);
        wait::until("a new supervisor asks", wait::PATIENCE, || {
            let activity = scene.sandbox.status("web")["activity"].clone();
            if activity == "snapshotting" {
                Ok(())
            } else {
                Err(activity)
            }
        });
        assert_eq!(qemu.signal(Signal::Cont).unwrap(), Sent::Delivered);
        let list = scene.list();
        scene.write(2);
        scene.sandbox.maqet(&["stop", "web", "--force"]).expect(0);
        assert_eq!(held(&scene.sandbox, &context), 2, "{context}: {list:?}");
        scene.sandbox.maqet(&["start", "web"]).expect(0);
        assert_eq!(scene.list().len(), list.len(), "{context}");
    }
}

/// Whether a process has this file open.
fn has_open(pid: i32, file: &Path) -> bool {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let mut targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.any(|target| target == file)
}

/// What a dead QEMU was asked has no end that anybody could wait for.
#[test]
fn a_stuck_runner_does_not_hold_up_the_vm_of_a_dead_qemu() {
    let scene = Scene::with_snapshot();
    let (qemu, runner) = (scene.find(Qemu), scene.find(Runner));
    let mut held_at = Held::at(&scene.sandbox, Point::LayersMerging);
    let client = scene.sandbox.spawn(&DELETE);
    held_at.reached();
    kill(&[&qemu]);
    let output = client.output();
    assert_ne!(output.code, 0, "{output:#?}");
    kill(&[&runner]);
    drop(held_at);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.sandbox.maqet(&DELETE).expect(0);
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(held(&scene.sandbox, "stuck"), 2);
}
