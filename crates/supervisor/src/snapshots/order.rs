//! What is asked about snapshots.

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::snapshot::SnapshotAction;
use maqet_storage::image::snapshot::is_name;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotOrder {
    /// What; `None` is to list them.
    pub(crate) action: Option<SnapshotAction>,
    /// Name of the snapshot.
    pub(crate) name: String,
    /// Only on this disk.
    pub(crate) disk: Option<String>,
    /// With the machine's memory.
    pub(crate) memory: bool,
    /// Replace one of that name.
    pub(crate) overwrite: bool,
    /// As files of their own.
    pub(crate) external: bool,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

impl SnapshotOrder {
    /// To list all.
    pub(crate) const fn list() -> Self {
        Self {
            action: None,
            name: String::new(),
            disk: None,
            memory: false,
            overwrite: false,
            external: false,
            key: None,
        }
    }

    /// Refuses a name that no snapshot can have.
    ///
    /// # Errors
    /// `invalid-call`.
    pub(crate) fn check(self) -> Result<Self, Refusal> {
        if self.memory && self.disk.is_some() {
            let message = "memory belongs to all disks, not to one";
            return Err(Refusal::new(RefusalCode::InvalidCall, message)
                .parameter("disk")
                .hint("leave out --disk or --memory"));
        }
        if self.action.is_none() || is_name(&self.name) {
            return Ok(self);
        }
        let message = format!("`{}` cannot be the name of a snapshot", self.name);
        Err(Refusal::new(RefusalCode::InvalidCall, message)
            .parameter("name")
            .hint("letters, digits, `.`, `_` and `-`, at most 63; a letter or digit first, not digits alone"))
    }
}
