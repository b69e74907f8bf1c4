//! How far long work is.

use serde::{Deserialize, Serialize};

/// Sent ahead of the answer by methods that reply more than once. Whoever hangs up on such a method ends its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `hashing`, `checking`, `copying`.
    pub what: String,
    /// Done of it.
    pub done: u64,
    /// There is in all; 0 when that is not known.
    pub total: u64,
    /// What both count: `bytes`.
    pub unit: String,
}
