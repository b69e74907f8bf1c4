//! Snapshots as files of their own: images below new ones, gone back to, merged, and deleted with the VM.

use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_tests::{Guest, Sandbox, qemu_img, wait};
use regex::Regex;
use serde_json::{Value, json};

use crate::linux;

const BOTH: &str = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                    data: {path: ./data.raw, size: 4M, format: raw, interface: ide}}";
const DISKS: [&str; 2] = ["root", "data"];

/// A stopped VM of a qcow2 and a raw disk, which hold ones.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").line(BOTH).start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    write(&sandbox, 1);
    sandbox
}

/// Path and format of each disk, as the VM has it now.
fn disks(sandbox: &Sandbox) -> Vec<(PathBuf, String)> {
    let info = sandbox.json(&["storage", "info", "web"]);
    let one = |disk: &Value| {
        let format = disk["chain"][0]["format"].as_str().unwrap();
        (disk["path"].as_str().unwrap().into(), format.to_owned())
    };
    info["disks"].as_array().unwrap().iter().map(one).collect()
}

/// Fills the first MiB of each disk.
fn write(sandbox: &Sandbox, pattern: u8) {
    for (path, format) in disks(sandbox) {
        let done = Command::new("qemu-io")
            .args(["-f", &format, "-c", &format!("write -P {pattern} 0 1M")])
            .arg(&path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

/// What a guest finds at the beginning of each disk.
fn held(sandbox: &Sandbox) -> Vec<u8> {
    let first = |(path, format): &(PathBuf, String)| content(path, format)[0];
    disks(sandbox).iter().map(first).collect()
}

fn content(path: &Path, format: &str) -> Vec<u8> {
    match format {
        "raw" => std::fs::read(path).unwrap(),
        _ => qemu_img::content(path),
    }
}

fn snapshot(sandbox: &Sandbox, words: &[&str]) -> Value {
    sandbox.json(&[&["snapshot", words[0], "web"], &words[1..]].concat())
}

/// Images beside the VM's file.
fn images(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.home()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.starts_with("root") || name.starts_with("data"))
        .collect();
    names.sort();
    names
}

#[test]
fn disks_go_back_and_what_was_written_since_is_gone() {
    let sandbox = stopped();
    let done = snapshot(&sandbox, &["create", "before", "--external"]);
    assert_eq!(
        (&done["kind"], &done["disks"]),
        (&json!("external"), &json!(DISKS))
    );
    let base = std::fs::read(sandbox.home().join("root.qcow2")).unwrap();
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    write(&sandbox, 2);
    assert_eq!(held(&sandbox), [2, 2]);
    assert!(
        std::fs::read(sandbox.home().join("root.qcow2")).unwrap() == base,
        "the base was written to"
    );
    snapshot(&sandbox, &["load", "before"]);
    assert_eq!(held(&sandbox), [1, 1]);
    assert_eq!(
        images(&sandbox),
        [
            "data.before.1.qcow2",
            "data.raw",
            "root.before.1.qcow2",
            "root.qcow2"
        ]
    );
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let list = snapshot(&sandbox, &["list"]);
    let one = &list[0];
    assert_eq!(
        (&one["kind"], &one["complete"]),
        (&json!("external"), &json!(true)),
        "{list}"
    );
    assert_eq!(sandbox.json(&["storage", "orphaned"])["images"], json!([]));
    assert_eq!(sandbox.maqet(&["storage", "verify", "web"]).code, 0);
}

/// A name that was listed a moment ago is not told to be unknown.
#[test]
fn snapshots_inside_images_below_are_told_and_come_back() {
    let sandbox = stopped();
    let disk = ["--disk", "root"];
    snapshot(&sandbox, &[&["create", "inside"][..], &disk].concat());
    snapshot(&sandbox, &["create", "outside", "--external"]);
    let listed = || {
        let list = snapshot(&sandbox, &["list"]);
        let one = |one: &Value| (one["name"].clone(), one["below"].clone());
        list.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let below = (json!("inside"), json!("outside"));
    assert!(listed().contains(&below), "{:?}", listed());
    let shown = sandbox.maqet(&["snapshot", "list", "web"]);
    assert!(shown.stdout.contains("below outside"), "{shown:?}");
    for action in ["load", "delete"] {
        let refused = sandbox.maqet(&[&["snapshot", action, "web", "inside"][..], &disk].concat());
        assert_eq!(refused.code, 4, "{refused:?}");
        let told = "images that the external snapshot `outside` keeps hold one of that name";
        assert!(refused.stderr.contains(told), "{refused:?}");
        assert!(
            refused.stderr.contains("maqet snapshot delete web outside"),
            "{refused:?}"
        );
    }
    // Of a VM that runs as well.
    sandbox.maqet(&["start", "web"]).expect(0);
    assert!(listed().contains(&below), "{:?}", listed());
    sandbox.maqet(&["stop", "web"]).expect(0);
    snapshot(&sandbox, &["delete", "outside"]);
    assert_eq!(listed(), [(json!("inside"), Value::Null)]);
    snapshot(&sandbox, &[&["load", "inside"][..], &disk].concat());
}

#[test]
fn deleting_keeps_what_was_written_since_in_the_middle_too() {
    let sandbox = stopped();
    for (name, pattern) in [("a", 2), ("b", 3)] {
        snapshot(&sandbox, &["create", name, "--external"]);
        write(&sandbox, pattern);
    }
    let refused = sandbox
        .maqet(&["snapshot", "load", "web", "a", "-o", "json"])
        .expect(5)
        .error();
    assert_eq!(
        refused["hint"],
        "maqet snapshot load web b, then maqet snapshot delete web b"
    );
    snapshot(&sandbox, &["delete", "a"]);
    assert_eq!(held(&sandbox), [3, 3]);
    assert_eq!(
        images(&sandbox),
        ["data.b.qcow2", "data.raw", "root.b.qcow2", "root.qcow2"]
    );
    snapshot(&sandbox, &["load", "b"]);
    assert_eq!(held(&sandbox), [2, 2]);
    snapshot(&sandbox, &["delete", "b"]);
    assert_eq!(held(&sandbox), [2, 2]);
    assert_eq!(images(&sandbox), ["data.raw", "root.qcow2"]);
    // The VM's description is what it was.
    let disk = &sandbox.json(&["info", "web"])["spec"]["disks"][1];
    assert_eq!(
        (&disk["format"], &disk["size"]),
        (&json!("raw"), &json!(4 << 20)),
        "{disk}"
    );
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn one_disk_alone_is_gone_back_to() {
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "all", "--external"]);
    write(&sandbox, 2);
    snapshot(&sandbox, &["load", "all", "--disk", "data"]);
    assert_eq!(held(&sandbox), [2, 1]);
    snapshot(&sandbox, &["delete", "all", "--disk", "root"]);
    assert_eq!(held(&sandbox), [2, 1]);
    let list = snapshot(&sandbox, &["list"]);
    assert_eq!(
        (&list[0]["disks"], &list[0]["complete"]),
        (&json!(["data"]), &json!(false))
    );
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_name_has_one_meaning_and_orders_make_sense() {
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "inside", "--disk", "root"]);
    for words in [
        &["snapshot", "create", "web", "inside", "--external"][..],
        &["snapshot", "create", "web", "inside", "--external", "--overwrite"],
    ] {
        sandbox.maqet(words).expect(5);
    }
    sandbox
        .maqet(&["snapshot", "create", "web", "x", "--external", "--memory"])
        .expect(2);
    sandbox
        .maqet(&[
            "snapshot",
            "create",
            "web",
            "x",
            "--external",
            "--disk",
            "nothing",
        ])
        .expect(4);
    snapshot(&sandbox, &["create", "out", "--external"]);
    sandbox
        .maqet(&["snapshot", "create", "web", "out", "--disk", "root"])
        .expect(5);
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "load", "web", "out"]).expect(3);
}

