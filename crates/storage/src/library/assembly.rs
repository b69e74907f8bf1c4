//! A directory in which an image is put together.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use maqet_spec::ImageName;
use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fsync, mkdirat, openat, renameat_with,
};
use rustix::io::Errno;

use super::import::BESIDE_BYTES;
use crate::error::StorageError;
use crate::image::counted;

/// How temporary names begin; no image's does.
const PREFIX: &str = ".new-";
/// Hexadecimal digits behind it.
const DIGITS: usize = 16;

/// A private directory under a temporary name, locked for as long as somebody works in it. Dropped, it goes with all that
/// is in it.
#[derive(Debug)]
pub(super) struct Assembly<'l> {
    root: &'l OwnedFd,
    path: PathBuf,
    name: OsString,
    directory: OwnedFd,
    published: bool,
}

/// Whether this is a temporary name.
pub(super) fn is_temporary(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == DIGITS
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether nobody works in it.
pub(super) fn is_forsaken(path: &Path) -> bool {
    open(path).is_ok_and(|directory| flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok())
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn temporary() -> String {
    // A random number from the standard library's only source of them.
    let unique = RandomState::new().build_hasher().finish();
    format!("{PREFIX}{unique:0DIGITS$x}")
}

impl<'l> Assembly<'l> {
    /// Makes one in the library, which is open as `root`.
    pub(super) fn begin(root: &'l OwnedFd, library: &Path) -> Result<Self, StorageError> {
        let name = temporary();
        let path = library.join(&name);
        let fail = |action| StorageError::file::<Errno>(action, &path);
        mkdirat(root, name.as_str(), Mode::from_raw_mode(0o700)).map_err(fail("make directory"))?;
        let directory = open(&path).map_err(fail("open directory"))?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(fail("lock"))?;
        Ok(Self {
            root,
            path,
            name: name.into(),
            directory,
            published: false,
        })
    }

    /// Takes an image apart: from one moment to the next it bears a temporary name, and is nobody's image any more.
    pub(super) fn of(image: &ImageName, root: &'l OwnedFd, library: &Path) -> Result<Self, StorageError> {
        let missing = || StorageError::NoImage {
            name: image.to_string(),
        };
        let present = library.join(image.as_str());
        let fail = |action| StorageError::file::<Errno>(action, &present);
        // Locked before it has the name, so that nobody takes it for something that is left.
        let directory = match open(&present) {
            Err(Errno::NOENT) => return Err(missing()),
            opened => opened.map_err(fail("open directory"))?,
        };
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            // Whoever has it takes it apart.
            Err(Errno::WOULDBLOCK) => return Err(missing()),
            locked => locked.map_err(fail("lock"))?,
        }
        let name = temporary();
        match renameat_with(root, image.as_str(), root, &name, RenameFlags::NOREPLACE) {
            Err(Errno::NOENT) => return Err(missing()),
            renamed => renamed.map_err(fail("rename"))?,
        }
        Ok(Self {
            root,
            path: library.join(&name),
            name: name.into(),
            directory,
            published: false,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes its entries durable, gives it the image's name unless that is taken, and makes that durable.
    pub(super) fn publish(mut self, image: &ImageName) -> Result<(), StorageError> {
        let fail = |action| {
            let failed = StorageError::file::<Errno>(action, &self.path);
            |error| counted(failed(error), BESIDE_BYTES, &self.path)
        };
        fsync(&self.directory).map_err(fail("write out"))?;
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(self.root, &self.name, self.root, image.as_str(), flags) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                return Err(StorageError::ImageTaken {
                    name: image.to_string(),
                });
            }
            Err(error) => return Err(fail("rename")(error)),
        }
        self.published = true;
        fsync(self.root).map_err(StorageError::file("write out", &self.path))
    }
}

impl Drop for Assembly<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // What cannot be removed now is swept by its telling name.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what was being made of an image is left");
        }
    }
}
