//! Private directories: ours alone, or refused.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, lstat, openat};
use rustix::io::Errno;

use crate::error::ProcessError;
use crate::socket::describe;

/// Opens a directory that nobody else can enter; makes it, and missing parents, with mode 0700.
///
/// # Errors
/// [`ProcessError::NotADirectory`] for anything else of that name, a symbolic link included;
/// [`ProcessError::ForeignDirectory`] for another owner; [`ProcessError::OpenDirectory`] when group or others
/// have any permission; [`ProcessError::File`] when it cannot be made or opened.
pub fn open_private(path: &Path) -> Result<OwnedFd, ProcessError> {
    let fd = match open(path) {
        Err(Errno::NOENT) => {
            make(path)?;
            open(path)
        }
        opened => opened,
    };
    let fd = fd.map_err(|error| refusal(path, error))?;
    let stat = fstat(&fd).map_err(ProcessError::file("look at directory", path))?;
    let expected = rustix::process::geteuid().as_raw();
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != expected {
        return Err(ProcessError::ForeignDirectory {
            path: path.to_owned(),
            owner: stat.st_uid,
            expected,
        });
    }
    if mode & 0o077 != 0 {
        return Err(ProcessError::OpenDirectory {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(fd)
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn make(path: &Path) -> Result<(), ProcessError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ProcessError::file("make directory", path))
}

/// The reason in words where the name is taken by something else, otherwise the kernel's.
fn refusal(path: &Path, error: Errno) -> ProcessError {
    let kind = lstat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(kind) if kind != FileType::Directory => ProcessError::NotADirectory {
            path: path.to_owned(),
            kind: describe(kind),
        },
        _ => ProcessError::file("open directory", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn who_has_a_link_there_is_told_to_name_the_place() {
        let root = tempfile::tempdir().unwrap();
        let (place, link) = (root.path().join("place"), root.path().join("link"));
        make(&place).unwrap();
        symlink(&place, &link).unwrap();
        let refused = open_private(&link).unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("is a symbolic link, not a directory"),
            "{refused}"
        );
        let hint = refused.hint().unwrap();
        assert!(
            hint.contains(&format!("`{}`, with `--data-dir`", place.display())),
            "{hint}"
        );
        symlink("nowhere", root.path().join("dangling")).unwrap();
        let hint = open_private(&root.path().join("dangling")).unwrap_err().hint();
        assert!(hint.unwrap().starts_with("move `"), "a link to nothing");
        open_private(&place).unwrap();
    }
}
