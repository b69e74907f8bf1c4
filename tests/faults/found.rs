//! What a new supervisor finds and cannot make sense of at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use maqet_process::Signal;
use maqet_state::record::{Intent, Launch};

use crate::scene::{Scene, kill, signal};

#[test]
fn a_vm_nobody_can_tell_about_is_left_alone() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    let elsewhere = |launch: &mut Launch, step: fn(u64) -> u64| {
        launch.runner.pidns_inode = step(launch.runner.pidns_inode);
        let qemu = launch.qemu.as_mut().unwrap();
        qemu.pidns_inode = step(qemu.pidns_inode);
    };
    scene.forge(|launch| elsewhere(launch, |inode| inode + 1));
    let refused = scene
        .sandbox
        .maqet(&["stop", "web", "--force", "-o", "json"])
        .expect(1);
    assert_eq!(refused.error()["code"], "not-answering", "{refused:#?}");
    assert!(!qemu.has_exited() && !runner.has_exited());
    kill(&[&scene.supervisor()]);
    scene.forge(|launch| elsewhere(launch, |inode| inode - 1));
    scene.assert_answering();
    scene.assert_stops();
}

#[test]
fn a_runner_that_cannot_say_how_its_qemu_ended_is_ended() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    kill(&[&scene.supervisor(), &qemu]);
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    scene.assert_processes(1);
}

#[test]
fn what_was_wanted_is_the_reason_when_nobody_is_left_to_tell() {
    let scene = Scene::new();
    for (intent, cause) in [
        (Intent::Stop, "stop"),
        (Intent::StopForced, "stop-forced"),
        (Intent::HostShutdown, "host-shutdown"),
    ] {
        let (runner, qemu) = scene.processes();
        kill(&[&scene.supervisor(), &runner, &qemu]);
        scene.forge(|launch| launch.intent = intent);
        let status = scene.status();
        assert_eq!(status["status"], "stopped", "{status}");
        assert_eq!(status["last_exit"]["cause"], cause, "{status}");
        scene.sandbox.maqet(&["start", "web"]).expect(0);
    }
}

#[test]
fn a_runtime_directory_open_to_others_is_not_used() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    let directory = scene.sandbox.runtime_dir().join("vms").join(&scene.id);
    let mode = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    kill(&[&scene.supervisor()]);
    scene.sandbox.maqet(&["stop", "web", "--timeout", "1s"]).expect(1);
    kill(&[&scene.supervisor(), &runner]);
    scene.sandbox.maqet(&["stop", "web", "--timeout", "1s"]).expect(1);
    assert!(!qemu.has_exited());
    mode(0o700);
    kill(&[&scene.supervisor()]);
    scene.adopted_after(&runner);
    scene.assert_stops();
}
