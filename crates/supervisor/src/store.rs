//! The state actor: the only holder of the database.
//!
//! Changes that arrive while a commit is under way wait and go into the next one together: one durable commit for
//! all of them. What a commit made durable is published in journal order before anybody is answered.
//!
//! A disk that takes no writes does not end anything: what needs a durable commit first is refused, facts wait in the
//! [`Backlog`], and the store is tried again with every change and ever more rarely by itself.

mod backlog;
mod care;
mod daily;
mod mail;

use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use maqet_protocol::control::{StoreReadOnly, StoreStatus};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::{Change, Committed, Rejected};
use maqet_state::clock::{self, Timestamp};
use maqet_state::error::StoreError;
use maqet_state::journal::{JournalEntry, NewEvent};
use maqet_state::mirror::{Mirror, Mirrored};
use maqet_state::store::Store;
use rand::RngExt;
use tokio::sync::oneshot;

use self::backlog::Backlog;
use self::daily::Dailies;
use crate::messages::Publish;

/// Changes one commit takes; more would make the first of them wait for the last.
const BATCH_CHANGES_MAX: usize = 256;

/// Changes that may wait. Each VM has at most a handful of its own under way.
const MAILBOX_CAPACITY: usize = 8192;

/// First pause before a store that took nothing is tried again; each further one doubles it, up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);

type Answer = Result<(), Refusal>;

/// Owns the store; commits off the thread, in batches.
#[derive(Debug)]
pub(crate) struct StateActor {
    store: Store,
    /// The VMs' own directories.
    mirror: Arc<Mirror>,
    bus: actix::Addr<crate::events::EventBus>,
    queue: Vec<Waiting>,
    /// Idempotency keys of changes that are queued or being committed.
    answering: Vec<String>,
    committing: bool,
    /// Why the store takes nothing, if it does not.
    trouble: Option<Trouble>,
    /// Facts that wait for it.
    backlog: Backlog,
    /// It is being copied or examined.
    care: bool,
    dailies: Dailies,
}

/// A change, and who waits for it.
#[derive(Debug)]
struct Waiting {
    change: Change,
    done: oneshot::Sender<Answer>,
    /// It is a fact: refusing it would not undo it.
    is_fact: bool,
}

/// A store that takes nothing.
#[derive(Debug)]
struct Trouble {
    since: Timestamp,
    reason: String,
    attempts: u32,
    retry: Option<SpawnHandle>,
}

/// One commit under way.
#[derive(Debug)]
struct Batch {
    /// Changes before those of `waiting`: what was kept, and the news that the store takes it.
    kept: usize,
    /// Copies of the facts in it, by place in `waiting`.
    facts: Vec<Option<Change>>,
    waiting: Vec<oneshot::Sender<Answer>>,
    keys: Vec<String>,
}

type Results = Vec<Result<Committed, Rejected>>;

impl StateActor {
    /// An actor for an open store. `read_only` tells why it takes nothing, if that is known already, and `pending` what it
    /// should have and did not take.
    pub(crate) fn new(
        store: Store,
        bus: actix::Addr<crate::events::EventBus>,
        read_only: Option<&StoreError>,
        pending: Vec<Change>,
    ) -> Self {
        let mut actor = Self {
            mirror: Arc::new(Mirror::beside(&store)),
            dailies: Dailies::beside(&store),
            store,
            bus,
            queue: Vec::new(),
            answering: Vec::new(),
            committing: false,
            trouble: None,
            backlog: Backlog::default(),
            care: false,
        };
        if let Some(error) = read_only {
            actor.note_trouble(error);
        }
        for change in pending {
            actor.backlog.keep(change);
        }
        actor
    }

    fn enqueue(
        &mut self,
        change: Change,
        done: oneshot::Sender<Answer>,
        is_fact: bool,
        context: &mut Context<Self>,
    ) {
        self.answering.extend(key_of(&change).cloned());
        self.queue.push(Waiting {
            change,
            done,
            is_fact,
        });
        // Mail that is in the mailbox already joins this batch: the commit begins after it.
        context.spawn(
            std::future::ready(())
                .into_actor(self)
                .map(|(), actor, context| actor.commit_next(context)),
        );
    }

