//! Ends that nobody asked for through the socket.

use maqet_process::pidfd::ExitStatus;
use maqet_process::signal::Signal;
use maqet_protocol::runner::{Release, RunnerFact};
use maqet_spec::vm::{OnReboot, VmSpec};
use maqet_state::lifecycle::{Cause, LastExit};
use tokio::time::timeout;

use crate::scene::{DEADLINE, Scene, call, send, spec};

/// Lets a guest run that ends by itself; returns how, as told and as noted.
async fn ends_by_itself(spec: VmSpec) -> LastExit {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut facts = scene.watch().await;
    scene.prepare(&mut owner, spec).await.unwrap();
    call(&mut owner, &Release {}).await.unwrap();
    let fact = facts
        .until(|fact| matches!(fact, RunnerFact::QemuExited { .. }))
        .await;
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert_eq!(scene.left_behind(), ["exit.json"]);
    let noted = scene.exit_note().exit;
    assert_eq!(fact, RunnerFact::QemuExited { exit: noted.clone() });
    noted
}

#[tokio::test]
async fn a_guest_powers_itself_off() {
    let exit = ends_by_itself(spec(&["poweroff"])).await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::GuestShutdown, Some(0)));
}

#[tokio::test]
async fn a_guest_resets_for_the_last_time() {
    let mut spec = spec(&["reset"]);
    spec.on_reboot = OnReboot::Stop;
    let exit = ends_by_itself(spec).await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::GuestReset, Some(0)));
}

#[tokio::test]
async fn a_guest_panics() {
    let exit = ends_by_itself(spec(&["panic"])).await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::GuestPanic, Some(0)));
}

#[tokio::test]
async fn a_guest_that_resets_goes_on() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut facts = scene.watch().await;
    scene.prepare(&mut owner, spec(&["reset"])).await.unwrap();
    call(&mut owner, &Release {}).await.unwrap();
    for _ in 0..3 {
        facts
            .until(|fact| matches!(fact, RunnerFact::QmpEvent { name, .. } if name == "RESET"))
            .await;
    }
    assert!(!runner.handle.has_exited());
}

#[tokio::test]
async fn a_killed_qemu_is_told_and_noted() {
    let mut scene = Scene::new();
    let (runner, _owner, _) = scene.up(spec(&[])).await;
    let mut facts = scene.watch().await;
    send(&scene.qemu_handle().unwrap(), Signal::Kill);
    let fact = facts
        .until(|fact| matches!(fact, RunnerFact::QemuExited { .. }))
        .await;
    let noted = scene.exit_note().exit;
    assert_eq!((noted.cause, noted.signal), (Cause::QemuKilled, Some(9)));
    assert_eq!(fact, RunnerFact::QemuExited { exit: noted });
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert_eq!(scene.left_behind(), ["exit.json"]);
}

#[tokio::test]
async fn a_runner_told_to_end_ends_its_guest_cleanly() {
    let mut scene = Scene::new();
    let (runner, _owner, _) = scene.up(spec(&[])).await;
    let qemu = scene.qemu_handle().unwrap();
    send(&runner.handle, Signal::Term);
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert!(qemu.has_exited());
    assert_eq!(scene.exit_note().exit.cause, Cause::HostShutdown);
}

#[tokio::test]
async fn a_runner_told_to_end_before_the_release_leaves_nothing() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    scene.prepare(&mut owner, spec(&[])).await.unwrap();
    send(&runner.handle, Signal::Term);
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert!(scene.qemu_handle().is_none());
    assert!(scene.left_behind().is_empty(), "{:?}", scene.left_behind());
}

#[tokio::test]
async fn a_gate_does_not_survive_its_runner() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    scene.prepare(&mut owner, spec(&[])).await.unwrap();
    let gate = scene.qemu_handle().unwrap();
    runner.kill().await;
    crate::scene::gone(&gate).await;
}

#[tokio::test]
async fn the_logs_of_a_chatty_guest_stay_bounded() {
    let mut scene = Scene::new();
    let _runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut order = scene.prepare_order(spec(&["flood"]));
    order.log_bytes_max = 4_096;
    scene.qemu = Some(call(&mut owner, &order).await.unwrap().qemu);
    let mut serial = scene.serial().await;
    call(&mut owner, &Release {}).await.unwrap();
    let aside = scene.log("serial.log.1");
    timeout(DEADLINE, async {
        while !aside.exists() {
            serial.line().await;
        }
    })
    .await
    .unwrap();
    assert!(std::fs::metadata(&aside).unwrap().len() <= 4_096);
}
