//! Logical copies: consistent whatever is being committed meanwhile, which a copy of the file is not.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use maqet_process::point::{Point, pass};
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    TableHandle, WriteTransaction,
};

use super::create::{self, Draft, io_error};
use crate::error::StoreError;

/// Where the store at `path` is kept before it leaves schema `version`: `state.redb.v1.bak` beside it.
pub(crate) fn path_for_schema(path: &Path, version: u32) -> PathBuf {
    beside(path, &format!(".v{version}.bak"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// What a copy does with a file of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Takes its place, once the copy is durable.
    Replace,
    /// Gives way to it.
    Keep,
}

/// Copies everything in `db` to a file at `to`, which never exists half-made.
pub(crate) fn write(db: &Database, to: &Path, existing: Existing) -> Result<(), StoreError> {
    copy(db, to, existing).map_err(|source| StoreError::Backup {
        path: to.to_owned(),
        source: Box::new(source),
    })
}

fn copy(db: &Database, to: &Path, existing: Existing) -> Result<(), StoreError> {
    let draft = Draft::new(to)?;
    let file = draft.file.try_clone().map_err(io_error("create", to))?;
    let copy = create::database(file, to)?;
    copy_all(&db.begin_read()?, &copy)?;
    copy.close().map_err(|error| create::open_error(error, to))?;
    draft.file.sync_all().map_err(io_error("flush", to))?;
    pass(Point::CopyWritten);
    match existing {
        Existing::Keep => draft.publish(to).map_err(io_error("create", to))?,
        Existing::Replace => replace(draft, to)?,
    }
    create::sync_directory_of(to)?;
    pass(Point::CopyNamed);
    Ok(())
}

fn replace(draft: Draft, to: &Path) -> Result<(), StoreError> {
    let name = beside(to, ".tmp");
    match std::fs::remove_file(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &name)(error));
        }
        Ok(()) | Err(_) => {}
    }
    draft.publish(&name).map_err(io_error("create", &name))?;
    std::fs::rename(&name, to).map_err(io_error("replace", to))
}

fn copy_all(from: &ReadTransaction, to: &Database) -> Result<(), StoreError> {
    let txn = super::begin_write(to)?;
    for table in from.list_tables()? {
        // Tables have text keys or number keys; which, only opening one tells.
        if !copy_rows::<&'static str>(from, &txn, table.name())? {
            copy_rows::<u64>(from, &txn, table.name())?;
        }
    }
    Ok(txn.commit()?)
}

/// False when the table's keys are of another type.
fn copy_rows<K: Key + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    name: &str,
) -> Result<bool, StoreError> {
    let definition = TableDefinition::<K, &'static [u8]>::new(name);
    let source = match from.open_table(definition) {
        Ok(source) => source,
        Err(TableError::TableTypeMismatch { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut target = to.open_table(definition)?;
    for row in source.iter()? {
        let (key, value) = row?;
        target.insert(key.value(), value.value())?;
    }
    Ok(true)
}
