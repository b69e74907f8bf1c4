//! What must be so after a wave, and at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use maqet_tests::monitor::Monitor;
use maqet_tests::truth;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Output, qemu_img};
use serde_json::{Value, json};

use super::content::{Content, Held};
use super::place::{Acted, BASE, PLACE, Place, SOURCE, STEADY, path_of};
use super::plan::{Order, VMS, Verb, Victim};
use crate::cut::files;
use crate::play::assert_no_leaks;

impl Place {
    /// Holds everything to what was done, once it has come to rest.
    pub(super) fn check(&mut self, acted: &Acted) {
        for (order, output) in &acted.called {
            answered(order, output, acted);
        }
        let rest = truth::settled(&self.sandbox);
        let steady = rest.vm(STEADY).unwrap();
        assert_eq!(steady["pid"].as_i64(), Some(self.steady.pid().into()), "{steady}");
        // The place of disks that are yet to be made may be there already.
        let mut known = VMS
            .map(|vm| self.sandbox.data_dir().join("disks").join(vm))
            .into();
        for vm in VMS {
            match rest.vm(vm) {
                Some(line) => self.look_at(vm, line, &mut known),
                None => drop(self.contents.remove(vm)),
            }
        }
        for disk in self.disks(STEADY) {
            known.extend(chain(&disk).map(path_of));
        }
        self.explained(known);
        self.library_is_whole();
        assert_no_leaks(&self.sandbox);
        self.nobody_panicked();
    }

    /// One VM: its disks are there and sound, and hold what they may.
    fn look_at(&mut self, vm: &'static str, line: &Value, known: &mut BTreeSet<PathBuf>) {
        let id = line["id"].as_str().unwrap();
        let (snapshots, layered) = self.snapshots(vm);
        let disks = self.disks(vm);
        known.extend(self.unsettled(vm));
        let mut content = match self.contents.remove(vm) {
            Some((whose, content)) if whose == id => content,
            Some(_) | None => found(&disks, &snapshots),
        };
        content.listed(&snapshots, layered);
        for disk in &disks {
            is_told(vm, disk);
            known.extend(chain(disk).map(path_of));
        }
        if line["status"] == "running" {
            self.qemu_has(id, &disks);
            self.contents.insert(vm, (id.to_owned(), content));
            return;
        }
        for image in disks.iter().flat_map(chain) {
            if image["format"] == "qcow2" {
                qemu_img::check(&path_of(image));
            }
        }
        let held = held(&disks);
        if disks.iter().all(|disk| disk["problem"].is_null()) {
            content.seen(held);
        } else {
            content.present = BTreeSet::from([held]);
        }
        self.contents.insert(vm, (id.to_owned(), content));
    }

    /// QEMU has as many disks as are on record, whatever it was given or not.
    fn qemu_has(&self, id: &str, disks: &[Value]) {
        let socket = self.sandbox.runtime_dir().join("vms").join(id).join("qmp1.sock");
        if !socket.exists() {
            return;
        }
        let devices = Monitor::of(&self.sandbox, id).run("query-block", &json!({}));
        let devices = devices.unwrap();
        let devices = devices.as_array().unwrap().iter();
        let inserted: Vec<&Value> = devices.filter_map(|device| device.get("inserted")).collect();
        assert_eq!(inserted.len(), disks.len(), "{inserted:?} {disks:?}");
    }

    /// Images of a snapshot whose deletion was cut off: it is told, and finished by another one.
    fn unsettled(&self, vm: &str) -> Vec<PathBuf> {
        let told = self.sandbox.json(&["storage", "info", vm]);
        let Some(name) = told["unsettled"]["name"].as_str() else {
            return Vec::new();
        };
        let infix = format!(".{name}.");
        let places = [
            self.sandbox.home(),
            self.sandbox.data_dir().join("disks").join(vm),
        ];
        let there = places
            .iter()
            .flat_map(|place| files(place).into_iter().map(move |file| place.join(file)));
        there
            .filter(|path| path.to_string_lossy().contains(&infix))
            .collect()
    }

