//! What `maqet-supervisor --rebuild` and `--restore` print: one JSON object, read by `maqet`.

use std::path::PathBuf;

use maqet_state::id::VmId;
use serde::{Deserialize, Serialize};

/// A store that was made anew, and out of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Why, a lower-case fragment.
    pub reason: String,
    /// The copy of a store that it is based on; `None` when only the VMs' own directories were used.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Where the file is that was the store before; `None` when there was none.
    #[serde(default)]
    pub set_aside: Option<PathBuf>,
    /// VMs that are in the new store.
    pub restored: Vec<RestoredVm>,
    /// Directories of VMs that say nothing usable.
    pub unreadable: Vec<UnreadableVm>,
    /// VMs that the old store or the copy knew, and that have no directory any more.
    pub left_out: Vec<LeftOutVm>,
    /// Processes that belong to VMs which the new store does not know. They are left alone.
    pub strays: Vec<Stray>,
}

/// A VM that is in the new store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredVm {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Where its record came from.
    pub origin: Origin,
    /// Its name before, when another VM has it now.
    #[serde(default)]
    pub renamed_from: Option<String>,
}

/// Where a VM's record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Its own directory.
    Directory,
    /// A copy of the store.
    Backup,
}

/// A VM's directory that says nothing usable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableVm {
    /// The directory.
    pub path: PathBuf,
    /// Why, a lower-case fragment.
    pub reason: String,
}

/// A VM that is not in the new store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutVm {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
}

/// A process of a VM that the new store does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    /// Its process id, for people to look at.
    pub pid: i32,
    /// What it seems to be: `runner` or `qemu`.
    pub what: String,
    /// The VM on its command line.
    pub vm: VmId,
}
