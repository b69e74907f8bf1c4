//! The client against the QEMU installed here.

use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::{Child, Command as Program};

use super::fake::PLENTY;
use crate::command::{
    AddFd, BlockCommit, BlockdevAdd, BlockdevDel, BlockdevReopen, Cont, JobCancel, JobComplete, JobFinalize,
    QueryBlock, QueryBlockstats, QueryCpusFast, QueryFdsets, QueryKvm, QueryNamedBlockNodes, QueryStatus,
    Quit, RemoveFd, Stop, SystemPowerdown, SystemReset, Transaction,
};
use crate::{Command, Events, Incoming, Qmp, QmpError, RunState, Schema};

struct Qemu {
    process: Child,
    _dir: TempDir,
}

/// QEMU connects to a listener of ours, so that nothing has to wait for its socket to appear.
#[expect(
    clippy::disallowed_methods,
    reason = "its own child, not reaped yet: the number is still its own"
)]
async fn qemu(machine: &[&str]) -> (Qemu, Qmp, Events) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let process = Program::new("qemu-system-x86_64")
        .args(["-nodefaults", "-display", "none", "-accel", "tcg", "-S"])
        .args(machine)
        .args([
            "-chardev",
            &format!("socket,id=m,path={}", path.display()),
            "-mon",
            "m,mode=control",
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (stream, _) = tokio::time::timeout(PLENTY, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let (qmp, events) = Qmp::connect(stream, PLENTY).await.unwrap();
    (Qemu { process, _dir: dir }, qmp, events)
}

#[tokio::test]
async fn a_session_from_greeting_to_quit() {
    let (mut qemu, qmp, mut events) = qemu(&["-M", "none"]).await;
    assert!(qmp.version().major >= 7, "{}", qmp.version());
    let status = qmp.execute(&QueryStatus, PLENTY).await.unwrap();
    assert_eq!((status.running, status.status), (false, RunState::Prelaunch));
    qmp.execute(&Cont, PLENTY).await.unwrap();
    assert!(qmp.execute(&QueryStatus, PLENTY).await.unwrap().running);
    qmp.execute(&Stop, PLENTY).await.unwrap();
    let quit = qmp.execute(&Quit, PLENTY).await;
    assert!(matches!(quit, Ok(_) | Err(QmpError::Closed)), "{quit:?}");
    let mut names = Vec::new();
    while let Some(Incoming::Event(event)) = events.next().await {
        assert!(event.at.is_some());
        names.push(event.name);
    }
    assert_eq!(names, ["RESUME", "STOP", "SHUTDOWN"]);
    assert!(qemu.process.wait().await.unwrap().success());
    assert_eq!(qmp.discarded(), 0);
}

#[tokio::test]
async fn every_typed_command_is_in_the_schema_and_reads_its_answer() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let drive = format!("file={},if=none,id=d0,format=raw", disk.path().display());
    let (_qemu, qmp, _events) = qemu(&[
        "-M",
        "q35",
        "-drive",
        &drive,
        "-device",
        "virtio-blk-pci,drive=d0",
    ])
    .await;
    let schema = qmp.schema(PLENTY).await.unwrap();
    assert!(schema.commands().count() > 150 && schema.events().count() > 30);
    assert!(schema.has_event("SHUTDOWN") && !schema.has_command("make-coffee"));
    check(&schema, &Cont);
    check(&schema, &QueryBlock);
    check(&schema, &QueryBlockstats);
    check(&schema, &QueryCpusFast);
    check(&schema, &QueryKvm);
    check(&schema, &QueryStatus);
    check(&schema, &Quit);
    check(&schema, &Stop);
    check(&schema, &SystemPowerdown);
    check(&schema, &SystemReset);
    check_layers(&schema);
    let block = qmp.execute(&QueryBlock, PLENTY).await.unwrap();
    let medium = block
        .iter()
        .find(|block| block.device == "d0")
        .unwrap()
        .inserted
        .clone()
        .unwrap();
    assert_eq!((medium.driver.as_str(), medium.readonly), ("raw", false));
    assert!(!qmp.execute(&QueryBlockstats, PLENTY).await.unwrap().is_empty());
    assert_eq!(
        qmp.execute(&QueryCpusFast, PLENTY)
            .await
            .unwrap()
            .first()
            .unwrap()
            .index,
        0
    );
    assert!(!qmp.execute(&QueryKvm, PLENTY).await.unwrap().enabled);
    qmp.execute(&SystemReset, PLENTY).await.unwrap();
    qmp.execute(&SystemPowerdown, PLENTY).await.unwrap();
}

fn check_layers(schema: &Schema) {
    let (id, node_name) = ("a".to_owned(), "a".to_owned());
    let (fdset_id, fd) = (1, Some(1));
    check(schema, &AddFd { fdset_id: Some(1) });
    check(schema, &RemoveFd { fdset_id, fd });
    check(schema, &QueryFdsets);
    check(schema, &BlockdevDel { node_name });
    check(schema, &BlockdevReopen { options: Vec::new() });
    check(schema, &Transaction::overlays(&[]));
    check(schema, &JobComplete { id: id.clone() });
    check(schema, &JobFinalize { id: id.clone() });
    check(schema, &JobCancel { id: id.clone() });
    let commit = BlockCommit {
        job_id: id.clone(),
        device: id.clone(),
        top_node: Some(id.clone()),
        base_node: id.clone(),
        backing_file: Some(id),
        auto_dismiss: false,
        auto_finalize: false,
    };
    check(schema, &commit);
}

/// A descriptor that goes with a command is QEMU's then.
#[tokio::test]
async fn a_descriptor_is_handed_over() {
    let (_qemu, qmp, _events) = qemu(&["-M", "none"]).await;
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let added = qmp
        .hand_over(&AddFd::default(), file.into(), PLENTY)
        .await
        .unwrap();
    let sets = qmp.execute(&QueryFdsets, PLENTY).await.unwrap();
    assert_eq!((sets[0].fdset_id, sets[0].fds[0].fd), (added.fdset_id, added.fd));
    let options = serde_json::json!({
        "driver": "file", "node-name": "a", "filename": format!("/dev/fdset/{}", added.fdset_id), "read-only": false,
    });
    qmp.execute(&BlockdevAdd(options), PLENTY).await.unwrap();
    let nodes = qmp
        .execute(&QueryNamedBlockNodes { flat: true }, PLENTY)
        .await
        .unwrap();
    assert_eq!(
        (nodes[0].node_name.as_deref(), nodes[0].readonly),
        (Some("a"), false)
    );
}

/// QEMU knows the command, takes every argument we send and misses none.
fn check<C: Command>(schema: &Schema, command: &C) {
    let known = schema
        .arguments(C::NAME)
        .unwrap_or_else(|| panic!("`{}` is unknown", C::NAME));
    let value = serde_json::to_value(command).unwrap();
    let sent: Vec<&String> = value
        .as_object()
        .map(|object| object.keys().collect())
        .unwrap_or_default();
    assert!(!C::BARE || sent.is_empty());
    assert!(
        sent.iter()
            .all(|name| known.iter().any(|argument| argument.name == **name)),
        "{}",
        C::NAME
    );
    let missing = known
        .iter()
        .find(|argument| argument.required && !sent.contains(&&argument.name));
    assert_eq!(missing, None, "{}", C::NAME);
}

#[tokio::test]
async fn errors_are_qemus_own_words() {
    let (_qemu, qmp, _events) = qemu(&["-M", "none"]).await;
    let error = qmp.run("make-coffee", None, PLENTY).await.unwrap_err();
    assert!(
        matches!(&error, QmpError::Refused { class, .. } if class == "CommandNotFound"),
        "{error}"
    );
    let error = qmp
        .run("device_del", Some(serde_json::json!({"id": "x"})), PLENTY)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, QmpError::Refused { class, .. } if class == "DeviceNotFound"),
        "{error}"
    );
    let error = qmp
        .run("query-status", Some(serde_json::json!([1])), PLENTY)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, QmpError::Refused { class, .. } if class == "GenericError"),
        "{error}"
    );
}

#[tokio::test]
async fn many_callers_share_one_connection() {
    let (_qemu, qmp, _events) = qemu(&["-M", "none"]).await;
    let ask = async |qmp: Qmp, name: &'static str| {
        for _ in 0..20 {
            let answer = qmp.run(name, None, PLENTY).await.unwrap();
            assert_eq!(answer.get("running").is_some(), name == "query-status");
        }
    };
    let callers = (0..8).flat_map(|_| {
        [
            ask(qmp.clone(), "query-status"),
            ask(qmp.clone(), "query-version"),
        ]
    });
    futures_util::future::join_all(callers).await;
    assert_eq!(qmp.discarded(), 0);
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "its own child, not reaped yet: the number is still its own"
)]
async fn a_killed_qemu_closes_every_command() {
    let (mut qemu, qmp, mut events) = qemu(&["-M", "none"]).await;
    qemu.process.kill().await.unwrap();
    let answer = qmp.run("query-status", None, Duration::from_secs(20)).await;
    assert!(matches!(answer, Err(QmpError::Closed)), "{answer:?}");
    assert_eq!(events.next().await, None);
}
