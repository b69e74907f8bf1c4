//! QEMU is given a disk while it runs.

use std::fs::{self, File};
use std::path::PathBuf;

use maqet_process::identity::FileMark;
use maqet_protocol::endpoint::client::Client;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{OpenedFile, PlugDisk, RunQmp};
use maqet_spec::VmSpec;
use serde_json::{Value, json};

use crate::scene::{Scene, call, spec};

/// A raw file of 1 MiB in the scene's place.
fn file(scene: &Scene, name: &str) -> PathBuf {
    let path = scene.place.path().join(name);
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

fn mark(path: PathBuf) -> OpenedFile {
    let file = FileMark::of_fd(File::open(&path).unwrap()).unwrap();
    OpenedFile { path, file }
}

/// The order that gives a machine with `spec` the disk `name`, whose image lies there.
fn order(spec: &VmSpec, name: &str, path: PathBuf) -> PlugDisk {
    let mut spec = spec.clone();
    let disk = json!({"name": name, "path": path, "format": "raw", "interface": "virtio"});
    spec.disks.push(serde_json::from_value(disk).unwrap());
    PlugDisk {
        spec,
        disk: name.to_owned(),
        files: vec![mark(path)],
        timeout_ms: 10_000,
    }
}

async fn qmp(client: &mut Client, command: &str, arguments: Value) -> Result<Value, Refusal> {
    let order = RunQmp {
        command: command.to_owned(),
        arguments: arguments.as_object().map(|_| arguments.clone()),
        timeout_ms: 10_000,
    };
    call(client, &order).await.map(|answer| answer.value)
}

/// How many devices, nodes and descriptor sets QEMU has.
async fn counts(client: &mut Client) -> [usize; 3] {
    let mut counts = [0; 3];
    let questions = ["query-block", "query-named-block-nodes", "query-fdsets"];
    for (count, question) in counts.iter_mut().zip(questions) {
        let told = qmp(client, question, Value::Null).await.unwrap();
        *count = told.as_array().unwrap().len();
    }
    counts
}

#[tokio::test]
async fn told_again_it_does_nothing_and_the_next_disk_comes_after_it() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let first = order(&spec(&[]), "one", file(&scene, "one.raw"));
    for _ in 0..3 {
        call(&mut owner, &first).await.unwrap();
        assert_eq!(counts(&mut owner).await, [1, 2, 1]);
    }
    let second = order(&first.spec, "two", file(&scene, "two.raw"));
    call(&mut owner, &second).await.unwrap();
    call(&mut owner, &second).await.unwrap();
    assert_eq!(counts(&mut owner).await, [2, 4, 2]);
    // One that is not the last any more, or leaves one out, is no order that this QEMU could have been given.
    let (one, three) = (file(&scene, "three.raw"), file(&scene, "four.raw"));
    for wrong in [
        order(&spec(&[]), "three", one),
        order(&order(&second.spec, "three", three.clone()).spec, "four", three),
    ] {
        let refusal = call(&mut owner, &wrong).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    }
    assert_eq!(counts(&mut owner).await, [2, 4, 2]);
}

#[tokio::test]
async fn what_was_cut_off_is_taken_away_first() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    // As one that died before the device leaves it: the nodes of a file and of an image, in other places than it would now.
    for options in [
        json!({"driver": "null-co", "node-name": "file.0.1", "read-zeroes": true}),
        json!({"driver": "raw", "node-name": "below.0.1", "file": "file.0.1"}),
        json!({"driver": "null-co", "node-name": "file.0", "read-zeroes": true}),
    ] {
        qmp(&mut owner, "blockdev-add", options).await.unwrap();
    }
    assert_eq!(counts(&mut owner).await, [0, 3, 0]);
    call(&mut owner, &order(&spec(&[]), "one", file(&scene, "one.raw")))
        .await
        .unwrap();
    assert_eq!(counts(&mut owner).await, [1, 2, 1]);
}

/// A person may have given QEMU a node of that name.
#[tokio::test]
async fn a_node_of_somebody_else_is_not_taken_for_the_disk() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let node = json!({"driver": "null-co", "node-name": "one", "read-zeroes": true});
    qmp(&mut owner, "blockdev-add", node).await.unwrap();
    let meant = order(&spec(&[]), "one", file(&scene, "one.raw"));
    let refusal = call(&mut owner, &meant).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    let device = json!({"driver": "virtio-blk-pci", "drive": "one"});
    qmp(&mut owner, "device_add", device).await.unwrap();
    let refusal = call(&mut owner, &meant).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    assert_eq!(counts(&mut owner).await, [1, 1, 0]);
}

#[tokio::test]
async fn another_file_than_the_one_that_was_looked_at_is_refused() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let path = file(&scene, "one.raw");
    let meant = order(&spec(&[]), "one", path.clone());
    let copy = file(&scene, "copy.raw");
    fs::rename(copy, &path).unwrap();
    let refusal = call(&mut owner, &meant).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    fs::remove_file(&path).unwrap();
    let refusal = call(&mut owner, &meant).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::StorageFailed, "{refusal:?}");
    assert_eq!(counts(&mut owner).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_machine_without_the_port_says_so_and_keeps_nothing() {
    let mut scene = Scene::new();
    let (_runner, mut owner, _) = scene.up(spec(&[])).await;
    let mut wrong = order(&spec(&[]), "one", file(&scene, "one.raw"));
    "q35".clone_into(&mut wrong.spec.machine);
    wrong.spec.disks[0].port = Some(3);
    let refusal = call(&mut owner, &wrong).await.unwrap_err();
    assert!(refusal.message.contains("not found"), "{refusal:?}");
    assert_eq!(counts(&mut owner).await, [0, 0, 0]);
}
