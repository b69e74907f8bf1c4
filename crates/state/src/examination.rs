//! What an examination of a store finds, and the rows it is made of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an examination found. Everything that is wrong is a finding; the numbers are of what could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Schema of the file.
    pub schema: u32,
    /// VMs stored.
    pub vms: u64,
    /// Lines of the ledger.
    pub ledger: u64,
    /// Answers kept for repeated calls.
    pub answers: u64,
    /// The journal's chain.
    pub journal: JournalWalk,
    /// What is wrong, by table; at most [`Examination::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub left_out: u64,
}

impl Examination {
    /// Findings told one by one.
    pub const FINDINGS_MAX: usize = 100;
}

/// How far the journal's chain holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalWalk {
    /// Entries pruned so far; the walk begins after them, from their checkpoint hash.
    pub pruned: u64,
    /// Newest entry that follows from all before it; 0 when there is none.
    pub cursor: u64,
    /// Its hash, 64 hexadecimal digits. Kept elsewhere, it proves later that nothing up to `cursor` was altered.
    pub hash: String,
    /// The first entry that was changed, dropped or added behind maqet's back.
    pub broken_at: Option<u64>,
}

/// One thing that is wrong with the content of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The table.
    pub table: String,
    /// Key of the row.
    pub key: String,
    /// What is wrong with it, a lower-case fragment.
    pub what: String,
}

/// One row of a store, to be read by people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The table.
    pub table: String,
    /// Its key.
    pub key: String,
    /// Its value. Of a secret a fingerprint; of a value that is no JSON its length.
    pub value: Value,
}
