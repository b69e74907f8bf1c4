//! Ways a process, a socket or a private directory can let a caller down.

use std::io;
use std::path::{Path, PathBuf};

use crate::pidfd::ExitStatus;

/// Ways a process, a socket or a private directory can let a caller down.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A system call failed.
    #[error("{action}")]
    Call {
        /// What was attempted, for example "open a pidfd".
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A call that names a file failed.
    #[error("{action} `{}`", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process ended before the work on it was done.
    #[error("process {pid} has ended")]
    Gone {
        /// Its former number; -1 when even that is unknown.
        pid: i32,
    },
    /// A `/proc` file does not have the documented form.
    #[error("cannot read `{field}` from `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field looked for.
        field: &'static str,
    },
    /// A program could not be started.
    #[error("start `{}`", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Two descriptors were given the same number in the child, or one below 3.
    #[error("descriptor {number} of the child is taken")]
    DescriptorTaken {
        /// The number.
        number: i32,
    },
    /// The gate ended, or said what is wrong, instead of reporting that it listens.
    #[error("the gate failed: {message}{}", describe_end(*status))]
    Gate {
        /// What the gate wrote; empty when it said nothing.
        message: String,
        /// How it ended, when it has.
        status: Option<ExitStatus>,
    },
    /// The gate was called with words it does not know.
    #[error("gate: bad argument `{word}`")]
    GateArgument {
        /// The offending word; empty when one is missing.
        word: String,
    },
    /// The kernel cannot confine as much as it must.
    #[error("this kernel cannot confine a process as far as it must")]
    Unconfined,
    /// A name that is not a plain file name.
    #[error("`{name}` is not a plain file name")]
    BadName {
        /// The name.
        name: String,
    },
    /// Something that is not a socket sits where a socket belongs.
    #[error("`{name}` is {kind}, not a socket")]
    NotASocket {
        /// Name within the directory.
        name: String,
        /// What it is, for example "a FIFO".
        kind: &'static str,
    },
    /// Too many clients wait on the socket; nothing is wrong with it.
    #[error("`{name}` has too many waiting clients")]
    Crowded {
        /// Name within the directory.
        name: String,
    },
    /// A private directory is something else.
    #[error("`{}` is {kind}, not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// What it is, for example "a symbolic link".
        kind: &'static str,
    },
    /// A private directory belongs to somebody else.
    #[error("directory `{}` belongs to uid {owner}, not to uid {expected}", path.display())]
    ForeignDirectory {
        /// The path.
        path: PathBuf,
        /// Uid of the owner.
        owner: u32,
        /// Our own uid.
        expected: u32,
    },
    /// A private directory is open to others.
    #[error("directory `{}` is open to other users (mode {mode:04o})", path.display())]
    OpenDirectory {
        /// The path.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
}

impl ProcessError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotASocket { name, .. } => Some(format!("move `{name}` away")),
            Self::NotADirectory { path, .. } => Some(instead_of(path)),
            Self::ForeignDirectory { path, .. } => Some(format!(
                "name a directory of your own instead of `{}`",
                path.display()
            )),
            Self::OpenDirectory { path, .. } => Some(format!("chmod 700 {}", path.display())),
            Self::Crowded { .. } => Some("try again".to_owned()),
            Self::Call { .. }
            | Self::File { .. }
            | Self::Gone { .. }
            | Self::Malformed { .. }
            | Self::Spawn { .. }
            | Self::DescriptorTaken { .. }
            | Self::Gate { .. }
            | Self::GateArgument { .. }
            | Self::Unconfined
            | Self::BadName { .. } => None,
        }
    }

    /// For `map_err`: a failed call.
    pub(crate) fn call<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Call {
            action,
            source: error.into(),
        }
    }

    /// For `map_err`: a failed call on a file.
    pub(crate) fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::File {
            action,
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

fn describe_end(status: Option<ExitStatus>) -> String {
    status.map_or_else(String::new, |status| format!(" ({status})"))
}

/// Users put links where a directory is to be elsewhere; who may exchange a link could exchange all that is in it.
fn instead_of(path: &Path) -> String {
    let at = path.display();
    match path.canonicalize() {
        Ok(place) if place.is_dir() => format!(
            "name the directory itself, `{}`, with `--data-dir` or `--runtime-dir`, or have `{at}` be one",
            place.display()
        ),
        Ok(_) | Err(_) => format!("move `{at}` away or name another directory"),
    }
}
