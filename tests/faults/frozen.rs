//! A runner that is frozen while something is done to its VM, or while nobody is there to notice.

use std::time::Duration;

use maqet_process::{ProcessHandle, Signal};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};

use crate::scene::{Scene, VM, kill, kinds, say, signal};

/// More than a supervisor takes to come up and to give a frozen runner its chance, less than a call is given.
const PROMPT: Duration = Duration::from_millis(2500);

fn frozen() -> (Scene, ProcessHandle, ProcessHandle) {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    (scene, runner, qemu)
}

#[test]
fn a_new_supervisor_does_not_wait_for_a_frozen_runner() {
    let (scene, runner, qemu) = frozen();
    Guest::none("well").start(&scene.sandbox);
    kill(&[&scene.supervisor()]);
    let first = scene.sandbox.maqet(&["ls", "-o", "json"]).expect(0);
    assert!(first.took < PROMPT, "{first:#?}");
    say(&format!(
        "a frozen runner, a new supervisor: the first `ls` after {:.0?}",
        first.took
    ));
    let listed = first.json();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["status"]),
        (&VM.into(), &"running".into())
    );
    assert!(listed[0]["silent_since"].is_string(), "{listed}");
    assert_eq!(listed[1]["status"], "running", "{listed}");
    assert!(listed[1]["silent_since"].is_null(), "{listed}");
    signal(&runner, Signal::Cont);
    wait::until("the runner is heard again", PATIENCE, || {
        let status = scene.status();
        if status["silent_since"].is_null() {
            Ok(())
        } else {
            Err(status)
        }
    });
    let (runner_now, qemu_now) = scene.processes();
    assert_eq!((runner_now.pid(), qemu_now.pid()), (runner.pid(), qemu.pid()));
    assert!(kinds(&scene.sandbox).iter().any(|kind| kind == "runner.adopted"));
    scene.assert_answering();
    scene.assert_ticking();
    scene.assert_stops_beside(2);
}

#[test]
fn a_new_supervisor_ends_a_frozen_runner_whose_qemu_is_dead() {
    let (scene, runner, qemu) = frozen();
    kill(&[&scene.supervisor(), &qemu]);
    let first = scene.sandbox.maqet(&["ls", "-o", "json"]).expect(0);
    assert!(first.took < PROMPT, "{first:#?}");
    assert_eq!(first.json()[0]["status"], "failed", "{first:#?}");
    assert!(runner.has_exited());
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", VM]).expect(0);
    scene.assert_stops();
}

/// Every command sees at once that QEMU is dead, though nobody can tell how it died.
#[test]
fn no_command_takes_a_dead_qemu_for_a_running_one() {
    let dead = || {
        let (scene, _runner, qemu) = frozen();
        kill(&[&qemu]);
        (scene, qemu)
    };
    let (scene, qemu) = dead();
    let started = scene.sandbox.json(&["start", VM]);
    assert_eq!(started[0]["already"], false, "{started}");
    assert_ne!(started[0]["pid"].as_i64(), Some(qemu.pid().into()), "{started}");
    scene.assert_stops();

    let (scene, _qemu) = dead();
    let stopped = scene.sandbox.json(&["stop", VM]);
    assert_eq!(stopped[0]["how"], "already", "{stopped}");
    assert_eq!(scene.status()["last_exit"]["cause"], "qemu-killed");

    let (scene, _qemu) = dead();
    let refused = scene
        .sandbox
        .maqet(&["pause", VM, "-o", "json"])
        .expect(3)
        .error();
    assert_eq!(refused["state"], "failed", "{refused}");

    let (scene, _qemu) = dead();
    scene.sandbox.maqet(&["rm", VM, "--yes"]).expect(0);
    scene.assert_processes(1);
}

#[test]
fn a_stop_gives_up_on_a_runner_that_freezes_on_the_way() {
    let sandbox = Sandbox::new();
    // A guest that no power button reaches: the ladder takes the whole budget.
    let id = Guest::none(VM).line("stop: {timeout: 10m}").start(&sandbox);
    let scene = Scene { sandbox, id };
    let (runner, qemu) = scene.processes();
    let stop = scene.sandbox.spawn(&["stop", VM, "-o", "json"]);
    wait::until("the runner has begun", PATIENCE, || {
        let told = kinds(&scene.sandbox);
        if told.iter().any(|kind| kind == "qmp.POWERDOWN") {
            Ok(())
        } else {
            Err(told)
        }
    });
    signal(&runner, Signal::Stop);
    let error = stop.output().expect(1).error();
    assert_eq!(error["code"], "not-answering", "{error}");
    assert_eq!(error["hint"], "maqet stop --force web", "{error}");
    assert!(!qemu.has_exited());
    assert_eq!(scene.status()["status"], "running");
    let stopped = scene.sandbox.json(&["stop", VM, "--force"]);
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    scene.assert_processes(1);
}
