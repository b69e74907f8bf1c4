//! `storage resize`, `attach` and `clone`, with the supervisor killed at each of their steps: as before
//! or as wanted, told as it is, and the VM starts.
#![cfg(debug_assertions)]

use std::path::PathBuf;

use maqet_process::point::Point;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox, qemu_img, truth};
use serde_json::{Value, json};

use crate::cut::{assert_boots, assert_whole, bereave, cut_off, disk, files, frozen_clone, supervisor};
use crate::scene::{Scene, VM, kill};

const MEBIBYTE: u64 = 1 << 20;

/// Steps of all work on the disks of a VM that rests.
const WORK: [Point; 3] = [Point::WorkBegun, Point::WorkDone, Point::WorkRecorded];

/// A VM that has run with two disks of 4 MiB.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::new();
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 data: {path: ./data.raw, format: raw, size: 4M, interface: ide}}";
    Guest::tiny(VM).line(disks).start(&sandbox);
    sandbox.maqet(&["stop", VM]).expect(0);
    sandbox
}

fn image(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.home().join(name)
}

/// Size of a disk in the spec, bytes.
fn wanted_size(sandbox: &Sandbox, name: &str) -> Value {
    let spec = sandbox.json(&["info", VM])["spec"].clone();
    let mut disks = spec["disks"].as_array().unwrap().iter();
    disks.find(|disk| disk["name"] == name).unwrap()["size"].clone()
}

#[test]
fn a_resize_that_is_cut_off_is_done_or_not() {
    let sandbox = stopped();
    for name in ["root", "data"] {
        let mut size = 4 * MEBIBYTE;
        for point in WORK {
            let before = files(&sandbox.home());
            cut_off(&sandbox, &["storage", "resize", VM, name, "+4M"], point);
            let done = point != Point::WorkBegun;
            size += if done { 4 * MEBIBYTE } else { 0 };
            assert_whole(&sandbox);
            let told = disk(&sandbox, name);
            assert_eq!(
                (&told["state"], &told["chain"][0]["virtual_bytes"]),
                (&json!("ok"), &json!(size))
            );
            assert_eq!(files(&sandbox.home()), before);
            assert_boots(&sandbox);
            // The same once more brings spec and image to the same size.
            let again = sandbox.json(&["storage", "resize", VM, name, &format!("{}M", size / MEBIBYTE)]);
            assert_eq!(again["before"], again["after"], "{again}");
            assert_eq!(wanted_size(&sandbox, name), size);
        }
        assert_eq!(size, 12 * MEBIBYTE);
    }
}

/// The client asks the next supervisor, under the same key: what was asked for happens once.
#[test]
fn whoever_waits_for_a_resize_or_an_attachment_gets_it_once() {
    for point in WORK {
        let sandbox = stopped();
        bereave(&sandbox, &["storage", "resize", VM, "root", "+4M"], point).expect(0);
        assert_eq!(
            disk(&sandbox, "root")["chain"][0]["virtual_bytes"],
            8 * MEBIBYTE,
            "{}",
            point.name()
        );
        assert_eq!(wanted_size(&sandbox, "root"), 8 * MEBIBYTE, "{}", point.name());
        let more = image(&sandbox, "more.qcow2");
        qemu_img::create(&more, "qcow2", "2M");
        let words = ["storage", "attach", VM, more.to_str().unwrap(), "--disk", "more"];
        bereave(&sandbox, &words, point).expect(0);
        assert_eq!(disk(&sandbox, "more")["state"], "ok");
        assert_whole(&sandbox);
        assert_boots(&sandbox);
    }
}

#[test]
fn a_resize_under_a_running_guest_that_is_cut_off_is_told_and_the_guest_goes_on() {
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}}";
    let scene = Scene::of(&Guest::tiny(VM).options(&["ticks"]).line(disks));
    let sandbox = &scene.sandbox;
    cut_off(sandbox, &["storage", "resize", VM, "root", "8M"], Point::WorkDone);
    truth::settled(sandbox);
    scene.assert_ticking();
    assert_eq!(disk(sandbox, "root")["chain"][0]["virtual_bytes"], 8 * MEBIBYTE);
    let again = sandbox.json(&["storage", "resize", VM, "root", "8M"]);
    assert_eq!(
        (&again["before"], &again["after"]),
        (&json!(8 * MEBIBYTE), &json!(8 * MEBIBYTE))
    );
    assert_eq!(wanted_size(sandbox, "root"), 8 * MEBIBYTE);
    sandbox.maqet(&["stop", VM, "--force"]).expect(0);
    disk(sandbox, "root");
    assert_boots(sandbox);
}

