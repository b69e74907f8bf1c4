//! The event stream: the journal first, then what comes, without a gap between.

use std::convert::Infallible;

use maqet_protocol::ProtocolError;
use maqet_protocol::control::{Event, EventReply, Events};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection};
use maqet_protocol::refusal::Refusal;
use maqet_state::journal::JournalEntry;
use tokio::sync::mpsc;

use super::Desk;
use super::dispatch::ask;
use crate::messages::{FindVm, NewestCursor, ReadJournal, Subscribe};

/// Entries read from the journal at a time.
const PAGE_ENTRIES: usize = 512;

/// Why a stream ended.
enum End {
    /// The client's side.
    Wire(ProtocolError),
    /// Ours.
    Refused(Refusal),
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Wire(error)
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One stream, from its call to its end.
struct Stream<'a> {
    connection: &'a mut ServerConnection,
    desk: &'a Desk,
    /// Id of the VM asked for.
    vm: Option<String>,
    /// Cursor of the last entry that was dealt with.
    cursor: Option<u64>,
}

/// Answers `Events`.
pub(super) async fn stream(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    match run(connection, call, desk).await {
        Ok(()) => connection.reply(&EventReply { event: None }).await,
        Err(End::Wire(error)) => Err(error),
        Err(End::Refused(refusal)) => connection.refuse(&refusal).await,
    }
}

async fn run(connection: &mut ServerConnection, call: &IncomingCall, desk: &Desk) -> Result<(), End> {
    let Events { since, vm, follow } = call.parse()?;
    let vm = match vm {
        Some(vm) => Some(ask(&desk.supervisor, FindVm(vm)).await??.id.as_str().to_owned()),
        None => None,
    };
    let cursor = match (since, follow) {
        (None, true) => Some(ask(&desk.state, NewestCursor).await??),
        (since, _) => since,
    };
    let mut stream = Stream {
        connection,
        desk,
        vm,
        cursor,
    };
    if !follow {
        return stream.catch_up().await;
    }
    match stream.follow().await? {}
}

impl Stream<'_> {
    /// What the journal has after the cursor.
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let page = ReadJournal {
                since: self.cursor,
                limit: PAGE_ENTRIES,
            };
            let entries = ask(&self.desk.state, page).await??;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                self.send(entry).await?;
            }
        }
    }

    /// Subscribes before it reads, so that nothing falls between; a subscription that ran full is made anew, and the
    /// journal fills the gap.
    async fn follow(&mut self) -> Result<Infallible, End> {
        loop {
            let mut live = ask(&self.desk.bus, Subscribe).await?;
            self.connection.reply_more(&EventReply { event: None }).await?;
            self.catch_up().await?;
            self.pass_on(&mut live).await?;
        }
    }

    async fn pass_on(&mut self, live: &mut mpsc::Receiver<JournalEntry>) -> Result<(), End> {
        loop {
            let next = {
                let gone = self.connection.closed();
                tokio::select! {
                    entry = live.recv() => entry,
                    result = gone => {
                        result?;
                        return Err(End::Wire(ProtocolError::Closed));
                    }
                }
            };
            match next {
                Some(entry) => self.send(entry).await?,
                None => return Ok(()),
            }
        }
    }

    async fn send(&mut self, entry: JournalEntry) -> Result<(), End> {
        if self.cursor.is_some_and(|cursor| entry.cursor <= cursor) {
            return Ok(());
        }
        self.cursor = Some(entry.cursor);
        let about = entry.id.as_ref().map(maqet_state::id::VmId::as_str);
        if self.vm.is_some() && self.vm.as_deref() != about {
            return Ok(());
        }
        let JournalEntry {
            cursor,
            at,
            vm,
            id,
            kind,
            data,
        } = entry;
        let event = Some(Event {
            cursor,
            at,
            vm,
            id,
            kind,
            data,
        });
        Ok(self.connection.reply_more(&EventReply { event }).await?)
    }
}
