//! Work on disks and images whose supervisor is killed at one of its steps, and what must hold afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use maqet_process::point::Point;
use maqet_process::{ProcessHandle, Sent, Signal};
use maqet_tests::leftovers::Leftover;
use maqet_tests::truth::Kind;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Held, Output, Running, Sandbox, qemu_img, truth};
use serde_json::{Value, json};

use crate::scene::{VM, kill, say};

/// The supervisor that serves this sandbox.
pub(crate) fn supervisor(sandbox: &Sandbox) -> ProcessHandle {
    // Whoever asks for the list has one started.
    sandbox.json(&["ls"]);
    let mut found = truth::processes(sandbox, Kind::Supervisor, None);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Kills the supervisor, and the client with it, when it passes the point while it carries out `words`.
#[track_caller]
pub(crate) fn cut_off(sandbox: &Sandbox, words: &[&str], point: Point) {
    let (client, supervisor, held) = hold(sandbox, words, point);
    kill(&[client.handle(), &supervisor]);
    drop(held);
}

/// Kills the supervisor alone; tells what its client got in the end.
#[track_caller]
pub(crate) fn bereave(sandbox: &Sandbox, words: &[&str], point: Point) -> Output {
    let (client, supervisor, held) = hold(sandbox, words, point);
    kill(&[&supervisor]);
    drop(held);
    client.output()
}

#[track_caller]
fn hold(sandbox: &Sandbox, words: &[&str], point: Point) -> (Running, ProcessHandle, Held) {
    let supervisor = supervisor(sandbox);
    let mut held = Held::at(sandbox, point);
    let client = sandbox.spawn(words);
    held.reached();
    say(&format!("{words:?} at {}", point.name()));
    (client, supervisor, held)
}

/// A new supervisor knows everything that is there, and nothing half-made is.
#[track_caller]
pub(crate) fn assert_whole(sandbox: &Sandbox) {
    truth::settled(sandbox);
    let leaks = sandbox.json(&["doctor", "--leaks"])["leaks"].clone();
    assert_eq!(leaks, json!([]));
    for place in [sandbox.home(), sandbox.data_dir().join("images")] {
        let unfinished: Vec<_> = files(&place)
            .into_iter()
            .filter(|path| is_temporary(path))
            .collect();
        assert!(unfinished.is_empty(), "{unfinished:?}");
    }
}

fn is_temporary(path: &Path) -> bool {
    let mut names = path.iter().map(|name| name.to_string_lossy());
    names.any(|name| name.starts_with(".new-") || name.starts_with(".maqet-"))
}

/// Every file and empty directory below, without the place itself.
pub(crate) fn files(place: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![place.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let below = path.is_dir() && fs::read_dir(&path).unwrap().next().is_some();
            if below {
                pending.push(path);
            } else {
                found.insert(path.strip_prefix(place).unwrap().to_owned());
            }
        }
    }
    found
}

/// What `storage info` says of a disk; it is sound, and as large as is told.
#[track_caller]
pub(crate) fn disk(sandbox: &Sandbox, name: &str) -> Value {
    let told = sandbox.json(&["storage", "info", VM])["disks"].clone();
    let mut disks = told.as_array().unwrap().iter();
    let disk = disks.find(|disk| disk["disk"] == name).unwrap().clone();
    if let Some(image) = disk["chain"].get(0) {
        let path = PathBuf::from(image["path"].as_str().unwrap());
        assert_eq!(
            qemu_img::info(&path)["virtual-size"],
            image["virtual_bytes"],
            "{disk}"
        );
        if image["format"] == "qcow2" && disk["holder"].is_null() {
            assert_eq!(qemu_img::check(&path), qemu_img::Found::Clean, "{disk}");
        }
    }
    disk
}

/// The VM boots, and is at rest again.
#[track_caller]
pub(crate) fn assert_boots(sandbox: &Sandbox) {
    sandbox.maqet(&["start", VM]).expect(0);
    sandbox.maqet(&["stop", VM]).expect(0);
}

/// A clone to `copy.qcow2` whose qemu-img is stopped in the middle of its copy.
pub(crate) fn frozen_clone(sandbox: &Sandbox, clone: impl Fn() -> Running) -> (Running, Leftover) {
    let undo = || fs::remove_file(sandbox.home().join("copy.qcow2")).unwrap();
    frozen(sandbox, "qemu-img convert", clone, undo)
}

/// An order whose qemu-img with these words is stopped in the middle of its work.
pub(crate) fn frozen(
    sandbox: &Sandbox,
    words: &str,
    order: impl Fn() -> Running,
    undo: impl Fn(),
) -> (Running, Leftover) {
    // Work may be done before anybody has seen it.
    let caught = (0..50).find_map(|_attempt| {
        let client = order();
        match at_work(sandbox, &client, words) {
            Some(working) if working.handle.signal(Signal::Stop).unwrap() == Sent::Delivered => {
                Some((client, working))
            }
            Some(_) | None => {
                client.output().expect(0);
                undo();
                None
            }
        }
    });
    caught.unwrap()
}

/// The qemu-img with these words that works for a client; `None` when that has ended first.
pub(crate) fn at_work(sandbox: &Sandbox, client: &Running, words: &str) -> Option<Leftover> {
    wait::until("qemu-img at work", PATIENCE, || {
        let mut found = sandbox.processes();
        found.retain(|process| process.line.contains(words) && !process.handle.has_exited());
        match found.pop() {
            Some(copying) => Ok(Some(copying)),
            None if client.handle().has_exited() => Ok(None),
            None => Err("none"),
        }
    })
}