    /// Names of a VM's snapshots, and whether one is a file of its own. A runner may just be replaced.
    fn snapshots(&self, vm: &str) -> (BTreeSet<String>, bool) {
        let listed = wait::until("the snapshots are listed", PATIENCE, || {
            let listed = self.sandbox.maqet(&["snapshot", "list", vm, "-o", "json"]);
            if listed.code == 0 {
                Ok(listed.json())
            } else {
                Err(listed)
            }
        });
        let listed = listed.as_array().unwrap();
        let names = listed
            .iter()
            .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned());
        let layered = listed.iter().any(|snapshot| snapshot["kind"] == "external");
        (names.collect(), layered)
    }

    /// Every image is a VM's or is told to be nobody's; nothing is half-made.
    fn explained(&self, mut known: BTreeSet<PathBuf>) {
        known.extend(self.orphans());
        let home = self.sandbox.home();
        let disks = self.sandbox.data_dir().join("disks");
        let below = |place: &Path| {
            files(place)
                .into_iter()
                .map(|name| place.join(name))
                .collect::<Vec<_>>()
        };
        let mut there = below(&home);
        there.extend(below(&disks));
        let own = |path: &Path| {
            let is_description = path.extension().is_some_and(|ending| ending == "yaml");
            let name = path.file_name().unwrap();
            path.starts_with(&home) && (is_description || name == "tiny.bin" || name == SOURCE)
        };
        there.retain(|path| !own(path) && !known.contains(path));
        assert!(there.is_empty(), "nobody explains {there:?}");
        let outside: Vec<_> = fs::read_dir(self.sandbox.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["home", "data", "run", "config.yaml", "points"].contains(&&**name))
            .collect();
        assert!(outside.is_empty(), "{outside:?}");
    }

    fn library_is_whole(&self) {
        let listed = self.sandbox.json(&["image", "ls"]);
        let names = listed.as_array().unwrap().iter();
        let names = names.map(|image| image["name"].as_str().unwrap());
        let expected: BTreeSet<PathBuf> = names
            .flat_map(|name| ["image.json", "image.qcow2"].map(|file| PathBuf::from(name).join(file)))
            .collect();
        let mut there = files(&self.sandbox.data_dir().join("images"));
        there.retain(|path| !path.ends_with("overlays"));
        assert_eq!(there, expected, "{listed}");
        assert!(expected.contains(&Path::new(BASE).join("image.qcow2")));
    }

    fn nobody_panicked(&self) {
        let log = fs::read_to_string(self.sandbox.data_dir().join("supervisor.log")).unwrap_or_default();
        let panic = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panic, None);
    }

    /// All there is still works, and goes when it is told to go.
    pub(super) fn close(mut self) {
        let listed = self.sandbox.json(&["ls"]);
        let there: Vec<&'static str> = VMS
            .into_iter()
            .filter(|vm| listed.as_array().unwrap().iter().any(|line| line["name"] == *vm))
            .collect();
        for vm in &there {
            self.mend(vm);
            for verb in ["start", "stop"] {
                self.sandbox.maqet(&[verb, vm]).expect(0);
            }
            // Somebody who is killed leaves clusters that nobody uses.
            self.sandbox
                .maqet(&["storage", "verify", vm, "--repair"])
                .expect(0);
            self.sandbox.maqet(&["storage", "verify", vm]).expect(0);
        }
        self.check(&Acted::default());
        for vm in &there {
            self.snapshots_hold(vm);
            self.delete_snapshots(vm);
        }
        self.check(&Acted::default());
        for vm in there.iter().chain([&STEADY]) {
            let words = ["rm", vm, "--force", "--yes", "--delete-storage"];
            self.sandbox.maqet(&words).expect(0);
        }
        self.nothing_is_left();
    }

    /// One after the other; those that another one would take with it come later.
    fn delete_snapshots(&self, vm: &str) {
        loop {
            let (listed, _) = self.snapshots(vm);
            let delete = |name: &String| self.sandbox.maqet(&["snapshot", "delete", vm, name]).code;
            let codes: Vec<i32> = listed.iter().map(delete).collect();
            if codes.is_empty() {
                return;
            }
            assert!(codes.contains(&0), "{vm}: {listed:?} {codes:?}");
        }
    }

    /// A VM whose disks are of two moments is told so; a person accepts that.
    fn mend(&self, vm: &str) {
        for disk in self.disks(vm) {
            if !disk["problem"].is_null() {
                let name = disk["disk"].as_str().unwrap();
                self.sandbox.maqet(&["storage", "accept", vm, name]).expect(0);
            }
        }
    }

    /// What is in the snapshots inside of images is what was there when they were made.
    fn snapshots_hold(&self, vm: &'static str) {
        let (_, content) = &self.contents[vm];
        for (place, disk) in self.disks(vm).iter().take(2).enumerate() {
            let images = chain(disk).filter(|image| image["format"] == "qcow2");
            let snapshots = images.map(path_of).flat_map(|path| {
                let names = qemu_img::snapshots(&path);
                names.into_iter().map(move |name| (path.clone(), name))
            });
            for (path, name) in snapshots {
                let byte = qemu_img::content_at(&path, &name)[PLACE];
                let kept = content.kept(&name, place);
                assert!(kept.contains(&byte), "{vm} {name}: {byte} instead of {kept:?}");
            }
        }
    }

    fn nothing_is_left(self) {
        self.tidy();
        let images = self.sandbox.json(&["image", "ls"]);
        for image in images.as_array().unwrap() {
            let name = image["name"].as_str().unwrap();
            self.sandbox.maqet(&["image", "rm", name]).expect(0);
        }
        let mut left = files(&self.sandbox.home());
        left.retain(|path| path.extension().is_none_or(|ending| ending != "yaml"));
        assert_eq!(left, ["tiny.bin", SOURCE].map(PathBuf::from).into());
        for place in ["images", "disks"] {
            assert_eq!(files(&self.sandbox.data_dir().join(place)), BTreeSet::new());
        }
    }
}

