//! Opening an image for QEMU.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use maqet_process::identity::FileId;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, open as open_path, openat2};
use rustix::io::Errno;

use crate::error::StorageError;
use crate::place::{describe, magic_link};

/// An open image.
///
/// Hand `fd` to one QEMU and close it at once: a copy kept here would hold the image's lock after QEMU died, and
/// two QEMUs sharing it would not notice each other.
#[derive(Debug)]
pub struct Image {
    /// The file, close-on-exec.
    pub fd: OwnedFd,
    /// Where it really is, symbolic links resolved: what [`crate::PathPolicy::check`] should judge.
    pub path: PathBuf,
    /// Device and inode; compare with what is on record.
    pub file_id: FileId,
    /// Length of the file, bytes.
    pub file_bytes: u64,
}

/// Opens an image. Symbolic links in `path` are resolved once; only the file found then is looked at and opened.
///
/// # Errors
/// [`StorageError::NotAFile`] for directories, devices, FIFOs and sockets; [`StorageError::Linked`] for a writable
/// image with more than one name; [`StorageError::File`] when there is none or it may not be opened.
pub fn open(path: &Path, readonly: bool) -> Result<Image, StorageError> {
    let resolved = std::fs::canonicalize(path).map_err(StorageError::file("find image", path))?;
    let pinned = pin(&resolved).map_err(StorageError::file("open image", &resolved))?;
    let metadata = pinned
        .metadata()
        .map_err(StorageError::file("look at image", &resolved))?;
    let kind = FileType::from_raw_mode(metadata.mode());
    if kind != FileType::RegularFile {
        return Err(StorageError::NotAFile {
            path: resolved,
            kind: describe(kind),
        });
    }
    let links = metadata.nlink();
    if links != 1 && !readonly {
        return Err(StorageError::Linked {
            path: resolved,
            links,
        });
    }
    let access = if readonly { OFlags::RDONLY } else { OFlags::RDWR };
    let fd = open_path(magic_link(&pinned), access | OFlags::CLOEXEC, Mode::empty())
        .map_err(StorageError::file("open image", &resolved))?;
    Ok(Image {
        fd,
        path: resolved,
        file_id: FileId::of(&metadata),
        file_bytes: metadata.len(),
    })
}

/// Names the file without opening it: opening a device or a FIFO could already do something.
pub(crate) fn pin(resolved: &Path) -> Result<File, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(CWD, resolved, flags, Mode::empty(), how) {
        // Missing, or forbidden as in some containers. What is opened is looked at afterwards in any case.
        Err(Errno::NOSYS | Errno::PERM) => open_path(resolved, flags, Mode::empty()),
        opened => opened,
    };
    opened.map(File::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_regular_file_is_opened_through_links() {
        let root = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(root.path()).unwrap().join("disk.raw");
        fs::write(&path, "content").unwrap();
        symlink("disk.raw", root.path().join("link")).unwrap();
        let image = open(&root.path().join("link"), false).unwrap();
        assert_eq!((image.path, image.file_bytes), (path.clone(), 7));
        assert_eq!(image.file_id.inode, fs::metadata(&path).unwrap().ino());
        let mut text = String::new();
        let mut file = File::from(image.fd);
        file.read_to_string(&mut text).unwrap();
        file.write_all(b"!").unwrap();
        assert_eq!(text, "content");
        let readonly = open(&path, true).unwrap();
        assert!(File::from(readonly.fd).write_all(b"!").is_err());
    }

    #[test]
    fn what_is_not_one_regular_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let _socket = UnixListener::bind(at("socket")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::create_dir(at("directory")).unwrap();
        symlink("fifo", at("link")).unwrap();
        for (path, expected) in [
            (at("socket"), "a socket"),
            (at("fifo"), "a FIFO"),
            (at("link"), "a FIFO"),
            (at("directory"), "a directory"),
            (PathBuf::from("/dev/null"), "a character device"),
        ] {
            for readonly in [true, false] {
                let error = open(&path, readonly).unwrap_err();
                assert!(
                    matches!(error, StorageError::NotAFile { kind, .. } if kind == expected),
                    "{error:?}"
                );
            }
        }
        assert!(matches!(
            open(&at("missing"), true),
            Err(StorageError::File { .. })
        ));
    }

    #[test]
    fn a_file_with_two_names_is_only_read() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        fs::write(&one, "").unwrap();
        fs::hard_link(&one, &two).unwrap();
        let error = open(&one, false).unwrap_err();
        assert!(
            matches!(error, StorageError::Linked { links: 2, .. }),
            "{error:?}"
        );
        assert!(open(&one, true).is_ok());
        fs::remove_file(&two).unwrap();
        assert!(open(&one, false).is_ok());
    }
}
