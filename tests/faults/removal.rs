//! `rm --delete-storage` that is cut off: it was asked for and may have begun, so the next supervisor goes on with it, and what
//! cannot be finished is told.
#![cfg(debug_assertions)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_process::Signal;
use maqet_process::point::Point;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Held, Running, Sandbox, leftovers, qemu_img, truth};
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::cut::{assert_boots, assert_whole, bereave, cut_off, supervisor};
use crate::scene::{VM, count, events, kill, say, signal};

const WORDS: [&str; 3] = ["rm", VM, "--delete-storage"];

/// Steps at which images may be gone, or are about to go.
const BEGUN: [Point; 3] = [Point::RemoveIntended, Point::RemoveImage, Point::FilesGone];

/// A VM that has run with three disks, each in a directory of its own, and whatever else is in its file.
fn stopped_with(more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let disk = |name: &str| {
        fs::create_dir(sandbox.home().join(name)).unwrap();
        format!("{name}: {{path: ./{name}/disk.qcow2, size: 1M, interface: ide}}")
    };
    let disks = ["one", "two", "three"].map(disk).join(", ");
    Guest::tiny(VM)
        .line(&format!("disks: {{{disks}}}"))
        .line(more)
        .start(&sandbox);
    sandbox.maqet(&["stop", VM]).expect(0);
    sandbox
}

fn stopped() -> Sandbox {
    stopped_with("restart: never")
}

fn image(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.home().join(name).join("disk.qcow2")
}

/// Those of its images that are there.
fn left(sandbox: &Sandbox) -> Vec<&'static str> {
    let mut names = vec!["one", "two", "three"];
    names.retain(|name| image(sandbox, name).exists());
    names
}

/// Waits until a new supervisor has finished the removal; the last word of the journal about it.
#[track_caller]
fn finished(sandbox: &Sandbox) -> Value {
    wait::until("the VM is gone", PATIENCE, || {
        let listed = sandbox.json(&["ls"]);
        let gone = listed.as_array().unwrap().iter().all(|vm| vm["name"] != VM);
        if gone { Ok(()) } else { Err(listed) }
    });
    let events = events(sandbox);
    let of = |kind: &str| events.iter().rfind(|event| event["kind"] == kind).cloned();
    assert_eq!(of("vm.removing").unwrap()["resumed"], true);
    of("vm.removed").unwrap()
}

fn paths(sandbox: &Sandbox, names: &[&str]) -> Value {
    names.iter().map(|name| json!(image(sandbox, name))).collect()
}

#[test]
fn a_removal_that_is_cut_off_is_finished_by_the_next_supervisor() {
    for point in BEGUN {
        let sandbox = stopped();
        cut_off(&sandbox, &WORDS, point);
        let removed = finished(&sandbox);
        assert_eq!(removed["deleted"], paths(&sandbox, &["one", "two", "three"]));
        assert_eq!(left(&sandbox), [""; 0], "{}", point.name());
        assert_whole(&sandbox);
        assert_eq!(count(&sandbox, "vm.removed"), 1);
    }
}

/// What was another file when the removal began was not to go, and does not because it came back.
#[test]
fn nothing_goes_that_was_not_to_go_when_it_began() {
    let sandbox = stopped();
    let (three, aside) = (image(&sandbox, "three"), sandbox.home().join("aside"));
    fs::rename(&three, &aside).unwrap();
    fs::copy(&aside, &three).unwrap();
    let serving = supervisor(&sandbox);
    let mut held = Held::at(&sandbox, Point::RemoveImage);
    let client = sandbox.spawn(&WORDS);
    held.reached();
    kill(&[client.handle(), &serving]);
    fs::rename(&aside, &three).unwrap();
    drop(held);
    let removed = finished(&sandbox);
    assert_eq!(removed["deleted"], paths(&sandbox, &["one", "two"]));
    assert_eq!(left(&sandbox), ["three"]);
    let why = "it was not among those that were to go when the removal began";
    assert_eq!(removed["kept"], json!([{"path": three, "why": why}]));
}

