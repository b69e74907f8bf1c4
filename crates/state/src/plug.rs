//! A disk that a QEMU which runs is being given.
//!
//! Pure: what is on record of it. That it is about to be told is recorded first. Only QEMU knows whether it has the disk; it is told
//! again, which changes nothing where it has. A QEMU that has ended has none: then the disk was not given to the VM.

use maqet_process::identity::FileMark;
use maqet_spec::VmSpec;
use maqet_spec::vm::Disk;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::disk::{DiskRecords, Opened};
use crate::record::VmRecord;

/// A disk on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plug {
    /// The disk, which becomes the VM's last one.
    pub disk: Disk,
    /// Its file.
    pub file: FileMark,
    /// What that stands on, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Opened>,
    /// Launch of the QEMU that is to get it.
    pub generation: u64,
    /// Boot of the host in which they were looked at.
    pub boot_id: String,
    /// Idempotency key of the call that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Plug {
    /// All its files, its own first.
    pub fn files(&self) -> Vec<Opened> {
        let (path, file) = (self.disk.path.clone(), self.file);
        let below = self.below.iter().cloned();
        std::iter::once(Opened { path, file }).chain(below).collect()
    }

    /// What is known of a VM's files once the disk is its own. One that it had before stays whose it was.
    fn known_in(&self, files: DiskRecords, at: Timestamp) -> DiskRecords {
        let path = &self.disk.path;
        let files = match files.get(path) {
            None => files.accepted(path.clone(), self.file, &self.boot_id, at),
            Some(_known) => files,
        };
        files.used(&self.files(), &self.boot_id, at)
    }
}

impl VmRecord {
    /// The spec with every disk that a QEMU which runs may have.
    pub fn spec_at_most(&self) -> VmSpec {
        let mut spec = self.spec.clone();
        let coming = self.plug.as_ref().map(|plug| plug.disk.clone());
        spec.disks.extend(coming);
        spec
    }

    /// The record once QEMU has the disk that it was being given, if it was.
    #[must_use]
    pub fn plugged(mut self, at: Timestamp) -> Self {
        if let Some(plug) = self.plug.take() {
            self.files = plug.known_in(self.files, at);
            self.spec.disks.push(plug.disk);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use maqet_process::identity::FileId;
    use serde_json::json;

    use super::*;
    use crate::lifecycle::{Cause, Fact, LastExit};

    const AT: Timestamp = Timestamp(7);

    fn opened(path: &str, inode: u64) -> Opened {
        let id = FileId { dev: 1, inode };
        let file = FileMark { id, born_ns: Some(1) };
        let path = path.into();
        Opened { path, file }
    }

    /// One that is about to get `/vm/new`, which stands on `/vm/base`.
    fn record(files: DiskRecords) -> VmRecord {
        let spec = json!({"name": "web", "binary": "q", "machine": "q35", "accel": "tcg", "memory": 1, "cpus": 1,
            "disks": [{"name": "root", "path": "/vm/root", "format": "raw", "interface": "virtio"}]});
        let id = format!("{:032x}", 1).parse().unwrap();
        let mut record = VmRecord::new(id, serde_json::from_value(spec).unwrap(), Timestamp(0));
        let disk =
            json!({"name": "new", "path": "/vm/new", "format": "qcow2", "interface": "virtio", "port": 1});
        record.files = files;
        record.plug = Some(Box::new(Plug {
            disk: serde_json::from_value(disk).unwrap(),
            file: opened("/vm/new", 2).file,
            below: vec![opened("/vm/base", 3)],
            generation: 1,
            boot_id: "boot".to_owned(),
            key: None,
        }));
        record
    }

    #[test]
    fn once_qemu_has_it_it_is_the_last_disk_and_its_files_are_known() {
        let record = record(DiskRecords::new());
        let most = record.spec_at_most();
        let record = record.plugged(AT);
        assert_eq!((&most, &record.spec), (&record.spec, &record.spec_at_most()));
        assert_eq!((record.plug.is_none(), record.spec.disks.len()), (true, 2));
        assert_eq!(
            (record.spec.disks[1].name.as_str(), record.spec.disks[1].port),
            ("new", Some(1))
        );
        let own = record.files.get("/vm/new".as_ref()).unwrap();
        assert_eq!(
            (own.file, own.made, own.used),
            (Some(opened("", 2).file), false, true)
        );
        let base = record.files.get("/vm/base".as_ref()).unwrap();
        assert_eq!((base.made, base.used), (false, true));
        // Told a second time nothing comes of it.
        assert_eq!(record.clone().plugged(Timestamp(8)), record);
    }

    #[test]
    fn what_maqet_made_stays_so() {
        let Opened { path, file } = opened("/vm/new", 2);
        let record = record(DiskRecords::new().made(path, file, "boot", AT)).plugged(AT);
        assert!(record.files.get("/vm/new".as_ref()).unwrap().made);
    }

    #[test]
    fn a_qemu_that_has_ended_has_no_disk_on_its_way() {
        let exit = LastExit {
            cause: Cause::StartFailed,
            at: AT,
            exit_code: None,
            signal: None,
            detail: None,
        };
        let record = record(DiskRecords::new());
        let after = record.apply(Fact::LaunchFailed { exit }, AT).unwrap();
        assert_eq!((after.plug, after.spec.disks.len()), (None, 1));
        assert!(after.files.get("/vm/new".as_ref()).is_none());
    }
}
