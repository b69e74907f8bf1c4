//! A snapshot that QEMU was loading when it died: the disks may hold different moments, nothing boots from them before
//! somebody has said which, and loading the snapshot makes them agree.
#![cfg(debug_assertions)]

use std::path::PathBuf;

use maqet_process::ProcessHandle;
use maqet_process::point::Point;
use maqet_tests::{Guest, Held, Sandbox, qemu_img, truth};

use crate::scene::{kill, say};

const DISKS: [&str; 2] = ["root", "data"];
/// What the disks hold when the snapshot is made, and later.
const OLD: u8 = 1;
const NOW: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Supervisor,
    Runner,
    Qemu,
}

const SETS: [&[Victim]; 4] = [
    &[Victim::Qemu],
    &[Victim::Runner, Victim::Qemu],
    &[Victim::Supervisor, Victim::Qemu],
    &[Victim::Supervisor, Victim::Runner, Victim::Qemu],
];

struct Scene(Sandbox);

impl Scene {
    /// A VM that runs, with a snapshot with memory of disks that hold other things now.
    fn new() -> Self {
        let sandbox = Sandbox::new();
        add(&sandbox, "128M");
        let scene = Self(sandbox);
        let write = |byte| DISKS.map(|disk| qemu_img::write(&scene.image(disk), byte));
        scene.say(&["start", "web"]);
        scene.say(&["stop", "web"]);
        write(OLD);
        scene.say(&["start", "web"]);
        scene.say(&["snapshot", "create", "web", "snap", "--memory"]);
        scene.say(&["stop", "web"]);
        write(NOW);
        scene.say(&["start", "web"]);
        scene
    }

    fn say(&self, words: &[&str]) {
        self.0.maqet(words).expect(0);
    }

    fn image(&self, disk: &str) -> PathBuf {
        self.0.home().join(format!("{disk}.qcow2"))
    }

    fn holds(&self) -> [u8; 2] {
        DISKS.map(|disk| qemu_img::content(&self.image(disk))[0])
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

    /// Nobody boots from these disks; it is told why, and what mends it.
    fn is_refused(&self, words: &[&str], context: &str) {
        let words: Vec<_> = ["-o", "json"].iter().chain(words).copied().collect();
        let refused = self.0.maqet(&words).expect(3);
        let error = refused.error();
        assert_eq!(error["code"], "disk-damaged", "{context}, {words:?}: {error}");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains("maqet snapshot load web snap"), "{context}: {hint}");
    }
}

fn add(sandbox: &Sandbox, memory: &str) {
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 data: {path: ./data.qcow2, size: 4M, interface: ide}}";
    let file = Guest::tiny("web").options(&["ticks"]).line(disks).write(sandbox);
    let memory = format!("memory={memory}");
    sandbox
        .maqet(&["add", file.to_str().unwrap(), "--set", &memory])
        .expect(0);
}

/// Kills these while QEMU loads; what QEMU had then done to one disk is done by hand.
fn cut_off(scene: &Scene, point: Point, victims: &[Victim]) -> String {
    let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
    let mut held = Held::at(&scene.0, point);
    let client = scene.0.spawn(&["snapshot", "load", "web", "snap", "--memory"]);
    held.reached();
    let context = format!("{victims:?} killed at {}", point.name());
    say(&context);
    kill(&found.iter().collect::<Vec<_>>());
    drop(held);
    assert_ne!(client.output().code, 0, "{context}");
    truth::settled(&scene.0);
    for (disk, byte) in DISKS.into_iter().zip([OLD, NOW]) {
        qemu_img::check(&scene.image(disk));
        qemu_img::write(&scene.image(disk), byte);
    }
    context
}

#[test]
fn disks_of_two_moments_are_not_booted_until_a_load_makes_them_agree() {
    for point in [Point::SnapshotAsked, Point::SnapshotJob] {
        for victims in SETS {
            let scene = Scene::new();
            let context = cut_off(&scene, point, victims);
            scene.is_refused(&["start", "web"], &context);
            scene.is_refused(&["start", "web"], &context);
            scene.is_refused(&["snapshot", "delete", "web", "snap"], &context);
            scene.is_refused(&["snapshot", "create", "web", "other", "--external"], &context);
            let status = scene.0.status("web");
            assert_eq!(
                status["disks"][0]["trouble"]["problem"], "damaged",
                "{context}: {status}"
            );
            let why = scene.0.maqet(&["why", "web"]).expect(0).stdout;
            assert!(why.contains("different moments"), "{context}: {why}");
            let next =
                "then maqet snapshot load web snap; or use each disk as it is: maqet storage accept web DISK";
            assert!(
                why.contains("next: ") && why.ends_with(&format!("{next}\n")),
                "{context}: {why}"
            );
            let doctor = scene.0.maqet(&["doctor"]).stdout;
            assert!(
                doctor.contains(next) && !doctor.contains("--repair"),
                "{context}: {doctor}"
            );
            scene.say(&["snapshot", "load", "web", "snap"]);
            assert_eq!(scene.holds(), [OLD; 2], "{context}");
            scene.say(&["start", "web"]);
        }
    }
}

