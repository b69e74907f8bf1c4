//! Private files: regular ones, ours, with one name. Whatever else lies at a name is refused without being opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, ftruncate, openat};
use rustix::io::Errno;

use crate::socket::describe;

/// Mode of a new file.
const MODE: Mode = Mode::from_raw_mode(0o600);

/// Looks at most so often again when the name comes and goes meanwhile.
const LOOKS_MAX: usize = 8;

/// What a private file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read; it must be there.
    Read,
    /// To be read and written; it must be there.
    Write,
    /// To be read and written; made when it is missing.
    Keep,
    /// To be written at its end; made when it is missing.
    Append,
    /// To be written anew: emptied, or made when it is missing.
    Rewrite,
}

impl Access {
    const fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write | Self::Keep => OFlags::RDWR,
            Self::Append => OFlags::WRONLY.union(OFlags::APPEND),
            Self::Rewrite => OFlags::WRONLY,
        }
    }

    const fn makes(self) -> bool {
        matches!(self, Self::Keep | Self::Append | Self::Rewrite)
    }
}

/// Opens a private file by its path.
///
/// # Errors
/// As [`open_at`].
pub fn open(path: &Path, access: Access) -> io::Result<File> {
    open_at(CWD, path, access)
}

/// Opens a private file in a directory, close-on-exec; a new one has mode 0600.
///
/// The file is looked at before it is opened: a FIFO is not waited for, a device does nothing, and what a symbolic or a
/// hard link leads to is not touched.
///
/// # Errors
/// `InvalidData` for what is no regular file, is another user's, or has a second name; otherwise the kernel's.
pub fn open_at(directory: impl AsFd, name: &Path, access: Access) -> io::Result<File> {
    let directory = directory.as_fd();
    for _ in 0..LOOKS_MAX {
        let pinned = openat(
            directory,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        match pinned {
            Ok(pinned) => return reopen(&pinned, access),
            Err(Errno::NOENT) if access.makes() => {}
            Err(error) => return Err(error.into()),
        }
        let flags = access.flags() | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match openat(directory, name, flags, MODE) {
            Ok(made) => return Ok(made.into()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// Opens what was looked at, and nothing that has taken its name since.
fn reopen(pinned: &OwnedFd, access: Access) -> io::Result<File> {
    check(&fstat(pinned)?)?;
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    let file = openat(CWD, path, access.flags() | OFlags::CLOEXEC, Mode::empty())?;
    if access == Access::Rewrite {
        ftruncate(&file, 0)?;
    }
    Ok(file.into())
}

fn check(stat: &Stat) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let trouble = if kind != FileType::RegularFile {
        format!("it is {}, not a regular file", describe(kind))
    } else if stat.st_uid != own {
        format!("it belongs to uid {}, not to uid {own}", stat.st_uid)
    } else if stat.st_nlink != 1 {
        format!("it has {} names instead of one", stat.st_nlink)
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, trouble))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const ALL: [Access; 5] = [
        Access::Read,
        Access::Write,
        Access::Keep,
        Access::Append,
        Access::Rewrite,
    ];

    #[test]
    fn a_missing_file_is_made_private_or_missed() {
        let root = tempfile::tempdir().unwrap();
        for access in ALL {
            let path = root.path().join(format!("{access:?}"));
            let opened = open(&path, access);
            assert_eq!(opened.is_ok(), access.makes(), "{access:?}");
            match opened {
                Ok(_) => assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            }
        }
    }

    #[test]
    fn each_access_does_what_it_says() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        for (access, expected) in [
            (Access::Write, "newold"),
            (Access::Keep, "newold"),
            (Access::Append, "oldoldnew"),
            (Access::Rewrite, "new"),
        ] {
            fs::write(&path, "oldold").unwrap();
            open(&path, access).unwrap().write_all(b"new").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{access:?}");
        }
        let mut read = open(&path, Access::Read).unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "new");
        assert!(read.write_all(b"x").is_err());
    }

    #[test]
    fn whatever_else_lies_there_is_refused_and_what_it_leads_to_untouched() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        symlink("victim", at("link")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        fs::hard_link(at("victim"), at("second name")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        for (name, words) in [
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("second name", "2 names"),
            ("directory", "a directory"),
            ("fifo", "a FIFO"),
        ] {
            for access in ALL {
                let error = open(&at(name), access).unwrap_err();
                assert!(error.to_string().contains(words), "{name} {access:?}: {error}");
            }
        }
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "precious");
        assert!(!at("nothing").exists());
        let error = open(Path::new("/dev/null"), Access::Append).unwrap_err();
        assert!(error.to_string().contains("a device"), "{error}");
    }
}