/// Only maqet knows what lies on top of what; snapshots inside an image would go with it.
#[test]
fn what_would_lose_something_is_refused() {
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "out", "--external"]);
    let error = sandbox.maqet(&["rm", "web", "-o", "json"]).expect(3).error();
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("snapshot delete web out"),
        "{error}"
    );
    snapshot(&sandbox, &["create", "deep", "--disk", "root"]);
    for verb in ["load", "delete"] {
        let error = sandbox
            .maqet(&["snapshot", verb, "web", "out", "-o", "json"])
            .expect(5)
            .error();
        assert!(
            error["message"].as_str().unwrap().contains("would be lost"),
            "{error}"
        );
    }
    snapshot(&sandbox, &["delete", "deep"]);
}

#[test]
fn an_image_that_another_vm_stands_on_does_not_change() {
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "out", "--external"]);
    let base = sandbox.home().join("root.qcow2");
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "root.qcow2",
        "other.qcow2",
    ];
    qemu_img::run_in(sandbox.home(), &args);
    Guest::tiny("other")
        .line("disks: {root: {path: ./other.qcow2, interface: ide}}")
        .add(&sandbox);
    let before = std::fs::read(&base).unwrap();
    let error = sandbox
        .maqet(&["snapshot", "delete", "web", "out", "-o", "json"])
        .expect(5)
        .error();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("disk `root` of `other`"),
        "{error}"
    );
    assert!(std::fs::read(&base).unwrap() == before, "the base was written to");
    sandbox.maqet(&["rm", "other"]).expect(0);
    snapshot(&sandbox, &["delete", "out"]);
}

