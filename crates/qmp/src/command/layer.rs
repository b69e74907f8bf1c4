//! Commands about what stands on what: images by descriptor, nodes, and merging one into another.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Command, Done};

/// Give QEMU a descriptor; goes with [`Qmp::hand_over`](crate::Qmp::hand_over).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddFd {
    /// The set it joins; without it QEMU makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fdset_id: Option<u64>,
}

impl Command for AddFd {
    const NAME: &'static str = "add-fd";
    type Reply = AddedFd;
}

/// Answer to [`AddFd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddedFd {
    /// The set it is in: `/dev/fdset/ID` for QEMU.
    pub fdset_id: u64,
    /// Its number in QEMU.
    pub fd: i64,
}

/// Take descriptors from a set; those that are in use stay open until they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoveFd {
    /// The set.
    pub fdset_id: u64,
    /// Only this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i64>,
}

impl Command for RemoveFd {
    const NAME: &'static str = "remove-fd";
    type Reply = Done;
}

/// Make a node; the options are those of `-blockdev`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct BlockdevAdd(pub Value);

impl Command for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Reply = Done;
}

/// Make a device while the machine runs; the options are those of `-device`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct DeviceAdd(pub Value);

impl Command for DeviceAdd {
    const NAME: &'static str = "device_add";
    type Reply = Done;
}

/// Give nodes other options; all of them are said anew.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockdevReopen {
    /// One set of options for each node.
    pub options: Vec<Value>,
}

impl Command for BlockdevReopen {
    const NAME: &'static str = "blockdev-reopen";
    type Reply = Done;
}

/// Take a node away that nothing uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    /// The node.
    pub node_name: String,
}

impl Command for BlockdevDel {
    const NAME: &'static str = "blockdev-del";
    type Reply = Done;
}

/// Write what is in one image, and those between, into one below; a job, which never goes from the list by itself. Of the
/// image on top it becomes `ready` and waits for [`JobComplete`]; of others it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockCommit {
    /// Name of the job.
    pub job_id: String,
    /// Node of the image on top.
    pub device: String,
    /// Node of the image that is merged; without it the one on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_node: Option<String>,
    /// Node of the image it is merged into.
    pub base_node: String,
    /// What the image above names as its backing file from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// `false`.
    pub auto_dismiss: bool,
    /// `false`: once both images hold the same it is `pending`, the disk rests, and it waits for [`JobFinalize`].
    pub auto_finalize: bool,
}

impl Command for BlockCommit {
    const NAME: &'static str = "block-commit";
    type Reply = Done;
}

/// Have a job that is `pending` do what it was about: the disk is on the image below from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobFinalize {
    /// Its name.
    pub id: String,
}

impl Command for JobFinalize {
    const NAME: &'static str = "job-finalize";
    type Reply = Done;
}

/// Which descriptors QEMU was given.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueryFdsets;

impl Command for QueryFdsets {
    const NAME: &'static str = "query-fdsets";
    const BARE: bool = true;
    type Reply = Vec<Fdset>;
}

/// One entry of [`QueryFdsets`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fdset {
    /// Its number.
    pub fdset_id: u64,
    /// The descriptors in it.
    pub fds: Vec<FdsetFd>,
}

/// A descriptor of an [`Fdset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct FdsetFd {
    /// Its number in QEMU.
    pub fd: i64,
}

/// Have a job that is `ready` come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobComplete {
    /// Its name.
    pub id: String,
}

impl Command for JobComplete {
    const NAME: &'static str = "job-complete";
    type Reply = Done;
}

/// Give a job up; what it has written stays where it is, and everything stands on what it stood on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobCancel {
    /// Its name.
    pub id: String,
}

impl Command for JobCancel {
    const NAME: &'static str = "job-cancel";
    type Reply = Done;
}
