//! The news of one VM, from its status and the journal.

use maqet_protocol::control::Events;
use tokio::sync::watch;

use super::snapshot::{Snapshot, serial_offset};
use crate::commands::status::describe;
use crate::error::CliError;
use crate::journal::{self, Journal};
use crate::session::Session;

/// Follows one VM and keeps a [`Snapshot`] of it.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    journal: Journal<'a>,
    name: String,
    snapshot: watch::Sender<Snapshot>,
}

impl<'a> Follower<'a> {
    /// Takes the cursor first and the status then, so that nothing falls between them. Where the present run begins
    /// in the serial log is looked up only when somebody `reads_serial`.
    ///
    /// # Errors
    /// A refusal, as for a VM that does not exist.
    pub(super) async fn open(
        session: &'a Session<'a>,
        vm: &str,
        since: Option<u64>,
        reads_serial: bool,
    ) -> Result<Self, CliError> {
        let since = match since {
            Some(since) => since,
            None => journal::newest(session).await?,
        };
        let summary = describe(session, vm).await?.summary;
        let mut snapshot = Snapshot::of(&summary);
        if reads_serial {
            let history = journal::history(session, summary.id.as_str()).await?;
            let last_start = history.iter().rfind(|event| event.kind == "vm.running");
            snapshot.serial_offset = last_start.map(serial_offset).unwrap_or_default();
        }
        let query = Events {
            since: Some(since),
            vm: Some(summary.id.to_string()),
            follow: true,
        };
        Ok(Self {
            journal: Journal::open(session, query).await?,
            name: summary.name,
            snapshot: watch::Sender::new(snapshot),
        })
    }

    /// Name of the VM.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the news appear.
    pub(super) fn news(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// Takes in what the journal tells, for as long as it is polled.
    ///
    /// # Errors
    /// Those of the journal.
    pub(super) async fn run(mut self) -> Result<(), CliError> {
        while let Some(event) = self.journal.next().await? {
            self.snapshot.send_modify(|snapshot| snapshot.take(&event));
            if event.kind == "vm.removed" {
                break;
            }
        }
        // Nothing more will come, but conditions may still look at what is known.
        std::future::pending().await
    }
}