#[test]
fn all_of_it_goes_with_the_vm() {
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "a", "--external"]);
    snapshot(&sandbox, &["create", "b", "--external"]);
    sandbox.maqet(&["rm", "web", "--delete-storage"]).expect(0);
    assert_eq!(images(&sandbox), [""; 0]);
    let sandbox = stopped();
    snapshot(&sandbox, &["create", "a", "--external"]);
    let removed = sandbox.json(&["rm", "web", "--delete-storage", "--keep-snapshots"]);
    assert_eq!(images(&sandbox), ["data.raw", "root.qcow2"], "{removed}");
}

/// Each boot of a Linux says what the one before left on the disk.
#[test]
fn a_linux_guest_finds_what_it_wrote_before_the_snapshot() {
    let sandbox = Sandbox::new();
    linux::start(&sandbox, "linux", "maqet.count", "");
    let mut boots = 0;
    let mut run_until = |count: u64| {
        if boots > 0 {
            sandbox.maqet(&["start", "linux"]).expect(0);
        }
        boots += 1;
        let counted = Regex::new(&format!("(?s)(.*maqet found:){{{boots}}}.*maqet count {count} ")).unwrap();
        wait::until("the guest counts", wait::PATIENCE, || {
            let log = sandbox.maqet(&["logs", "linux"]).expect(0).stdout;
            if counted.is_match(&log) { Ok(()) } else { Err(log) }
        });
        sandbox.maqet(&["stop", "linux"]).expect(0);
    };
    run_until(2);
    sandbox
        .maqet(&["snapshot", "create", "linux", "snap", "--external"])
        .expect(0);
    run_until(7);
    sandbox.maqet(&["snapshot", "load", "linux", "snap"]).expect(0);
    run_until(1);
    sandbox.maqet(&["snapshot", "delete", "linux", "snap"]).expect(0);
    let log = sandbox.maqet(&["logs", "linux"]).expect(0).stdout;
    let found = Regex::new(r"(?m)^maqet found: (\d*)").unwrap();
    let found: Vec<_> = found
        .captures_iter(&log)
        .map(|found| found[1].to_owned())
        .collect();
    assert_eq!(found[0], "", "{log}");
    assert!(!found[1].is_empty() && found[1] == found[2], "{found:?}");
}

/// What is inside an image, and how large it is, is asked of the one on top.
fn assert_on_top(sandbox: &Sandbox) {
    snapshot(sandbox, &["create", "inside"]);
    let list = snapshot(sandbox, &["list"]);
    let names: Vec<_> = list.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["a", "b", "inside"], "{list}");
    sandbox
        .maqet(&["storage", "resize", "web", "data", "8M"])
        .expect(0);
    assert_eq!(
        sandbox.json(&["storage", "info", "web"])["disks"][1]["chain"][0]["virtual_bytes"],
        8 << 20
    );
    snapshot(sandbox, &["delete", "inside"]);
}

