//! From an older layout to the present one, one write transaction per step.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableError, WriteTransaction};

use super::backup;
use super::schema::{META, META_SCHEMA, SCHEMA_VERSION, SECRETS, VMS, meta, put};
use crate::error::StoreError;
use crate::secret::Secret;

/// A migration that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Schema before.
    pub from: u32,
    /// Schema now.
    pub to: u32,
    /// Copy of the store as it was before.
    pub backup: PathBuf,
}

/// What leads from schema 1 to 2, from 2 to 3, and so on.
const STEPS: [Step; 1] = [give_secrets];

type Step = fn(&WriteTransaction) -> Result<(), StoreError>;

/// Brings the store to [`SCHEMA_VERSION`]. Killed at any point, the next open goes on from the last finished step.
pub(crate) fn migrate(db: &Database, path: &Path) -> Result<Option<Migration>, StoreError> {
    let from = schema_of(db, path)?;
    if from == SCHEMA_VERSION {
        return Ok(None);
    }
    if from > SCHEMA_VERSION {
        return Err(too_new(path, from));
    }
    let backup = backup::path_for_schema(path, from);
    backup::write(db, &backup, backup::Existing::Replace)?;
    climb(db, from)?;
    Ok(Some(Migration {
        from,
        to: SCHEMA_VERSION,
        backup,
    }))
}

/// Takes the steps that lead from schema `from` to the present one.
pub(crate) fn climb(db: &Database, from: u32) -> Result<(), StoreError> {
    for (version, step) in (1..).zip(STEPS).filter(|(version, _)| *version >= from) {
        let txn = super::begin_write(db)?;
        step(&txn)?;
        put(&mut txn.open_table(META)?, META_SCHEMA, &(version + 1))?;
        txn.commit()?;
    }
    Ok(())
}

pub(crate) fn too_new(path: &Path, found: u32) -> StoreError {
    StoreError::SchemaTooNew {
        path: path.to_owned(),
        found,
        supported: SCHEMA_VERSION,
    }
}

/// Schema of the store.
pub(crate) fn schema_of(db: &Database, path: &Path) -> Result<u32, StoreError> {
    let txn = db.begin_read()?;
    let version = match txn.open_table(META) {
        Ok(table) => meta(&table, META_SCHEMA)?,
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    version
        .filter(|version| *version > 0)
        .ok_or_else(|| StoreError::Corrupt {
            path: path.to_owned(),
            detail: "it does not say which schema it has".to_owned(),
        })
}

/// 1 to 2: every VM has a secret, which both ends of its runner's socket prove to know.
fn give_secrets(txn: &WriteTransaction) -> Result<(), StoreError> {
    let vms = txn.open_table(VMS)?;
    let mut secrets = txn.open_table(SECRETS)?;
    for row in vms.iter()? {
        let (id, _) = row?;
        if secrets.get(id.value())?.is_none() {
            let secret = Secret::random()?;
            secrets.insert(id.value(), secret.as_bytes().as_slice())?;
        }
    }
    Ok(())
}
