//! `maqet storage`.

use maqet_protocol::control::{DiskAccepted, StorageAccept};

use crate::args::storage::DiskArgs;
use crate::error::CliError;
use crate::session::Session;

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
        .answer(&accepted, || line(&accepted), || accepted.disk.clone())
}

fn line(accepted: &DiskAccepted) -> String {
    let (vm, disk, path) = (&accepted.vm, &accepted.disk, accepted.path.display());
    match (accepted.already, accepted.file) {
        (true, Some(_)) => format!("{vm}: `{path}` is the file of disk {disk} already"),
        (true, None) => format!("{vm}: disk {disk} has no file and none is on record"),
        (false, Some(file)) => format!("{vm}: disk {disk} is `{path}`, {file}"),
        (false, None) => format!("{vm}: disk {disk} is lost; `{path}` is made anew if the disk has a size"),
    }
}
