//! The store: one redb file that holds what is so.
//!
//! Every commit is durable when it returns (`Durability::Immediate`), needs no repair after a crash (quick repair),
//! and every page is checked when the file is opened. All calls block; a caller on an event loop gives them a thread.

mod backup;
mod chain;
mod commit;
mod create;
mod draft;
mod migrate;
mod schema;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde_json::Value;

pub use self::draft::Draft;
pub use self::migrate::Migration;
pub use self::schema::SCHEMA_VERSION;
use self::schema::{ANSWERS, Answer, LEDGER, NAMES, SECRETS, Text, VMS, Versioned, decode, decode_bytes};
use crate::change::{Change, Committed, Rejected};
use crate::error::StoreError;
use crate::id::VmId;
use crate::journal::{JournalEntry, JournalLimits, JournalProof};
use crate::ledger::LedgerEntry;
use crate::record::VmRecord;
use crate::secret::Secret;

/// The store. Cheap to clone; every clone is the same open file, which closes with the last one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// The open file; `None` after it could not be opened anew.
    db: RwLock<Option<Database>>,
    /// A transaction failed: redb takes nothing more through this handle.
    failed: AtomicBool,
    path: PathBuf,
    limits: JournalLimits,
}

/// A store, and what opening it meant.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// There was none; it was made.
    pub created: bool,
    /// It was of an older schema.
    pub migrated: Option<Migration>,
}

