//! Ways storage can let a caller down.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::{ExitStatus, ProcessError};
use maqet_spec::shell::word;

use crate::policy::Denied;

/// How the C library words a full disk, and a quota that is used up.
const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Ways storage can let a caller down.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The path is off limits.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A call that names a file failed.
    #[error("{action} `{}`", path.display())]
    File {
        /// What was attempted, for example "open directory".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program could not be started or waited for.
    #[error("run `{}`", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        source: ProcessError,
    },
    /// No such program on this host.
    #[error("`{name}` is not installed: no such program in {searched}")]
    NoBinary {
        /// Name looked for.
        name: String,
        /// Where, as PATH writes it.
        searched: String,
    },
    /// An absolute path that is no program.
    #[error("`{}` is not a program", path.display())]
    NotAProgram {
        /// The path.
        path: PathBuf,
    },
    /// A program name that is neither a bare name nor an absolute path.
    #[error("`{name}` is neither a program's name nor an absolute path")]
    RelativeBinary {
        /// The name.
        name: String,
    },
    /// A program failed.
    #[error("`{}` failed ({status}): {words}", program.display())]
    Tool {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        words: String,
    },
    /// A program did not finish in time and was ended.
    #[error("`{}` did not finish within {} s", program.display(), limit.as_secs())]
    Deadline {
        /// The program.
        program: PathBuf,
        /// Time it had.
        limit: Duration,
    },
    /// A program wrote something that makes no sense.
    #[error("`{}` answered something unexpected: {reason}", program.display())]
    Answer {
        /// The program.
        program: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The file is there already; it was not touched.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// Not enough room, or there would not be.
    #[error("not enough space in `{}`: {needed} bytes needed, {free} free", directory.display())]
    NoSpace {
        /// The directory.
        directory: PathBuf,
        /// Bytes the image needs at once.
        needed: u64,
        /// Bytes free for us.
        free: u64,
    },
    /// Not a regular file.
    #[error("`{}` is {kind}, not an image file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is, for example "a FIFO".
        kind: &'static str,
    },
    /// Not a directory.
    #[error("`{}` is {kind}, not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// What it is, for example "a FIFO".
        kind: &'static str,
    },
    /// The file has more than one name, or none: somebody else could be writing through another.
    #[error("`{}` has {links} names instead of one", path.display())]
    Linked {
        /// The path.
        path: PathBuf,
        /// Number of hard links.
        links: u64,
    },
    /// No qcow2 image, or one that cannot be read.
    #[error("`{}` is not a qcow2 image", path.display())]
    NotQcow2 {
        /// The file.
        path: PathBuf,
    },
    /// What the guest wrote is encrypted, and nobody gives maqet the key.
    #[error("`{}` is encrypted", path.display())]
    Encrypted {
        /// The image.
        path: PathBuf,
    },
    /// A qcow2 image without its tables, which would show an empty disk or none.
    #[error("`{}` is damaged: {reason}", path.display())]
    Unsound {
        /// The image.
        path: PathBuf,
        /// Why, as a clause about "it".
        reason: String,
    },
    /// What an image stands on cannot be followed.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Chain {
        /// The image.
        path: PathBuf,
        /// Why, as a clause about "it".
        reason: &'static str,
    },
    /// What the guest keeps at the end would be lost.
    #[error("`{}` has {before} bytes and would be cut to {after}: what lies behind is lost", path.display())]
    WouldShrink {
        /// The image.
        path: PathBuf,
        /// Size the guest sees, bytes.
        before: u64,
        /// Size it would see, bytes.
        after: u64,
    },
    /// A file that an image stands on cannot be used.
    #[error("`{}` stands on `{}`", path.display(), backing.display())]
    Backing {
        /// The image.
        path: PathBuf,
        /// Its backing file.
        backing: PathBuf,
        /// What is wrong with that.
        source: Box<Self>,
    },
    /// The image keeps its data in another file, which nobody declared.
    #[error("`{}` keeps its data in another file", path.display())]
    DataFile {
        /// The image.
        path: PathBuf,
    },
    /// A directory below a trusted one is reached over a symbolic link, or was swapped for one just now.
    #[error("`{}` is reached over a symbolic link", path.display())]
    Link {
        /// The directory.
        path: PathBuf,
    },
    /// A file that does not come into the library.
    #[error("`{}` is not imported: {reason}", path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// Why, as a clause about "it".
        reason: String,
        /// What can be done.
        hint: Option<String>,
    },
    /// A file whose checksum is another.
    #[error("`{}` has the checksum {found}, not {expected}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        expected: String,
        /// What it has.
        found: String,
    },
    /// The library has an image of that name; it was not touched.
    #[error("there is an image `{name}` already")]
    ImageTaken {
        /// The name.
        name: String,
    },
    /// The library has no image of that name.
    #[error("there is no image `{name}`")]
    NoImage {
        /// The name.
        name: String,
    },
    /// An image of the library that cannot be used.
    #[error("image `{name}` is damaged: {reason}")]
    BadImage {
        /// The name.
        name: String,
        /// What is wrong, as a clause about "it".
        reason: String,
    },
    /// A directory of maqet's own that is not as it should be.
    #[error("the library cannot be used")]
    Library(#[source] ProcessError),
    /// A path that cannot name a new file.
    #[error("`{}` does not name a file", path.display())]
    NoFileName {
        /// The path.
        path: PathBuf,
    },
}

