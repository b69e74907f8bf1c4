//! How far long work is.

use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Hear how far the work on a VM's disks is, until it ends; ends at once when there is none. Whoever hangs up ends nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowWork {
    /// The VM.
    pub vm: String,
}
method!(FollowWork, "FollowWork", WorkProgress);

/// A reply to [`FollowWork`]; the last one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkProgress {
    /// How far it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// How far it is. Methods that send it ahead of their own answer end their work when whoever asked hangs up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `hashing`, `checking`, `copying`, `merging`.
    pub what: String,
    /// Done of it.
    pub done: u64,
    /// There is in all; 0 when that is not known.
    pub total: u64,
    /// What both count: `bytes`.
    pub unit: String,
}
