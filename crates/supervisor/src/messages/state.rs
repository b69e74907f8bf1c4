//! Mail to the state actor: changes, and questions about what is stored.

use std::path::PathBuf;

use actix::Message;
use maqet_protocol::control::{BackedUp, StoreStatus};
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;
use maqet_state::examination::{Examination, JournalWalk, Row};
use maqet_state::id::VmId;
use maqet_state::journal::JournalEntry;
use maqet_state::ledger::LedgerEntry;
use maqet_state::record::VmRecord;
use tokio::sync::oneshot;

use crate::recovery::Recorded;

/// Make a change durable, together with whatever else is queued. Changes are carried out in the order of this mail.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Persist {
    /// What.
    pub(crate) change: Box<Change>,
    /// Told once it is durable.
    pub(crate) done: oneshot::Sender<Result<(), Refusal>>,
}

/// Make a fact durable, at once or as soon as the store takes changes: it happened, so nobody can refuse it. Carried
/// out in one order with [`Persist`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Keep {
    /// What.
    pub(crate) change: Box<Change>,
    /// Told once it is durable, or that it is kept in memory for now.
    pub(crate) done: oneshot::Sender<Result<(), Refusal>>,
}

/// Whether changes can be made durable now; asked before something that cannot be undone.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub(crate) struct CheckWritable;

/// How the store is doing.
#[derive(Debug, Message)]
#[rtype(result = "StoreState")]
pub(crate) struct DescribeStore;

/// Answer to [`DescribeStore`].
#[derive(Debug)]
pub(crate) struct StoreState {
    /// Cursor of the newest journal entry.
    pub(crate) cursor: u64,
    /// For people.
    pub(crate) status: StoreStatus,
}

/// The answer a key was given before.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<serde_json::Value>, Refusal>")]
pub(crate) struct Recall(pub(crate) String);

/// One VM as stored, to rebuild its actor from.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Recorded>, Refusal>")]
pub(crate) struct LoadVm(pub(crate) VmId);

/// Every VM as stored.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<VmRecord>, Refusal>")]
pub(crate) struct ReadVms;

/// Journal entries after a cursor.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<JournalEntry>, Refusal>")]
pub(crate) struct ReadJournal {
    /// Only entries after this one.
    pub(crate) since: Option<u64>,
    /// At most so many.
    pub(crate) limit: usize,
}

/// Every line of the ledger.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<LedgerEntry>, Refusal>")]
pub(crate) struct ReadLedger;

/// Cursor of the newest journal entry.
#[derive(Debug, Message)]
#[rtype(result = "Result<u64, Refusal>")]
pub(crate) struct NewestCursor;

/// Copy the store to a new file. From: `ipc::store`.
#[derive(Debug, Message)]
#[rtype(result = "Result<BackedUp, Refusal>")]
pub(crate) struct BackUpStore(pub(crate) PathBuf);

/// Check every page of the store and all that is in it.
#[derive(Debug, Message)]
#[rtype(result = "Result<Examination, Refusal>")]
pub(crate) struct VerifyStore;

/// Walk the journal's chain.
#[derive(Debug, Message)]
#[rtype(result = "Result<JournalWalk, Refusal>")]
pub(crate) struct WalkJournal;

/// All rows of the store but the journal's.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Row>, Refusal>")]
pub(crate) struct ReadRows;

/// Some rows of the journal after this cursor, and the cursor of the last one.
#[derive(Debug, Message)]
#[rtype(result = "Result<(Vec<Row>, u64), Refusal>")]
pub(crate) struct ReadJournalRows(pub(crate) u64);
