//! Waiting for files without looking at them again and again: inotify.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::CliError;

/// Room for the events of one read; one event with the longest name needs 272 bytes.
const EVENTS_BYTES: usize = 16 * 1024;

/// Wakes when something may have happened to one path: made, written, renamed, deleted.
///
/// Watches the directory that the path is in, or, while that does not exist, the nearest one that does.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    inotify: Inotify,
    /// The same queue, read as the byte stream that it is.
    events: pipe::Receiver,
    armed: Option<(PathBuf, WatchDescriptor)>,
}

impl Watch {
    /// Watches a path that need not exist.
    ///
    /// # Errors
    /// [`CliError::Call`] when the user's inotify instances are used up, [`CliError::Io`] when nothing above the path
    /// can be watched.
    pub(crate) fn on(path: &Path) -> Result<Self, CliError> {
        let path = std::path::absolute(path).map_err(CliError::io("find the absolute path of", path))?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(CliError::call("make an inotify instance"))?;
        let queue = inotify
            .as_fd()
            .try_clone_to_owned()
            .map_err(CliError::call("duplicate a descriptor"))?;
        let mut watch = Self {
            path,
            inotify,
            events: pipe::Receiver::from_owned_fd_unchecked(queue)
                .map_err(CliError::call("watch an inotify instance"))?,
            armed: None,
        };
        watch.arm()?;
        Ok(watch)
    }

    /// The absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when the path may have changed since the call before; sometimes without reason.
    ///
    /// # Errors
    /// As [`Watch::on`].
    pub(crate) async fn changed(&mut self) -> Result<(), CliError> {
        let mut buffer = vec![0; EVENTS_BYTES];
        while !self.arm()? {
            let length = self
                .events
                .read(&mut buffer)
                .await
                .map_err(CliError::call("read inotify events"))?;
            if self.take(buffer.get(..length).unwrap_or_default()) {
                break;
            }
        }
        Ok(())
    }

    /// Whether any of these events is news.
    fn take(&mut self, mut events: &[u8]) -> bool {
        let mut news = false;
        while let Some((mask, name)) = next_event(&mut events) {
            if mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF) {
                self.armed = None;
            }
            news |= self.concerns(name, mask);
        }
        news
    }

    /// Other files of the directory change too; only this path, or the next step of the way to it, is news.
    fn concerns(&self, name: Option<&OsStr>, mask: AddWatchFlags) -> bool {
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let (Some(name), Some((directory, _))) = (name, &self.armed) else {
            return true;
        };
        self.path.starts_with(directory.join(name))
    }

    /// Moves the watch to the nearest directory that exists now. True when it moved.
    fn arm(&mut self) -> Result<bool, CliError> {
        let mut above = self.path.ancestors().skip(1);
        let Some(nearest) = above.find(|directory| directory.is_dir()) else {
            return Err(CliError::io("watch", &self.path)(io::Error::from(
                ErrorKind::NotFound,
            )));
        };
        if self
            .armed
            .as_ref()
            .is_some_and(|(directory, _)| directory == nearest)
        {
            return Ok(false);
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let added = self.inotify.add_watch(nearest, flags);
        let descriptor = added.map_err(|error| CliError::io("watch", nearest)(error))?;
        let former = self.armed.replace((nearest.to_owned(), descriptor));
        if let Some((_, former)) = former.filter(|(_, former)| *former != descriptor) {
            // It may be gone with its directory; a watch too many costs nothing but a wakeup.
            if let Err(error) = self.inotify.rm_watch(former)
                && error != Errno::EINVAL
            {
                return Err(CliError::call("end a watch")(error));
            }
        }
        Ok(true)
    }
}

/// Takes one `struct inotify_event` off the front, inotify(7): descriptor, mask, cookie, length of the name, name.
fn next_event<'a>(rest: &mut &'a [u8]) -> Option<(AddWatchFlags, Option<&'a OsStr>)> {
    let (head, tail) = rest.split_first_chunk::<16>()?;
    let word = |place: usize| {
        head.get(place..place + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)
    };
    let length = usize::try_from(word(12)?).ok()?;
    let (name, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    // The kernel pads the name with zeros.
    let name = name
        .split(|byte| *byte == 0)
        .next()
        .filter(|name| !name.is_empty());
    Some((
        AddWatchFlags::from_bits_retain(word(4)?),
        name.map(OsStr::from_bytes),
    ))
}

/// Returns when the path exists.
///
/// # Errors
/// As [`Watch::on`].
pub(crate) async fn exists(path: &Path) -> Result<(), CliError> {
    let mut watch = Watch::on(path)?;
    loop {
        match std::fs::symlink_metadata(watch.path()) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(CliError::io("look at", path)(error)),
        }
        watch.changed().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::exists;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(10), future)
                .await
                .unwrap()
        })
    }

    #[test]
    fn a_file_deep_below_what_exists_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        run(async {
            let make = async {
                std::fs::create_dir(directory.path().join("a")).unwrap();
                tokio::task::yield_now().await;
                std::fs::create_dir(directory.path().join("a/b")).unwrap();
                tokio::task::yield_now().await;
                std::fs::write(directory.path().join("a/b/other"), "").unwrap();
                tokio::task::yield_now().await;
                std::fs::write(&path, "").unwrap();
            };
            let (seen, ()) = tokio::join!(exists(&path), make);
            seen.unwrap();
        });
    }

    #[test]
    fn a_file_that_is_there_is_seen_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        run(exists(file.path())).unwrap();
    }
}