/// The VM's file, added again, would boot from them.
#[test]
fn disks_of_two_moments_are_not_forgotten_by_the_way() {
    let scene = Scene::new();
    cut_off(&scene, Point::SnapshotJob, &[Victim::Qemu]);
    let refused = scene.0.maqet(&["rm", "web", "-o", "json"]).expect(3);
    let error = refused.error();
    assert_eq!(error["code"], "wrong-state", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("different moments"), "{error}");
    let hint = error["hint"].as_str().unwrap();
    for way in [
        "maqet snapshot load web snap",
        "maqet storage accept web DISK",
        "--delete-storage",
        "--force",
    ] {
        assert!(hint.contains(way), "{way}: {hint}");
    }
    scene.say(&["snapshot", "load", "web", "snap"]);
    scene.say(&["rm", "web"]);
    // Whoever knows it may still have it so.
    let scene = Scene::new();
    cut_off(&scene, Point::SnapshotJob, &[Victim::Qemu]);
    scene.say(&["rm", "web", "--force"]);
    assert!(scene.image("root").exists());
}

#[test]
fn a_load_that_is_cut_off_again_is_still_not_booted() {
    let scene = Scene::new();
    let context = cut_off(&scene, Point::SnapshotJob, &[Victim::Qemu]);
    let supervisor = scene.find(Victim::Supervisor);
    let mut held = Held::at(&scene.0, Point::SnapshotIntended);
    let client = scene.0.spawn(&["snapshot", "load", "web", "snap"]);
    held.reached();
    // The client would ask again.
    kill(&[&supervisor, client.handle()]);
    drop(held);
    client.output();
    truth::settled(&scene.0);
    scene.is_refused(&["start", "web"], &context);
    // A table that is whole says nothing about moments, and one disk of two does not make them agree.
    scene.say(&["storage", "verify", "web", "--repair"]);
    scene.say(&["snapshot", "load", "web", "snap", "--disk", "root"]);
    scene.is_refused(&["start", "web"], &context);
    scene.say(&["storage", "accept", "web", "root"]);
    scene.is_refused(&["start", "web"], &context);
    scene.say(&["storage", "accept", "web", "data"]);
    scene.say(&["start", "web"]);
    assert_eq!(scene.0.status("web")["status"], "running");
}

#[test]
fn a_load_that_fails_does_not_let_the_guest_go_on() {
    let scene = Scene::new();
    scene.say(&["stop", "web"]);
    scene.say(&["rm", "web", "--yes"]);
    // QEMU goes back with the disks first, and finds then that the memory does not fit.
    add(&scene.0, "192M");
    scene.say(&["start", "web"]);
    let failed = scene.0.maqet(&["snapshot", "load", "web", "snap", "--memory"]);
    assert_ne!(failed.code, 0, "{failed:#?}");
    assert_eq!(scene.0.status("web")["status"], "running");
    scene.is_refused(&["resume", "web"], "halted");
    scene.say(&["stop", "web", "--force"]);
    scene.is_refused(&["start", "web"], "ended");
    scene.say(&["snapshot", "load", "web", "snap"]);
    assert_eq!(scene.holds(), [OLD; 2]);
    scene.say(&["start", "web"]);
}

#[test]
fn a_load_that_outlives_its_supervisor_is_told_by_the_qemu_that_did_it() {
    for victims in [&[Victim::Supervisor][..], &[Victim::Supervisor, Victim::Runner]] {
        let scene = Scene::new();
        let found: Vec<_> = victims.iter().map(|victim| scene.find(*victim)).collect();
        let mut held = Held::at(&scene.0, Point::SnapshotJob);
        let client = scene.0.spawn(&["snapshot", "load", "web", "snap", "--memory"]);
        held.reached();
        let all: Vec<_> = found.iter().chain([client.handle()]).collect();
        say(&format!("{victims:?} killed"));
        kill(&all);
        drop(held);
        client.output();
        truth::settled(&scene.0);
        let settled = |storage: &serde_json::Value| storage[0]["unsettled"].is_null();
        maqet_tests::wait::until("QEMU is asked", maqet_tests::wait::PATIENCE, || {
            let storage = scene.0.json(&["storage", "info", "web"]);
            if settled(&storage) { Ok(()) } else { Err(storage) }
        });
        // The guest has gone on since: its end is no reason to go back.
        kill(&[&scene.find(Victim::Qemu)]);
        truth::settled(&scene.0);
        scene.say(&["start", "web"]);
    }
}
