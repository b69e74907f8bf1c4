//! A disk that comes while QEMU runs.

use maqet_spec::VmSpec;
use serde::{Deserialize, Serialize};

use super::OpenedFile;
use crate::control::Empty;
use crate::method::Method;

/// Give QEMU a disk more. Answered when it has it, at once when it has it already; nothing of it is there when it is refused,
/// unless QEMU does not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugDisk {
    /// The VM as it will be: the disk is its last one.
    pub spec: VmSpec,
    /// Name of the disk.
    pub disk: String,
    /// Its files, which were looked at: no others are used.
    pub files: Vec<OpenedFile>,
    /// Deadline for opening them, milliseconds.
    pub timeout_ms: u64,
}

impl Method for PlugDisk {
    const NAME: &'static str = "org.maqet.Runner.Plug";
    type Reply = Empty;
}