#[test]
fn one_that_had_not_begun_or_was_done_leaves_all_or_nothing() {
    let sandbox = stopped();
    cut_off(&sandbox, &WORDS, Point::RemoveBegun);
    assert_whole(&sandbox);
    assert_eq!(left(&sandbox), ["one", "two", "three"]);
    assert_boots(&sandbox);
    cut_off(&sandbox, &WORDS, Point::RecordGone);
    assert_whole(&sandbox);
    assert_eq!(sandbox.json(&["ls"]), json!([]));
    assert_eq!(left(&sandbox), [""; 0]);
}

/// A frozen supervisor holds on to everything until it is dead.
#[test]
fn one_whose_supervisor_is_frozen_and_then_killed_is_finished_too() {
    let sandbox = stopped();
    let serving = supervisor(&sandbox);
    let mut held = Held::at(&sandbox, Point::RemoveImage);
    let client = sandbox.spawn(&WORDS);
    held.reached();
    signal(&serving, Signal::Stop);
    wait::until("all of it is frozen", PATIENCE, || {
        let threads = fs::read_dir(format!("/proc/{}/task", serving.pid())).unwrap();
        let stats = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
        let moves = |stat: &String| !stat.rsplit_once(") ").unwrap().1.starts_with('T');
        stats.into_iter().find(moves).map_or(Ok(()), Err)
    });
    drop(held);
    assert_eq!(left(&sandbox), ["two", "three"]);
    kill(&[client.handle(), &serving]);
    assert_eq!(
        finished(&sandbox)["deleted"],
        paths(&sandbox, &["one", "two", "three"])
    );
    assert_eq!(left(&sandbox), [""; 0]);
    assert_whole(&sandbox);
}

/// The client asks the next supervisor, under the same key.
#[test]
fn whoever_waits_for_it_is_told_all_that_was_deleted() {
    let points = [Point::RemoveBegun, Point::RecordGone];
    for point in BEGUN.into_iter().chain(points) {
        let sandbox = stopped();
        let told = bereave(&sandbox, &[&WORDS[..], &["-o", "json"]].concat(), point).expect(0);
        let removed = told.json()[0]["deleted"].clone();
        assert_eq!(
            removed,
            paths(&sandbox, &["one", "two", "three"]),
            "{}",
            point.name()
        );
        assert_eq!(left(&sandbox), [""; 0]);
        assert_eq!(count(&sandbox, "vm.removed"), 1);
        assert_whole(&sandbox);
    }
}

/// Nobody who types the command again has to know that it goes on by itself.
#[test]
fn whoever_asks_for_the_same_again_shares_what_goes_on() {
    let sandbox = stopped();
    cut_off(&sandbox, &WORDS, Point::RemoveImage);
    let mut held = Held::at(&sandbox, Point::RemoveImage);
    let words = [&WORDS[..], &["-o", "json"]].concat();
    let again = [sandbox.spawn(&words), sandbox.spawn(&words)];
    held.reached();
    let other = sandbox
        .maqet(&[&WORDS[..], &["--keep-snapshots"]].concat())
        .expect(5);
    assert!(other.stderr.contains("it is being removed"), "{other:#?}");
    drop(held);
    for told in again.map(Running::output) {
        // One that comes too late finds no such VM; nobody is told to wait.
        if told.code != 4 {
            let deleted = told.expect(0).json()[0]["deleted"].clone();
            assert_eq!(deleted, paths(&sandbox, &["one", "two", "three"]));
        }
    }
    assert_eq!(left(&sandbox), [""; 0]);
    assert_whole(&sandbox);
}

#[test]
fn what_another_vm_has_begun_to_use_meanwhile_stays_and_is_named() {
    let sandbox = stopped();
    let serving = supervisor(&sandbox);
    let held = {
        let mut held = Held::at(&sandbox, Point::RemoveImage);
        let client = sandbox.spawn(&WORDS);
        held.reached();
        Guest::tiny("db")
            .line("disks: {data: {path: ./two/disk.qcow2, interface: ide}}")
            .add(&sandbox);
        kill(&[client.handle(), &serving]);
        held
    };
    drop(held);
    let removed = finished(&sandbox);
    assert_eq!(removed["deleted"], paths(&sandbox, &["one", "three"]));
    let why = "it is disk `data` of `db` as well";
    assert_eq!(
        removed["kept"],
        json!([{"path": image(&sandbox, "two"), "why": why}])
    );
    assert_eq!(left(&sandbox), ["two"]);
    sandbox.maqet(&["start", "db"]).expect(0);
    sandbox.maqet(&["stop", "db"]).expect(0);
    assert_whole(&sandbox);
}

