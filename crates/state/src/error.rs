//! Ways the store can let a caller down.

use std::io;
use std::path::PathBuf;

use crate::secret::NoRandomness;

/// Ways the store can let a caller down. None of them ever deletes or overwrites the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another handle in this one, holds the file.
    #[error("store `{path}` is already open")]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer maqet; refused rather than guessed.
    #[error("store `{path}` has schema {found}, this maqet knows up to {supported}")]
    SchemaTooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Newest schema known here.
        supported: u32,
    },
    /// The file is damaged, or is not a store. The caller decides what happens to it.
    #[error("store `{path}` is damaged: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file system refused.
    #[error("{action} `{path}`")]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A transaction failed: nothing of it is on disk. The next call opens the file anew.
    #[error("use the store")]
    Database {
        /// Why.
        source: Box<redb::Error>,
    },
    /// A copy could not be made; the store itself is as it was.
    #[error("copy the store to `{path}`")]
    Backup {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: Box<StoreError>,
    },
    /// A stored value cannot be read.
    #[error("read `{key}` of table `{table}`")]
    Value {
        /// Name of the table.
        table: &'static str,
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A stored value has the wrong length.
    #[error("`{key}` of table `{table}` has {found} bytes")]
    Length {
        /// Name of the table.
        table: &'static str,
        /// Its key.
        key: String,
        /// Length found, bytes.
        found: usize,
    },
    /// The journal was altered behind maqet's back: this entry does not follow from the one before it.
    #[error("the journal's chain is broken at entry {cursor}")]
    ChainBroken {
        /// First entry that does not fit.
        cursor: u64,
    },
    /// A secret could not be drawn.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl StoreError {
    /// Whether one value is wrong, and the file as a whole is not.
    pub const fn is_of_a_value(&self) -> bool {
        matches!(
            self,
            Self::Value { .. } | Self::Length { .. } | Self::ChainBroken { .. } | Self::NoRandomness(_)
        )
    }

    /// Whether nothing is wrong with this piece of work, but something was with another one on the same open file.
    pub(crate) fn is_of_another_failure(&self) -> bool {
        let later =
            |source: &redb::Error| matches!(source, redb::Error::PreviousIo | redb::Error::DatabaseClosed);
        matches!(self, Self::Database { source } if later(source))
    }

    /// Whether the disk takes nothing (full, broken, read-only), as against a file or a value that is wrong.
    pub fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Io { source, .. } => takes_no_writes(source),
            Self::Database { source } => {
                self.is_of_another_failure()
                    || matches!(&**source, redb::Error::Io(error) if takes_no_writes(error))
            }
            Self::AlreadyOpen { .. }
            | Self::SchemaTooNew { .. }
            | Self::Corrupt { .. }
            | Self::Backup { .. }
            | Self::Value { .. }
            | Self::Length { .. }
            | Self::ChainBroken { .. }
            | Self::NoRandomness(_) => false,
        }
    }
}

/// What a file system says that is full, over quota, read-only, broken, or at a limit.
fn takes_no_writes(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::FileTooLarge,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

macro_rules! from_redb {
    ($($error:ty),*) => { $(
        impl From<$error> for StoreError {
            fn from(source: $error) -> Self {
                Self::Database { source: Box::new(source.into()) }
            }
        }
    )* };
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);
