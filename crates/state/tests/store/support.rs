//! Records to store, and a place to store them.

use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_spec::VmSpec;
use maqet_state::change::{Change, Committed, Rejected};
use maqet_state::clock::Timestamp;
use maqet_state::id::VmId;
use maqet_state::journal::NewEvent;
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use serde_json::json;
use tempfile::TempDir;

/// A directory for one store, gone with the value.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("state.redb")
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&self.path()).unwrap().store
    }

    /// Names of everything in the directory, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn at(ms: u64) -> Timestamp {
    Timestamp(1_800_000_000_000 + ms)
}

pub(crate) fn id(number: u64) -> VmId {
    format!("{number:032x}").parse().unwrap()
}

pub(crate) fn spec(name: &str) -> VmSpec {
    serde_json::from_value(json!({
        "name": name, "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg",
        "memory": 536_870_912, "cpus": 2,
        "disks": [{"name": "root", "path": "/srv/web.qcow2", "format": "qcow2", "interface": "virtio"}],
    }))
    .unwrap()
}

pub(crate) fn record(number: u64, name: &str) -> VmRecord {
    VmRecord::new(id(number), spec(name), at(number))
}

pub(crate) fn secret(byte: u8) -> Secret {
    Secret::from_bytes([byte; Secret::BYTES])
}

/// A new VM with its journal entry.
pub(crate) fn addition(number: u64, name: &str) -> Change {
    let record = record(number, name);
    let event = NewEvent::new("vm.added", at(number)).about(&record);
    Change::create(record, secret(7)).event(event)
}

/// Commits one change.
pub(crate) fn commit(store: &Store, change: Change) -> Result<Committed, Rejected> {
    store.commit(vec![change]).unwrap().remove(0)
}

/// Where a test that was started again as its own child finds its store.
pub(crate) const CHILD_STORE: &str = "MAQET_TEST_CHILD_STORE";

/// This program again, to run only the test `name` as the child of it, with SIGXFSZ ignored.
pub(crate) fn child(name: &str, store: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD_STORE, store);
    command
}

/// Runs the test `name` as a child, where limits are its own; what it left there is in the place.
pub(crate) fn in_child(name: &str) -> Place {
    let place = Place::new();
    let output = child(name, &place.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    place
}
