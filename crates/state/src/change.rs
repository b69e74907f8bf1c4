//! What one writer wants committed, and what became of it.

use serde_json::Value;

use crate::id::VmId;
use crate::journal::{JournalEntry, NewEvent};
use crate::ledger::LedgerEdit;
use crate::record::VmRecord;
use crate::secret::Secret;

/// What one writer wants committed: all of it or nothing.
///
/// Carried out in the order of the fields. A new VM's record comes with its secret, which is how the store tells it
/// from the update of a VM that was removed meanwhile ([`Rejected::VmGone`]).
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Forget this VM: record, name and secret. Its ledger lines stay until what they name is gone.
    pub remove: Option<VmId>,
    /// Store or replace this record.
    pub upsert: Option<VmRecord>,
    /// Store or replace the secret of a VM.
    pub secret: Option<(VmId, Secret)>,
    /// Append these to the journal.
    pub events: Vec<NewEvent>,
    /// Edit the ledger.
    pub ledger: Vec<LedgerEdit>,
    /// Idempotency key of the call, with the answer that a repeated call gets.
    pub key: Option<(String, Value)>,
}

impl Change {
    /// Stores a new VM.
    pub fn create(record: VmRecord, secret: Secret) -> Self {
        Self {
            secret: Some((record.id.clone(), secret)),
            upsert: Some(record),
            ..Self::default()
        }
    }

    /// Replaces the record of a stored VM.
    pub fn update(record: VmRecord) -> Self {
        Self {
            upsert: Some(record),
            ..Self::default()
        }
    }

    /// Forgets a VM.
    pub fn remove(id: VmId) -> Self {
        Self {
            remove: Some(id),
            ..Self::default()
        }
    }

    /// Adds an entry to the journal.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Adds an edit of the ledger.
    #[must_use]
    pub fn ledger(mut self, edit: LedgerEdit) -> Self {
        self.ledger.push(edit);
        self
    }

    /// Names the call and what a repetition of it is answered.
    #[must_use]
    pub fn answering(mut self, key: impl Into<String>, answer: Value) -> Self {
        self.key = Some((key.into(), answer));
        self
    }
}

/// A change that is on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The journal entries it made, for those who follow.
    pub events: Vec<JournalEntry>,
}

/// Why one change was left out of a commit; the others of the batch are not touched by it.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Another VM has that name.
    #[error("a VM named `{name}` exists")]
    NameTaken {
        /// The name.
        name: String,
        /// The VM that has it.
        holder: VmId,
    },
    /// No VM of that id is stored, perhaps not any more.
    #[error("the VM {id} is not stored any more")]
    VmGone {
        /// The id.
        id: VmId,
    },
    /// A call with this idempotency key was carried out already.
    #[error("the call `{key}` was carried out already")]
    Answered {
        /// The key.
        key: String,
        /// What it was answered.
        answer: Value,
    },
    /// A value cannot be written as JSON (a path that is not UTF-8).
    #[error("write {what} as JSON")]
    Encode {
        /// What sort of value.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}
