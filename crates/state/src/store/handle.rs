//! The open file: opened anew after a failure, and only read while it takes no writes.
//!
//! redb refuses everything through a handle on which one write failed, and opening a file means writing to it. So a
//! disk that is full, or broken, would take the reading away too; [`Open::View`] is the way around that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::Database;

use super::create;
use crate::error::StoreError;

/// How often a reading is taken down by failing commits before it fails itself. Commits that fail come ever more rarely.
const READS_MAX: u32 = 4;

/// What a piece of work does with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
}

/// How the file is open.
enum Open {
    /// Takes commits.
    Written(Database),
    /// Takes none; what is in it can be read.
    View(Database),
    /// Not at all: it could be opened in neither way.
    Closed,
}

/// The one holder of the file.
pub(crate) struct Handle {
    open: RwLock<Open>,
    /// A transaction failed: redb takes nothing more through this database.
    failed: AtomicBool,
    /// The file is somebody's copy, which is never written.
    only_read: bool,
    path: PathBuf,
}

impl Handle {
    /// Of a database that takes commits.
    pub(crate) fn written(db: Database, path: &Path) -> Self {
        Self::of(Open::Written(db), path)
    }

    /// Of a database that is only read.
    pub(crate) fn view(db: Database, path: &Path) -> Self {
        Self::of(Open::View(db), path)
    }

    /// Of a file that is never written, whatever its disk takes.
    pub(crate) fn only_read(db: Database, path: &Path) -> Self {
        Self {
            only_read: true,
            ..Self::view(db, path)
        }
    }

    fn of(open: Open, path: &Path) -> Self {
        Self {
            open: RwLock::new(open),
            failed: AtomicBool::new(false),
            only_read: false,
            path: path.to_owned(),
        }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Works with the open file, which is opened anew first if it is not open in a way that will do.
    pub(crate) fn with<T>(
        &self,
        need: Need,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = if self.will_do(&open, need) {
            open
        } else {
            drop(open);
            self.open_anew(need)?;
            self.open.read().unwrap_or_else(PoisonError::into_inner)
        };
        let result = match (&*open, need) {
            (Open::Written(db), _) | (Open::View(db), Need::Read) => work(db),
            // Somebody else's attempt to open it anew failed just now.
            (Open::View(_), Need::Write) | (Open::Closed, _) => {
                Err(redb::StorageError::DatabaseClosed.into())
            }
        };
        if matches!(result, Err(StoreError::Database { .. })) {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    /// Reads. A commit that fails meanwhile on another thread takes its database down with it, and the reading too; the
    /// file is as readable as before.
    pub(crate) fn read<T>(&self, work: impl Fn(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut attempts = 1;
        loop {
            match self.with(Need::Read, &work) {
                Err(error) if error.is_of_another_failure() && attempts < READS_MAX => attempts += 1,
                result => return result,
            }
        }
    }

    fn will_do(&self, open: &Open, need: Need) -> bool {
        let fits = match open {
            Open::Written(_) => true,
            Open::View(_) => need == Need::Read,
            Open::Closed => false,
        };
        fits && !self.failed.load(Ordering::Acquire)
    }

    /// Closes the file and opens it again, which checks every page. Whoever needs the file waits meanwhile.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        self.reopen(&mut open, Need::Read)
    }

    /// Closes the file and opens it again, unless somebody else just did.
    fn open_anew(&self, need: Need) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if self.will_do(&open, need) {
            return Ok(());
        }
        self.reopen(&mut open, need)
    }

    /// To be written if that is possible, else to be read.
    fn reopen(&self, open: &mut Open, need: Need) -> Result<(), StoreError> {
        // The lock on the file is released before it is taken again.
        *open = Open::Closed;
        self.failed.store(false, Ordering::Release);
        let error = match self.open_to_write() {
            Ok(db) => {
                *open = Open::Written(db);
                return Ok(());
            }
            Err(error) => error,
        };
        if !error.is_of_the_disk() {
            return Err(error);
        }
        *open = Open::View(create::open_view(&self.path)?);
        match need {
            Need::Read => Ok(()),
            Need::Write => Err(error),
        }
    }

    fn open_to_write(&self) -> Result<Database, StoreError> {
        if self.only_read {
            let refused = io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(create::io_error("write", &self.path)(refused));
        }
        create::open_existing(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use redb::ReadableDatabase;

    use super::{Handle, READS_MAX};
    use crate::error::StoreError;
    use crate::store::Store;

    fn handle(directory: &tempfile::TempDir) -> Handle {
        let path = directory.path().join("state.redb");
        drop(Store::open(&path).unwrap());
        Handle::written(super::create::open_existing(&path).unwrap(), &path)
    }

    /// What a reading gets so many times when a commit beside it has failed.
    fn taken_down(handle: &Handle, times: u32) -> (Result<(), StoreError>, u32) {
        let attempts = Cell::new(0);
        let result = handle.read(|db| {
            attempts.set(attempts.get() + 1);
            if attempts.get() <= times {
                return Err(redb::StorageError::PreviousIo.into());
            }
            db.begin_read()?;
            Ok(())
        });
        (result, attempts.get())
    }

    #[test]
    fn a_reading_goes_on_after_a_commit_beside_it_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let handle = handle(&directory);
        let (result, attempts) = taken_down(&handle, 1);
        assert!(result.is_ok() && attempts == 2, "{result:?} after {attempts}");
        // Not for ever.
        let (result, attempts) = taken_down(&handle, u32::MAX);
        assert!(
            result.is_err() && attempts == READS_MAX,
            "{result:?} after {attempts}"
        );
        assert!(taken_down(&handle, 0).0.is_ok());
    }
}
