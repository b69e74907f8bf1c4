//! The ledger: everything maqet makes outside its store, entered before it is made and struck after it is gone.

use std::fmt;

use maqet_process::identity::ProcessIdentity;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::VmId;

/// Sort of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerKind {
    /// A process; named by its launch id and role, `LAUNCH/runner`, a helper by its share as well, `LAUNCH/helper/src`.
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
    /// Who a process is: nothing else may ever say that a process found later is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Box<ProcessIdentity>>,
}

impl LedgerEntry {
    /// A line about something of this VM.
    pub fn new(kind: LedgerKind, what: impl Into<String>, id: VmId, at: Timestamp) -> Self {
        Self {
            kind,
            what: what.into(),
            id: Some(id),
            at,
            identity: None,
        }
    }

    /// A line about a process of this VM.
    pub fn process(identity: ProcessIdentity, id: VmId, at: Timestamp) -> Self {
        let what = format!("{}/{}", identity.launch_id, identity.role.as_str());
        Self {
            identity: Some(Box::new(identity)),
            ..Self::new(LedgerKind::Process, what, id, at)
        }
    }

    /// The edit that strikes the line, unless it has become another VM's: a port that was let go is soon taken.
    pub fn strike(&self) -> LedgerEdit {
        let (kind, what) = (self.kind, self.what.clone());
        match self.id.clone() {
            Some(id) => LedgerEdit::StrikeOwn { kind, what, id },
            None => LedgerEdit::Strike { kind, what },
        }
    }
}

impl LedgerEdit {
    /// What it makes of these lines.
    pub fn apply(&self, lines: &mut Vec<LedgerEntry>) {
        match self {
            Self::Enter(entry) => {
                lines.retain(|line| (line.kind, &line.what) != (entry.kind, &entry.what));
                lines.push(entry.clone());
            }
            Self::Strike { kind, what } => lines.retain(|line| (line.kind, &line.what) != (*kind, what)),
            Self::StrikeOwn { kind, what, id } => {
                let own = |line: &LedgerEntry| line.id.as_ref() == Some(id);
                lines.retain(|line| (line.kind, &line.what) != (*kind, what) || !own(line));
            }
            Self::StrikeAll(id) => lines.retain(|line| line.id.as_ref() != Some(id)),
        }
    }
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
    /// It is gone. Nothing is struck if another VM has entered the same since.
    StrikeOwn {
        /// Sort of thing.
        kind: LedgerKind,
        /// The thing.
        what: String,
        /// Whose it was.
        id: VmId,
    },
    /// Everything of this VM is gone.
    StrikeAll(VmId),
}
