//! What is told of a VM's shared directories.

use std::path::PathBuf;

use maqet_state::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// One shared directory of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareStatus {
    /// Name within the VM.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// What the guest mounts it by.
    pub tag: String,
    /// `9p` or `virtiofs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The guest cannot write.
    pub readonly: bool,
    /// Process id of its virtiofsd, while that and the VM run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its virtiofsd is gone while the VM runs: the guest waits for it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<ShareLoss>,
}

/// The end of a virtiofsd under a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareLoss {
    /// How it ended and what it said last, a clause for people.
    pub detail: String,
    /// When it was noticed.
    pub since: Timestamp,
}
