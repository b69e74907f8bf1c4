//! qemu-img alone is killed in the middle of its work: whoever asked is told, nobody else notices, and the same order does it.

use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::json;

use crate::cut::{assert_boots, assert_whole, disk, files, frozen, supervisor};
use crate::scene::{VM, kill};

/// Enough for qemu-img to be caught at it.
const MEBIBYTES: usize = 96;

#[test]
fn an_import_leaves_nothing_and_can_be_repeated() {
    let sandbox = Sandbox::new();
    qemu_img::filled(&sandbox.home().join("big.qcow2"), MEBIBYTES);
    let serving = supervisor(&sandbox);
    let before = files(&sandbox.home());
    let words = ["image", "import", "big.qcow2"];
    let undo = || drop(sandbox.maqet(&["image", "rm", "big"]).expect(0));
    let (client, copying) = frozen(&sandbox, "qemu-img convert", || sandbox.spawn(&words), undo);
    kill(&[&copying.handle]);
    let failed = client.output().expect(1);
    assert!(failed.stderr.contains("qemu-img"), "{failed:#?}");
    assert!(!serving.has_exited());
    assert_whole(&sandbox);
    assert_eq!(sandbox.json(&["image", "ls"]), json!([]));
    assert!(files(&sandbox.data_dir().join("images")).is_empty());
    assert_eq!(files(&sandbox.home()), before);
    sandbox.maqet(&words).expect(0);
    sandbox.maqet(&["image", "verify", "big"]).expect(0);
}

/// A stopped VM whose disk is so large, and so finely cut, that qemu-img can be caught at its tables; it holds ones.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::new();
    let image = sandbox.home().join("root.qcow2");
    let options = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=512",
        "root.qcow2",
        "256M",
    ];
    qemu_img::run_in(sandbox.home(), &options);
    qemu_img::write_so_much(&image, 1, MEBIBYTES / 4);
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", VM]).expect(0);
    sandbox
}

/// An order whose qemu-img is killed: told, nothing half-made, the disk is whole and holds what it held, and the same order does it.
fn killed(sandbox: &Sandbox, program: &str, words: &[&str], undo: impl Fn()) {
    let serving = supervisor(sandbox);
    let before = files(&sandbox.home());
    let (client, working) = frozen(sandbox, program, || sandbox.spawn(words), undo);
    kill(&[&working.handle]);
    let failed = client.output().expect(1);
    assert!(failed.stderr.contains("qemu-img"), "{failed:#?}");
    assert!(!serving.has_exited());
    assert_whole(sandbox);
    assert_eq!(files(&sandbox.home()), before);
    sandbox.maqet(&["storage", "verify", VM, "--repair"]).expect(0);
    let image = sandbox.home().join("root.qcow2");
    let held = || {
        qemu_img::content(&image)[..MEBIBYTES << 18]
            .iter()
            .all(|byte| *byte == 1)
    };
    assert!(held());
    assert_boots(sandbox);
    sandbox.maqet(words).expect(0);
    assert!(held());
    assert_boots(sandbox);
}

#[test]
fn a_snapshot_is_there_or_not_and_can_be_made_again() {
    let sandbox = stopped();
    let undo = || drop(sandbox.maqet(&["snapshot", "delete", VM, "snap"]).expect(0));
    killed(
        &sandbox,
        "qemu-img snapshot -q -c",
        &["snapshot", "create", VM, "snap"],
        undo,
    );
    let listed = sandbox.json(&["snapshot", "list", VM]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_disk_that_is_resized_has_one_size_or_the_other() {
    let sandbox = stopped();
    let grow = ["storage", "resize", VM, "root", "+64M"];
    killed(&sandbox, "qemu-img resize", &grow, || ());
    // Room that a killed one took and nobody uses is no loss.
    sandbox.maqet(&["storage", "verify", VM, "--repair"]).expect(0);
    disk(&sandbox, "root");
}

#[test]
fn a_merge_loses_nothing_and_is_finished_by_the_same_order() {
    let sandbox = Sandbox::new();
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, size: 128M, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", VM]).expect(0);
    let layer = || {
        sandbox
            .maqet(&["snapshot", "create", VM, "snap", "--external"])
            .expect(0);
        let top = sandbox.json(&["storage", "info", VM])["disks"][0]["path"].clone();
        qemu_img::write_so_much(top.as_str().unwrap().as_ref(), 5, MEBIBYTES);
    };
    layer();
    let serving = supervisor(&sandbox);
    let words = ["snapshot", "delete", VM, "snap"];
    let (client, merging) = frozen(&sandbox, "qemu-img commit", || sandbox.spawn(&words), layer);
    kill(&[&merging.handle]);
    let failed = client.output().expect(1);
    assert!(failed.stderr.contains("qemu-img"), "{failed:#?}");
    assert!(!serving.has_exited());
    let holds = || {
        // Room that the first one took and nobody uses is no loss.
        sandbox.maqet(&["storage", "verify", VM, "--repair"]).expect(0);
        let top = disk(&sandbox, "root")["path"].clone();
        let content = qemu_img::content(top.as_str().unwrap().as_ref());
        content[..MEBIBYTES << 20].iter().all(|byte| *byte == 5)
    };
    assert!(holds());
    assert_boots(&sandbox);
    sandbox.maqet(&words).expect(0);
    assert_eq!(sandbox.json(&["snapshot", "list", VM]), json!([]));
    assert_whole(&sandbox);
    assert!(holds());
    assert_boots(&sandbox);
}
