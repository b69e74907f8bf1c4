//! Pinned directories: a path is resolved once, from then on only the descriptor counts.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstatvfs, openat, openat2, statat};
use rustix::io::Errno;

use crate::error::StorageError;
use crate::policy::PathPolicy;

/// An open directory that a file is to be made in, judged by the policy.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory.
    pub(crate) directory: OwnedFd,
    /// The file's path without symbolic links on the way; for people, never opened again.
    pub(crate) path: PathBuf,
    /// The file's name in the directory.
    pub(crate) name: std::ffi::OsString,
}

impl Place {
    /// Pins the parent of `path`.
    ///
    /// Below a root of the policy no symbolic link is followed. Elsewhere users may have links in their paths:
    /// they are resolved once, the result is judged again and opened without following any.
    pub(crate) fn pin(path: &Path, policy: &PathPolicy) -> Result<Self, StorageError> {
        policy.check(path)?;
        let no_name = || StorageError::NoFileName {
            path: path.to_owned(),
        };
        let name = path.file_name().ok_or_else(no_name)?.to_owned();
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(no_name());
        }
        let parent = path.parent().ok_or_else(no_name)?;
        if let Some(root) = policy.root_of(path) {
            let directory = beneath(root, parent)?;
            return Ok(Self {
                directory,
                path: path.to_owned(),
                name,
            });
        }
        let resolved = fs::canonicalize(parent).map_err(StorageError::file("find directory", parent))?;
        let path = resolved.join(&name);
        policy.check(&path)?;
        let directory = without_links(&resolved)?;
        Ok(Self {
            directory,
            path,
            name,
        })
    }

    /// The same place, for another thread.
    pub(crate) fn try_clone(&self) -> Result<Self, StorageError> {
        let directory = self
            .directory
            .try_clone()
            .map_err(StorageError::file("open directory", self.parent()))?;
        Ok(Self {
            directory,
            path: self.path.clone(),
            name: self.name.clone(),
        })
    }

    /// A name that is taken is told at once; the last step of making a file would refuse it anyway.
    pub(crate) fn refuse_existing(&self) -> Result<(), StorageError> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(StorageError::Exists {
                path: self.path.clone(),
            }),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(StorageError::file("look for", &self.path)(error)),
        }
    }

    /// Bytes that are free for us in the file system.
    pub(crate) fn free_bytes(&self) -> Result<u64, StorageError> {
        let vfs =
            fstatvfs(&self.directory).map_err(StorageError::file("ask for free space in", self.parent()))?;
        Ok(vfs.f_bavail.saturating_mul(vfs.f_frsize))
    }

    /// The same, when it is enough.
    pub(crate) fn check_space(&self, needed: u64) -> Result<u64, StorageError> {
        let free = self.free_bytes()?;
        if free >= needed {
            return Ok(free);
        }
        Err(self.no_space(needed, free))
    }

    /// It is not enough.
    pub(crate) fn no_space(&self, needed: u64, free: u64) -> StorageError {
        StorageError::NoSpace {
            directory: self.parent().to_owned(),
            needed,
            free,
        }
    }

    /// The same failure; where it says that the disk is full, with the bytes that are needed and those that are free by now.
    pub(crate) fn counted(&self, error: StorageError, needed: u64) -> StorageError {
        if !error.is_full() {
            return error;
        }
        match self.free_bytes() {
            Ok(free) if free < needed => self.no_space(needed, free),
            // A file system that has room, and refuses all the same, keeps its own words.
            Ok(_) | Err(_) => error,
        }
    }

    /// The directory, for messages.
    pub(crate) fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory below a trusted one; nothing on the way may be a link.
fn beneath(root: &Path, directory: &Path) -> Result<OwnedFd, StorageError> {
    let fail = |error| refusal(directory, error);
    let top =
        openat(CWD, root, DIRECTORY, Mode::empty()).map_err(StorageError::file("open directory", root))?;
    let below = directory.strip_prefix(root).unwrap_or(Path::new(""));
    if below.as_os_str().is_empty() {
        return Ok(top);
    }
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&top, below, DIRECTORY, Mode::empty(), how) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOSYS | Errno::PERM) => walk(top, below).map_err(fail),
        Err(error) => Err(fail(error)),
    }
}

