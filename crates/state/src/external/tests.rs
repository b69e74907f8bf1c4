//! External snapshots, stacked and merged.

use maqet_process::identity::{FileId, ProcessIdentity, Role};
use maqet_spec::vm::DiskInterface;
use serde_json::json;

use super::*;
use crate::id::VmId;
use crate::lifecycle::{Cause, Fact, LastExit};
use crate::record::{Launch, VmRecord};

fn spec() -> VmSpec {
    let mut spec = empty();
    spec.disks = vec![disk("root", DiskFormat::Raw), disk("data", DiskFormat::Qcow2)];
    spec
}

fn empty() -> VmSpec {
    serde_json::from_value(json!({
        "name": "web", "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg", "memory": 1 << 20, "cpus": 1,
    }))
    .unwrap()
}

fn disk(name: &str, format: DiskFormat) -> Disk {
    serde_json::from_value(json!({
        "name": name, "path": format!("/vm/{name}"), "format": format, "interface": DiskInterface::Virtio, "size": 1 << 20,
    }))
    .unwrap()
}

fn layers(spec: &VmSpec, name: &str) -> Vec<Layer> {
    let layer = |before: &Disk| Layer {
        overlay: PathBuf::from(format!("/vm/{}.{name}.qcow2", before.name)),
        before: before.clone(),
    };
    spec.disks.iter().map(layer).collect()
}

/// The VM after a snapshot of all disks.
fn snapshot(spec: &VmSpec, externals: Externals, name: &str) -> (VmSpec, Externals) {
    let layers = layers(spec, name);
    let raised = raised(spec.clone(), &layers);
    let snapshot = ExternalSnapshot {
        name: name.to_owned(),
        at: Timestamp(1),
        layers,
    };
    (raised, externals.stacked(snapshot))
}

fn paths(spec: &VmSpec) -> Vec<String> {
    spec.disks
        .iter()
        .map(|disk| disk.path.display().to_string())
        .collect()
}

fn all() -> Vec<String> {
    vec!["root".to_owned(), "data".to_owned()]
}

#[test]
fn a_snapshot_raises_its_disks_and_merging_it_lowers_them() {
    let before = spec();
    let (raised, externals) = snapshot(&before, Externals::none(), "a");
    assert_eq!(paths(&raised), ["/vm/root.a.qcow2", "/vm/data.a.qcow2"]);
    assert!(
        raised
            .disks
            .iter()
            .all(|disk| disk.format == DiskFormat::Qcow2 && disk.size.is_none())
    );
    let layers = externals.get("a").unwrap().layers.clone();
    assert_eq!(lowered(raised, &layers), before);
    assert!(externals.merged("a", &all()).is_none());
}

#[test]
fn one_disk_may_leave_a_snapshot_that_the_others_keep() {
    let (raised, externals) = snapshot(&spec(), Externals::none(), "a");
    let externals = externals.merged("a", &["root".to_owned()]);
    assert!(externals.layer("a", "root").is_none());
    let layer = externals.layer("a", "data").unwrap();
    assert_eq!(
        paths(&lowered(raised, std::slice::from_ref(layer))),
        ["/vm/root.a.qcow2", "/vm/data"]
    );
}

#[test]
fn the_one_above_stands_on_the_base_of_what_was_merged() {
    let before = spec();
    let (a, externals) = snapshot(&before, Externals::none(), "a");
    let (b, externals) = snapshot(&a, externals, "b");
    let bottom = externals.layer("a", "root").unwrap().clone();
    assert_eq!(externals.above(&bottom).unwrap().0.name, "b");
    let externals = externals.merged("a", &all());
    assert_eq!(externals.snapshots.len(), 1);
    let layer = externals.layer("b", "root").unwrap();
    assert_eq!(
        (layer.base(), layer.before.format),
        (Path::new("/vm/root"), DiskFormat::Raw)
    );
    assert_eq!(layer.before, before.disks[0]);
    assert_eq!(lowered(b, &externals.snapshots[0].layers), before);
}

