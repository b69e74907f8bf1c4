//! QEMU outlives its runner, and the next runner takes it over.

use std::net::Ipv4Addr;
use std::time::Duration;

use maqet_process::pidfd::ExitStatus;
use maqet_process::signal::Signal;
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::RefusalCode;
use maqet_protocol::runner::{RunQmp, RunnerFact, StopQemu};
use maqet_spec::vm::{Forward, Network, NetworkKind, Transport};
use maqet_state::lifecycle::Cause;

use crate::scene::{PLAIN, Scene, call, gone, send, spec};

const FORCE: StopQemu = StopQemu { force: true, ..PLAIN };

#[tokio::test]
async fn the_next_runner_goes_on_with_all_that_was_known() {
    let mut scene = Scene::new();
    let mut order = spec(&[]);
    order.networks = vec![Network {
        name: "lan".to_owned(),
        kind: NetworkKind::User,
        model: "virtio-net-pci".to_owned(),
        forwards: vec![Forward {
            protocol: Transport::Tcp,
            host_address: Ipv4Addr::LOCALHOST,
            host_port: None,
            guest_port: 22,
        }],
    }];
    let (first, owner, before) = scene.up(order.clone()).await;
    first.kill().await;
    drop(owner);
    let qemu = scene.qemu_handle().unwrap();
    let second = scene.runner();
    let mut owner = scene.connect().await;
    let after = call(&mut owner, &scene.adopt_order(order)).await.unwrap();
    assert_eq!(after, before);
    let ended = call(&mut owner, &PLAIN).await.unwrap();
    assert!(qemu.has_exited());
    assert_eq!((ended.how, ended.exit.cause), (StopHow::Guest, Cause::Stop));
    assert_eq!(second.ended().await, Some(ExitStatus::Code(0)));
    assert_eq!(scene.left_behind(), ["exit.json"]);
}

#[tokio::test]
async fn a_guest_that_ended_unheard_is_finished_off() {
    let mut scene = Scene::new();
    let (first, mut owner, _) = scene.up(spec(&["later", "poweroff"])).await;
    // The guest goes on for about a second; with its runner gone nobody hears the end.
    let mut serial = scene.serial().await;
    first.kill().await;
    assert!(owner.call(&PLAIN, Some(Duration::from_secs(1))).await.is_err());
    serial.until("powering off").await;
    let qemu = scene.qemu_handle().unwrap();
    let second = scene.runner();
    let mut facts = scene.watch().await;
    let mut owner = scene.connect().await;
    let running = call(&mut owner, &scene.adopt_order(spec(&[]))).await.unwrap();
    assert!(["shutdown", "running"].contains(&running.run_state.as_str()));
    let fact = facts
        .until(|fact| matches!(fact, RunnerFact::QemuExited { .. }))
        .await;
    assert!(matches!(fact, RunnerFact::QemuExited { exit } if exit.cause == Cause::GuestShutdown));
    gone(&qemu).await;
    assert_eq!(second.ended().await, Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn a_frozen_qemu_is_taken_over_all_the_same() {
    let mut scene = Scene::new();
    let (first, _owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let qemu = scene.qemu_handle().unwrap();
    send(&qemu, Signal::Stop);
    first.kill().await;
    let _second = scene.runner();
    let mut owner = scene.connect().await;
    let mut facts = scene.watch().await;
    let running = call(&mut owner, &scene.adopt_order(spec(&[]))).await.unwrap();
    assert_eq!(running.run_state, "unknown");
    facts
        .until(|fact| *fact == RunnerFact::Silent { silent: true })
        .await;
    let question = RunQmp {
        command: "query-status".to_owned(),
        arguments: None,
        timeout_ms: 10_000,
    };
    assert_eq!(
        call(&mut owner, &question).await.unwrap_err().code,
        RefusalCode::NotAnswering
    );
    send(&qemu, Signal::Cont);
    facts
        .until(|fact| matches!(fact, RunnerFact::RunState { run_state } if run_state == "running"))
        .await;
    call(&mut owner, &question).await.unwrap();
    assert_eq!(call(&mut owner, &FORCE).await.unwrap().how, StopHow::Quit);
}

#[tokio::test]
async fn a_frozen_adopted_qemu_dies_by_force() {
    let mut scene = Scene::new();
    let (first, _owner, _) = scene.up(spec(&[])).await;
    let qemu = scene.qemu_handle().unwrap();
    send(&qemu, Signal::Stop);
    first.kill().await;
    let _second = scene.runner();
    let mut owner = scene.connect().await;
    call(&mut owner, &scene.adopt_order(spec(&[]))).await.unwrap();
    let ended = call(&mut owner, &FORCE).await.unwrap();
    assert!(qemu.has_exited());
    assert_eq!(
        (ended.how, ended.exit.cause),
        (StopHow::Killed, Cause::StopForced)
    );
}

/// Whoever asks for an end before the new runner has taken over is not told that the VM is starting.
#[tokio::test]
async fn a_stop_that_comes_during_the_taking_over_is_carried_out_after_it() {
    let mut scene = Scene::new();
    let (first, _owner, _) = scene.up(spec(&[])).await;
    let qemu = scene.qemu_handle().unwrap();
    // Frozen, it keeps the new runner waiting for its first answer.
    send(&qemu, Signal::Stop);
    first.kill().await;
    let _second = scene.runner();
    let (mut owner, mut other) = (scene.connect().await, scene.connect().await);
    let order = scene.adopt_order(spec(&[]));
    let (running, ended) = tokio::join!(call(&mut owner, &order), async {
        // Stops are out of turn until the order to take over is there.
        loop {
            match call(&mut other, &FORCE).await {
                Err(refusal) if refusal.code == RefusalCode::WrongState => tokio::task::yield_now().await,
                ended => return ended,
            }
        }
    });
    running.unwrap();
    assert_eq!(ended.unwrap().exit.cause, Cause::StopForced);
    assert!(qemu.has_exited());
}

#[tokio::test]
async fn a_dead_qemu_is_not_taken_over() {
    let mut scene = Scene::new();
    let (first, _owner, _) = scene.up(spec(&[])).await;
    let qemu = scene.qemu_handle().unwrap();
    first.kill().await;
    send(&qemu, Signal::Kill);
    gone(&qemu).await;
    let second = scene.runner();
    let mut owner = scene.connect().await;
    let refusal = call(&mut owner, &scene.adopt_order(spec(&[]))).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::WrongState);
    drop(owner);
    assert_eq!(second.ended().await, Some(ExitStatus::Code(0)));
}