/// Opens a directory by a path that has no links, and must not have got any.
fn without_links(directory: &Path) -> Result<OwnedFd, StorageError> {
    let fail = |error| refusal(directory, error);
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(CWD, directory, DIRECTORY, Mode::empty(), how) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOSYS | Errno::PERM) => {
            let top = openat(CWD, "/", DIRECTORY, Mode::empty()).map_err(fail)?;
            walk(top, directory.strip_prefix("/").unwrap_or(directory)).map_err(fail)
        }
        Err(error) => Err(fail(error)),
    }
}

/// Links show as ELOOP to openat2 and as ENOTDIR to the walk; a real file on the way is told apart by looking.
fn refusal(directory: &Path, error: Errno) -> StorageError {
    let over_link = || directory.ancestors().any(Path::is_symlink);
    match error {
        Errno::LOOP => StorageError::Link {
            path: directory.to_owned(),
        },
        Errno::NOTDIR if over_link() => StorageError::Link {
            path: directory.to_owned(),
        },
        _ => StorageError::file("open directory", directory)(error),
    }
}

/// The same, step by step, where openat2 is missing or forbidden, as in some containers.
fn walk(top: OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    below.components().try_fold(top, |at, part| {
        openat(&at, part.as_os_str(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
    })
}

/// The name of an open descriptor in `/proc`, which leads to exactly what it is open on.
pub(crate) fn magic_link(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A kind of file in words.
pub(crate) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn a_walk_ends_at_the_same_directory_and_at_no_link() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("a", root.join("link")).unwrap();
        let top = || openat(CWD, &root, DIRECTORY, Mode::empty()).unwrap();
        let found = walk(top(), Path::new("a/b")).unwrap();
        assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, inode(&root.join("a/b")));
        assert!(walk(top(), Path::new("link/b")).is_err());
        assert!(beneath(&root, &root.join("link/b")).is_err());
        assert!(without_links(&root.join("link/b")).is_err());
        for found in [
            beneath(&root, &root.join("a/b")),
            without_links(&root.join("a/b")),
        ] {
            assert_eq!(
                rustix::fs::fstat(found.unwrap()).unwrap().st_ino,
                inode(&root.join("a/b"))
            );
        }
    }

    /// A directory `real`, a link `good` to it, a link `bad` to a system tree.
    fn with_links() -> (tempfile::TempDir, PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(guard.path()).unwrap();
        fs::create_dir(path.join("real")).unwrap();
        symlink("real", path.join("good")).unwrap();
        symlink("/etc", path.join("bad")).unwrap();
        (guard, path)
    }

    #[test]
    fn links_are_followed_once_and_what_they_lead_to_is_judged() {
        let (_guard, path) = with_links();
        for home in [None, Some(path.clone())] {
            let policy = PathPolicy::new(home, Vec::new(), Vec::new());
            let place = Place::pin(&path.join("good/disk"), &policy).unwrap();
            assert_eq!(place.path, path.join("real/disk"));
            let denied = Place::pin(&path.join("bad/disk"), &policy);
            assert!(matches!(denied, Err(StorageError::Denied(_))), "{denied:?}");
        }
    }

    #[test]
    fn in_a_root_no_link_is_followed_wherever_it_leads() {
        let (_guard, path) = with_links();
        let policy = PathPolicy::new(None, vec![path.clone()], Vec::new());
        assert!(Place::pin(&path.join("real/disk"), &policy).is_ok());
        for name in ["good/disk", "bad/disk"] {
            let refused = Place::pin(&path.join(name), &policy);
            assert!(matches!(refused, Err(StorageError::Link { .. })), "{refused:?}");
        }
        for name in ["real/", "missing/disk"] {
            assert!(Place::pin(&path.join(name), &policy).is_err(), "{name}");
        }
    }
}
