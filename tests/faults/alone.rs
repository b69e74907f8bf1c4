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
