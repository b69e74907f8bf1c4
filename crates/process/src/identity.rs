//! Identity of a process that survives the reuse of its number.

use serde::{Deserialize, Serialize};

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

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
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