impl StorageError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(denied) => Some(denied.hint()),
            Self::NoBinary { name, .. } => Some(package_hint(name)),
            Self::RelativeBinary { .. } => Some("give its full path".to_owned()),
            Self::NoSpace { .. } => Some("free some space or choose another directory".to_owned()),
            Self::Link { .. } => Some("give the path without symbolic links".to_owned()),
            Self::Linked { .. } => Some("make a copy of the image, or attach it read-only".to_owned()),
            Self::DataFile { path } => Some(format!(
                "convert it: qemu-img convert -O qcow2 {} copy.qcow2",
                word(path)
            )),
            Self::WouldShrink { .. } => {
                Some("make the guest's file systems smaller first, then say `--shrink`".to_owned())
            }
            Self::Run { source, .. } | Self::Library(source) => source.hint(),
            Self::Unsuitable { hint, .. } => hint.clone(),
            Self::Checksum { .. } => Some("get the file again from where it came from".to_owned()),
            Self::ImageTaken { .. } => Some("choose another with --name".to_owned()),
            Self::NoImage { .. } => Some("maqet image ls".to_owned()),
            Self::BadImage { name, .. } => Some(format!("maqet image verify {name}")),
            Self::Backing { path, source, .. } => backing_hint(path, source),
            Self::Encrypted { .. } => Some(
                "make a plain image of it with qemu-img convert; the guest can encrypt what is in it"
                    .to_owned(),
            ),
            Self::Unsound { path, .. } => Some(format!(
                "put a whole copy in its place; what qemu-img makes of it: qemu-img check {}",
                word(path)
            )),
            Self::NotQcow2 { path } => Some(format!(
                "look at it with `qemu-img info {}`; a raw image needs `format: raw`",
                word(path)
            )),
            Self::Chain { path, .. } => Some(format!(
                "name it anew: qemu-img rebase -u -F qcow2 -b BASE {}; or make it stand alone: qemu-img convert",
                word(path)
            )),
            Self::File { .. }
            | Self::NotAProgram { .. }
            | Self::Tool { .. }
            | Self::Deadline { .. }
            | Self::Answer { .. }
            | Self::Exists { .. }
            | Self::NotAFile { .. }
            | Self::NotADirectory { .. }
            | Self::NoFileName { .. } => None,
        }
    }

    /// Whether a program was ended in the middle of what it was to do.
    pub fn is_cut_off(&self) -> bool {
        let signalled = |error: &Self| matches!(error, Self::Tool { status, .. } if matches!(status, ExitStatus::Signal(_)));
        signalled(self) || matches!(self, Self::Deadline { .. })
    }

    /// Whether the file that was asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether it says that a disk is full: the kernel's word for it, or that of a program that met it.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};

        if let Self::Tool { words, .. } = self {
            return FULL.iter().any(|full| words.contains(full));
        }
        matches!(self, Self::File { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// For `map_err`: a failed call on a file.
    pub(crate) fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::File {
            action,
            path: path.to_owned(),
            source: error.into(),
        }
    }

    /// For `map_err`: a program that could not be run.
    pub(crate) fn run(program: &Path) -> impl FnOnce(ProcessError) -> Self {
        move |source| Self::Run {
            program: program.to_owned(),
            source,
        }
    }
}

/// What helps where a file that an image stands on cannot be used.
fn backing_hint(path: &Path, source: &StorageError) -> Option<String> {
    if !source.is_missing() {
        return source.hint();
    }
    let rebase = format!("qemu-img rebase -u -F FORMAT -b BASE {}", word(path));
    Some(format!("put it back; or say where it is now: {rebase}"))
}

fn package_hint(name: &str) -> String {
    let package = if name.starts_with("qemu-system-") {
        "qemu-system"
    } else if name == "virtiofsd" {
        "virtiofsd (before Debian 13: qemu-system-common); or share by `type: 9p`"
    } else {
        "qemu-utils"
    };
    format!("install it, for example: apt install {package}")
}
