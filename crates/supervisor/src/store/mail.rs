//! Which mail goes where.

use std::sync::Arc;

use actix::{ActorFutureExt, Context, Handler, MessageResult, ResponseActFuture, ResponseFuture, WrapFuture};
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;
use maqet_state::id::VmId;
use maqet_state::journal::JournalEntry;
use maqet_state::ledger::LedgerEntry;
use maqet_state::record::VmRecord;
use tokio::sync::oneshot;

use super::{StateActor, store_failed};
use crate::messages::{
    CheckWritable, DescribeStore, Keep, LoadVm, NewestCursor, Persist, ReadJournal, ReadLedger, ReadVms,
    Recall, StoreState,
};
use crate::recovery::Recorded;

impl Handler<Persist> for StateActor {
    type Result = ();

    fn handle(&mut self, Persist { change, done }: Persist, context: &mut Self::Context) {
        self.enqueue(*change, done, false, context);
    }
}

impl Handler<Keep> for StateActor {
    type Result = ();

    fn handle(&mut self, Keep { change, done }: Keep, context: &mut Self::Context) {
        self.enqueue(*change, done, true, context);
    }
}

impl Handler<CheckWritable> for StateActor {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, _message: CheckWritable, context: &mut Context<Self>) -> Self::Result {
        if self.trouble.is_none() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let (done, durable) = oneshot::channel();
        self.enqueue(Change::default(), done, false, context);
        Box::pin(async move { durable.await.unwrap_or_else(|lost| Err(store_failed(&lost))) })
    }
}

impl Handler<Recall> for StateActor {
    type Result = ResponseFuture<Result<Option<serde_json::Value>, Refusal>>;

    /// An answer that was given but is not durable yet is waited for: a repeated call must not be taken for a new one.
    fn handle(&mut self, Recall(key): Recall, context: &mut Self::Context) -> Self::Result {
        if let Some(answer) = self.backlog.answer(&key) {
            return Box::pin(std::future::ready(Ok(Some(answer.clone()))));
        }
        let (done, durable) = oneshot::channel();
        if self.answering.contains(&key) {
            self.enqueue(Change::default(), done, false, context);
        } else {
            drop(done);
        }
        let store = self.store.clone();
        let in_trouble = self.trouble.is_some();
        Box::pin(async move {
            // Whether that commit succeeded is what the store is asked for.
            drop(durable.await);
            match store.answer(&key) {
                // What needs the store is refused anyway; a stop must work without it.
                Err(error) if in_trouble => {
                    tracing::warn!(%error, "earlier answers cannot be read");
                    Ok(None)
                }
                answer => answer.map_err(|error| store_failed(&error)),
            }
        })
    }
}

impl Handler<ReadJournal> for StateActor {
    type Result = ResponseFuture<Result<Vec<JournalEntry>, Refusal>>;

    fn handle(&mut self, message: ReadJournal, _context: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || store.events(message.since, message.limit));
            match read.await {
                Ok(result) => result.map_err(|error| store_failed(&error)),
                Err(panic) => Err(store_failed(&panic)),
            }
        })
    }
}

impl Handler<ReadVms> for StateActor {
    type Result = ResponseFuture<Result<Vec<VmRecord>, Refusal>>;

    fn handle(&mut self, _message: ReadVms, _context: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || store.vms()).await {
                Ok(result) => result.map_err(|error| store_failed(&error)),
                Err(panic) => Err(store_failed(&panic)),
            }
        })
    }
}

impl Handler<ReadLedger> for StateActor {
    type Result = ResponseActFuture<Self, Result<Vec<LedgerEntry>, Refusal>>;

    /// What is queued is waited for: who looks for leaks must not see what was struck.
    fn handle(&mut self, _message: ReadLedger, context: &mut Self::Context) -> Self::Result {
        let (done, written) = oneshot::channel();
        if self.is_writing() {
            self.enqueue(Change::default(), done, false, context);
        } else {
            drop(done);
        }
        // A store that takes nothing has kept it instead.
        Box::pin(written.into_actor(self).map(|_written, actor, _context| {
            let lines = actor.store.ledger().map_err(|error| store_failed(&error))?;
            Ok(actor.backlog.ledger(lines))
        }))
    }
}

impl Handler<NewestCursor> for StateActor {
    type Result = MessageResult<NewestCursor>;

    fn handle(&mut self, _message: NewestCursor, _context: &mut Self::Context) -> Self::Result {
        MessageResult(self.store.cursor().map_err(|error| store_failed(&error)))
    }
}

impl Handler<DescribeStore> for StateActor {
    type Result = MessageResult<DescribeStore>;

    fn handle(&mut self, _message: DescribeStore, _context: &mut Self::Context) -> Self::Result {
        MessageResult(StoreState {
            // What cannot be read now is told by `read_only`.
            cursor: self.store.cursor().unwrap_or_default(),
            status: self.status(),
        })
    }
}

impl Handler<LoadVm> for StateActor {
    type Result = ResponseActFuture<Self, Result<Option<Recorded>, Refusal>>;

    /// What the actor before has queued is waited for: a record from before it would undo that.
    fn handle(&mut self, LoadVm(id): LoadVm, context: &mut Self::Context) -> Self::Result {
        let (done, written) = oneshot::channel();
        self.enqueue(Change::default(), done, false, context);
        // A store that takes nothing has kept it instead.
        Box::pin(
            written
                .into_actor(self)
                .map(move |_written, actor, _context| actor.load(&id)),
        )
    }
}

impl StateActor {
    fn load(&self, id: &VmId) -> Result<Option<Recorded>, Refusal> {
        let stored = self.store.vm(id).map_err(|error| store_failed(&error))?;
        // What waits to be written is newer.
        let record = self.backlog.record(id).cloned().or(stored);
        let stored = self.store.secret(id).map_err(|error| store_failed(&error))?;
        let secret = self.backlog.secret(id).cloned().or(stored);
        let both = record.zip(secret);
        Ok(both.map(|(record, secret)| Recorded {
            record,
            secret: Arc::new(secret),
        }))
    }
}
