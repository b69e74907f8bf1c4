//! `maqet storage info`.

use maqet_protocol::control::{
    ComingDisk, DiskStorage, FileState, ImageStatus, RemovalStatus, StorageInfo, UnsettledWork, VmStorage,
};
use maqet_state::snapshot::{SnapshotAction, SnapshotKind};

use crate::args::vm::OneArgs;
use crate::commands::{rm, status};
use crate::error::CliError;
use crate::render::{table, units};
use crate::session::Session;

/// Shows every disk of a VM.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let storage = session.ask(&StorageInfo { vm: args.vm.clone() }).await?;
    session
        .output
        .answer(&storage, || text(&storage), || names(&storage))
}

fn names(storage: &VmStorage) -> String {
    let names = storage.disks.iter().map(|disk| disk.disk.clone());
    names.collect::<Vec<_>>().join("\n")
}

fn text(storage: &VmStorage) -> String {
    let none = storage.disks.is_empty();
    let none = none.then(|| format!("{} has no disks", storage.vm));
    let blocks = none
        .into_iter()
        .chain(storage.disks.iter().map(block))
        .chain(storage.coming.iter().map(coming))
        .chain(storage.unsettled.iter().map(unsettled))
        .chain(storage.removal.iter().map(half_removed));
    blocks.collect::<Vec<_>>().join("\n\n")
}

fn coming(disk: &ComingDisk) -> String {
    let (disk, path) = (&disk.disk, disk.path.display());
    format!("`{path}` is on its way to QEMU as disk `{disk}`; whether it has it is not known yet")
}

/// What became of work that was cut off.
pub(crate) fn unsettled(work: &UnsettledWork) -> String {
    let (action, name) = (units::word(&work.action), &work.name);
    let what = format!("the {action} of snapshot `{name}` was cut off");
    if waits(work) {
        return format!("{what}; the disks are whole, and the snapshot is none any more");
    }
    format!("{what}; it is settled when the VM is used next")
}

fn half_removed(removal: &RemovalStatus) -> String {
    format!("the removal of the VM {}", rm::half_way(removal))
}

/// Whether it is finished only when somebody asks for it.
pub(crate) fn waits(work: &UnsettledWork) -> bool {
    work.kind == SnapshotKind::External && work.action == SnapshotAction::Delete
}

fn block(disk: &DiskStorage) -> String {
    let mut lines = vec![
        ("disk", disk.disk.clone()),
        ("path", disk.path.display().to_string()),
        ("state", state(disk)),
    ];
    lines.extend(
        disk.problem
            .as_ref()
            .map(|problem| ("problem", status::problem(problem))),
    );
    if let Some(image) = disk.chain.first() {
        lines.push(("format", image.format.clone()));
        lines.push(("size", sizes(image)));
        lines.push(("snapshots", image.snapshots.to_string()));
        lines.push(("file", image.file.to_string()));
    }
    let below: Vec<String> = disk.chain.iter().skip(1).map(layer).collect();
    if !below.is_empty() {
        lines.push(("stands on", below.join("\n")));
    }
    lines.extend(disk.free_bytes.map(|free| ("free there", units::size(free))));
    if disk.state != FileState::ToBeMade {
        lines.push(("made by", made_by(disk)));
    }
    if let Some(holder) = &disk.holder {
        lines.push(("in use by", format!("{} (disk {})", holder.vm, holder.disk)));
    }
    if disk.readonly {
        lines.push(("read-only", "yes".to_owned()));
    }
    table::block(&lines)
}

fn state(disk: &DiskStorage) -> String {
    let word = disk.state.as_str();
    match disk.trouble.as_slice() {
        [] => word.to_owned(),
        trouble => format!("{word}: {}", trouble.join(": ")),
    }
}

fn sizes(image: &ImageStatus) -> String {
    let (guest, disk) = (units::size(image.virtual_bytes), units::size(image.actual_bytes));
    format!("{guest} for the guest, {disk} on the disk")
}

fn layer(image: &ImageStatus) -> String {
    format!("{} ({}, {})", image.path.display(), image.format, sizes(image))
}

fn made_by(disk: &DiskStorage) -> String {
    match (disk.made, &disk.base) {
        (true, Some(base)) => format!("maqet, from the image {base}"),
        (true, None) => "maqet".to_owned(),
        (false, _) => "others".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_shows_each_disk_with_what_it_stands_on() {
        let file = json!({"dev": 1, "inode": 2});
        let image = |path: &str| {
            json!({"path": path, "file": file, "format": "qcow2", "virtual_bytes": 1 << 30, "file_bytes": 4096,
                "actual_bytes": 1 << 20, "snapshots": 2})
        };
        let storage = json!({"vm": "web", "disks": [
            {"disk": "root", "path": "/vm/root", "readonly": false, "state": "ok", "made": true, "recorded": file,
                "base": "debian", "holder": {"vm": "web", "disk": "root"},
                "chain": [image("/vm/root"), image("/vm/base")]},
            {"disk": "data", "path": "/vm/data", "readonly": true, "state": "missing", "trouble": ["no such file"],
                "made": false, "recorded": null, "holder": null, "chain": []}]});
        insta::assert_snapshot!(text(&serde_json::from_value(storage).unwrap()));
        let none = json!({"vm": "web", "disks": []});
        assert_eq!(text(&serde_json::from_value(none).unwrap()), "web has no disks");
    }
}
