//! A VM that runs gets a disk, and whoever takes part is killed: QEMU has it and the record says so, or neither; nothing of it is
//! left over in QEMU, what the guest writes is there, and the VM starts.
#![cfg(debug_assertions)]

use std::time::Duration;

use maqet_process::point::Point;
use maqet_process::signal::Signal;
use maqet_process::{ProcessHandle, Sent};
use maqet_tests::monitor::Monitor;
use maqet_tests::{Guest, Held, Output, Sandbox, qemu_img, wait};
use serde_json::{Value, json};

use crate::scene::{kill, process, say};

const ATTACH: [&str; 6] = ["storage", "attach", "web", "new.qcow2", "--disk", "new"];
const POINTS: [Point; 5] = [
    Point::PlugIntended,
    Point::PlugImages,
    Point::PlugDone,
    Point::PlugAnswered,
    Point::WorkRecorded,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Supervisor,
    Runner,
    Qemu,
    Client,
}
use Victim::{Client, Qemu, Runner, Supervisor};

const SETS: [&[Victim]; 8] = [
    &[Supervisor],
    &[Runner],
    &[Qemu],
    &[Client],
    &[Supervisor, Client],
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
        Self::with("restart: never")
    }

    /// With one more line in its VM's file.
    fn with(line: &str) -> Self {
        let sandbox = Sandbox::new();
        qemu_img::run_in(sandbox.home(), &["create", "-q", "-f", "raw", "base.raw", "1M"]);
        qemu_img::overlay_on("base.raw", &sandbox.home().join("new.qcow2"));
        qemu_img::create(&sandbox.home().join("second.qcow2"), "qcow2", "1M");
        let id = Guest::tiny("web")
            .machine("q35")
            .line(line)
            .line("disks: {root: {path: ./root.qcow2, size: 1M}}")
            .start(&sandbox);
        Self { sandbox, id }
    }

    fn find(&self, victim: Victim) -> Option<ProcessHandle> {
        let status = self.sandbox.status("web");
        let pid = match victim {
            Supervisor => self.sandbox.json(&["supervisor", "status"])["pid"].clone(),
            Runner => status["runner_pid"].clone(),
            Qemu => status["pid"].clone(),
            Client => return None,
        };
        Some(process(&pid))
    }

    /// Disks on record, once nobody works on them any more.
    fn disks(&self) -> Vec<String> {
        let settled = wait::until("the VM's disks are settled", wait::PATIENCE, || {
            // One of which the runner is being replaced is asked once that is done.
            let listed = self.sandbox.maqet(&["snapshot", "list", "web"]);
            let told = self.sandbox.status("web");
            if told["activity"] == "idle" && listed.code == 0 {
                Ok(told)
            } else {
                Err((told, listed))
            }
        });
        let disks = settled["disks"].as_array().unwrap().iter();
        disks
            .map(|disk| disk["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn lives(&self) -> bool {
        self.sandbox.status("web")["status"] == "running"
    }

    /// What QEMU has is what is on record, and nothing else.
    fn assert_agree(&self, disks: &[String], context: &str) {
        let mut monitor = Monitor::of(&self.sandbox, &self.id);
        let devices = monitor.run("query-block", &json!({})).unwrap();
        let devices: Vec<Value> = devices.as_array().unwrap().clone();
        let nodes: Vec<_> = devices.iter().map(|one| &one["inserted"]["node-name"]).collect();
        assert_eq!(nodes.len(), disks.len(), "{context}: {nodes:?}");
        assert!(
            disks.iter().all(|disk| nodes.contains(&&json!(disk))),
            "{context}: {nodes:?}"
        );
        let all = monitor
            .run("query-named-block-nodes", &json!({"flat": true}))
            .unwrap();
        let sets = monitor.run("query-fdsets", &json!({})).unwrap();
        // A file and an image each; the new disk stands on another.
        let (all, sets) = (all.as_array().unwrap().len(), sets.as_array().unwrap().len());
        let images = if disks.len() == 2 { 3 } else { 1 };
        assert_eq!((all, sets), (2 * images, images), "{context}");
    }

    /// What the guest writes to the new disk, and flushes.
    fn write(&self, pattern: u8) {
        let mut monitor = Monitor::of(&self.sandbox, &self.id);
        let devices = monitor.run("query-block", &json!({})).unwrap();
        let mut devices = devices.as_array().unwrap().iter();
        let new = devices.find(|one| one["inserted"]["node-name"] == "new").unwrap();
        let device = new["qdev"].as_str().unwrap();
        for command in [&format!("write -P {pattern} 0 1M"), "flush"] {
            let line = format!("qemu-io -d {device} \"{command}\"");
            let line = json!({"command-line": line});
            let done = monitor.run("human-monitor-command", &line).unwrap();
            assert!(!done.as_str().unwrap().contains("rror"), "{done}");
        }
    }

    fn content(&self) -> u8 {
        let bytes = qemu_img::content(&self.sandbox.home().join("new.qcow2"));
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    }
}

fn play(point: Point, victims: &[Victim]) {
    let context = format!("at {}, {victims:?} killed", point.name());
    say(&context);
    let scene = Scene::new();
    let found: Vec<_> = victims.iter().filter_map(|victim| scene.find(*victim)).collect();
    let mut held_at = Held::at(&scene.sandbox, point);
    let client = scene.sandbox.spawn(&ATTACH);
    held_at.reached();
    let client_too = victims.contains(&Client).then(|| client.handle());
    kill(&found.iter().chain(client_too).collect::<Vec<_>>());
    drop(held_at);
    let output = client.output();
    let disks = scene.disks();
    let attached = disks == ["root", "new"];
    assert!(attached || disks == ["root"], "{context}: {disks:?}");
    let context = format!(
        "{context}; {}",
        scene.sandbox.maqet(&["events", "--vm", "web"]).stdout
    );
    judge(victims, &output, attached, &context);
    assert_eq!(scene.lives(), !victims.contains(&Qemu), "{context}");
    if scene.lives() {
        scene.assert_agree(&disks, &context);
    }
    // The same again is no trouble.
    if !attached {
        scene.sandbox.maqet(&ATTACH).expect(0);
    }
    if !scene.lives() {
        scene.sandbox.maqet(&["start", "web"]).expect(0);
    }
    scene.write(5);
    scene.assert_agree(&["root".to_owned(), "new".to_owned()], &context);
    // Whoever looks after QEMU now knows all its disks.
    scene
        .sandbox
        .maqet(&["storage", "attach", "web", "second.qcow2"])
        .expect(0);
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(scene.content(), 5, "{context}");
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.write(6);
}

/// Who is told that it is attached has it; a client that lives is told of its own disk, whoever of maqet died meanwhile.
fn judge(victims: &[Victim], output: &Output, attached: bool, context: &str) {
    assert!(output.code != 0 || attached, "{context}: {output:#?}");
    // What was begun is done where QEMU lives, whoever else died.
    if !victims.contains(&Qemu) {
        assert!(attached, "{context}: {output:#?}");
        assert_eq!(
            output.code == 0,
            !victims.contains(&Client),
            "{context}: {output:#?}"
        );
    }
}

fn play_all(points: &[Point]) {
    for point in points {
        for victims in SETS {
            play(*point, victims);
        }
    }
}

#[test]
fn at_the_supervisors_points() {
    play_all(&[POINTS[0], POINTS[3], POINTS[4]]);
}

#[test]
fn at_the_runners_points() {
    play_all(&POINTS[1..3]);
}

/// A QEMU that does not take the disk now is told again once it answers.
#[test]
fn a_frozen_qemu_gets_it_once_it_is_let_go() {
    let scene = Scene::new();
    let qemu = scene.find(Qemu).unwrap();
    let mut held_at = Held::at(&scene.sandbox, Point::PlugIntended);
    let client = scene.sandbox.spawn(&ATTACH);
    held_at.reached();
    assert_eq!(qemu.signal(Signal::Stop).unwrap(), Sent::Delivered);
    drop(held_at);
    // Nobody else begins anything with its disks, and it can be looked at and ended.
    let busy = scene.sandbox.maqet(&["snapshot", "create", "web", "snap"]);
    assert_eq!(busy.code, 5, "{busy:#?}");
    scene.sandbox.maqet(&["status", "web"]).expect(0);
    let told = scene.sandbox.maqet(&["storage", "info", "web"]).expect(0).stdout;
    assert!(told.contains("on its way to QEMU as disk `new`"), "{told}");
    assert_eq!(qemu.signal(Signal::Cont).unwrap(), Sent::Delivered);
    assert_eq!(client.output().code, 0);
    assert_eq!(scene.disks(), ["root", "new"]);
    scene.write(7);
}

#[test]
fn a_vm_that_is_being_given_a_disk_can_be_ended() {
    for (words, ended) in [
        (&["stop", "web", "--force"][..], "stopped"),
        (&["rm", "web", "--force", "--yes"], "gone"),
    ] {
        let scene = Scene::new();
        let qemu = scene.find(Qemu).unwrap();
        let mut held_at = Held::at(&scene.sandbox, Point::PlugImages);
        let client = scene.sandbox.spawn(&ATTACH);
        held_at.reached();
        // With a QEMU that does not answer, as in the worst of cases.
        assert_eq!(qemu.signal(Signal::Stop).unwrap(), Sent::Delivered);
        drop(held_at);
        let done = scene.sandbox.maqet(words).expect(0);
        assert!(done.took < Duration::from_secs(30), "{done:#?}");
        let told = client.output();
        assert_ne!(told.code, 0, "{told:#?}");
        if ended == "stopped" {
            assert_eq!(scene.disks(), ["root"]);
            scene.sandbox.maqet(&ATTACH).expect(0);
            scene.sandbox.maqet(&["start", "web"]).expect(0);
            scene.write(8);
        }
        // The file of a person stays, whatever becomes of the VM.
        assert!(scene.sandbox.home().join("new.qcow2").exists());
    }
}

/// The policy about a lost runner is carried out once what was under way has come to its end.
#[test]
fn a_vm_that_ends_with_its_runner_ends_although_it_is_being_given_a_disk() {
    for point in [Point::PlugIntended, Point::PlugImages, Point::PlugAnswered] {
        let scene = Scene::with("on_runner_loss: stop");
        let runner = scene.find(Runner).unwrap();
        let mut held_at = Held::at(&scene.sandbox, point);
        let client = scene.sandbox.spawn(&ATTACH);
        held_at.reached();
        kill(&[&runner]);
        drop(held_at);
        client.output();
        scene
            .sandbox
            .maqet(&["wait", "web", "exit", "--timeout", "60s"])
            .expect(0);
        let status = scene.sandbox.status("web");
        assert_eq!(
            status["last_exit"]["cause"],
            "runner-lost",
            "{}: {status}",
            point.name()
        );
    }
}

/// Between the look at it and its use a file is exchanged.
#[test]
fn a_file_that_was_exchanged_is_not_given_to_qemu() {
    let scene = Scene::new();
    let mut held_at = Held::at(&scene.sandbox, Point::PlugIntended);
    let client = scene.sandbox.spawn(&ATTACH);
    held_at.reached();
    let (image, copy) = (
        scene.sandbox.home().join("new.qcow2"),
        scene.sandbox.home().join("copy"),
    );
    std::fs::copy(&image, &copy).unwrap();
    std::fs::rename(&copy, &image).unwrap();
    drop(held_at);
    let output = client.output();
    assert_eq!(output.code, 5, "{output:#?}");
    assert!(output.stderr.contains("exchanged"), "{output:#?}");
    let disks = scene.disks();
    assert_eq!(disks, ["root"]);
    scene.assert_agree(&disks, "exchanged");
    scene.sandbox.maqet(&ATTACH).expect(0);
    scene.write(9);
}
