//! What the supervisor says of its store, and what it does with it when asked.

use std::path::PathBuf;

use maqet_state::clock::Timestamp;
use maqet_state::examination::{Examination, JournalWalk, Row};
use serde::{Deserialize, Serialize};

use crate::method::Method;

/// How the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Why it takes no changes; `None` when it does.
    #[serde(default)]
    pub read_only: Option<StoreReadOnly>,
    /// The newest daily copy; none before the store is an hour old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_backup: Option<StoreBackup>,
    /// Why there is none newer, when the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_failed: Option<BackupFailure>,
}

/// A copy of the store that was made by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreBackup {
    /// The file.
    pub path: PathBuf,
    /// When it was made.
    pub at: Timestamp,
}

/// A copy that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFailure {
    /// When it was tried.
    pub at: Timestamp,
    /// Why it failed, outermost cause first.
    pub reason: String,
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

/// Copy the store to a new file while everything goes on; answered when the copy is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateBackup {
    /// The new file, absolute. It gets mode 0600; what is there is never replaced.
    pub path: PathBuf,
}
method!(StateBackup, "StateBackup", BackedUp);

/// Answer to [`StateBackup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// The copy.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// Check every page of the store, and whether all in it fits together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateVerify {}
method!(StateVerify, "StateVerify", Examination);

/// All rows of the store, the journal's last; all others are of one moment. A streaming method: some rows in each reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDump {}
method!(StateDump, "StateDump", DumpReply);

/// One reply of [`StateDump`]; the last one of a stream has no rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DumpReply {
    /// Some rows.
    pub rows: Vec<Row>,
}

/// Walk the journal's chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditVerify {}
method!(AuditVerify, "AuditVerify", JournalWalk);
