//! The journal: what happened, in order, for good.
//!
//! Entries are numbered by a cursor that rises by one and survives restarts. Each is tied to the one before it by
//! `blake3(previous hash ‖ stored bytes)`, so an entry that was changed, dropped or moved later shows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::id::VmId;
use crate::record::VmRecord;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Position; the first entry is 1.
    pub cursor: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Name of the VM, if it is about one.
    pub vm: Option<String>,
    /// Id of the VM, if it is about one.
    pub id: Option<VmId>,
    /// `vm.added`, `vm.running`, `qmp.SHUTDOWN`, ...
    pub kind: String,
    /// What else there is to say, by kind; never holds a key of [`RESERVED_KEYS`].
    pub data: Map<String, Value>,
}

/// Keys that an entry's data cannot have, because it is shown in one flat object with them.
pub const RESERVED_KEYS: [&str; 5] = ["cursor", "at", "vm", "id", "kind"];

/// An entry that has no place in the journal yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    at: Timestamp,
    vm: Option<String>,
    id: Option<VmId>,
    kind: String,
    data: Map<String, Value>,
}

impl NewEvent {
    /// Something that happened at `at`.
    pub fn new(kind: impl Into<String>, at: Timestamp) -> Self {
        Self {
            at,
            vm: None,
            id: None,
            kind: kind.into(),
            data: Map::new(),
        }
    }

    /// What happened, in a word.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// It is about this VM.
    #[must_use]
    pub fn about(mut self, vm: &VmRecord) -> Self {
        self.vm = Some(vm.name().to_owned());
        self.id = Some(vm.id.clone());
        self
    }

    /// Adds a piece of data. A key of [`RESERVED_KEYS`] gets an underscore behind it.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        let mut key = key.into();
        if RESERVED_KEYS.contains(&key.as_str()) {
            key.push('_');
        }
        self.data.insert(key, value.into());
        self
    }

    /// Adds many pieces of data, as [`NewEvent::with`] does.
    #[must_use]
    pub fn with_all(self, data: Map<String, Value>) -> Self {
        data.into_iter()
            .fold(self, |event, (key, value)| event.with(key, value))
    }

    /// The entry it becomes at `cursor`.
    pub(crate) fn at_cursor(self, cursor: u64) -> JournalEntry {
        JournalEntry {
            cursor,
            at: self.at,
            vm: self.vm,
            id: self.id,
            kind: self.kind,
            data: self.data,
        }
    }
}

/// How much of the journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Newest entries kept; at least 1.
    pub entries_max: u64,
    /// Entries older than this, counted from the newest one, go.
    pub age_max: Duration,
}

impl Default for JournalLimits {
    /// 100 000 entries (about 25 MB) of the last 90 days.
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            age_max: Duration::from_hours(90 * 24),
        }
    }
}

/// What a walk over the whole journal showed: every entry follows from the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalProof {
    /// Entries pruned so far; the walk began after them, from their checkpoint hash.
    pub pruned: u64,
    /// Newest entry; 0 when there is none.
    pub cursor: u64,
    /// Its hash, 64 hexadecimal digits. Kept elsewhere, it proves later that nothing up to `cursor` was altered.
    pub hash: String,
}
