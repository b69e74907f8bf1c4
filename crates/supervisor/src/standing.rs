//! Images that disks of other VMs stand on. Leases keep apart VMs that run at the same time; but whatever is written to an
//! image changes all that stands on it, and a VM that rests finds out at its next start, when it is too late.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use maqet_process::identity::FileMark;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::shell::word;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::disk::DiskRecords;
use maqet_state::id::VmId;
use maqet_state::record::VmRecord;
use maqet_storage::PathPolicy;
use maqet_storage::image::{self, Look};
use tokio::time::timeout;

use crate::messages::ReadVms;
use crate::shared::Shared;

/// Longest look at the disks of one other VM. One whose file system does not answer keeps nobody from starting.
const LOOK: Duration = Duration::from_secs(1);

/// An image of this VM that is to be written to.
#[derive(Clone, Debug)]
struct Written {
    disk: String,
    path: PathBuf,
    file: FileMark,
}

/// A disk of another VM, and the image below it that is to be written to.
#[derive(Debug)]
struct Above {
    disk: String,
    path: PathBuf,
    below: Written,
}

/// The images of these disks are about to be written to: no disk of another VM may stand on one of them, and none may be the
/// library's.
///
/// # Errors
/// `conflict`, which names both disks and both ways out; `invalid-spec` for an image of the library; when the store cannot be
/// read.
pub(crate) async fn refuse_to_write_below<'d>(
    (id, name): (&VmId, &str),
    disks: impl IntoIterator<Item = &'d Disk>,
    shared: &Shared,
) -> Result<(), Refusal> {
    let disks: Vec<_> = disks.into_iter().filter(|disk| !disk.readonly).cloned().collect();
    if disks.is_empty() {
        return Ok(());
    }
    let (library, vm, policy) = (shared.places.images(), name.to_owned(), shared.policy.clone());
    let looking = move || {
        refuse_library(&vm, &disks, &library)?;
        Ok(disks
            .iter()
            .filter_map(|disk| written(disk, &policy))
            .collect::<Vec<_>>())
    };
    let written = shared.asides.of(id).run(looking).await??;
    let others = records_of_others(id, shared).await?.into_iter();
    let looks = others.map(|other| above(other, written.clone(), shared));
    match join_all(looks).await.into_iter().flatten().next() {
        Some((other, above)) => Err(refuse(name, &other, &above)),
        None => Ok(()),
    }
}

/// All other VMs.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn records_of_others(id: &VmId, shared: &Shared) -> Result<Vec<VmRecord>, Refusal> {
    let mut records = shared.state.send(ReadVms).await.map_err(|gone| {
        Refusal::new(RefusalCode::Busy, "nobody tells what other VMs have").cause(gone.to_string())
    })??;
    records.retain(|record| record.id != *id);
    Ok(records)
}

/// No image of the library is written to, under whatever name: all that stands on it would change. Blocks.
///
/// # Errors
/// `invalid-spec`, which names the disk and what to write instead.
pub(crate) fn refuse_library(vm: &str, disks: &[Disk], library: &Path) -> Result<(), Refusal> {
    let inside = |disk: &&Disk| {
        let resolved = disk.path.canonicalize();
        !disk.readonly && resolved.is_ok_and(|path| path.starts_with(library))
    };
    let Some(disk) = disks.iter().find(inside) else {
        return Ok(());
    };
    let (name, path) = (&disk.name, disk.path.display());
    let message = format!("disk `{name}` of `{vm}` is an image of the library");
    let refusal = Refusal::new(RefusalCode::InvalidSpec, message).vm(vm);
    let refusal = refusal.cause(format!("`{path}` is for disks to stand on, and never written to"));
    Err(refusal.hint("write `from: IMAGE` instead of its path, or `readonly: true` beside it"))
}

/// A file that is not there is nobody's base.
fn written(disk: &Disk, policy: &PathPolicy) -> Option<Written> {
    let look = image::look(&disk.path, disk.format, policy);
    let file = look.chain.first()?.file;
    let (disk, path) = (disk.name.clone(), disk.path.clone());
    Some(Written { disk, path, file })
}

/// The first disk of another VM above an image that is to be written to, and the VM's name.
async fn above(other: VmRecord, written: Vec<Written>, shared: &Shared) -> Option<(String, Above)> {
    let name = other.name().to_owned();
    if let Some(above) = keeping(&other, &written, &shared.boot_id) {
        return Some((name, above));
    }
    let mut disks = other.spec.disks;
    disks.retain(|disk| may_stand_on_others(disk, &other.files));
    if disks.is_empty() {
        return None;
    }
    let (aside, policy) = (shared.asides.of(&other.id), shared.policy.clone());
    let looking = aside.run(move || first_above(&disks, &written, &policy));
    match timeout(LOOK, looking).await {
        Ok(Ok(found)) => found.map(|above| (name, above)),
        Ok(Err(refusal)) => {
            tracing::error!(vm = name, %refusal, causes = ?refusal.causes, "what its disks stand on was not looked at");
            None
        }
        Err(_elapsed) => {
            tracing::warn!(
                vm = name,
                "its disks do not answer: nobody looked at what they stand on"
            );
            None
        }
    }
}

/// What maqet made stands on files that are on record, or on an image of the library.
fn may_stand_on_others(disk: &Disk, files: &DiskRecords) -> bool {
    let made = files.get(&disk.path).is_some_and(|known| known.made);
    disk.format == DiskFormat::Qcow2 && !made
}

/// An image that keeps a snapshot of another VM's disk, which stands on it.
fn keeping(other: &VmRecord, written: &[Written], boot_id: &str) -> Option<Above> {
    let snapshots = other.externals.snapshots.iter();
    snapshots.flat_map(|snapshot| &snapshot.layers).find_map(|layer| {
        let known = other
            .files
            .get(layer.base())
            .filter(|known| known.file.is_some())?;
        let below = written
            .iter()
            .find(|written| known.admits(&written.file, boot_id))?;
        Some(Above {
            disk: layer.disk().to_owned(),
            path: layer.overlay.clone(),
            below: below.clone(),
        })
    })
}

/// Blocks.
fn first_above(disks: &[Disk], written: &[Written], policy: &PathPolicy) -> Option<Above> {
    disks.iter().find_map(|disk| {
        let Look { chain, .. } = image::look(&disk.path, disk.format, policy);
        let mut below = chain.iter().skip(1);
        let below = below.find_map(|found| written.iter().find(|written| written.file == found.file))?;
        Some(Above {
            disk: disk.name.clone(),
            path: disk.path.clone(),
            below: below.clone(),
        })
    })
}

fn refuse(name: &str, other: &str, above: &Above) -> Refusal {
    let Above { disk, path, below } = above;
    let message = format!(
        "disk `{}` of `{name}` is below disk `{disk}` of `{other}`",
        below.disk
    );
    let cause = format!(
        "`{}` stands on `{}`: what is written to the latter changes the former",
        path.display(),
        below.path.display()
    );
    let copy = path.with_extension("copy.qcow2");
    Refusal::new(RefusalCode::Conflict, message)
        .cause(cause)
        .hint(format!(
            "let `{name}` write to an image of its own: maqet snapshot create {name} NAME --external; \
             or have `{other}` stand alone: maqet storage clone {other} {disk} {}, and name that in its file",
            word(&copy)
        ))
}