/// QEMU is put on new images, and everything that asks for a disk afterwards finds them.
#[test]
fn a_vm_that_runs_is_put_on_new_images() {
    let sandbox = stopped();
    sandbox.maqet(&["start", "web"]).expect(0);
    let pid = sandbox.status("web")["pid"].clone();
    for name in ["a", "b"] {
        let done = snapshot(&sandbox, &["create", name, "--external"]);
        assert_eq!(
            (&done["kind"], &done["live"], &done["disks"]),
            (&json!("external"), &json!(true), &json!(DISKS))
        );
    }
    let paths: Vec<PathBuf> = disks(&sandbox).into_iter().map(|(path, _format)| path).collect();
    assert_eq!(
        paths,
        ["root.b.qcow2", "data.b.qcow2"].map(|name| sandbox.home().join(name))
    );
    assert_on_top(&sandbox);
    let error = sandbox
        .maqet(&["snapshot", "load", "web", "b", "-o", "json"])
        .expect(3)
        .error();
    assert!(
        error["hint"].as_str().unwrap().contains("maqet stop web"),
        "{error}"
    );
    assert_eq!(sandbox.status("web")["pid"], pid);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(held(&sandbox), [1, 1]);
    assert_eq!(sandbox.maqet(&["storage", "verify", "web"]).code, 0);
    assert_eq!(sandbox.json(&["storage", "orphaned"])["images"], json!([]));
    write(&sandbox, 2);
    snapshot(&sandbox, &["delete", "a"]);
    snapshot(&sandbox, &["load", "b"]);
    assert_eq!(held(&sandbox), [1, 1]);
    sandbox.maqet(&["start", "web"]).expect(0);
}

#[test]
fn a_disk_that_no_device_has_stays_where_it_is() {
    let sandbox = Sandbox::new();
    let disks = "disks: {root: {path: ./root.qcow2, size: 4M, interface: ide}, \
                 spare: {path: ./spare.qcow2, size: 4M, interface: none}}";
    Guest::tiny("web").line(disks).start(&sandbox);
    let error = sandbox
        .maqet(&["snapshot", "create", "web", "snap", "--external", "-o", "json"])
        .expect(3)
        .error();
    assert!(error["message"].as_str().unwrap().contains("`spare`"), "{error}");
    assert!(!sandbox.home().join("root.snap.qcow2").exists());
    snapshot(&sandbox, &["create", "snap", "--external", "--disk", "root"]);
    assert!(sandbox.home().join("root.snap.qcow2").exists());
}

/// A Linux that counts on its disk, each number read back before the next one is written.
struct Counting(Sandbox);

impl Counting {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        linux::start(&sandbox, "linux", "maqet.count", "");
        Self(sandbox)
    }

    fn log(&self) -> String {
        self.0.maqet(&["logs", "linux"]).expect(0).stdout
    }

    /// What was counted, and what was read back before: lines that are whole, as the last one may not be yet.
    fn counts(&self) -> Vec<(u64, u64)> {
        let counted = Regex::new(r"(?m)^maqet count (\d+) kept (\d*)\r?\n").unwrap();
        let log = self.log();
        let counts = counted.captures_iter(&log);
        counts
            .map(|count| (count[1].parse().unwrap(), count[2].parse().unwrap_or(0)))
            .collect()
    }

    fn last(&self) -> u64 {
        self.counts().last().map_or(0, |(count, _kept)| *count)
    }

    fn until_after(&self, count: u64) -> u64 {
        wait::until("the guest counts", wait::PATIENCE, || match self.last() {
            last if last > count => Ok(last),
            last => Err(last),
        })
    }

    fn assert_nothing_was_lost(&self) {
        let counts = self.counts();
        assert!(
            counts.iter().all(|(count, kept)| kept + 1 == *count),
            "{counts:?}"
        );
    }

    /// What the guest finds on its disk at the next start.
    fn found(&self) -> u64 {
        self.0.maqet(&["start", "linux"]).expect(0);
        let found = Regex::new(r"(?m)^maqet found: (\d+)\r?\n").unwrap();
        wait::until("the guest has found a number", wait::PATIENCE, || {
            let log = self.log();
            let found = found.captures(&log).map(|found| found[1].parse().unwrap());
            found.ok_or(log)
        })
    }
}

