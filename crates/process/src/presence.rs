//! Noticing that a file others must find was deleted, with its directory or alone: whoever cleans up `/tmp`, or a log-out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::error::ProcessError;
use crate::identity::FileId;
use crate::kernel;

/// Whoever deletes a directory is given this long to be done, before it is made again under their hands.
const SETTLE: Duration = Duration::from_millis(200);

/// Returns once `directory` holds no file of this name, or another one than `file`. Costs nothing until something in the
/// directory is deleted.
///
/// # Errors
/// [`ProcessError::File`] when the directory cannot be watched.
pub async fn lost(directory: &Path, name: &str, file: FileId) -> Result<(), ProcessError> {
    let path = directory.join(name);
    let is_there = || FileId::of_path(&path).is_ok_and(|found| found == file);
    watch(directory, is_there)
        .await
        .map_err(ProcessError::file("watch directory", directory))
}

async fn watch(directory: &Path, is_there: impl Fn() -> bool) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let changes = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_DELETE_SELF;
    if let Err(error) = inotify.add_watch(directory, changes) {
        return if error == Errno::ENOENT {
            Ok(())
        } else {
            Err(error.into())
        };
    }
    let queue = kernel::watch(inotify.as_fd().try_clone_to_owned()?)?;
    while is_there() {
        told(&queue, &inotify).await?;
    }
    while let Ok(more) = tokio::time::timeout(SETTLE, told(&queue, &inotify)).await {
        more?;
    }
    Ok(())
}

/// Returns after something was deleted.
async fn told(queue: &AsyncFd<OwnedFd>, inotify: &Inotify) -> io::Result<()> {
    queue.readable().await?.clear_ready();
    match inotify.read_events() {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
