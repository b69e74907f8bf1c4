//! The runner dies or freezes; QEMU and its guest go on.

use maqet_process::Signal;
use maqet_process::point::Point;
use maqet_tests::truth::{self, Kind};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Held, Sandbox};

use crate::scene::{Scene, VM, kill, signal, wait_for};

#[test]
fn a_killed_runner_is_replaced_and_the_guest_notices_nothing() {
    let scene = Scene::new();
    let (mut runner, qemu) = scene.processes();
    for _ in 0..2 {
        kill(&[&runner]);
        runner = scene.adopted_after(&runner);
        scene.assert_ticking();
        scene.assert_answering();
    }
    assert!(!qemu.has_exited());
    // Supervisor, one runner, QEMU.
    scene.assert_processes(3);
    scene.assert_stops();
}

#[test]
fn the_end_of_an_adopted_qemu_is_known_too() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&runner]);
    scene.adopted_after(&runner);
    kill(&[&qemu]);
    let exit = scene.ended("failed");
    assert_eq!(
        (&exit["cause"], &exit["signal"]),
        (&"qemu-killed".into(), &9.into()),
        "{exit}"
    );
    scene.assert_processes(1);
}

#[test]
fn a_runner_that_takes_qemu_along_leaves_a_failed_vm() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&runner, &qemu]);
    let exit = scene.ended("failed");
    assert_eq!(
        (&exit["cause"], &exit["signal"]),
        (&"qemu-killed".into(), &9.into()),
        "{exit}"
    );
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn a_stop_survives_the_loss_of_its_runner() {
    // Powers off a second after the button: time enough to lose the runner.
    let scene = Scene::with(&["later"]);
    let (runner, _qemu) = scene.processes();
    let stop = scene.sandbox.spawn(&["stop", "web", "-o", "json"]);
    wait_for(&scene.sandbox, "vm.stopping");
    kill(&[&runner]);
    let stopped = stop.output().expect(0).json();
    assert_eq!(stopped[0]["status"], "stopped", "{stopped}");
    assert_eq!(scene.status()["status"], "stopped");
    scene.assert_processes(1);
}

#[test]
fn a_stop_right_after_the_loss_of_the_runner_waits_for_the_next_one() {
    let scene = Scene::new();
    let (runner, _qemu) = scene.processes();
    kill(&[&runner]);
    scene.assert_stops();
}

#[test]
fn a_kill_right_after_the_loss_of_the_runner_leaves_nothing_behind() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&runner]);
    let stopped = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(stopped[0]["status"], "stopped", "{stopped}");
    assert!(qemu.has_exited());
    // The next runner may be there already; it asks QEMU to quit before anybody kills it.
    let cause = &scene.status()["last_exit"]["cause"];
    let expected = if stopped[0]["how"] == "quit" {
        "stop"
    } else {
        "stop-forced"
    };
    assert_eq!(cause, expected, "{stopped}");
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn a_frozen_runner_keeps_nobody_waiting() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    let listed = scene.sandbox.json(&["ls", "--deadline", "5s"]);
    assert_eq!(listed[0]["status"], "running", "{listed}");
    scene.assert_ticking();
    let stopped = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(stopped[0]["how"], "killed", "{stopped}");
    assert!(qemu.has_exited());
    assert_eq!(scene.status()["last_exit"]["cause"], "stop-forced");
    scene.assert_processes(1);
}

#[test]
fn a_stop_that_a_frozen_runner_holds_up_can_be_forced() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    let plain = scene.sandbox.spawn(&["stop", "web", "-o", "json"]);
    wait_for(&scene.sandbox, "vm.stopping");
    let forced = scene.sandbox.json(&["stop", "web", "--force"]);
    assert_eq!(forced[0]["how"], "killed", "{forced}");
    assert!(qemu.has_exited());
    // Both get the same answer: it is stopped, and by force.
    let plain = plain.output().expect(0).json();
    assert_eq!(plain[0]["status"], "stopped", "{plain}");
    let exit = &scene.status()["last_exit"];
    assert_eq!(exit["cause"], "stop-forced", "{exit}");
    scene.assert_processes(1);
}

#[test]
fn a_runner_that_was_frozen_for_a_new_supervisor_is_heard_again() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    kill(&[&scene.supervisor()]);
    let status = scene.status();
    assert_eq!(status["status"], "running", "{status}");
    assert!(!status["silent_since"].is_null(), "{status}");
    signal(&runner, Signal::Cont);
    wait::until("it is heard", PATIENCE, || {
        let status = scene.status();
        if status["silent_since"].is_null() {
            Ok(())
        } else {
            Err(status)
        }
    });
    assert!(!qemu.has_exited() && !runner.has_exited());
    scene.assert_answering();
    scene.assert_stops();
}

/// QEMU runs, and that is not durable yet: somebody may have been told of the start a moment ago.
#[cfg(debug_assertions)]
#[test]
fn a_start_that_is_not_durable_is_not_undone_because_its_runner_is_frozen() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny(VM).options(&["ticks"]).add(&sandbox);
    let scene = Scene { sandbox, id };
    let supervisor = scene.supervisor();
    let mut held = Held::at(&scene.sandbox, Point::StartAnswered);
    let client = scene.sandbox.spawn(&["start", VM]);
    held.reached();
    let runner = truth::processes(&scene.sandbox, Kind::Runner, None).remove(0);
    let qemu = truth::processes(&scene.sandbox, Kind::Qemu, None).remove(0);
    signal(&runner, Signal::Stop);
    kill(&[client.handle(), &supervisor]);
    drop(held);
    let status = scene.status();
    assert_eq!(
        (&status["status"], &status["pid"]),
        (&"running".into(), &qemu.pid().into()),
        "{status}"
    );
    assert!(!status["silent_since"].is_null(), "{status}");
    signal(&runner, Signal::Cont);
    wait::until("it is heard", PATIENCE, || {
        let status = scene.status();
        if status["silent_since"].is_null() {
            Ok(())
        } else {
            Err(status)
        }
    });
    scene.assert_ticking();
    scene.assert_answering();
    assert!(!qemu.has_exited() && !runner.has_exited());
    scene.assert_stops();
}

#[test]
fn a_frozen_runner_that_dies_is_replaced() {
    let scene = Scene::new();
    let (runner, _qemu) = scene.processes();
    signal(&runner, Signal::Stop);
    kill(&[&scene.supervisor()]);
    assert_eq!(scene.status()["status"], "running");
    kill(&[&runner]);
    scene.adopted_after(&runner);
    scene.assert_ticking();
    scene.assert_stops();
}