    /// Changes wait, or are being written.
    fn is_writing(&self) -> bool {
        self.committing || !self.queue.is_empty()
    }

    fn commit_next(&mut self, context: &mut Context<Self>) {
        if !self.committing && !self.queue.is_empty() {
            self.commit(context);
        }
    }

    /// Commits what waits: first what was kept, then what is queued.
    fn commit(&mut self, context: &mut Context<Self>) {
        self.committing = true;
        let (changes, batch) = self.next_batch();
        let (store, mirror) = (self.store.clone(), Arc::clone(&self.mirror));
        let work = tokio::task::spawn_blocking(move || told(mirror.commit(&store, changes)));
        let done = work.into_actor(self).map(move |result, actor, context| {
            actor.committing = false;
            actor.answering.retain(|key| !batch.keys.contains(key));
            match result {
                Ok(Ok(results)) => actor.committed(results, batch, context),
                Ok(Err(error)) if error.is_of_a_value() => refuse_all(&error, batch.waiting),
                Ok(Err(error)) => actor.not_committed(&error, batch, context),
                Err(panic) => actor.not_committed(&panic, batch, context),
            }
            actor.commit_next(context);
        });
        context.spawn(done);
    }

    fn next_batch(&mut self) -> (Vec<Change>, Batch) {
        let mut changes = self.backlog.changes();
        changes.extend(self.trouble.as_ref().map(|trouble| self.relief(trouble)));
        let kept = changes.len();
        let rest = self.queue.split_off(self.queue.len().min(BATCH_CHANGES_MAX));
        let taken = mem::replace(&mut self.queue, rest);
        let keys = taken
            .iter()
            .filter_map(|waiting| key_of(&waiting.change).cloned());
        let mut batch = Batch {
            kept,
            keys: keys.collect(),
            facts: Vec::with_capacity(taken.len()),
            waiting: Vec::with_capacity(taken.len()),
        };
        for waiting in taken {
            batch.facts.push(waiting.is_fact.then(|| waiting.change.clone()));
            batch.waiting.push(waiting.done);
            changes.push(waiting.change);
        }
        (changes, batch)
    }

    /// What the journal tells once the store takes changes again.
    fn relief(&self, trouble: &Trouble) -> Change {
        let now = clock::now();
        let lasted = u64::try_from(now.since(trouble.since).as_millis()).unwrap_or(u64::MAX);
        let event = NewEvent::new("store.writable", now)
            .with("since", trouble.since.to_string())
            .with("lasted_ms", lasted)
            .with("reason", trouble.reason.clone())
            .with("events_lost", self.backlog.lost());
        Change::default().event(event)
    }

    fn committed(&mut self, mut results: Results, batch: Batch, context: &mut Context<Self>) {
        let asked = results.split_off(batch.kept.min(results.len()));
        self.recovered(context);
        let mut events = Vec::new();
        for result in results {
            // Of a VM that is gone by now, for instance; there is nothing left that it could tell of.
            if let Err(refusal) = take_events(result, &mut events) {
                tracing::warn!(%refusal, "a fact that was kept does not fit any more");
            }
        }
        let answers: Vec<_> = asked
            .into_iter()
            .map(|result| take_events(result, &mut events))
            .collect();
        self.publish(events);
        self.dailies.note_change();
        self.attend_dailies(context);
        for (answer, waiter) in answers.into_iter().zip(batch.waiting) {
            answer_one(waiter, answer);
        }
    }

    /// The store took what was kept for it, if anything was.
    fn recovered(&mut self, context: &mut Context<Self>) {
        let Some(trouble) = self.trouble.take() else {
            return;
        };
        tracing::info!(since = %trouble.since, "the store takes changes again");
        self.backlog.clear();
        if let Some(retry) = trouble.retry {
            context.cancel_future(retry);
        }
    }

    fn publish(&self, events: Vec<JournalEntry>) {
        if !events.is_empty() && self.bus.try_send(Publish(events)).is_err() {
            tracing::warn!("the event bus is full; subscribers will read from the journal");
        }
    }