#[test]
fn going_back_puts_other_images_on_the_same_base() {
    let (_raised, externals) = snapshot(&spec(), Externals::none(), "a");
    let mut layer = externals.layer("a", "root").unwrap().clone();
    layer.overlay = "/vm/root.a.1.qcow2".into();
    let fresh = ExternalSnapshot {
        name: "a".to_owned(),
        at: Timestamp(9),
        layers: vec![layer.clone()],
    };
    let externals = externals.stacked(fresh);
    assert_eq!(externals.layer("a", "root"), Some(&layer));
    let snapshot = externals.get("a").unwrap();
    assert_eq!((snapshot.at, snapshot.layers.len()), (Timestamp(1), 2));
}

#[test]
fn nothing_is_stored_for_nothing_and_work_is_read_again() {
    assert_eq!(serde_json::to_value(Externals::none()).unwrap(), json!({}));
    let file = FileMark {
        id: FileId { dev: 1, inode: 2 },
        born_ns: None,
    };
    let files = vec![Discarded {
        path: "/vm/x".into(),
        file,
    }];
    for step in [
        ExternalStep::Making {
            layers: layers(&spec(), "a"),
        },
        ExternalStep::Merging {
            disks: all(),
            discard: Vec::new(),
        },
        ExternalStep::Discarding { files },
    ] {
        let merges = matches!(step, ExternalStep::Merging { .. });
        let externals = Externals {
            work: Some(ExternalWork {
                action: SnapshotAction::Delete,
                name: "a".to_owned(),
                step,
            }),
            ..Externals::none()
        };
        assert_eq!(
            (externals.is_merging("a"), externals.is_merging("b")),
            (merges, false)
        );
        let stored = serde_json::to_value(&externals).unwrap();
        assert_eq!(serde_json::from_value::<Externals>(stored).unwrap(), externals);
    }
}

const AT: Timestamp = Timestamp(5);

/// A VM in its first launch.
fn running() -> VmRecord {
    let runner = ProcessIdentity {
        role: Role::Runner,
        boot_id: "b".to_owned(),
        pidns_inode: 1,
        pid: 100,
        pidfs_inode: None,
        pidfs_handle: None,
        start_ticks: 5,
        executables: Vec::new(),
        launch_id: "l".to_owned(),
        generation: 1,
    };
    let launch = Launch::new("l", 1, runner, AT);
    let record = VmRecord::new(VmId::random(), spec(), AT);
    record.apply(Fact::Launching(Box::new(launch)), AT).unwrap()
}

/// QEMU is being put on new images for a snapshot of all disks.
fn switch(name: &str) -> Switch {
    let layers = layers(&spec(), name);
    let made = |(inode, layer): (u64, &Layer)| Opened {
        path: layer.overlay.clone(),
        file: FileMark {
            id: FileId { dev: 1, inode },
            born_ns: None,
        },
    };
    Switch {
        made: (7..).zip(&layers).map(made).collect(),
        images: vec![1, 1],
        boot_id: "b".to_owned(),
        key: None,
        snapshot: ExternalSnapshot {
            name: name.to_owned(),
            at: AT,
            layers,
        },
    }
}

/// A QEMU that was being put on new images and has ended: its disks are on them, whether it was or not.
#[test]
fn the_end_of_qemu_settles_a_switch() {
    let mut record = running();
    record.externals.work = Some(ExternalWork {
        action: SnapshotAction::Create,
        name: "a".to_owned(),
        step: ExternalStep::Switching(Box::new(switch("a"))),
    });
    let stored = serde_json::to_value(&record).unwrap();
    assert_eq!(serde_json::from_value::<VmRecord>(stored).unwrap(), record);
    assert_eq!(paths(&record.spec), ["/vm/root", "/vm/data"]);
    let exit = LastExit {
        cause: Cause::QemuKilled,
        at: AT,
        exit_code: None,
        signal: Some(9),
        detail: None,
    };
    let ended = record.apply(Fact::Ended { generation: 1, exit }, AT).unwrap();
    assert_eq!(paths(&ended.spec), ["/vm/root.a.qcow2", "/vm/data.a.qcow2"]);
    assert_eq!(
        (ended.externals.snapshots.len(), &ended.externals.work),
        (1, &None)
    );
    let known = ended.files.get(Path::new("/vm/data.a.qcow2")).unwrap();
    assert!(known.made && known.used && known.file.unwrap().id.inode == 8);
}