#[test]
fn an_attachment_that_is_cut_off_is_done_or_not() {
    for point in WORK {
        let sandbox = stopped();
        let more = image(&sandbox, "more.qcow2");
        qemu_img::create(&more, "qcow2", "2M");
        let before = files(&sandbox.home());
        let words = ["storage", "attach", VM, more.to_str().unwrap(), "--disk", "more"];
        cut_off(&sandbox, &words, point);
        assert_whole(&sandbox);
        let disks = sandbox.json(&["storage", "info", VM])["disks"]
            .as_array()
            .unwrap()
            .len();
        let done = point == Point::WorkRecorded;
        assert_eq!(disks, if done { 3 } else { 2 }, "{}", point.name());
        sandbox.maqet(&words).expect(if done { 5 } else { 0 });
        assert_eq!(disk(&sandbox, "more")["state"], "ok");
        assert_eq!(files(&sandbox.home()), before);
        assert_boots(&sandbox);
    }
}

#[test]
fn a_clone_that_is_cut_off_is_there_whole_or_not_at_all() {
    let sandbox = stopped();
    let [begun, done, recorded] = WORK;
    for (point, is_there) in [
        (begun, false),
        (Point::ImageWritten, false),
        (Point::ImageNamed, true),
        (done, true),
        (recorded, true),
    ] {
        let mut expected = files(&sandbox.home());
        let name = format!("{}.qcow2", point.name());
        let words = ["storage", "clone", VM, "root", &name];
        cut_off(&sandbox, &words, point);
        assert_whole(&sandbox);
        expected.extend(is_there.then(|| PathBuf::from(&name)));
        assert_eq!(files(&sandbox.home()), expected, "{}", point.name());
        sandbox.maqet(&words).expect(if is_there { 5 } else { 0 });
        let copy = image(&sandbox, &name);
        assert_eq!(qemu_img::check(&copy), qemu_img::Found::Clean);
        assert!(qemu_img::content(&copy) == qemu_img::content(&image(&sandbox, "root.qcow2")));
        assert_boots(&sandbox);
    }
}

#[test]
fn a_clone_in_the_middle_of_its_copy_goes_with_its_supervisor() {
    let sandbox = Sandbox::new();
    qemu_img::filled(&image(&sandbox, "root.qcow2"), 96);
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, interface: ide}}")
        .add(&sandbox);
    let before = files(&sandbox.home());
    let supervisor = supervisor(&sandbox);
    let clone = || sandbox.spawn(&["storage", "clone", VM, "root", "copy.qcow2"]);
    let (client, copying) = frozen_clone(&sandbox, clone);
    kill(&[&supervisor]);
    assert!(
        wait::exited(&copying.handle, PATIENCE),
        "{copying} works on for nobody"
    );
    client.output().expect(6);
    assert_whole(&sandbox);
    assert_eq!(files(&sandbox.home()), before);
    sandbox
        .maqet(&["storage", "clone", VM, "root", "copy.qcow2"])
        .expect(0);
    assert_boots(&sandbox);
}

#[test]
fn a_clone_whose_qemu_img_alone_is_killed_says_so_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    qemu_img::filled(&image(&sandbox, "root.qcow2"), 96);
    Guest::tiny(VM)
        .line("disks: {root: {path: ./root.qcow2, interface: ide}}")
        .add(&sandbox);
    let (before, content) = (
        files(&sandbox.home()),
        qemu_img::content(&image(&sandbox, "root.qcow2")),
    );
    let serving = supervisor(&sandbox);
    let words = ["storage", "clone", VM, "root", "copy.qcow2"];
    let (client, copying) = frozen_clone(&sandbox, || sandbox.spawn(&words));
    kill(&[&copying.handle]);
    let failed = client.output();
    assert_eq!(failed.code, 1, "{failed:#?}");
    assert!(failed.stderr.contains("qemu-img"), "{failed:#?}");
    assert!(!serving.has_exited());
    assert_whole(&sandbox);
    assert_eq!(files(&sandbox.home()), before);
    assert!(qemu_img::content(&image(&sandbox, "root.qcow2")) == content);
    sandbox.maqet(&words).expect(0);
    assert!(qemu_img::content(&image(&sandbox, "copy.qcow2")) == content);
    assert_boots(&sandbox);
}
