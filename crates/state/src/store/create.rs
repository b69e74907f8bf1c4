//! Opening the file, and making it so that it never exists half-made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, StorageError};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::medium::Medium;
use super::schema;
use crate::error::StoreError;

#[cfg(test)]
mod tests;

/// Memory for cached pages, bytes. The whole store of some hundred VMs fits.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Mode of every file that holds secrets.
pub(crate) const PRIVATE: u32 = 0o600;

/// Opens the store's file, making it when there is none. The second value is true when it was made.
pub(crate) fn open(path: &Path) -> Result<(Database, bool), StoreError> {
    match open_existing(path) {
        Ok(db) => Ok((db, false)),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error),
    }
}

/// Opens the store's file, never making one.
pub(crate) fn open_existing(path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_error("open", path))?;
    check_not_empty(&file, path)?;
    database(file, path)
}

/// Opens the store's file to be read, with every check, and writes nothing to it: for a disk that takes no writes.
pub(crate) fn open_view(path: &Path) -> Result<Database, StoreError> {
    let mut how = OpenOptions::new();
    how.read(true);
    // A descriptor that can write holds the lock which keeps others out; a file system that is read-only has no others.
    let (file, shared) = match how.clone().write(true).open(path) {
        Ok(file) => (file, false),
        Err(_read_only) => (how.open(path).map_err(io_error("open", path))?, true),
    };
    check_not_empty(&file, path)?;
    let medium = Medium::only_read(file, shared).map_err(|error| open_error(error, path))?;
    database_on(medium, path)
}

fn check_not_empty(file: &File, path: &Path) -> Result<(), StoreError> {
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file");
        return Err(io_error("open", path)(source));
    }
    let length = metadata.len();
    // redb would take an empty file for a new store; ours never exists empty, so its content was lost.
    if length == 0 {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: "it is empty".to_owned(),
        });
    }
    Ok(())
}

/// Makes the store without a name and names it once it is complete. Whoever names it first wins.
fn create(path: &Path) -> Result<(Database, bool), StoreError> {
    let draft = Draft::new(path)?;
    let copy = draft.file.try_clone().map_err(io_error("create", path))?;
    let db = database(copy, path)?;
    let txn = super::begin_write(&db)?;
    schema::create_tables(&txn)?;
    txn.commit()?;
    match draft.publish(path) {
        Ok(()) => {
            sync_directory_of(path)?;
            Ok((db, true))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            drop(db);
            open_existing(path).map(|db| (db, false))
        }
        Err(source) => Err(io_error("create", path)(source)),
    }
}

/// Opens a database in `file`, with every page checked.
pub(crate) fn database(file: File, path: &Path) -> Result<Database, StoreError> {
    let medium = Medium::written(file).map_err(|error| open_error(error, path))?;
    database_on(medium, path)
}

fn database_on(medium: Medium, path: &Path) -> Result<Database, StoreError> {
    Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(medium)
        .map_err(|error| open_error(error, path))
}

/// A new file that only its owner may read.
pub(crate) fn private_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(io_error("create", path))
}

/// Makes a change of the directory's entry for `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("flush", directory))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Names what was tried with which file.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// What redb's refusal to open means.
pub(crate) fn open_error(error: DatabaseError, path: &Path) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::AlreadyOpen { path }
        }
        DatabaseError::Storage(StorageError::Io(source)) if !is_damage(&source) => StoreError::Io {
            action: "open",
            path,
            source,
        },
        DatabaseError::Storage(StorageError::Corrupted(detail)) => StoreError::Corrupt { path, detail },
        error @ (DatabaseError::RepairAborted
        | DatabaseError::UpgradeRequired(_)
        | DatabaseError::TransactionInProgress
        | DatabaseError::Storage(_)
        | _) => StoreError::Corrupt {
            path,
            detail: error.to_string(),
        },
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// A file that has no name yet, so that a crash leaves nothing behind.
pub(crate) struct Draft {
    pub(crate) file: File,
    /// A name after all, where the file system has no unnamed files.
    named: Option<PathBuf>,
}

impl Draft {
    pub(crate) fn new(path: &Path) -> Result<Self, StoreError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let unnamed = rustix::fs::open(directory_of(path), flags, Mode::RUSR | Mode::WUSR);
        match unnamed {
            Ok(fd) => Ok(Self {
                file: File::from(fd),
                named: None,
            }),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => Self::named(path),
            Err(source) => Err(io_error("create", path)(source.into())),
        }
    }

    fn named(path: &Path) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}.new", rand::random::<u64>()));
        let name = PathBuf::from(name);
        let file = private_file(&name)?;
        Ok(Self {
            file,
            named: Some(name),
        })
    }

    /// Gives it its name; never replaces a file.
    pub(crate) fn publish(self, path: &Path) -> io::Result<()> {
        if let Some(name) = &self.named {
            std::fs::hard_link(name, path)
        } else {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            Ok(rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
        }
    }
}

impl Drop for Draft {
    /// A name it had for want of something better goes with it.
    fn drop(&mut self) {
        if let Some(name) = &self.named {
            // Nothing is lost with it, and nobody is left to be told.
            drop(std::fs::remove_file(name));
        }
    }
}
