//! Every way to bring a running guest to its end.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use maqet_process::pidfd::ExitStatus;
use maqet_process::signal::Signal;
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::RefusalCode;
use maqet_protocol::runner::{Query, RunQmp, RunnerFact, StopQemu};
use maqet_spec::vm::{Aio, Cache, DetectZeroes, Discard, Disk, DiskFormat, DiskInterface, Media};
use maqet_state::lifecycle::Cause;

use crate::scene::{PLAIN, Scene, call, run, send, spec};

const FORCE: StopQemu = StopQemu { force: true, ..PLAIN };

fn hard(budget_ms: u64) -> StopQemu {
    StopQemu {
        budget_ms,
        hard: true,
        ..PLAIN
    }
}

#[tokio::test]
async fn a_guest_that_listens_shuts_itself_down() {
    let mut scene = Scene::new();
    let (runner, mut owner, _) = scene.up(spec(&[])).await;
    let mut facts = scene.watch().await;
    let qemu = scene.qemu_handle().unwrap();
    let ended = call(&mut owner, &PLAIN).await.unwrap();
    assert!(qemu.has_exited());
    assert_eq!(ended.how, StopHow::Guest);
    assert_eq!(ended.exit.cause, Cause::Stop);
    assert_eq!(ended.exit.exit_code, Some(0));
    assert_eq!(scene.exit_note().exit, ended.exit);
    let told = facts
        .until(|fact| matches!(fact, RunnerFact::QemuExited { .. }))
        .await;
    assert_eq!(told, RunnerFact::QemuExited { exit: ended.exit });
    assert_eq!(facts.next().await, None);
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert_eq!(scene.left_behind(), ["exit.json"]);
}

#[tokio::test]
async fn a_guest_that_does_not_listen_is_quit_after_the_budget() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let begun = Instant::now();
    let ended = call(&mut owner, &hard(300)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(ended.how, StopHow::Quit);
    assert_eq!(ended.exit.cause, Cause::Stop);
}

#[tokio::test]
async fn force_asks_nobody() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let qemu = scene.qemu_handle().unwrap();
    let ended = call(&mut owner, &FORCE).await.unwrap();
    assert!(qemu.has_exited());
    assert_eq!(ended.how, StopHow::Quit);
    assert_eq!(ended.exit.cause, Cause::Stop);
}

#[tokio::test]
async fn a_paused_guest_is_not_asked() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let mut facts = scene.watch().await;
    let pause = RunQmp {
        command: "stop".to_owned(),
        arguments: None,
        timeout_ms: 10_000,
    };
    call(&mut owner, &pause).await.unwrap();
    facts
        .until(|fact| matches!(fact, RunnerFact::RunState { run_state } if run_state == "paused"))
        .await;
    let begun = Instant::now();
    let ended = call(&mut owner, &PLAIN).await.unwrap();
    assert_eq!(ended.how, StopHow::Quit);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_frozen_qemu_is_left_alone_until_force() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let mut facts = scene.watch().await;
    let qemu = scene.qemu_handle().unwrap();
    send(&qemu, Signal::Stop);
    let refusal = call(&mut owner, &hard(500)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Timeout);
    assert_eq!(refusal.message, "QEMU does not answer; VM is still running");
    assert_eq!(refusal.state.as_deref(), Some("running"));
    assert_eq!(refusal.hint.as_deref(), Some("maqet stop --force web"));
    assert!(!qemu.has_exited());
    facts
        .until(|fact| *fact == RunnerFact::Silent { silent: true })
        .await;
    assert_eq!(
        call(&mut owner, &Query {})
            .await
            .unwrap()
            .running
            .unwrap()
            .run_state,
        "running"
    );
    let begun = Instant::now();
    let ended = call(&mut owner, &FORCE).await.unwrap();
    assert!(qemu.has_exited());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(ended.how, StopHow::Killed);
    assert_eq!(ended.exit.cause, Cause::StopForced);
    assert_eq!(ended.exit.signal, Some(9));
    assert!(ended.exit.detail.unwrap().starts_with("unclean"));
}

