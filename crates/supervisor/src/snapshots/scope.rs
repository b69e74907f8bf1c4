//! Which disks an order is about.

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::shell::word;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::snapshot::SnapshotAction;

/// The disks that can have snapshots in their images.
pub(crate) fn capable(spec: &VmSpec) -> impl Iterator<Item = &Disk> {
    writable(spec).filter(|disk| disk.format == DiskFormat::Qcow2)
}

/// The disks that the guest writes to: the others never change.
pub(super) fn writable(spec: &VmSpec) -> impl Iterator<Item = &Disk> {
    spec.disks.iter().filter(|disk| !disk.readonly)
}

/// Their names.
pub(super) fn names<'d>(disks: impl Iterator<Item = &'d Disk>) -> Vec<String> {
    disks.map(|disk| disk.name.clone()).collect()
}

/// The disk of this name, if it can have snapshots in its image.
///
/// # Errors
/// As for [`outside`]; `wrong-state` for a raw one.
pub(super) fn inside<'s>(spec: &'s VmSpec, wanted: &str) -> Result<&'s Disk, Refusal> {
    match outside(spec, wanted)? {
        disk if disk.format == DiskFormat::Raw => Err(is_raw(spec, disk)),
        disk => Ok(disk),
    }
}

/// The disk of this name, if it can have snapshots outside of its image.
///
/// # Errors
/// `disk-not-found`; `wrong-state` for a read-only one.
pub(super) fn outside<'s>(spec: &'s VmSpec, wanted: &str) -> Result<&'s Disk, Refusal> {
    let name = &spec.name;
    match spec.disks.iter().find(|disk| disk.name == wanted) {
        None => {
            let message = format!("`{name}` has no disk `{wanted}`");
            Err(Refusal::new(RefusalCode::DiskNotFound, message).hint(format!("maqet status {name}")))
        }
        Some(disk) if disk.readonly => {
            let message = format!("disk `{wanted}` of `{name}` is read-only: it never changes");
            Err(Refusal::new(RefusalCode::WrongState, message))
        }
        Some(disk) => Ok(disk),
    }
}

/// Every disk that can have snapshots in its image. A new snapshot without one that the guest writes to would be half of one.
///
/// # Errors
/// `wrong-state` when there is none, or a raw one is in the way.
pub(super) fn all_inside(spec: &VmSpec, action: SnapshotAction) -> Result<Vec<String>, Refusal> {
    let raw = writable(spec).find(|disk| disk.format == DiskFormat::Raw);
    match raw.filter(|_| action == SnapshotAction::Create) {
        Some(disk) => Err(is_raw(spec, disk)),
        None => some(spec, names(capable(spec)), "give it a disk with `format: qcow2`"),
    }
}

/// Every disk that the guest writes to.
///
/// # Errors
/// `wrong-state` when there is none.
pub(super) fn all_outside(spec: &VmSpec) -> Result<Vec<String>, Refusal> {
    some(
        spec,
        names(writable(spec)),
        "give it a disk that is not read-only",
    )
}

fn some(spec: &VmSpec, disks: Vec<String>, hint: &str) -> Result<Vec<String>, Refusal> {
    if disks.is_empty() {
        let message = format!("`{}` has no disk that can have snapshots", spec.name);
        return Err(Refusal::new(RefusalCode::WrongState, message).hint(hint));
    }
    Ok(disks)
}

fn is_raw(spec: &VmSpec, disk: &Disk) -> Refusal {
    let message = format!(
        "disk `{}` of `{}` is raw: it cannot have snapshots inside",
        disk.name, spec.name
    );
    Refusal::new(RefusalCode::WrongState, message).hint(format!(
        "--external makes one outside of it; or name the disks one by one with --disk, or convert it: \
         qemu-img convert -f raw -O qcow2 {} COPY.qcow2",
        word(&disk.path)
    ))
}
