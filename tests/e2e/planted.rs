//! Whatever lies at a name that maqet is about to make: what it leads to stays as it was.
//!
//! The names are not listed here: a life is played once, and every name it leaves behind is tried.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use maqet_tests::{Guest, Output, Sandbox, qemu_img};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

/// Stands for the VM's id in a name.
const ID: &str = "ID";

const DISKS: &str = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}, \
                     data: {path: ./data.raw, size: 1M, format: raw, interface: ide}}";

/// Things to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    Link,
    Dangling,
    HardLink,
    Fifo,
    Device,
    Directory,
}

impl Plant {
    const ALL: [Self; 6] = [
        Self::Link,
        Self::Dangling,
        Self::HardLink,
        Self::Fifo,
        Self::Device,
        Self::Directory,
    ];

    /// Whether it could be planted: devices are only root's to make.
    fn put(self, at: &Path, victim: &Victim) -> bool {
        match self {
            Self::Link => symlink(&victim.file, at).unwrap(),
            Self::Dangling => symlink(&victim.nothing, at).unwrap(),
            Self::HardLink => fs::hard_link(&victim.file, at).unwrap(),
            Self::Fifo => mkfifo(at, Mode::S_IRWXU).unwrap(),
            // The null device.
            Self::Device => return mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).is_ok(),
            Self::Directory => fs::create_dir(at).unwrap(),
        }
        true
    }
}

/// What an attacker would like to have touched.
struct Victim {
    file: PathBuf,
    nothing: PathBuf,
    before: (Vec<u8>, u32, i64, u64),
}

impl Victim {
    fn new(sandbox: &Sandbox) -> Self {
        let outside = sandbox.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let file = outside.join("victim");
        fs::write(&file, "precious").unwrap();
        Self {
            nothing: outside.join("nothing"),
            before: Self::look(&file),
            file,
        }
    }

    fn look(file: &Path) -> (Vec<u8>, u32, i64, u64) {
        let metadata = fs::metadata(file).unwrap();
        (
            fs::read(file).unwrap(),
            metadata.mode(),
            metadata.mtime_nsec(),
            metadata.ino(),
        )
    }

    /// What was done to it, if anything.
    fn harm(&self) -> Option<&'static str> {
        // The victim itself.
        let names = fs::read_dir(self.file.parent().unwrap()).unwrap().count();
        if Self::look(&self.file) != self.before {
            return Some("the victim was touched");
        }
        (names != 1).then_some("something was made beside the victim")
    }
}

/// What a person does that makes files; `add` only where the VM is not there yet.
fn live(sandbox: &Sandbox, add: bool, mut after_each: impl FnMut()) -> Vec<Output> {
    let file = Guest::tiny("web").line(DISKS).write(sandbox);
    let file = file.display().to_string();
    let base = sandbox.home().join("base.qcow2");
    qemu_img::create(&base, "qcow2", "1M");
    let verbs: [&[&str]; 8] = [
        &["add", &file],
        &["start", "web"],
        &["state", "backup", "copy.redb"],
        &["stop", "web"],
        &["snapshot", "create", "web", "s1", "--disk", "root"],
        &["storage", "clone", "web", "root", "clone.qcow2"],
        &["image", "import", "base.qcow2", "--name", "base"],
        &["supervisor", "stop"],
    ];
    let mut outputs = Vec::new();
    for verb in verbs.iter().skip(usize::from(!add)) {
        outputs.push(sandbox.maqet(verb));
        after_each();
    }
    outputs
}

/// The VM's id, as long as there is one VM.
fn id(sandbox: &Sandbox) -> String {
    let entries = fs::read_dir(sandbox.data_dir().join("vms")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.last().unwrap()
}

/// Every name below the sandbox that is there now.
fn names(sandbox: &Sandbox) -> BTreeSet<String> {
    let id = id(sandbox);
    let mut pending = vec![sandbox.data_dir(), sandbox.runtime_dir(), sandbox.home()];
    let mut found = BTreeSet::new();
    while let Some(place) = pending.pop() {
        if place.symlink_metadata().unwrap().is_dir() {
            pending.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = place.strip_prefix(sandbox.path()).unwrap();
        found.insert(name.display().to_string().replace(&id, ID));
    }
    found
}

/// Every name that a life makes.
fn all_names() -> BTreeSet<String> {
    let sandbox = Sandbox::new();
    sandbox.tiny_image();
    let before = ["home", "home/web.yaml", "home/tiny.bin", "home/base.qcow2"].map(str::to_owned);
    let mut found = BTreeSet::new();
    let outputs = live(&sandbox, true, || found.extend(names(&sandbox)));
    assert!(outputs.iter().all(|output| output.code == 0), "{outputs:#?}");
    found.into_iter().filter(|name| !before.contains(name)).collect()
}

/// Removes what is there, makes the directories above it private as maqet would, and plants.
fn plant(sandbox: &Sandbox, name: &str, plant: Plant, victim: &Victim) -> bool {
    let at = sandbox.path().join(name);
    let metadata = at.symlink_metadata();
    match metadata.map(|metadata| metadata.is_dir()) {
        Ok(true) => fs::remove_dir_all(&at).unwrap(),
        Ok(false) => fs::remove_file(&at).unwrap(),
        Err(_missing) => {}
    }
    let mut private = fs::DirBuilder::new();
    private
        .recursive(true)
        .mode(0o700)
        .create(at.parent().unwrap())
        .unwrap();
    plant.put(&at, victim)
}

/// What was harmed by a life in which this lies at that name.
fn harm(name: &str, kind: Plant) -> Option<String> {
    let sandbox = Sandbox::new();
    let victim = Victim::new(&sandbox);
    let what = format!("{kind:?} at {name}");
    let of_vm = name.contains(ID);
    let mut name = name.to_owned();
    if of_vm {
        Guest::tiny("web").line(DISKS).add(&sandbox);
        sandbox.maqet(&["supervisor", "stop"]).expect(0);
        name = name.replace(ID, &id(&sandbox));
    }
    if !plant(&sandbox, &name, kind, &victim) {
        return None;
    }
    let outputs = live(&sandbox, !of_vm, || ());
    for output in outputs.iter().filter(|output| output.code != 0) {
        assert!(output.stderr.contains("error: "), "{what}: {output:#?}");
    }
    // What was planted is not maqet's to end a life with.
    sandbox.leaves_processes();
    victim.harm().map(|harm| format!("{what}: {harm}"))
}

#[test]
fn whatever_lies_at_a_name_nothing_it_leads_to_is_touched() {
    let names = all_names();
    let harm: Vec<String> = names
        .iter()
        .flat_map(|name| Plant::ALL.into_iter().filter_map(|kind| harm(name, kind)))
        .collect();
    assert!(harm.is_empty(), "{harm:#?}");
}
