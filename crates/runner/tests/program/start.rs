//! From nothing to a running guest, and every way to fail on it.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use maqet_process::pidfd::ExitStatus;
use maqet_protocol::refusal::RefusalCode;
use maqet_protocol::runner::{Query, Release, RunQmp, RunnerFact};
use maqet_spec::vm::{
    Aio, Cache, DetectZeroes, Discard, Disk, DiskFormat, DiskInterface, Forward, Media, Network, NetworkKind,
    Transport,
};
use maqet_state::lifecycle::Cause;

use crate::scene::{PLAIN, Scene, call, gone, spec};

fn qmp(command: &str) -> RunQmp {
    RunQmp {
        command: command.to_owned(),
        arguments: None,
        timeout_ms: 10_000,
    }
}

fn network(host_port: Option<u16>) -> Network {
    Network {
        name: "lan".to_owned(),
        kind: NetworkKind::User,
        model: "virtio-net-pci".to_owned(),
        forwards: vec![Forward {
            protocol: Transport::Tcp,
            host_address: Ipv4Addr::LOCALHOST,
            host_port,
            guest_port: 22,
        }],
    }
}

#[tokio::test]
async fn a_guest_comes_up_and_is_described() {
    let mut scene = Scene::new();
    let (_runner, mut owner, running) = scene.up(spec(&[])).await;
    assert_eq!(running.run_state, "running");
    assert_eq!(running.accel, "tcg");
    assert!(running.sandbox.seccomp && running.sandbox.no_new_privs);
    assert_eq!(running.qemu_version.split('.').count(), 3);
    let state = call(&mut owner, &Query {}).await.unwrap();
    assert_eq!(state.qemu, scene.qemu);
    assert_eq!(state.running, Some(running));
    assert_eq!(state.exit, None);
}

#[tokio::test]
async fn commands_pass_and_errors_keep_their_words() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let mut facts = scene.watch().await;
    let status = call(&mut owner, &qmp("query-status")).await.unwrap();
    assert_eq!(status.value["status"], "running");
    let refusal = call(&mut owner, &qmp("no-such-command")).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::QmpFailed);
    assert!(refusal.message.contains("no-such-command"), "{refusal}");
    assert_eq!(refusal.causes, ["CommandNotFound"]);
    let refusal = call(&mut owner, &qmp("quit")).await.unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some("maqet stop web"));
    call(&mut owner, &qmp("stop")).await.unwrap();
    facts
        .until(|fact| matches!(fact, RunnerFact::QmpEvent { name, .. } if name == "STOP"))
        .await;
    facts
        .until(|fact| matches!(fact, RunnerFact::RunState { run_state } if run_state == "paused"))
        .await;
    call(&mut owner, &qmp("cont")).await.unwrap();
    facts
        .until(|fact| matches!(fact, RunnerFact::RunState { run_state } if run_state == "running"))
        .await;
}

#[tokio::test]
async fn a_bad_command_line_fails_fast_in_qemus_own_words() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut spec = spec(&[]);
    spec.extra_args = vec!["-no-such-option".to_owned()];
    let begun = Instant::now();
    scene.prepare(&mut owner, spec).await.unwrap();
    let qemu = scene.qemu_handle().unwrap();
    let refusal = call(&mut owner, &Release {}).await.unwrap_err();
    assert!(begun.elapsed().as_millis() < 1_000, "{:?}", begun.elapsed());
    assert_eq!(refusal.code, RefusalCode::StartFailed);
    assert!(
        refusal
            .causes
            .iter()
            .any(|line| line.contains("-no-such-option: invalid option")),
        "{refusal:?}"
    );
    gone(&qemu).await;
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert_eq!(scene.left_behind(), ["exit.json"]);
    let note = scene.exit_note();
    assert_eq!(note.launch_id, scene.launch_id);
    assert_eq!(note.exit.cause, Cause::StartFailed);
    assert_eq!(note.exit.exit_code, Some(1));
}

