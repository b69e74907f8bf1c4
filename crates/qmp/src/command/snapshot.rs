//! Commands about internal snapshots, and the jobs that some of them are.

use serde::{Deserialize, Serialize};

use super::{Command, Done};

/// What a snapshot with memory is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotJob {
    /// Name of the job.
    pub job_id: String,
    /// Name of the snapshot.
    pub tag: String,
    /// Node whose image keeps the memory.
    pub vmstate: String,
    /// Nodes of the disks.
    pub devices: Vec<String>,
}

/// Keep disks and memory; a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SnapshotSave(pub SnapshotJob);

impl Command for SnapshotSave {
    const NAME: &'static str = "snapshot-save";
    type Reply = Done;
}

/// Go back to disks and memory that were kept; a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SnapshotLoad(pub SnapshotJob);

impl Command for SnapshotLoad {
    const NAME: &'static str = "snapshot-load";
    type Reply = Done;
}

/// Several things at one moment, or none of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transaction {
    actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
enum Action {
    BlockdevSnapshotInternalSync { device: String, name: String },
    BlockdevSnapshot { node: String, overlay: String },
}

impl Transaction {
    /// A snapshot of this name on every node.
    pub fn internal_snapshots(nodes: &[String], name: &str) -> Self {
        let action = |node: &String| Action::BlockdevSnapshotInternalSync {
            device: node.clone(),
            name: name.to_owned(),
        };
        Self {
            actions: nodes.iter().map(action).collect(),
        }
    }

    /// New images on top, each a pair of the node that is and the one that comes on it, which stands on nothing yet.
    pub fn overlays(pairs: &[(String, String)]) -> Self {
        let action = |(node, overlay): &(String, String)| Action::BlockdevSnapshot {
            node: node.clone(),
            overlay: overlay.clone(),
        };
        Self {
            actions: pairs.iter().map(action).collect(),
        }
    }
}

impl Command for Transaction {
    const NAME: &'static str = "transaction";
    type Reply = Done;
}

/// Delete a snapshot from one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeleteInternalSnapshot {
    /// The node.
    pub device: String,
    /// Name of the snapshot.
    pub name: String,
}

impl Command for DeleteInternalSnapshot {
    const NAME: &'static str = "blockdev-snapshot-delete-internal-sync";
    type Reply = Done;
}

/// Every job there is.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueryJobs;

impl Command for QueryJobs {
    const NAME: &'static str = "query-jobs";
    const BARE: bool = true;
    type Reply = Vec<JobInfo>;
}

/// One entry of [`QueryJobs`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// `created`, `running`, `concluded`, ...
    pub status: String,
    /// Why it failed, once it is `concluded`.
    #[serde(default)]
    pub error: Option<String>,
}

/// Take a job that has ended from the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobDismiss {
    /// Its name.
    pub id: String,
}

impl Command for JobDismiss {
    const NAME: &'static str = "job-dismiss";
    type Reply = Done;
}

/// Every node of the block graph.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueryNamedBlockNodes {
    /// Without what each stands on.
    pub flat: bool,
}

impl Command for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    type Reply = Vec<BlockNode>;
}

/// One entry of [`QueryNamedBlockNodes`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockNode {
    /// Its name.
    #[serde(default, rename = "node-name")]
    pub node_name: Option<String>,
    /// What it was opened by.
    #[serde(default)]
    pub file: String,
    /// It is not written to now.
    #[serde(default, rename = "ro")]
    pub readonly: bool,
    /// Its image.
    pub image: ImageInfo,
}

/// Image of a [`BlockNode`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ImageInfo {
    /// Internal snapshots.
    #[serde(default)]
    pub snapshots: Vec<SnapshotInfo>,
    /// What it stands on.
    #[serde(default, rename = "backing-image")]
    pub backing: Option<Box<Self>>,
}

/// One internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// QEMU's number of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of memory kept with it.
    pub vm_state_size: u64,
    /// When it was made, seconds since 1970.
    pub date_sec: u64,
    /// And nanoseconds.
    pub date_nsec: u64,
    /// The guest's clock then, seconds.
    pub vm_clock_sec: u64,
    /// And nanoseconds.
    pub vm_clock_nsec: u64,
}