impl Store {
    /// Opens the store at `path`, making it (mode 0600) when there is none, migrating it when it is older.
    ///
    /// # Errors
    /// [`StoreError::AlreadyOpen`], [`StoreError::SchemaTooNew`], [`StoreError::Corrupt`] for a file that is damaged
    /// or no store at all, [`StoreError::Io`]; the file is left as it is.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        Self::open_with(path, JournalLimits::default())
    }

    /// As [`Store::open`], with other limits for the journal.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(path: &Path, limits: JournalLimits) -> Result<Opened, StoreError> {
        let (db, created) = create::open(path)?;
        let migrated = migrate::migrate(&db, path)?;
        let inner = Inner {
            db: RwLock::new(Some(db)),
            failed: AtomicBool::new(false),
            path: path.to_owned(),
            limits,
        };
        Ok(Opened {
            store: Self {
                inner: Arc::new(inner),
            },
            created,
            migrated,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Commits `changes` in one durable transaction and answers for each, in their order. A change whose condition
    /// does not hold is left out whole; the others are not touched by that, and later ones see earlier ones.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of any of them is on disk. The next call opens the file anew first, so a store whose
    /// disk was full works again once there is room.
    pub fn commit(&self, changes: Vec<Change>) -> Result<Vec<Result<Committed, Rejected>>, StoreError> {
        self.with(|db| self.commit_to(db, changes))
    }

    fn commit_to(
        &self,
        db: &Database,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Committed, Rejected>>, StoreError> {
        let txn = begin_write(db)?;
        let mut writer = commit::Writer::open(&txn)?;
        let answers = changes
            .into_iter()
            .map(|change| writer.change(change))
            .collect::<Result<Vec<_>, _>>()?;
        writer.finish(&txn, self.inner.limits)?;
        if answers.iter().any(Result::is_ok) {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        Ok(answers)
    }

    /// Every VM, by id.
    ///
    /// # Errors
    /// [`StoreError::Value`] names the record that cannot be read.
    pub fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(VMS)?;
            table
                .iter()?
                .map(|row| {
                    let (id, bytes) = row?;
                    decode("vms", id.value(), bytes.value())
                })
                .collect()
        })
    }

    /// One VM.
    ///
    /// # Errors
    /// As [`Store::vms`].
    pub fn vm(&self, id: &VmId) -> Result<Option<VmRecord>, StoreError> {
        self.text(VMS, id.as_str(), |bytes| decode("vms", id, bytes))
    }

    /// The VM of that name.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn id_of(&self, name: &str) -> Result<Option<VmId>, StoreError> {
        self.text(NAMES, name, |bytes| decode("names", name, bytes))
    }

    /// The secret of a VM; every stored VM has one.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn secret(&self, id: &VmId) -> Result<Option<Secret>, StoreError> {
        self.text(SECRETS, id.as_str(), |bytes| {
            decode_bytes("secrets", id, bytes).map(Secret::from_bytes)
        })
    }

    /// What the call with this idempotency key was answered; the newest 4096 answers are kept.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn answer(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.text(ANSWERS, key, |bytes| {
            let answer: Versioned<Answer> = decode("answers", key, bytes)?;
            Ok(answer.value.answer)
        })
    }

    /// At most `limit` journal entries after the cursor `since`, oldest first; from the oldest kept without it.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read.
    pub fn events(&self, since: Option<u64>, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(|txn| chain::read(txn, since.unwrap_or(0), limit, |_| true))
    }

    /// As [`Store::events`], of one VM only; it may be gone.
    ///
    /// # Errors
    /// As [`Store::events`].
    pub fn events_of(
        &self,
        vm: &VmId,
        since: Option<u64>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let wanted = |entry: &JournalEntry| entry.id.as_ref() == Some(vm);
        self.read(|txn| chain::read(txn, since.unwrap_or(0), limit, wanted))
    }

    /// Cursor of the newest journal entry; 0 when there is none.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn cursor(&self) -> Result<u64, StoreError> {
        self.read(|txn| Ok(chain::head(txn)?.cursor))
    }

    /// Walks the whole journal and proves that every entry follows from the one before it.
    ///
    /// # Errors
    /// [`StoreError::ChainBroken`] names the first entry that does not.
    pub fn verify_journal(&self) -> Result<JournalProof, StoreError> {
        self.read(chain::verify)
    }

    /// Every line of the ledger.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read.
    pub fn ledger(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(LEDGER)?;
            table
                .iter()?
                .map(|row| {
                    let (key, bytes) = row?;
                    let entry: Versioned<LedgerEntry> = decode("ledger", key.value(), bytes.value())?;
                    Ok(entry.value)
                })
                .collect()
        })
    }

    /// Writes a consistent copy to `to` while commits go on; an older file there is replaced once the copy is
    /// durable.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.with(|db| backup::write(db, to))
    }

    fn read<T>(
        &self,
        reading: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|db| reading(&db.begin_read()?))
    }

    /// One value of a table with text keys.
    fn text<T>(
        &self,
        table: Text,
        key: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(table)?;
            table.get(key)?.map(|bytes| decode(bytes.value())).transpose()
        })
    }

    /// Works with the open file, which is opened anew first if the work before failed.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.inner.failed.load(Ordering::Acquire) {
            self.open_anew()?;
        }
        let db = self.inner.db.read().unwrap_or_else(PoisonError::into_inner);
        let result = match db.as_ref() {
            Some(db) => work(db),
            // Somebody else's attempt to open it anew failed just now.
            None => Err(redb::StorageError::DatabaseClosed.into()),
        };
        if matches!(result, Err(StoreError::Database { .. })) {
            self.inner.failed.store(true, Ordering::Release);
        }
        result
    }

    /// Closes the file, for which redb refuses everything after a failed write, and opens it again.
    fn open_anew(&self) -> Result<(), StoreError> {
        let mut db = self.inner.db.write().unwrap_or_else(PoisonError::into_inner);
        if self.inner.failed.load(Ordering::Acquire) {
            // The lock on the file is released before it is taken again.
            *db = None;
            *db = Some(create::open_existing(&self.inner.path)?);
            self.inner.failed.store(false, Ordering::Release);
        }
        Ok(())
    }
}

/// A write transaction that is durable when it commits and leaves nothing to repair.
fn begin_write(db: &Database) -> Result<WriteTransaction, StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}
