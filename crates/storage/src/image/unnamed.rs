//! Files without a name, which get one only when they are complete.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use maqet_process::identity::FileId;
use maqet_process::point::{Point, pass};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, fsync, linkat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::error::StorageError;
use crate::place::{Place, magic_link};

/// How temporary names begin, where a file cannot be without one.
const TEMPORARY_PREFIX: &str = ".maqet-new-";
/// How they end.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Hexadecimal digits between the two.
const TEMPORARY_DIGITS: usize = 16;
/// Whether this is a name that only an image in the making has; what bears it and is open nowhere is left of a making that
/// was cut off.
pub fn is_temporary(name: &str) -> bool {
    let digits = name
        .strip_prefix(TEMPORARY_PREFIX)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX));
    digits.is_some_and(|digits| {
        digits.len() == TEMPORARY_DIGITS
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A file that nobody can find yet. Without a name it vanishes by itself; a temporary name is removed on drop.
#[derive(Debug)]
pub(crate) struct Unnamed {
    pub(crate) file: File,
    temporary: Option<Temporary>,
}

#[derive(Debug)]
struct Temporary {
    directory: OwnedFd,
    name: OsString,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was published; otherwise what cannot be removed is swept by its telling name.
        if unlinkat(&self.directory, &self.name, AtFlags::empty()).is_err() {
            tracing::debug!(name = %self.name.display(), "temporary image file was not there any more");
        }
    }
}

const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const READ_WRITE: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);

impl Unnamed {
    /// Makes one in the directory of `place`, mode 0600.
    pub(crate) fn make(place: &Place) -> Result<Self, StorageError> {
        match openat(&place.directory, ".", OFlags::TMPFILE | READ_WRITE, PRIVATE) {
            Ok(fd) => Ok(Self {
                file: fd.into(),
                temporary: None,
            }),
            // NFS, some FUSE file systems.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Self::make_named(place),
            Err(error) => Err(StorageError::file("make a file in", place.parent())(error)),
        }
    }

    /// The same where every file has a name: a telling one.
    pub(super) fn make_named(place: &Place) -> Result<Self, StorageError> {
        let fail = |error: Errno| StorageError::file("make a file in", place.parent())(error);
        // A random number from the standard library's only source of them.
        let unique = RandomState::new().build_hasher().finish();
        let name = OsString::from(format!(
            "{TEMPORARY_PREFIX}{unique:0TEMPORARY_DIGITS$x}{TEMPORARY_SUFFIX}"
        ));
        let flags = READ_WRITE | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = openat(&place.directory, &name, flags, PRIVATE).map_err(fail)?;
        let directory = place
            .directory
            .try_clone()
            .map_err(StorageError::file("open", place.parent()))?;
        let temporary = Some(Temporary { directory, name });
        Ok(Self {
            file: fd.into(),
            temporary,
        })
    }

    /// Makes the content durable and gives the file its name, off this thread. Dropping the future before the content is
    /// durable leaves nothing behind.
    pub(crate) async fn named(self, place: &Place) -> Result<FileId, StorageError> {
        let path = place.path.clone();
        let copy = self.file.try_clone().map_err(StorageError::file("open", &path))?;
        blocking(&path, move || fsync(&copy))
            .await?
            .map_err(StorageError::file("write out", &path))?;
        let place = place.try_clone()?;
        let naming = move || {
            pass(Point::ImageWritten);
            let named = self.publish(&place);
            pass(Point::ImageNamed);
            named
        };
        blocking(&path, naming).await?
    }

    /// Makes the content durable, gives it its name unless that is taken, and makes the name durable.
    pub(super) fn publish(self, place: &Place) -> Result<FileId, StorageError> {
        let fail = |action| move |error: Errno| StorageError::file(action, &place.path)(error);
        let metadata = self
            .file
            .metadata()
            .map_err(StorageError::file("look at", &place.path))?;
        let untouched = metadata.is_file()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.nlink() == u64::from(self.temporary.is_some());
        if !untouched {
            return Err(StorageError::Linked {
                path: place.path.clone(),
                links: metadata.nlink(),
            });
        }
        fsync(&self.file).map_err(fail("write out"))?;
        match self.give_name(place.directory.as_fd(), &place.name) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(StorageError::Exists {
                    path: place.path.clone(),
                });
            }
            Err(error) => return Err(fail("name image")(error)),
        }
        fsync(&place.directory).map_err(fail("make durable the name of"))?;
        Ok(FileId::of(&metadata))
    }

    pub(super) fn give_name(&self, directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        let Some(temporary) = &self.temporary else {
            return linkat(
                CWD,
                magic_link(&self.file),
                directory,
                name,
                AtFlags::SYMLINK_FOLLOW,
            );
        };
        match renameat_with(
            directory,
            &temporary.name,
            directory,
            name,
            RenameFlags::NOREPLACE,
        ) {
            // The same file systems that lack unnamed files may lack this; a second link refuses to overwrite too.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(directory, &temporary.name, directory, name, AtFlags::empty())
            }
            renamed => renamed,
        }
    }
}

/// Work that may wait for the disk, on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StorageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)
        .map_err(StorageError::file("work on", path))
}