#[test]
fn snapshots_that_were_to_be_kept_are_kept() {
    for point in [Point::RemoveIntended, Point::RemoveImage] {
        let sandbox = stopped();
        let two = image(&sandbox, "two");
        qemu_img::run_in(
            sandbox.home(),
            &["snapshot", "-c", "precious", two.to_str().unwrap()],
        );
        let words = [&WORDS[..], &["--keep-snapshots"]].concat();
        cut_off(&sandbox, &words, point);
        let removed = finished(&sandbox);
        assert_eq!(removed["deleted"], paths(&sandbox, &["one", "three"]));
        assert_eq!(
            removed["kept"],
            json!([{"path": two, "why": "it holds a snapshot"}])
        );
        assert_eq!(left(&sandbox), ["two"]);
        assert_whole(&sandbox);
    }
}

/// After a reboot a file system may not be mounted yet.
#[test]
fn an_image_whose_directory_is_not_there_is_not_taken_for_gone() {
    let sandbox = stopped();
    cut_off(&sandbox, &WORDS, Point::RemoveImage);
    let (place, elsewhere) = (sandbox.home().join("two"), sandbox.home().join("unmounted"));
    fs::rename(&place, &elsewhere).unwrap();
    let removed = finished(&sandbox);
    assert_eq!(removed["deleted"], paths(&sandbox, &["one", "three"]));
    let why = "its directory is not there, or cannot be looked into";
    assert_eq!(
        removed["kept"],
        json!([{"path": image(&sandbox, "two"), "why": why}])
    );
    assert!(elsewhere.join("disk.qcow2").exists());
    assert_whole(&sandbox);
}

/// An image that nobody can delete until this is dropped.
struct Pinned {
    path: PathBuf,
    mounted: bool,
}

impl Pinned {
    /// Only root can mount, and only others can be kept from deleting in a directory.
    fn new(path: PathBuf) -> Option<Self> {
        let mounted = geteuid().is_root();
        if mounted {
            let mut mount = Command::new("mount");
            let done = mount.arg("--bind").args([&path, &path]).output().unwrap();
            if !done.status.success() {
                say("WARNING: an image that cannot be deleted is NOT EXERCISED: nothing can be mounted");
                return None;
            }
        } else {
            writable(&path, false);
        }
        Some(Self { path, mounted })
    }
}

fn writable(path: &Path, writable: bool) {
    let mode = if writable { 0o755 } else { 0o555 };
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(mode)).unwrap();
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.mounted {
            leftovers::unmount(&self.path);
        } else {
            writable(&self.path, true);
        }
    }
}

#[test]
fn one_that_fails_before_anything_is_gone_leaves_the_vm_as_it_was() {
    let sandbox = stopped();
    let Some(pinned) = Pinned::new(image(&sandbox, "one")) else {
        return;
    };
    let refused = sandbox.maqet(&WORDS).expect(1);
    assert!(refused.stderr.contains("cannot delete"), "{refused:#?}");
    assert!(
        refused.stderr.contains("none of its images is deleted"),
        "{refused:#?}"
    );
    assert_eq!(left(&sandbox), ["one", "two", "three"]);
    assert_eq!(sandbox.status(VM)["removal"], Value::Null);
    let why = sandbox.maqet(&["why", VM]).expect(0).stdout;
    assert!(
        why.contains("its removal failed, and no image is deleted"),
        "{why}"
    );
    drop(pinned);
    kill(&[&supervisor(&sandbox)]);
    assert_whole(&sandbox);
    assert_boots(&sandbox);
    sandbox.maqet(&WORDS).expect(0);
    assert_eq!(left(&sandbox), [""; 0]);
}