fn chain(disk: &Value) -> impl Iterator<Item = &Value> {
    disk["chain"].as_array().unwrap().iter()
}

/// A disk is there, or is yet to be made; or somebody is told what is wrong with it.
#[track_caller]
fn is_told(vm: &str, disk: &Value) {
    let state = disk["state"].as_str().unwrap();
    assert!(["ok", "new", "to-be-made"].contains(&state), "{vm}: {disk}");
    assert_eq!(
        disk.get("trouble").unwrap_or(&json!([])),
        &json!([]),
        "{vm}: {disk}"
    );
}

/// A client got an answer, or was hit; one that is refused is told why.
#[track_caller]
fn answered(order: &Order, output: &Output, acted: &Acted) {
    match output.code {
        0 => {}
        137 if acted.has_hit(Victim::Client) => {}
        1..=5 | 78 => {
            let error = output.error();
            let words = error.to_string();
            assert_ne!(error["code"], "internal", "{order:?}: {output:#?}");
            assert!(!words.contains("panic"), "{order:?}: {output:#?}");
            assert_eq!(error["exit"], output.code, "{order:?}: {output:#?}");
            let of_a_file = matches!(order.verb, Verb::Add | Verb::Attach | Verb::Plug);
            assert!(of_a_file || output.code != 78, "{order:?}: {output:#?}");
        }
        6 if acted.has_hit(Victim::Supervisor) => {}
        _ => panic!("{order:?}: {output:#?}"),
    }
}

/// A VM that is new: whatever is there was there before it.
fn found(disks: &[Value], snapshots: &BTreeSet<String>) -> Content {
    assert_eq!(snapshots, &BTreeSet::new(), "snapshots of a VM that is new");
    let mut content = Content::blank();
    if disks.iter().any(|disk| disk["state"] != "to-be-made") {
        content.present = BTreeSet::from([held(disks)]);
    }
    content
}

/// What the first two disks hold.
fn held(disks: &[Value]) -> Held {
    let held: Vec<u8> = disks.iter().take(2).map(byte_of).collect();
    [held[0], held[1]]
}

fn byte_of(disk: &Value) -> u8 {
    let Some(top) = chain(disk).next() else {
        return 0;
    };
    let path = path_of(top);
    let content = if top["format"] == "raw" {
        fs::read(path).unwrap()
    } else {
        qemu_img::content(&path)
    };
    content[PLACE]
}
