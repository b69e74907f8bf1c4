//! What is on disk is not as it was left: another boot, a forged record, a missing directory.

use std::fs;
use std::process::Command;

use maqet_process::Signal;
use maqet_process::identity::ProcessIdentity;
use maqet_tests::Running;

use crate::scene::{Scene, kill, signal};

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

#[test]
fn without_its_runtime_directory_a_vm_can_still_be_seen_and_forced() {
    let scene = Scene::new();
    let (_runner, qemu) = scene.processes();
    let supervisor = scene.supervisor();
    fs::remove_dir_all(scene.sandbox.runtime_dir()).unwrap();
    // Nobody can be reached; a second supervisor is not let in, and names the first.
    let refused = scene.sandbox.maqet(&["ls"]).expect(75);
    assert!(
        refused.stderr.contains(&supervisor.pid().to_string()),
        "{refused:#?}"
    );
    scene.assert_ticking();

    signal(&supervisor, Signal::Term);
    assert!(maqet_tests::wait::exited(
        &supervisor,
        maqet_tests::wait::PATIENCE
    ));
    let status = scene.status();
    assert_eq!(status["status"], "running", "{status}");
    let stop = scene
        .sandbox
        .maqet(&["stop", "web", "--timeout", "1s", "-o", "json"]);
    let error = stop.expect(1).error();
    assert_eq!(error["code"], "not-answering", "{error}");
    assert!(error["hint"].to_string().contains("--force"), "{error}");
    assert!(!qemu.has_exited());
    let stopped = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}
