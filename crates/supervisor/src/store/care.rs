//! Copies and examinations of the store. All of it is work for another thread.

use std::io;
use std::path::Path;
use std::time::Instant;

use actix::{ActorFutureExt, Handler, ResponseActFuture, ResponseFuture, WrapFuture};
use maqet_protocol::control::BackedUp;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::error::StoreError;
use maqet_state::examination::{Examination, JournalWalk, Row};
use maqet_state::store::Store;

use super::{StateActor, causes, store_failed};
use crate::messages::{BackUpStore, ReadJournalRows, ReadRows, VerifyStore, WalkJournal};

/// Rows of the journal read at a time.
const PAGE_ROWS: usize = 512;

impl Handler<BackUpStore> for StateActor {
    type Result = ResponseActFuture<Self, Result<BackedUp, Refusal>>;

    fn handle(&mut self, BackUpStore(path): BackUpStore, _context: &mut Self::Context) -> Self::Result {
        if self.care {
            return Box::pin(std::future::ready(Err(busy())).into_actor(self));
        }
        self.care = true;
        let (store, to) = (self.store.clone(), path.clone());
        let copying = tokio::task::spawn_blocking(move || copy(&store, &to));
        Box::pin(copying.into_actor(self).map(move |copied, actor, context| {
            actor.care = false;
            actor.attend_dailies(context);
            match copied {
                Ok(result) => result.map_err(|error| not_copied(&path, &error)),
                Err(panic) => Err(store_failed(&panic)),
            }
        }))
    }
}

/// An examination would wait for a copy to end, and everything else for the examination.
fn busy() -> Refusal {
    let message = "the store is being copied or examined";
    Refusal::new(RefusalCode::Busy, message).hint("try again")
}

/// Copies the store to a new file.
pub(super) fn copy(store: &Store, path: &Path) -> Result<BackedUp, StoreError> {
    let begun = Instant::now();
    store.backup_to_new(path)?;
    let bytes = path.metadata().map_or(0, |about| about.len());
    Ok(BackedUp {
        path: path.to_owned(),
        bytes,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn not_copied(path: &Path, error: &StoreError) -> Refusal {
    if is_there(error) {
        let message = format!("there is something at `{}` already", path.display());
        return Refusal::new(RefusalCode::Conflict, message).hint("name a new file, or move that one away");
    }
    let mut causes = causes(error).into_iter();
    let message = causes.next().unwrap_or_default();
    let refusal = Refusal::new(RefusalCode::StoreFailed, message);
    causes.fold(refusal, Refusal::cause)
}

fn is_there(error: &StoreError) -> bool {
    if let StoreError::Backup { source, .. } = error {
        return is_there(source);
    }
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
}

impl Handler<VerifyStore> for StateActor {
    type Result = ResponseActFuture<Self, Result<Examination, Refusal>>;

    /// Damage that is found is a store that takes nothing: nothing more is committed to it, and VMs go on.
    fn handle(&mut self, _message: VerifyStore, _context: &mut Self::Context) -> Self::Result {
        if self.care {
            return Box::pin(std::future::ready(Err(busy())).into_actor(self));
        }
        self.care = true;
        let store = self.store.clone();
        let examining = tokio::task::spawn_blocking(move || {
            store.check_pages()?;
            store.examine()
        });
        Box::pin(examining.into_actor(self).map(|examined, actor, context| {
            actor.care = false;
            actor.attend_dailies(context);
            match examined {
                Ok(Ok(examination)) => Ok(examination),
                Ok(Err(error)) => {
                    actor.note_trouble(&error);
                    actor.retry_later(context);
                    Err(unsound(&error))
                }
                Err(panic) => Err(store_failed(&panic)),
            }
        }))
    }
}

fn unsound(error: &StoreError) -> Refusal {
    let refusal = Refusal::new(RefusalCode::StoreFailed, "the store cannot be read");
    let refusal = causes(error).into_iter().fold(refusal, Refusal::cause);
    refusal.hint("maqet doctor --rebuild makes it anew from the VMs' directories, VMs go on")
}

impl Handler<WalkJournal> for StateActor {
    type Result = ResponseFuture<Result<JournalWalk, Refusal>>;

    fn handle(&mut self, _message: WalkJournal, _context: &mut Self::Context) -> Self::Result {
        read(&self.store, Store::walk_journal)
    }
}

impl Handler<ReadRows> for StateActor {
    type Result = ResponseFuture<Result<Vec<Row>, Refusal>>;

    fn handle(&mut self, _message: ReadRows, _context: &mut Self::Context) -> Self::Result {
        read(&self.store, Store::rows)
    }
}

impl Handler<ReadJournalRows> for StateActor {
    type Result = ResponseFuture<Result<(Vec<Row>, u64), Refusal>>;

    fn handle(
        &mut self,
        ReadJournalRows(since): ReadJournalRows,
        _context: &mut Self::Context,
    ) -> Self::Result {
        read(&self.store, move |store| store.journal_rows(since, PAGE_ROWS))
    }
}

fn read<T: Send + 'static>(
    store: &Store,
    reading: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> ResponseFuture<Result<T, Refusal>> {
    let store = store.clone();
    Box::pin(async move {
        match tokio::task::spawn_blocking(move || reading(&store)).await {
            Ok(result) => result.map_err(|error| store_failed(&error)),
            Err(panic) => Err(store_failed(&panic)),
        }
    })
}
