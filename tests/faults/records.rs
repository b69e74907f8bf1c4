//! What is on disk is not as it was left: another boot, a forged record, a missing directory.

use std::fs;
use std::process::Command;

use maqet_process::identity::ProcessIdentity;
use maqet_tests::Running;
use maqet_tests::wait::{self, PATIENCE};

use crate::scene::{Scene, kill};

#[test]
fn a_host_that_has_rebooted_is_the_reason() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    scene.forge(|launch| {
        let before = "00000000-0000-4000-8000-000000000000";
        before.clone_into(&mut launch.runner.boot_id);
        before.clone_into(&mut launch.qemu.as_mut().unwrap().boot_id);
    });
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    assert_eq!(status["last_exit"]["cause"], "host-rebooted", "{status}");
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn an_innocent_that_a_record_names_survives() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor(), &runner, &qemu]);
    let mut command = Command::new("sleep");
    command.arg("600");
    let innocent = Running::start(command);
    let pid = innocent.handle().pid();
    let ticks = start_ticks(pid);
    // As a kernel would leave it that knows neither inodes nor handles of processes, and gave the number away again.
    scene.forge(|launch| {
        let forge = |identity: &mut ProcessIdentity| {
            identity.pid = pid;
            identity.pidfs_inode = None;
            identity.pidfs_handle = None;
            identity.start_ticks = ticks;
        };
        forge(&mut launch.runner);
        forge(launch.qemu.as_mut().unwrap());
    });
    let status = scene.status();
    assert_eq!(status["status"], "failed", "{status}");
    assert!(status["last_exit"]["cause"].is_string(), "{status}");
    scene.sandbox.maqet(&["rm", "web", "--force", "--yes"]).expect(0);
    assert!(!innocent.handle().has_exited());
}

/// Field 22 of `/proc/PID/stat`.
fn start_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, tail) = stat.rsplit_once(')').unwrap();
    tail.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}

/// The supervisor in place answers, and the VM's runner does.
#[track_caller]
fn assert_reachable(scene: &Scene) {
    wait::until("the supervisor answers and nobody is silent", PATIENCE, || {
        let status = scene
            .sandbox
            .maqet(&["status", "web", "--no-autostart", "-o", "json"]);
        if status.code == 0 && status.json()["silent_since"].is_null() {
            Ok(())
        } else {
            Err(status)
        }
    });
}

#[test]
fn a_runtime_directory_that_was_deleted_is_made_again() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    let supervisor = scene.supervisor();
    for _ in 0..2 {
        fs::remove_dir_all(scene.sandbox.runtime_dir()).unwrap();
        assert_reachable(&scene);
        assert_eq!(scene.supervisor().pid(), supervisor.pid());
        scene.assert_answering();
    }
    // Of a socket alone, as whoever cleans up old files would have it.
    fs::remove_file(scene.sandbox.runtime_dir().join("control.sock")).unwrap();
    assert_reachable(&scene);

    // The next supervisor has no open connection to the runner, which has no socket.
    kill(&[&supervisor]);
    fs::remove_dir_all(scene.sandbox.runtime_dir()).unwrap();
    scene.sandbox.maqet(&["ls"]).expect(0);
    assert_reachable(&scene);
    assert_eq!(scene.processes().0.pid(), runner.pid());
    assert_eq!(scene.processes().1.pid(), qemu.pid());
    scene.assert_answering();
    scene.assert_ticking();
    scene.assert_stops();
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn without_runtime_directory_and_runner_a_vm_can_still_be_seen_and_forced() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    fs::remove_dir_all(scene.sandbox.runtime_dir()).unwrap();
    kill(&[&runner]);
    let status = scene.status();
    assert_eq!(status["status"], "running", "{status}");
    scene.assert_ticking();
    // QEMU's own sockets are gone with the directory: nobody can talk to it any more.
    let stop = scene
        .sandbox
        .maqet(&["stop", "web", "--timeout", "1s", "-o", "json"]);
    assert_ne!(stop.code, 0, "{stop:#?}");
    assert!(stop.error()["hint"].to_string().contains("--force"), "{stop:#?}");
    assert!(!qemu.has_exited());
    let stopped = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}
