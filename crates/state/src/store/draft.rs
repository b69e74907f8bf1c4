//! A store that is built beside the present one and takes its place once it is complete.
//!
//! The file that was there is never deleted and never opened for writing: it keeps its content under another name.
//! Killed at any point, the name of the store leads to the old file or to the complete new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use maqet_process::point::{Point, pass};

use super::Store;
use super::create::{self, PRIVATE, io_error};
use crate::change::Change;
use crate::clock;
use crate::error::StoreError;
use crate::journal::{JournalLimits, JournalProof, NewEvent};
use crate::merge::Restored;
use crate::record::VmRecord;
use crate::secret::Secret;

/// A store without its name.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    /// The name it will have.
    target: PathBuf,
    /// The name it has meanwhile.
    path: PathBuf,
    /// The name the present file will have.
    aside: PathBuf,
}

impl Draft {
    /// A new store, which has no VMs and no journal yet.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be written.
    pub fn empty(target: &Path, limits: JournalLimits) -> Result<Self, StoreError> {
        let path = vacant(target)?;
        Self::open(target, path, limits)
    }

    /// A copy of another store, which is only read: checked page by page, and migrated when it is older.
    ///
    /// # Errors
    /// As [`Store::open`], with the name of the copy.
    pub fn copy_of(source: &Path, target: &Path, limits: JournalLimits) -> Result<Self, StoreError> {
        let path = vacant(target)?;
        copy(source, &path)?;
        let draft = Self::open(target, path, limits)?;
        // Everything must be readable before anything is built upon it.
        draft.store.vms()?;
        Ok(draft)
    }

    fn open(target: &Path, path: PathBuf, limits: JournalLimits) -> Result<Self, StoreError> {
        let opened = Store::open_with(&path, limits)?;
        if let Some(migration) = opened.migrated {
            // It was made from a copy that stays.
            fs::remove_file(&migration.backup).map_err(io_error("remove", &migration.backup))?;
        }
        Ok(Self {
            store: opened.store,
            target: target.to_owned(),
            path,
            aside: beside(target, &format!(".set-aside-{}", clock::now())),
        })
    }

    /// Where the present file will be kept.
    pub fn aside(&self) -> &Path {
        &self.aside
    }

    /// The VMs it holds.
    ///
    /// # Errors
    /// As [`Store::vms`].
    pub fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.store.vms()
    }

    /// As [`Store::verify_journal`].
    ///
    /// # Errors
    /// [`StoreError::ChainBroken`].
    pub fn verify_journal(&self) -> Result<JournalProof, StoreError> {
        self.store.verify_journal()
    }

    /// Makes these the VMs of the store, all in one commit. A VM that it held keeps its secret, every other one gets a
    /// new one. The journal goes on with `events`.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub fn fill(&self, vms: &[Restored], events: Vec<NewEvent>) -> Result<(), StoreError> {
        let held = self.store.vms()?;
        let mut changes: Vec<Change> = held.into_iter().map(|record| Change::remove(record.id)).collect();
        for vm in vms {
            let secret = match self.store.secret(&vm.record.id)? {
                Some(secret) => secret,
                None => Secret::random()?,
            };
            changes.push(Change::create(vm.record.clone(), secret));
        }
        changes.push(Change {
            events,
            ..Change::default()
        });
        for answer in self.store.commit(changes)? {
            if let Err(rejected) = answer {
                return Err(StoreError::Corrupt {
                    path: self.path.clone(),
                    detail: rejected.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Gives it the store's name. Returns where the file is that had it before; `None` when there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the store's name then leads where it led.
    pub fn place(self) -> Result<Option<PathBuf>, StoreError> {
        let Self {
            store,
            target,
            path,
            aside,
        } = self;
        drop(store);
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(io_error("flush", &path))?;
        pass(Point::RestoreFilled);
        let kept = set_aside(&target, &aside)?;
        pass(Point::RestoreSetAside);
        fs::rename(&path, &target).map_err(io_error("replace", &target))?;
        create::sync_directory_of(&target)?;
        pass(Point::RestorePlaced);
        Ok(kept.then_some(aside))
    }
}

/// A second name for the present file, so that there is no moment without one; whatever is no file is moved away.
fn set_aside(target: &Path, aside: &Path) -> Result<bool, StoreError> {
    match fs::hard_link(target, aside) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io_error("set aside as", aside)(error))
        }
        Err(_) => fs::rename(target, aside)
            .map(|()| true)
            .map_err(io_error("set aside as", aside)),
    }
}

/// The name for a draft of the store at `target`, with what an interrupted attempt left there taken away.
fn vacant(target: &Path) -> Result<PathBuf, StoreError> {
    let path = beside(target, ".draft");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(path),
    }
}

fn copy(source: &Path, to: &Path) -> Result<(), StoreError> {
    let mut from = File::open(source).map_err(io_error("open", source))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(to)
        .map_err(io_error("create", to))?;
    io::copy(&mut from, &mut file).map_err(io_error("copy", source))?;
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
