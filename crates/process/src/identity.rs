//! Identity of a process that survives the reuse of its number.

mod mark;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ProcessError;
use crate::pidfd::ProcessHandle;
use crate::{kernel, procfs};

pub use mark::FileMark;
pub use verify::Liveness;

/// What a process is on record as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A VM's runner.
    Runner,
    /// QEMU, or the gate that becomes it.
    Qemu,
    /// A helper of a VM.
    Helper,
}

impl Role {
    /// The name, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Qemu => "qemu",
            Self::Helper => "helper",
        }
    }
}

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// Device and inode of a file that was looked at.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Device and inode of an open file.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when the kernel does not tell.
    pub fn of_fd(fd: impl AsFd) -> Result<Self, ProcessError> {
        let stat = rustix::fs::fstat(fd).map_err(ProcessError::call("look at an open file"))?;
        Ok(Self {
            dev: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Device and inode of the file at `path`, symbolic links followed.
    ///
    /// # Errors
    /// [`ProcessError::File`] when it cannot be looked at.
    pub fn of_path(path: &Path) -> Result<Self, ProcessError> {
        let metadata = std::fs::metadata(path).map_err(ProcessError::file("look at", path))?;
        Ok(Self::of(&metadata))
    }
}

/// Handle of a process on pidfs (Linux 6.14 and later), valid across processes until the next boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidfsHandle {
    /// Handle type, as `name_to_handle_at(2)` gave it.
    pub kind: i32,
    /// Handle bytes, hexadecimal.
    pub bytes: String,
}

/// Everything that tells one process from every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// What it is on record as.
    pub role: Role,
    /// Boot it belongs to, `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the PID namespace `pid` is counted in.
    pub pidns_inode: u64,
    /// Process id; never an identity by itself.
    pub pid: i32,
    /// Inode on pidfs, unique for the boot; Linux 6.9 and later.
    pub pidfs_inode: Option<u64>,
    /// Handle on pidfs; Linux 6.14 and later.
    pub pidfs_handle: Option<PidfsHandle>,
    /// Start of the process in clock ticks since boot; a witness, never the identity. Field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// Images the process may legitimately show: the gate's and, after exec, QEMU's.
    pub executables: Vec<FileId>,
    /// Random id of the launch, also on the command line; 32 hexadecimal digits.
    pub launch_id: String,
    /// Start counter of the VM.
    pub generation: u64,
}

/// Id of this boot, as in [`ProcessIdentity::boot_id`].
///
/// # Errors
/// [`ProcessError::File`] without a readable `/proc`.
pub fn boot_id() -> Result<String, ProcessError> {
    procfs::boot_id()
}

/// Inode of our PID namespace, as in [`ProcessIdentity::pidns_inode`].
///
/// # Errors
/// [`ProcessError::File`] without a readable `/proc`.
pub fn pidns_inode() -> Result<u64, ProcessError> {
    procfs::pidns_inode()
}

/// What is used of what the kernel offers to tell processes apart: everything, except where an older kernel is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Unique inodes of processes (Linux 6.9).
    pub inodes: bool,
    /// File handles of processes (Linux 6.14).
    pub handles: bool,
}

impl Abilities {
    /// Use whatever this kernel has.
    pub const ALL: Self = Self {
        inodes: true,
        handles: true,
    };
    /// As on Linux 6.9 to 6.13.
    pub const INODES: Self = Self {
        inodes: true,
        handles: false,
    };
    /// As before Linux 6.9: the number and what `/proc` says.
    pub const NONE: Self = Self {
        inodes: false,
        handles: false,
    };
}

impl ProcessIdentity {
    /// Takes the identity of the process behind a handle: a child not reaped yet, or a verified one.
    ///
    /// `executables` are the images it may legitimately show from now on. They matter only where the kernel
    /// has no unique process inodes.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] when it was reaped meanwhile; otherwise those of reading `/proc`.
    pub fn take(
        handle: &ProcessHandle,
        role: Role,
        launch_id: &str,
        generation: u64,
        executables: Vec<FileId>,
    ) -> Result<Self, ProcessError> {
        let taken = Self {
            role,
            boot_id: procfs::boot_id()?,
            pidns_inode: procfs::pidns_inode()?,
            pid: handle.pid(),
            pidfs_inode: handle.inode(),
            pidfs_handle: PidfsHandle::of(handle),
            start_ticks: start_ticks(handle)?,
            executables,
            launch_id: launch_id.to_owned(),
            generation,
        };
        // Not reaped now, so the number was this process's during all the reads above.
        if handle.is_reaped()? {
            return Err(ProcessError::Gone { pid: handle.pid() });
        }
        Ok(taken)
    }

    /// The record as a kernel with only these abilities would have let it be made.
    #[must_use]
    pub fn as_known_to(&self, abilities: Abilities) -> Self {
        Self {
            pidfs_inode: self.pidfs_inode.filter(|_| abilities.inodes),
            pidfs_handle: self.pidfs_handle.clone().filter(|_| abilities.handles),
            ..self.clone()
        }
    }
}

fn start_ticks(handle: &ProcessHandle) -> Result<u64, ProcessError> {
    match procfs::stat(handle.pid()) {
        Ok(stat) => Ok(stat.start_ticks),
        Err(_) if handle.is_reaped()? => Err(ProcessError::Gone { pid: handle.pid() }),
        Err(error) => Err(error),
    }
}

impl PidfsHandle {
    /// The handle of a process, where the kernel has one.
    pub(crate) fn of(handle: &ProcessHandle) -> Option<Self> {
        if !kernel::is_pidfs(handle) {
            return None;
        }
        let (kind, bytes) = kernel::file_handle(handle.as_fd()).ok()?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let bytes = digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        Some(Self { kind, bytes })
    }

    /// The bytes; `None` when the text is not hexadecimal.
    fn decoded(&self) -> Option<Vec<u8>> {
        if !self.bytes.is_ascii() || !self.bytes.len().is_multiple_of(2) {
            return None;
        }
        let digits = (0..self.bytes.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(self.bytes.get(at..at + 2)?, 16).ok())
            .collect()
    }
}