/// A VM whose removal cannot be finished, because of its second disk.
fn half_removed() -> Option<(Sandbox, Pinned)> {
    let sandbox = stopped_with("restart: always");
    sandbox.maqet(&["enable", VM]).expect(0);
    let pinned = Pinned::new(image(&sandbox, "two"))?;
    let refused = sandbox.maqet(&WORDS).expect(1).stderr;
    for words in [
        format!("cannot delete `{}`", image(&sandbox, "two").display()),
        format!("`{}` is deleted already", image(&sandbox, "one").display()),
        format!("`{}` is still there", image(&sandbox, "two").display()),
        format!("`{}` is still there", image(&sandbox, "three").display()),
        "hint: maqet rm web --delete-storage".to_owned(),
    ] {
        assert!(refused.contains(&words), "{words}: {refused}");
    }
    assert_half_removed(&sandbox);
    Some((sandbox, pinned))
}

/// It is told wherever somebody looks, and nothing but its removal is done to it.
#[track_caller]
fn assert_half_removed(sandbox: &Sandbox) {
    let status = sandbox.status(VM);
    let removal = &status["removal"];
    assert_eq!(removal["deleted"], paths(sandbox, &["one"]), "{status}");
    assert_eq!(removal["left"], paths(sandbox, &["two", "three"]), "{status}");
    assert_eq!(left(sandbox), ["two", "three"]);
    let listed = sandbox.maqet(&["ls"]).expect(0).stdout;
    assert!(listed.contains("stopped (half removed)"), "{listed}");
    let why = sandbox.maqet(&["why", VM]).expect(0).stdout;
    assert!(
        why.contains("because: its removal began")
            && why.contains("its removal stopped: cannot delete")
            && why.contains("next: maqet rm web --delete-storage"),
        "{why}"
    );
    let checks = sandbox.maqet(&["doctor"]).stdout;
    assert!(
        checks.contains("the removal of `web` began") && !checks.contains("has no file"),
        "{checks}"
    );
    for words in [
        &["start", VM][..],
        &["restart", VM],
        &["snapshot", "create", VM, "now"],
        &["storage", "accept", VM, "one"],
        &["storage", "resize", VM, "two", "+1M"],
        &["storage", "clone", VM, "two", "copy.qcow2"],
    ] {
        let refused = sandbox.maqet(words).expect(3).stderr;
        assert!(refused.contains("its removal has begun"), "{words:?}: {refused}");
        assert!(refused.contains("hint: maqet why web"), "{words:?}: {refused}");
    }
}

/// Neither its restart policy nor its being enabled brings it up again.
#[test]
fn one_that_fails_half_way_is_told_and_can_be_finished() {
    let Some((sandbox, pinned)) = half_removed() else {
        return;
    };
    kill(&[&supervisor(&sandbox)]);
    truth::settled(&sandbox);
    assert_half_removed(&sandbox);
    // The next supervisor tried, and says so.
    assert_eq!(count(&sandbox, "vm.removal-failed"), 2);
    drop(pinned);
    let removed = sandbox.json(&WORDS)[0].clone();
    assert_eq!(removed["deleted"], paths(&sandbox, &["one", "two", "three"]));
    assert_eq!(left(&sandbox), [""; 0]);
    assert_eq!(sandbox.json(&["ls"]), json!([]));
    assert_whole(&sandbox);
}

#[test]
fn one_that_failed_half_way_is_finished_by_the_next_supervisor_that_can() {
    let Some((sandbox, pinned)) = half_removed() else {
        return;
    };
    drop(pinned);
    kill(&[&supervisor(&sandbox)]);
    assert_eq!(
        finished(&sandbox)["deleted"],
        paths(&sandbox, &["one", "two", "three"])
    );
    assert_eq!(left(&sandbox), [""; 0]);
    assert_whole(&sandbox);
}

#[test]
fn whoever_is_content_with_what_is_gone_keeps_the_rest_whatever_comes_between() {
    let Some((sandbox, pinned)) = half_removed() else {
        return;
    };
    drop(pinned);
    cut_off(&sandbox, &["rm", VM], Point::RemoveIntended);
    let removed = finished(&sandbox);
    assert_eq!(removed["deleted"], paths(&sandbox, &["one"]));
    assert_eq!(left(&sandbox), ["two", "three"]);
    assert_whole(&sandbox);
}