    /// Nothing of a batch is durable: facts are kept, everything else is refused.
    fn not_committed(&mut self, error: &(dyn Error + 'static), batch: Batch, context: &mut Context<Self>) {
        // The facts came before the news that they could not be written.
        batch
            .facts
            .into_iter()
            .flatten()
            .for_each(|fact| self.backlog.keep(fact));
        self.note_trouble(error);
        self.retry_later(context);
        let refusal = self.refuse(error);
        for waiter in batch.waiting {
            answer_one(waiter, Err(refusal.clone()));
        }
    }

    fn note_trouble(&mut self, error: &(dyn Error + 'static)) {
        let reason = causes(error).join(": ");
        if let Some(trouble) = &mut self.trouble {
            trouble.reason = reason;
            return;
        }
        tracing::error!(reason, "the store is only read until it takes changes again");
        let since = clock::now();
        let event = NewEvent::new("store.read-only", since).with("reason", reason.clone());
        self.backlog.keep(Change::default().event(event));
        self.trouble = Some(Trouble {
            since,
            reason,
            attempts: 0,
            retry: None,
        });
    }

    /// Tries again after a pause: exponential, with jitter.
    fn retry_later(&mut self, context: &mut Context<Self>) {
        let Some(trouble) = &mut self.trouble else { return };
        let doubled = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(trouble.attempts.min(16)));
        let pause = doubled.min(RETRY_MAX).mul_f64(rand::rng().random_range(0.5..1.0));
        trouble.attempts = trouble.attempts.saturating_add(1);
        if let Some(older) = trouble.retry.take() {
            context.cancel_future(older);
        }
        let retry = context.run_later(pause, |actor, context| {
            if actor.trouble.is_some() && !actor.committing {
                actor.commit(context);
            }
        });
        trouble.retry = Some(retry);
    }

    fn refuse(&self, error: &(dyn Error + 'static)) -> Refusal {
        let mut refusal = store_failed(error);
        if let Some(trouble) = &self.trouble {
            refusal.message = format!("the store takes no changes since {}", trouble.since);
        }
        refusal
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            read_only: self.trouble.as_ref().map(|trouble| StoreReadOnly {
                since: trouble.since,
                reason: trouble.reason.clone(),
                waiting: u64::try_from(self.backlog.len()).unwrap_or(u64::MAX),
            }),
            newest_backup: self.dailies.newest(),
            backup_failed: self.dailies.failure(),
        }
    }
}

/// What a commit came to. A directory that is behind is told of and tried again; it is no reason to fail.
fn told(mirrored: Mirrored) -> Result<Results, StoreError> {
    for (id, error) in &mirrored.trouble {
        tracing::warn!(%id, %error, "the VM's own directory is behind the store");
    }
    mirrored.result
}

/// What one change is answered; its journal entries join the others.
fn take_events(result: Result<Committed, Rejected>, events: &mut Vec<JournalEntry>) -> Answer {
    match result {
        Ok(committed) => {
            events.extend(committed.events);
            Ok(())
        }
        Err(error) => Err(refusal(&error)),
    }
}

fn key_of(change: &Change) -> Option<&String> {
    change.key.as_ref().map(|(key, _answer)| key)
}

/// A stored value is in the way of one of these changes; the store as a whole goes on.
fn refuse_all(error: &StoreError, waiting: Vec<oneshot::Sender<Answer>>) {
    tracing::error!(causes = ?causes(error), "a commit failed");
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

fn store_failed(error: &(dyn Error + 'static)) -> Refusal {
    let refusal = Refusal::new(RefusalCode::StoreFailed, "the change could not be made durable");
    let refusal = causes(error).into_iter().fold(refusal, Refusal::cause);
    refusal.hint("df -h; then look at the supervisor's log")
}

/// An error and what lies behind it, outermost first.
fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| (*error).source())
        .map(ToString::to_string)
        .collect()
}

impl Actor for StateActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.retry_later(context);
        self.find_dailies(context);
    }
}