/// The guest is not halted for it, and the disk it goes back to is that of the moment.
#[test]
fn a_linux_guest_that_counts_goes_on_over_a_new_image() {
    let linux = Counting::new();
    let before = linux.until_after(2);
    let done = linux
        .0
        .json(&["snapshot", "create", "linux", "snap", "--external"]);
    assert_eq!(done["live"], true, "{done}");
    let after = linux.last();
    linux.until_after(after + 3);
    linux.assert_nothing_was_lost();
    linux.0.maqet(&["stop", "linux"]).expect(0);
    linux.0.maqet(&["snapshot", "load", "linux", "snap"]).expect(0);
    let kept = linux.found();
    assert!((before..=after + 1).contains(&kept), "{before} {kept} {after}");
}

#[test]
fn a_linux_guest_that_counts_goes_on_while_its_images_are_merged() {
    let linux = Counting::new();
    let mut count = linux.until_after(2);
    for words in [["create", "a"], ["create", "b"], ["delete", "a"], ["delete", "b"]] {
        let mut order = vec!["snapshot", words[0], "linux", words[1]];
        order.extend((words[0] == "create").then_some("--external"));
        linux.0.maqet(&order).expect(0);
        count = linux.until_after(count + 3);
    }
    linux.assert_nothing_was_lost();
    linux.0.maqet(&["stop", "linux"]).expect(0);
    let last = linux.last();
    let found = linux.found();
    assert!(found >= last, "{found} of {last}");
}

/// Deletes one of so many and one snapshots, by QEMU.
fn merge(sandbox: &Sandbox, name: &str, left: usize) {
    let done = snapshot(sandbox, &["delete", name]);
    assert_eq!(
        (&done["live"], &done["disks"]),
        (&json!(true), &json!(DISKS)),
        "{done}"
    );
    assert_eq!(images(sandbox).len(), 2 * (left + 1), "{name}");
    let list = snapshot(sandbox, &["list"]);
    assert_eq!(list.as_array().unwrap().len(), left, "{list}");
}

/// Images that QEMU was started with, and those that it was put on: in the middle and on top.
#[test]
fn a_vm_that_runs_has_its_snapshots_merged() {
    let sandbox = stopped();
    for (name, pattern) in [("a", 2), ("b", 3)] {
        snapshot(&sandbox, &["create", name, "--external"]);
        write(&sandbox, pattern);
    }
    sandbox.maqet(&["start", "web"]).expect(0);
    let pid = sandbox.status("web")["pid"].clone();
    for name in ["c", "d"] {
        snapshot(&sandbox, &["create", name, "--external"]);
    }
    for (name, left) in [("b", 3), ("d", 2), ("c", 1), ("a", 0)] {
        merge(&sandbox, name, left);
        let status = sandbox.status("web");
        assert_eq!((&status["run_state"], &status["pid"]), (&json!("running"), &pid));
    }
    assert_eq!(images(&sandbox), ["data.raw", "root.qcow2"]);
    // The node of the disk's name is gone, and everything finds the one it is on.
    snapshot(&sandbox, &["create", "again", "--external"]);
    sandbox
        .maqet(&["storage", "resize", "web", "data", "8M"])
        .expect(0);
    snapshot(&sandbox, &["delete", "again"]);
    snapshot(&sandbox, &["create", "inside", "--disk", "root"]);
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert_eq!(held(&sandbox), [3, 3]);
    assert_eq!(
        std::fs::metadata(sandbox.home().join("data.raw")).unwrap().len(),
        8 << 20
    );
    assert_eq!(sandbox.maqet(&["storage", "verify", "web"]).code, 0);
    sandbox.maqet(&["start", "web"]).expect(0);
}

/// A guest that a person has halted stays so.
#[test]
fn a_guest_that_rests_goes_on_resting() {
    let sandbox = stopped();
    sandbox.maqet(&["start", "web"]).expect(0);
    sandbox.maqet(&["pause", "web"]).expect(0);
    snapshot(&sandbox, &["create", "snap", "--external"]);
    snapshot(&sandbox, &["delete", "snap"]);
    assert_eq!(sandbox.status("web")["run_state"], "paused");
    sandbox.maqet(&["resume", "web"]).expect(0);
    assert_eq!(sandbox.status("web")["run_state"], "running");
}
