//! A copy of the store every day, made beside everything else: from a read transaction, on another thread, when a commit
//! or one timer finds it due.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use anyhow::Context as _;
use maqet_process::directory::open_private;
use maqet_protocol::control::{BackupFailure, StoreBackup};
use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::daily::{self, Daily};
use maqet_state::journal::NewEvent;
use maqet_state::store::Store;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::StateActor;

/// Time after a failed copy before another is tried.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_hours(1);

/// What is known of the daily copies.
#[derive(Debug)]
pub(super) struct Dailies {
    /// Where they are.
    directory: PathBuf,
    /// `None` until it was looked for.
    found: Option<Found>,
    /// Something was committed since the newest was begun, or may have been by an earlier supervisor.
    changed: bool,
    failed: Option<BackupFailure>,
    /// No other is tried before, after one that failed.
    not_before: Option<Instant>,
    timer: Option<SpawnHandle>,
}

/// What there is.
#[derive(Debug)]
struct Found {
    newest: Option<Daily>,
    /// When the store began, as far as its journal tells.
    beginning: Timestamp,
}

impl Dailies {
    /// Those beside this store.
    pub(super) fn beside(store: &Store) -> Self {
        Self {
            directory: store.path().with_file_name("backups"),
            found: None,
            changed: true,
            failed: None,
            not_before: None,
            timer: None,
        }
    }

    /// Something was committed.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<StoreBackup> {
        let newest = self.found.as_ref()?.newest.as_ref()?;
        Some(StoreBackup {
            path: newest.path.clone(),
            at: newest.at,
        })
    }

    /// Why there is none newer, if the last attempt failed.
    pub(super) fn failure(&self) -> Option<BackupFailure> {
        self.failed.clone()
    }

    /// How long until the next is due; `None` when nothing needs one.
    fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let found = self.found.as_ref().filter(|_| self.changed)?;
        let newest = found.newest.as_ref().map(|newest| newest.at);
        let due = daily::due_in(newest, found.beginning, now);
        let pause = self
            .not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        Some(due.max(pause))
    }
}

impl StateActor {
    /// Looks what there is, and goes on from there.
    pub(super) fn find_dailies(&mut self, context: &mut Context<Self>) {
        let (store, directory) = (self.store.clone(), self.dailies.directory.clone());
        let looking = tokio::task::spawn_blocking(move || look(&store, &directory));
        let done = looking.into_actor(self).map(|found, actor, context| match found {
            Ok(found) => {
                actor.dailies.found = Some(found);
                actor.attend_dailies(context);
            }
            Err(panic) => actor.daily_failed(&panic.to_string(), context),
        });
        context.spawn(done);
    }

    /// Makes a copy if one is due, or sees to it that it is noticed when it is.
    pub(super) fn attend_dailies(&mut self, context: &mut Context<Self>) {
        if self.care || self.trouble.is_some() {
            return;
        }
        match self.dailies.due_in(clock::now()) {
            Some(Duration::ZERO) => self.make_daily(context),
            Some(due) if self.dailies.timer.is_none() => {
                let timer = context.run_later(due, |actor, context| {
                    actor.dailies.timer = None;
                    actor.attend_dailies(context);
                });
                self.dailies.timer = Some(timer);
            }
            Some(_) | None => {}
        }
    }

    fn make_daily(&mut self, context: &mut Context<Self>) {
        self.care = true;
        self.dailies.changed = false;
        let (store, directory) = (self.store.clone(), self.dailies.directory.clone());
        let making = tokio::task::spawn_blocking(move || make(&store, &directory, clock::now()));
        let done = making.into_actor(self).map(|made, actor, context| {
            actor.care = false;
            match made {
                Ok(Ok(made)) => actor.daily_made(made),
                Ok(Err(error)) => actor.daily_failed(&format!("{error:#}"), context),
                Err(panic) => actor.daily_failed(&panic.to_string(), context),
            }
            actor.attend_dailies(context);
        });
        context.spawn(done);
    }

    fn daily_made(&mut self, made: Daily) {
        tracing::info!(path = %made.path.display(), "the store was copied");
        self.dailies.failed = None;
        self.dailies.not_before = None;
        if let Some(found) = &mut self.dailies.found {
            found.newest = Some(made);
        }
    }

    /// Told in the log, the journal and `doctor`; nothing else suffers from it.
    fn daily_failed(&mut self, reason: &str, context: &mut Context<Self>) {
        tracing::error!(reason, "the daily copy of the store could not be made");
        let at = clock::now();
        self.dailies.changed = true;
        self.dailies.not_before = Some(Instant::now() + PAUSE_AFTER_FAILURE);
        self.dailies.failed = Some(BackupFailure {
            at,
            reason: reason.to_owned(),
        });
        let event = NewEvent::new("store.backup-failed", at).with("reason", reason);
        // Nobody waits for it.
        let (done, _durable) = oneshot::channel();
        self.enqueue(Change::default().event(event), done, true, context);
    }
}

/// What cannot be read shows when a copy is made.
fn look(store: &Store, directory: &Path) -> Found {
    let now = clock::now();
    let first = store.events(None, 1).unwrap_or_default();
    let mut dailies = list(directory, now).unwrap_or_default();
    Found {
        newest: dailies.pop(),
        beginning: first.first().map_or(now, |entry| entry.at),
    }
}

/// One copy, and those away that are too many after it.
fn make(store: &Store, directory: &Path, now: Timestamp) -> anyhow::Result<Daily> {
    drop(open_private(directory)?);
    let path = directory.join(daily::name(now));
    store.backup_to_new(&path)?;
    for old in daily::too_many(&list(directory, now)?) {
        if let Err(error) = fs::remove_file(&old.path) {
            tracing::warn!(path = %old.path.display(), %error, "an old copy of the store stays");
        }
    }
    Ok(Daily { at: now, path })
}

fn list(directory: &Path, now: Timestamp) -> anyhow::Result<Vec<Daily>> {
    daily::list(directory, now).with_context(|| format!("read `{}`", directory.display()))
}
