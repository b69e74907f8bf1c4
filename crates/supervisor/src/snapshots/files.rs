//! Steps in the images of a VM that does not run, by qemu-img.

use std::rc::Rc;

use actix::Addr;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::SnapshotEntry;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::Disk;
use maqet_state::clock::Timestamp;
use maqet_state::disk::DiskRecords;
use maqet_state::health::Health;
use maqet_state::id::VmId;
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::snapshot::{Snapshot, SnapshotFile};

use super::plan::{Found, Step};
use super::scope::capable;
use crate::disks::{gone, is_gone};
use crate::link::chain;
use crate::shared::Shared;
use crate::soundness;
use crate::vm::VmActor;

/// The images, each opened once.
#[derive(Debug)]
pub(crate) struct Files {
    disks: Vec<(Disk, SnapshotFile)>,
    of: Owner,
}

/// Whose images they are.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) id: VmId,
    pub(super) vm: String,
    /// What is known against its disks.
    pub(super) health: Health,
    /// Who records.
    pub(super) recorder: Addr<VmActor>,
    pub(super) shared: Rc<Shared>,
}

impl Files {
    /// Opens the images that are there; one that the first start is to make is not, and has no snapshots.
    /// Each must be the file on record.
    pub(super) async fn open(spec: &VmSpec, files: &DiskRecords, of: Owner) -> Result<Self, Refusal> {
        let (spec, files) = (spec.clone(), files.clone());
        let (policy, boot_id) = (of.shared.policy.clone(), of.shared.boot_id.clone());
        let opening = move || {
            let is_new = |disk: &Disk| disk.is_makeable() && !disk.path.exists() && !is_gone(disk, &files);
            let there = capable(&spec).filter(|disk| !is_new(disk));
            let opened = there.map(|disk| open(disk, &spec, &files, (&boot_id, &policy)));
            opened.collect()
        };
        let disks: Result<Vec<_>, Refusal> = of.shared.asides.of(&of.id).run(opening).await?;
        Ok(Self { disks: disks?, of })
    }

    pub(super) async fn list(&self) -> Result<Found, Refusal> {
        let mut found = Found::new();
        for (Disk { name, .. }, file) in &self.disks {
            let listed = file.list(&self.of.shared.binaries).await;
            let listed = listed.map_err(|error| failed(name, &error))?;
            let entries = listed.into_iter().map(|snapshot| entry(name, snapshot));
            found.insert(name.clone(), entries.collect());
        }
        Ok(found)
    }

    pub(super) async fn take(&self, step: &Step) -> Result<(), Refusal> {
        let binaries = &self.of.shared.binaries;
        match step {
            Step::Create { name, disks, .. } => {
                for disk in disks {
                    let made = self.of(disk)?.create(name, binaries).await;
                    made.map_err(|error| failed(disk, &error))?;
                    pass(Point::SnapshotDisk);
                }
            }
            Step::Apply { name, disks } => {
                for disk in disks {
                    let applied = self.of(disk)?.apply(name, binaries).await;
                    applied.map_err(|error| failed(disk, &error))?;
                    pass(Point::SnapshotDisk);
                }
            }
            Step::Delete { name, disk } => {
                let deleted = self.of(disk)?.delete(name, binaries).await;
                deleted.map_err(|error| failed(disk, &error))?;
                pass(Point::SnapshotDisk);
            }
        }
        Ok(())
    }

    /// Refuses unless there is room for a snapshot of each disk, and for so many bytes of memory beside the first.
    pub(super) async fn check_room(&self, disks: &[String], memory: u64) -> Result<(), Refusal> {
        let mut memory = memory;
        for disk in disks {
            let checked = self.of(disk)?.room_for_snapshot(std::mem::take(&mut memory));
            checked.await.map_err(|error| failed(disk, &error))?;
        }
        Ok(())
    }

    pub(super) fn vm(&self) -> &str {
        &self.of.vm
    }

    pub(super) fn has_accepted_damage(&self) -> bool {
        let damage = |(disk, _file): &(Disk, SnapshotFile)| self.of.health.of(&disk.path);
        self.disks.iter().filter_map(damage).any(|damage| damage.accepted)
    }

    pub(super) async fn mend(&self) -> Result<(), Refusal> {
        let Owner {
            vm,
            health,
            recorder,
            shared,
            ..
        } = &self.of;
        for (disk, file) in &self.disks {
            let mending = async {
                let mended = file.mend(&shared.binaries).await;
                mended.map_err(|error| failed(&disk.name, &error))
            };
            soundness::mend(recorder, vm, (disk, health), mending).await?;
        }
        Ok(())
    }

    fn of(&self, disk: &str) -> Result<&SnapshotFile, Refusal> {
        let file = self
            .disks
            .iter()
            .find(|(of, _)| of.name == disk)
            .map(|(_, file)| file);
        file.ok_or_else(|| {
            let message = format!("disk `{disk}` has no image yet: its first start makes it");
            Refusal::new(RefusalCode::WrongState, message)
        })
    }
}

/// Opens the image of one disk. Blocks.
fn open(
    disk: &Disk,
    spec: &VmSpec,
    files: &DiskRecords,
    (boot_id, policy): (&str, &PathPolicy),
) -> Result<(Disk, SnapshotFile), Refusal> {
    let name = &disk.name;
    if is_gone(disk, files) {
        return Err(gone(spec.name.as_str(), disk));
    }
    let file = SnapshotFile::open(&disk.path, policy).map_err(|error| failed(name, &error))?;
    recognize(disk, &file, files, boot_id).map_err(|refusal| {
        let vm = &spec.name;
        refusal.hint(format!(
            "if it is the right one: maqet storage accept {vm} {name}"
        ))
    })?;
    Ok((disk.clone(), file))
}

/// No other file is taken for the one that a start has opened, or that maqet made.
fn recognize(disk: &Disk, file: &SnapshotFile, files: &DiskRecords, boot_id: &str) -> Result<(), Refusal> {
    let mark = file.mark().map_err(|error| failed(&disk.name, &error))?;
    let known = files.get(&disk.path);
    if known.is_none_or(|known| known.admits(&mark, boot_id)) {
        return Ok(());
    }
    let message = format!("disk `{}` is another file than the one on record", disk.name);
    let cause = format!("`{}` is {mark}", disk.path.display());
    Err(Refusal::new(RefusalCode::Conflict, message).cause(cause))
}

pub(super) fn entry(disk: &str, snapshot: Snapshot) -> SnapshotEntry {
    SnapshotEntry {
        disk: disk.to_owned(),
        id: snapshot.id,
        name: snapshot.name,
        at: Timestamp(snapshot.at_ms),
        vm_state_bytes: snapshot.vm_state_bytes,
        vm_clock_ms: snapshot.vm_clock_ms,
    }
}

fn failed(disk: &str, error: &StorageError) -> Refusal {
    let message = format!("the snapshots of disk `{disk}` cannot be worked on");
    let refusal = Refusal::new(RefusalCode::StorageFailed, message).cause(chain(error));
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}
