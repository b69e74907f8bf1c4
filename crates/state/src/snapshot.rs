//! Work on snapshots that has begun, as it is recorded before the first image is touched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotAction {
    /// A snapshot is made.
    Create,
    /// The disks are brought back to one.
    Load,
    /// One is deleted.
    Delete,
}

/// How a snapshot is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// Inside the images.
    #[default]
    Internal,
    /// As files of its own: the image stays as it was, below a new one.
    External,
}

impl SnapshotKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// Work on the snapshots of a VM that may be cut off at any step: whoever finds it recorded looks at the images, and
/// takes it back or finishes it before anything else is done with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotWork {
    /// What.
    pub action: SnapshotAction,
    /// Name of the snapshot.
    pub name: String,
    /// Names of the disks it is about.
    pub disks: Vec<String>,
    /// Snapshots of that name which a new one replaces: QEMU's numbers, by disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replaces: BTreeMap<String, String>,
    /// The machine's memory is part of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
    /// QEMU does it, of a VM that runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
}

impl SnapshotWork {
    /// Name of the snapshot that keeps what could be lost until the work is done. No snapshot of a person has such a name.
    pub const KEEPER: &'static str = ".maqet-work";

    /// Whether a QEMU goes back to the snapshot, from disk to disk: where it is cut off, disks may hold different moments.
    pub fn is_load_by_qemu(&self) -> bool {
        self.live && self.action == SnapshotAction::Load
    }
}
