//! The state actor: the only holder of the database.
//!
//! Changes that arrive while a commit is under way wait and go into the next one together: one durable commit for
//! all of them. What a commit made durable is published in journal order before anybody is answered.

use std::mem;
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, MessageResult, ResponseFuture, WrapFuture,
};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::{Change, Committed, Rejected};
use maqet_state::error::StoreError;
use maqet_state::mirror::{Mirror, Mirrored};
use maqet_state::store::Store;
use tokio::sync::oneshot;

use crate::messages::{LoadVm, NewestCursor, Persist, Publish, ReadJournal, Recall};
use crate::recovery::Recorded;

/// Changes one commit takes; more would make the first of them wait for the last.
const BATCH_CHANGES_MAX: usize = 256;

/// Changes that may wait. Each VM has at most a handful of its own under way.
const MAILBOX_CAPACITY: usize = 8192;

type Answer = Result<(), Refusal>;

/// Owns the store; commits off the thread, in batches.
#[derive(Debug)]
pub(crate) struct StateActor {
    store: Store,
    /// The VMs' own directories.
    mirror: Arc<Mirror>,
    bus: actix::Addr<crate::events::EventBus>,
    queue: Vec<(Change, oneshot::Sender<Answer>)>,
    /// Idempotency keys of changes that are queued or being committed.
    answering: Vec<String>,
    committing: bool,
}

impl StateActor {
    /// An actor for an open store.
    pub(crate) fn new(store: Store, bus: actix::Addr<crate::events::EventBus>) -> Self {
        Self {
            mirror: Arc::new(Mirror::beside(&store)),
            store,
            bus,
            queue: Vec::new(),
            answering: Vec::new(),
            committing: false,
        }
    }

    fn commit_next(&mut self, context: &mut Context<Self>) {
        if self.committing || self.queue.is_empty() {
            return;
        }
        self.committing = true;
        let rest = self.queue.split_off(self.queue.len().min(BATCH_CHANGES_MAX));
        let (changes, waiting): (Vec<_>, Vec<_>) = mem::replace(&mut self.queue, rest).into_iter().unzip();
        let keys: Vec<_> = changes.iter().filter_map(key_of).cloned().collect();
        let (store, mirror) = (self.store.clone(), Arc::clone(&self.mirror));
        let work = tokio::task::spawn_blocking(move || committed(mirror.commit(&store, changes)));
        let done = work.into_actor(self).map(move |result, actor, context| {
            actor.committing = false;
            actor.answering.retain(|key| !keys.contains(key));
            match result {
                Ok(Ok(results)) => actor.answer_all(results, waiting),
                Ok(Err(error)) => refuse_all(&error, waiting),
                Err(panic) => refuse_all(&panic, waiting),
            }
            actor.commit_next(context);
        });
        context.spawn(done);
    }

    fn enqueue(&mut self, change: Change, done: oneshot::Sender<Answer>, context: &mut Context<Self>) {
        self.answering.extend(key_of(&change).cloned());
        self.queue.push((change, done));
        // Mail that is in the mailbox already joins this batch: the commit begins after it.
        context.spawn(
            std::future::ready(())
                .into_actor(self)
                .map(|(), actor, context| actor.commit_next(context)),
        );
    }

    fn answer_all(&self, results: Vec<Result<Committed, Rejected>>, waiting: Vec<oneshot::Sender<Answer>>) {
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(results.len());
        for result in results {
            answers.push(match result {
                Ok(committed) => {
                    events.extend(committed.events);
                    Ok(())
                }
                Err(error) => Err(refusal(&error)),
            });
        }
        if !events.is_empty() && self.bus.try_send(Publish(events)).is_err() {
            tracing::warn!("the event bus is full; subscribers will read from the journal");
        }
        for (answer, waiter) in answers.into_iter().zip(waiting) {
            answer_one(waiter, answer);
        }
    }
}

/// What a commit came to. A directory that is behind is told of and tried again; it is no reason to fail.
fn committed(mirrored: Mirrored) -> Result<Vec<Result<Committed, Rejected>>, StoreError> {
    for (id, error) in &mirrored.trouble {
        tracing::warn!(%id, %error, "the VM's own directory is behind the store");
    }
    mirrored.result
}

fn key_of(change: &Change) -> Option<&String> {
    change.key.as_ref().map(|(key, _answer)| key)
}

fn refuse_all(error: &(dyn std::error::Error + 'static), waiting: Vec<oneshot::Sender<Answer>>) {
    tracing::error!(error, "a commit failed");
    for waiter in waiting {
        answer_one(waiter, Err(store_failed(error)));
    }
}

/// A waiter that went away loses nothing: the change is in the store either way.
fn answer_one(waiter: oneshot::Sender<Answer>, answer: Answer) {
    drop(waiter.send(answer));
}

fn refusal(error: &Rejected) -> Refusal {
    match error {
        Rejected::NameTaken { name, .. } => Refusal::new(RefusalCode::NameTaken, error.to_string())
            .vm(name)
            .hint(format!("maqet status {name}")),
        Rejected::VmGone { id } => Refusal::new(RefusalCode::VmNotFound, error.to_string()).vm(id.as_str()),
        Rejected::Answered { .. } => Refusal::new(RefusalCode::Busy, error.to_string()).hint("try again"),
        Rejected::Encode { .. } => store_failed(error),
    }
}

fn store_failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    let mut refusal = Refusal::new(RefusalCode::StoreFailed, "the change could not be made durable");
    let mut next = Some(error);
    while let Some(cause) = next {
        refusal = refusal.cause(cause.to_string());
        next = cause.source();
    }
    refusal.hint("df -h; then look at the supervisor's log")
}

impl Actor for StateActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<Persist> for StateActor {
    type Result = ();

    fn handle(&mut self, Persist { change, done }: Persist, context: &mut Self::Context) {
        self.enqueue(*change, done, context);
    }
}

impl Handler<Recall> for StateActor {
    type Result = ResponseFuture<Result<Option<serde_json::Value>, Refusal>>;

    /// An answer that was given but is not durable yet is waited for: a repeated call must not be taken for a new one.
    fn handle(&mut self, Recall(key): Recall, context: &mut Self::Context) -> Self::Result {
        let (done, durable) = oneshot::channel();
        if self.answering.contains(&key) {
            self.enqueue(Change::default(), done, context);
        } else {
            drop(done);
        }
        let store = self.store.clone();
        Box::pin(async move {
            // Whether that commit succeeded is what the store is asked for.
            drop(durable.await);
            store.answer(&key).map_err(|error| store_failed(&error))
        })
    }
}

impl Handler<ReadJournal> for StateActor {
    type Result = ResponseFuture<Result<Vec<maqet_state::journal::JournalEntry>, Refusal>>;

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

impl Handler<NewestCursor> for StateActor {
    type Result = MessageResult<NewestCursor>;

    fn handle(&mut self, _message: NewestCursor, _context: &mut Self::Context) -> Self::Result {
        MessageResult(self.store.cursor().map_err(|error| store_failed(&error)))
    }
}

impl Handler<LoadVm> for StateActor {
    type Result = Result<Option<Recorded>, Refusal>;

    fn handle(&mut self, LoadVm(id): LoadVm, _context: &mut Self::Context) -> Self::Result {
        let record = self.store.vm(&id).map_err(|error| store_failed(&error))?;
        let secret = self.store.secret(&id).map_err(|error| store_failed(&error))?;
        let both = record.zip(secret);
        Ok(both.map(|(record, secret)| Recorded {
            record,
            secret: Arc::new(secret),
        }))
    }
}
