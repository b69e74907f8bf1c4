//! What is there and should not be.

use maqet_state::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Compare what is on record with what there is; answered once everything was looked at twice where it differed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaks {
    /// Take away what is provably maqet's and dead, then look again.
    #[serde(default)]
    pub fix: bool,
    /// With `fix`: also the directories of VMs that are not stored, if nothing but logs is in them.
    #[serde(default)]
    pub logs: bool,
}
method!(Leaks, "Leaks", LeakReport);

/// Answer to [`Leaks`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakReport {
    /// What is left, after the repair if one was asked for.
    pub leaks: Vec<Leak>,
    /// What was looked at.
    pub looked_at: LookedAt,
    /// What the repair did, in order.
    pub actions: Vec<Repair>,
}

/// Sort of thing that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakKind {
    /// A process that is in the ledger, names one of our launches, or writes to one of our logs, and that nobody holds.
    Process,
    /// A socket of a VM that does not run, or one that nobody ever makes.
    Socket,
    /// A host port that the ledger has for a VM, and that somebody else has.
    Port,
    /// A directory of a VM that is not stored.
    Directory,
    /// A file that was being made when that was cut off, under its own name or a temporary one.
    File,
    /// A line of the ledger about something that is gone.
    Ledger,
}

/// Something that is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leak {
    /// Sort of thing.
    pub kind: LeakKind,
    /// The thing: a path, a process id with its command line, a line of the ledger.
    pub what: String,
    /// The VM it belongs to or belonged to: its name, or its id when it is not stored.
    pub vm: Option<String>,
    /// Since when it is there, where that is known.
    pub since: Option<Timestamp>,
    /// Why it should not be there, and what can be done.
    pub detail: String,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedAt {
    /// VMs stored.
    pub vms: u64,
    /// Those of them that something is being done to; what they are making or ending is no leak.
    pub busy: u64,
    /// Processes of this user.
    pub processes: u64,
    /// Lines of the ledger.
    pub ledger: u64,
    /// Directories below the data and the runtime directory.
    pub directories: u64,
    /// Sockets below the runtime directory.
    pub sockets: u64,
    /// Host ports in the ledger.
    #[serde(default)]
    pub ports: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// One thing that the repair did or left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Sort of thing.
    pub kind: LeakKind,
    /// The thing.
    pub what: String,
    /// What was done, in the past tense; or why nothing was.
    pub detail: String,
    /// It is gone now.
    pub done: bool,
}
