//! What the supervisor says of its store.

use maqet_state::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// How the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Why it takes no changes; `None` when it does.
    #[serde(default)]
    pub read_only: Option<StoreReadOnly>,
}

/// A store that takes no changes: the disk is full or broken. VMs run on and can be looked at and stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReadOnly {
    /// When it was noticed.
    pub since: Timestamp,
    /// Why, as a lower-case fragment.
    pub reason: String,
    /// Changes kept in memory until they can be written.
    pub waiting: u64,
}
