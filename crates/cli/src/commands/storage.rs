//! `maqet storage`.

mod attach;
mod clone;
pub(crate) mod info;
mod verify;

use maqet_protocol::control::{
    DiskAccepted, DiskResized, Orphans, StorageAccept, StorageInfo, StorageOrphaned, StorageResize,
};
use maqet_state::clock;

pub(crate) use self::attach::run as attach;
pub(crate) use self::clone::run as clone;
pub(crate) use self::info::run as info;
pub(crate) use self::verify::run as verify;
use crate::args::storage::{DiskArgs, ResizeArgs};
use crate::error::CliError;
use crate::progress;
use crate::render::{table, units};
use crate::session::{OPERATION_DEADLINE, Session, key};

/// Accepts the file at a disk's path, or that there is none.
///
/// # Errors
/// The refusal.
pub(crate) async fn accept(session: &Session<'_>, args: &DiskArgs) -> Result<(), CliError> {
    let method = StorageAccept {
        vm: args.vm.clone(),
        disk: args.disk.clone(),
    };
    let accepted = session.ask(&method).await?;
    session
        .output
        .answer(&accepted, || accepting(&accepted), || accepted.disk.clone())
}

fn accepting(accepted: &DiskAccepted) -> String {
    let (vm, disk, path) = (&accepted.vm, &accepted.disk, accepted.path.display());
    match (accepted.already, accepted.file) {
        (true, Some(_)) => format!("{vm}: `{path}` is the file of disk {disk} already"),
        (true, None) => format!("{vm}: disk {disk} has no file and none is on record"),
        (false, Some(file)) => format!("{vm}: disk {disk} is `{path}`, {file}"),
        (false, None) => format!("{vm}: disk {disk} is lost; `{path}` is made anew if the disk has a size"),
    }
}

/// Gives a disk another size.
///
/// # Errors
/// The refusal.
pub(crate) async fn resize(session: &Session<'_>, args: &ResizeArgs) -> Result<(), CliError> {
    let total = total(session, args).await?;
    let method = StorageResize {
        vm: args.disk.vm.clone(),
        disk: args.disk.disk.clone(),
        bytes: total.unwrap_or(args.size.bytes),
        add: args.size.add && total.is_none(),
        shrink: args.shrink,
        key: Some(key()),
    };
    let resizing = async {
        if method.add {
            session.once(&method, OPERATION_DEADLINE).await
        } else {
            session.repeat(&method, OPERATION_DEADLINE).await
        }
    };
    let resized = progress::during(session.output, "resizing", resizing).await?;
    if resized.free_bytes < resized.after.saturating_sub(resized.before) {
        let free = units::size(resized.free_bytes);
        session.output.say(&format!(
            "only {free} are free where the image is: it may run out"
        ))?;
    }
    session
        .output
        .answer(&resized, || resizing_line(&resized), || resized.disk.clone())
}

/// The size that is meant by so much more, bytes: said twice, because a supervisor died under it, it would be added twice.
/// `None` for a size as such, and where nobody can tell the present one.
async fn total(session: &Session<'_>, args: &ResizeArgs) -> Result<Option<u64>, CliError> {
    if !args.size.add {
        return Ok(None);
    }
    let vm = args.disk.vm.clone();
    let disks = session.ask(&StorageInfo { vm }).await?.disks;
    let disk = disks.iter().find(|found| found.disk == args.disk.disk);
    let image = disk.and_then(|disk| disk.chain.first());
    Ok(image.and_then(|image| image.virtual_bytes.checked_add(args.size.bytes)))
}

fn resizing_line(resized: &DiskResized) -> String {
    let (vm, disk, after) = (&resized.vm, &resized.disk, units::size(resized.after));
    if resized.before == resized.after {
        return format!("{vm}: disk {disk} has {after} already");
    }
    let before = units::size(resized.before);
    let live = if resized.live {
        ", and the guest was told"
    } else {
        ""
    };
    format!("{vm}: disk {disk} has {after} instead of {before}{live}")
}

/// Lists images that no VM has.
///
/// # Errors
/// The refusal.
pub(crate) async fn orphaned(session: &Session<'_>) -> Result<(), CliError> {
    let searching = session.repeat(&StorageOrphaned {}, OPERATION_DEADLINE);
    let orphans = progress::during(session.output, "searching", searching).await?;
    for trouble in &orphans.trouble {
        session.output.say(trouble)?;
    }
    session
        .output
        .answer(&orphans, || orphans_table(&orphans), || orphan_names(&orphans))
}

fn orphan_names(orphans: &Orphans) -> String {
    let paths = orphans
        .images
        .iter()
        .map(|image| image.path.display().to_string());
    paths.collect::<Vec<_>>().join("\n")
}

fn orphans_table(orphans: &Orphans) -> String {
    if orphans.images.is_empty() {
        let searched = orphans.searched.iter().map(|path| path.display().to_string());
        let searched = searched.collect::<Vec<_>>().join(", ");
        return format!("no image below {searched} is without a VM");
    }
    let now = clock::now();
    let rows = orphans.images.iter().map(|image| {
        vec![
            image.path.display().to_string(),
            units::size(image.actual_bytes),
            units::uptime(now.since(image.written_at).as_secs()),
        ]
    });
    table::columns(&["PATH", "SIZE", "WRITTEN AGO"], rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resize_says_what_changed() {
        let resized = |before: u64, after: u64, live: bool| {
            let resized = json!({"vm": "web", "disk": "root", "before": before, "after": after, "live": live,
                "free_bytes": 1});
            resizing_line(&serde_json::from_value(resized).unwrap())
        };
        assert_eq!(
            resized(1 << 30, 2 << 30, true),
            "web: disk root has 2G instead of 1G, and the guest was told"
        );
        assert_eq!(resized(2 << 30, 2 << 30, false), "web: disk root has 2G already");
    }

    #[test]
    fn no_orphans_is_said_with_where_was_searched() {
        let none: Orphans =
            serde_json::from_value(json!({"images": [], "searched": ["/d", "/srv"]})).unwrap();
        assert_eq!(orphans_table(&none), "no image below /d, /srv is without a VM");
    }
}
