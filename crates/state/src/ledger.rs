//! The ledger: everything maqet makes outside its store, entered before it is made and struck after it is gone.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::VmId;

/// Sort of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerKind {
    /// A process; named by its launch id and role.
    Process,
    /// A regular file; named by its path.
    File,
    /// A host port; named `tcp:127.0.0.1:2222`.
    Port,
    /// A socket in the file system; named by its path.
    Socket,
    /// A directory; named by its path.
    Directory,
}

impl fmt::Display for LedgerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Process => "process",
            Self::File => "file",
            Self::Port => "port",
            Self::Socket => "socket",
            Self::Directory => "directory",
        })
    }
}

/// One thing that exists, or may exist, because of maqet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Sort of thing.
    pub kind: LedgerKind,
    /// The thing, see [`LedgerKind`]; unique within its kind.
    pub what: String,
    /// The VM it belongs to; `None` for the supervisor's own.
    pub id: Option<VmId>,
    /// When it was entered.
    pub at: Timestamp,
}

/// A line to write or to strike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerEdit {
    /// It is about to be made. Entering it again overwrites the line.
    Enter(LedgerEntry),
    /// It is gone. Striking what was never entered does nothing.
    Strike {
        /// Sort of thing.
        kind: LedgerKind,
        /// The thing.
        what: String,
    },
    /// Everything of this VM is gone.
    StrikeAll(VmId),
}
