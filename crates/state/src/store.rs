//! The store: one redb file that holds what is so.
//!
//! Every commit is durable when it returns (`Durability::Immediate`), needs no repair after a crash (quick repair),
//! and every page is checked when the file is opened. All calls block; a caller on an event loop gives them a thread.

mod backup;
mod chain;
mod commit;
mod create;
mod draft;
mod examine;
mod handle;
mod leftover;
mod medium;
mod migrate;
mod schema;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde_json::Value;

pub use self::draft::Draft;
pub use self::examine::Viewed;
use self::handle::{Handle, Need};
pub use self::leftover::sweep;
#[cfg(any(test, feature = "faults"))]
pub use self::medium::faults;
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
    file: Handle,
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
    /// Why it takes no commits now, though it can be read: the disk is full or broken. Each commit tries again.
    pub read_only: Option<StoreError>,
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
        let (db, created) = match create::open(path) {
            Ok(opened) => opened,
            Err(error) if error.is_of_the_disk() => return Self::open_to_read(path, limits, error),
            Err(error) => return Err(error),
        };
        let migrated = migrate::migrate(&db, path)?;
        Ok(Opened {
            store: Self::of(Handle::written(db, path), limits),
            created,
            migrated,
            read_only: None,
        })
    }

    /// Opens what a disk that takes no writes has of a store; nothing can be made or migrated there.
    fn open_to_read(path: &Path, limits: JournalLimits, why: StoreError) -> Result<Opened, StoreError> {
        let Ok(db) = create::open_view(path) else {
            return Err(why);
        };
        match migrate::schema_of(&db, path)? {
            SCHEMA_VERSION => Ok(Opened {
                store: Self::of(Handle::view(db, path), limits),
                created: false,
                migrated: None,
                read_only: Some(why),
            }),
            found if found > SCHEMA_VERSION => Err(migrate::too_new(path, found)),
            _older => Err(why),
        }
    }

    fn of(file: Handle, limits: JournalLimits) -> Self {
        Self {
            inner: Arc::new(Inner { file, limits }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.inner.file.path()
    }

    /// Commits `changes` in one durable transaction and answers for each, in their order. A change whose condition
    /// does not hold is left out whole; the others are not touched by that, and later ones see earlier ones.
    ///
    /// A commit whose last flush failed may be durable all the same; then it is answered as such.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of any of them is on disk, as far as the disk can tell. The next call opens the file
    /// anew first, so a store whose disk was full works again once there is room.
    pub fn commit(&self, changes: Vec<Change>) -> Result<Vec<Result<Committed, Rejected>>, StoreError> {
        let batch = rand::random();
        let mut answers = None;
        let result = self
            .inner
            .file
            .with(Need::Write, |db| self.commit_to(db, changes, batch, &mut answers));
        match (result, answers) {
            (Ok(()), Some(answers)) => Ok(answers),
            (Err(error), Some(answers)) => {
                // Opening the file anew to be written flushes it, so what is there then is there for good.
                let found = self.inner.file.with(Need::Write, commit::newest_batch);
                if found.is_ok_and(|found| found == Some(batch)) {
                    Ok(answers)
                } else {
                    Err(error)
                }
            }
            (Err(error), None) => Err(error),
            (Ok(()), None) => Ok(Vec::new()),
        }
    }

    /// Carries out one batch. `answers` is set before the step that makes it durable, which may fail.
    fn commit_to(
        &self,
        db: &Database,
        changes: Vec<Change>,
        batch: u64,
        answers: &mut Option<Vec<Result<Committed, Rejected>>>,
    ) -> Result<(), StoreError> {
        let txn = begin_write(db)?;
        let mut writer = commit::Writer::open(&txn)?;
        let results = changes
            .into_iter()
            .map(|change| writer.change(change))
            .collect::<Result<Vec<_>, _>>()?;
        writer.finish(&txn, self.inner.limits, batch)?;
        let any = results.iter().any(Result::is_ok);
        *answers = Some(results);
        if any {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        Ok(())
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
    /// [`StoreError::Backup`]; nothing half-made is left.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.inner
            .file
            .with(Need::Read, |db| backup::write(db, to, backup::Existing::Replace))
    }

    /// As [`Store::backup`], but never replaces a file.
    ///
    /// # Errors
    /// As there; also when there is something at `to`.
    pub fn backup_to_new(&self, to: &Path) -> Result<(), StoreError> {
        self.inner
            .file
            .with(Need::Read, |db| backup::write(db, to, backup::Existing::Keep))
    }

    fn read<T>(&self, reading: impl Fn(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.inner.file.read(|db| reading(&db.begin_read()?))
    }

    /// One value of a table with text keys.
    fn text<T>(
        &self,
        table: Text,
        key: &str,
        decode: impl Fn(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(table)?;
            table.get(key)?.map(|bytes| decode(bytes.value())).transpose()
        })
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
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
