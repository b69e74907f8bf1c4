//! Disks: which file is whose.

use std::path::PathBuf;

use maqet_process::identity::FileMark;
use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Say that the file at a disk's path is the right one, although another is on record; or that a lost one is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAccept {
    /// The VM; it must not run.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
}
method!(StorageAccept, "StorageAccept", DiskAccepted);

/// Answer to [`StorageAccept`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAccepted {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// It was so already.
    pub already: bool,
    /// The file that is on record now; `None` when there is none: the next start makes a new one, if the disk has a size.
    pub file: Option<FileMark>,
}