#[tokio::test]
async fn a_frozen_qemu_is_killed_when_its_policy_says_so() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    send(&scene.qemu_handle().unwrap(), Signal::Stop);
    let order = StopQemu {
        kill_on_timeout: true,
        ..hard(300)
    };
    let ended = call(&mut owner, &order).await.unwrap();
    assert_eq!(ended.how, StopHow::Killed);
    assert_eq!(ended.exit.cause, Cause::StopForced);
}

#[tokio::test]
async fn a_thawed_qemu_is_heard_again() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let mut facts = scene.watch().await;
    let qemu = scene.qemu_handle().unwrap();
    send(&qemu, Signal::Stop);
    let question = RunQmp {
        command: "query-status".to_owned(),
        arguments: None,
        timeout_ms: 100,
    };
    let refusal = call(&mut owner, &question).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Timeout);
    facts
        .until(|fact| *fact == RunnerFact::Silent { silent: true })
        .await;
    send(&qemu, Signal::Cont);
    facts
        .until(|fact| *fact == RunnerFact::Silent { silent: false })
        .await;
}

#[tokio::test]
async fn force_joins_a_stop_under_way() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let mut facts = scene.watch().await;
    let mut second = scene.connect().await;
    let plain = async { call(&mut owner, &PLAIN).await.unwrap() };
    let force = async {
        facts
            .until(|fact| matches!(fact, RunnerFact::QmpEvent { name, .. } if name == "POWERDOWN"))
            .await;
        call(&mut second, &FORCE).await.unwrap()
    };
    let (plain, force) = tokio::join!(plain, force);
    assert_eq!(plain, force);
    assert_eq!(force.how, StopHow::Quit);
}

#[tokio::test]
async fn a_client_that_left_does_not_stop_the_stop() {
    let mut scene = Scene::new();
    let (runner, mut owner, _) = scene.up(spec(&["ignore-acpi"])).await;
    let mut facts = scene.watch().await;
    let stop = async { call(&mut owner, &hard(500)).await };
    let pressed =
        facts.until(|fact| matches!(fact, RunnerFact::QmpEvent { name, .. } if name == "POWERDOWN"));
    tokio::select! {
        biased;
        ended = stop => panic!("{ended:?}"),
        _ = pressed => {}
    }
    drop(owner);
    let told = facts
        .until(|fact| matches!(fact, RunnerFact::QemuExited { .. }))
        .await;
    assert!(matches!(told, RunnerFact::QemuExited { exit } if exit.cause == Cause::Stop));
    runner.ended().await;
}

#[tokio::test]
async fn what_the_guest_wrote_is_on_the_disk() {
    let mut scene = Scene::new();
    let path = scene.place.path().join("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg("1M"));
    let mut order = spec(&["write", "ignore-acpi"]);
    order.disks = vec![Disk {
        name: "root".to_owned(),
        path: path.clone(),
        size: None,
        format: DiskFormat::Qcow2,
        interface: DiskInterface::Ide,
        readonly: false,
        media: Media::default(),
        port: None,
        cache: Cache::default(),
        aio: Aio::default(),
        discard: Discard::default(),
        from: None,
        detect_zeroes: DetectZeroes::default(),
    }];
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    scene.prepare(&mut owner, order).await.unwrap();
    let mut serial = scene.serial().await;
    call(&mut owner, &maqet_protocol::runner::Release {})
        .await
        .unwrap();
    serial.until("wrote 64 sectors").await;
    assert!(!holds(runner.handle.pid(), &path));
    assert_eq!(call(&mut owner, &FORCE).await.unwrap().how, StopHow::Quit);
    let raw = scene.place.path().join("disk.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&path, &raw]));
    let bytes = std::fs::read(raw).unwrap();
    assert!(bytes[63 * 512..].starts_with(b"maqet-sect-0063\n"));
}

/// Whether a process has a file open.
fn holds(pid: i32, path: &PathBuf) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .any(|target| target == *path)
}
