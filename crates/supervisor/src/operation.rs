//! Work that outlives one message: accepted at once, followed by whoever asked.
//!
//! A handler never waits for a guest. It answers [`Accepted`]; the session that asked then waits on it, and so may
//! any number of others: a second `start` of a starting VM joins the first.

use std::sync::Arc;

use maqet_protocol::control::{
    DiskAttached, DiskCloned, DiskResized, Removed, SnapshotDone, SnapshotListed, Started, StopReport,
    StorageVerified,
};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use tokio::sync::watch;

/// What came of an operation.
pub(crate) type Outcome = Result<Done, Refusal>;

/// An operation that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    /// QEMU runs.
    Started(Started),
    /// QEMU is gone.
    Stopped(StopReport),
    /// The record is gone.
    Removed(Removed),
    /// Work on a snapshot is done.
    Snapshot(SnapshotDone),
    /// The snapshots there are.
    Listed(SnapshotListed),
    /// The disks were worked on.
    Maintained(Maintained),
}

/// Work on disks that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Maintained {
    /// They were checked.
    Verified(StorageVerified),
    /// One has another size.
    Resized(DiskResized),
    /// There is one more.
    Attached(DiskAttached),
    /// One was copied.
    Cloned(DiskCloned),
}

/// An operation under way, as its owner holds it. Dropped without an outcome, it tells its followers so.
#[derive(Debug)]
pub(crate) struct Operation {
    vm: Arc<str>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// An operation under way, as a follower holds it.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// Name of the VM.
    vm: Arc<str>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Operation {
    /// A new operation without followers, on the VM of this name.
    pub(crate) fn new(vm: &str) -> Self {
        Self {
            vm: vm.into(),
            outcome: watch::Sender::new(None),
        }
    }

    /// A follower.
    pub(crate) fn follow(&self) -> Accepted {
        Accepted {
            vm: Arc::clone(&self.vm),
            outcome: self.outcome.subscribe(),
        }
    }

    /// Tells all followers.
    pub(crate) fn finish(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Accepted {
    /// An operation that ended before it began.
    pub(crate) fn ended(outcome: Outcome) -> Self {
        let operation = Operation::new("");
        let accepted = operation.follow();
        operation.finish(outcome);
        accepted
    }

    /// Waits for the end.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let lost = || {
            let vm = &*self.vm;
            let message = format!("what was under way with `{vm}` was lost by a defect in the supervisor");
            Refusal::new(RefusalCode::Internal, message)
                .vm(vm)
                .hint(format!("maqet why {vm}"))
        };
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(lost())),
            Err(_closed) => Err(lost()),
        }
    }
}