#[tokio::test]
async fn a_program_that_is_no_qemu_fails_with_its_exit() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut order = scene.prepare_order(spec(&[]));
    order.binary = "/bin/true".into();
    scene.qemu = Some(call(&mut owner, &order).await.unwrap().qemu);
    let refusal = call(&mut owner, &Release {}).await.unwrap_err();
    assert_eq!(refusal.message, "QEMU ended during its start with exit code 0");
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn no_go_means_nothing() {
    let scene = Scene::new();
    let (handle, channel) = scene.spawn();
    drop(channel);
    gone(&handle).await;
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(0)));
    assert!(scene.left_behind().is_empty());
}

#[tokio::test]
async fn an_owner_that_leaves_before_the_release_takes_everything_with_it() {
    let mut scene = Scene::new();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let watcher = scene.watch().await;
    scene.prepare(&mut owner, spec(&[])).await.unwrap();
    let gate = scene.qemu_handle().unwrap();
    drop(owner);
    gone(&gate).await;
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert!(scene.left_behind().is_empty(), "{:?}", scene.left_behind());
    drop(watcher);
}

#[tokio::test]
async fn a_runner_whose_clients_all_leave_is_not_needed() {
    let scene = Scene::new();
    let runner = scene.runner();
    let mut client = scene.connect().await;
    assert_eq!(call(&mut client, &Query {}).await.unwrap().qemu, None);
    drop(client);
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn only_the_owner_releases_and_only_once_is_prepared() {
    let mut scene = Scene::new();
    let _runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut other = scene.connect().await;
    assert_eq!(
        call(&mut owner, &Release {}).await.unwrap_err().code,
        RefusalCode::WrongState
    );
    assert_eq!(
        call(&mut owner, &PLAIN).await.unwrap_err().code,
        RefusalCode::WrongState
    );
    scene.prepare(&mut owner, spec(&[])).await.unwrap();
    let again = call(&mut other, &scene.prepare_order(spec(&[])))
        .await
        .unwrap_err();
    assert_eq!(again.code, RefusalCode::WrongState);
    assert_eq!(
        call(&mut other, &Release {}).await.unwrap_err().code,
        RefusalCode::WrongState
    );
    assert_eq!(
        call(&mut other, &PLAIN).await.unwrap_err().code,
        RefusalCode::Busy
    );
    assert_eq!(call(&mut owner, &Release {}).await.unwrap().run_state, "running");
}

#[tokio::test]
async fn a_port_in_use_is_a_conflict_that_names_it() {
    let mut scene = Scene::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut spec = spec(&[]);
    spec.networks = vec![network(Some(port))];
    let refusal = scene.prepare(&mut owner, spec).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert!(refusal.message.contains(&port.to_string()), "{refusal}");
    drop(owner);
    assert_eq!(runner.ended().await, Some(ExitStatus::Code(0)));
    assert!(scene.left_behind().is_empty());
}

#[tokio::test]
async fn a_chosen_port_is_told_and_leads_to_qemu() {
    let mut scene = Scene::new();
    let mut spec = spec(&[]);
    spec.networks = vec![network(None)];
    let (_runner, _owner, running) = scene.up(spec).await;
    let port = running.ports[0].host_port;
    assert_ne!(port, 0);
    drop(
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_missing_disk_is_named_before_anything_is_made() {
    let mut scene = Scene::new();
    let _runner = scene.runner();
    let mut owner = scene.connect().await;
    let mut spec = spec(&[]);
    spec.disks = vec![Disk {
        name: "root".to_owned(),
        path: scene.place.path().join("absent.raw"),
        size: None,
        format: DiskFormat::Raw,
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
    let refusal = scene.prepare(&mut owner, spec).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::InvalidSpec);
    assert_eq!(refusal.message, "disk `root` cannot be opened");
}
