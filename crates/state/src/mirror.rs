//! Every VM's data directory describes itself: `vms/ID/vm.json` is the VM's record as the store has it, without secrets.
//!
//! An update is written there *before* it is committed, so that no process which the store released is unknown to its
//! directory; a new VM after its commit, and a removed one is taken away after its commit. The file appears whole or not
//! at all. It is not synced: no process that can be killed takes it along, and a start shall not pay for it. A directory
//! that cannot be written never fails a commit; it is written again with the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use maqet_process::private::{self, Access};
use serde::{Deserialize, Serialize};

use crate::change::{Change, Committed, Rejected};
use crate::error::StoreError;
use crate::id::VmId;
use crate::record::VmRecord;
use crate::store::Store;

/// Name of a VM's description in its data directory.
pub const FILE: &str = "vm.json";

/// Name under which it is written before it takes the place of the one before.
const FRESH: &str = "vm.json.new";

/// Version of the file's shape.
const VERSION: u32 = 1;

/// Longest description that is read, bytes; a record has some thousands.
const BYTES_MAX: u64 = 4 << 20;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Description<R> {
    /// Version of this shape, [`VERSION`].
    v: u32,
    /// The record as it was committed, or was about to be.
    record: R,
}

/// What a commit came to, and what could not be written beside it.
#[derive(Debug)]
pub struct Mirrored {
    /// As [`Store::commit`].
    pub result: Result<Vec<Result<Committed, Rejected>>, StoreError>,
    /// Directories that are behind the store; each is tried again with the next commit.
    pub trouble: Vec<(VmId, io::Error)>,
}

/// What the directories say.
#[derive(Debug, Default)]
pub struct Directories {
    /// Records that could be read, by id.
    pub records: Vec<VmRecord>,
    /// Directories of VMs that say nothing usable.
    pub unreadable: Vec<Unreadable>,
}

/// A VM's directory that does not describe its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The directory.
    pub path: PathBuf,
    /// Why, a lower-case fragment.
    pub reason: String,
}

/// Writes descriptions beside commits.
#[derive(Debug)]
pub struct Mirror {
    vms: PathBuf,
    /// Directories that are behind the store.
    stale: Mutex<BTreeSet<VmId>>,
}

/// What a batch of changes means for the directories.
#[derive(Debug, Default)]
struct Plan {
    /// The last record of every VM that is stored by the batch.
    latest: BTreeMap<VmId, VmRecord>,
    /// Those of them that are new.
    created: BTreeSet<VmId>,
    /// Per change: whom it stores, whom it removes.
    touched: Vec<(Option<VmId>, Option<VmId>)>,
}

impl Plan {
    fn of(changes: &[Change]) -> Self {
        let mut plan = Self::default();
        for change in changes {
            let stored = change.upsert.as_ref().map(|record| record.id.clone());
            plan.latest.extend(stored.clone().zip(change.upsert.clone()));
            plan.created
                .extend(stored.clone().filter(|_| change.secret.is_some()));
            plan.touched.push((stored, change.remove.clone()));
        }
        plan
    }

    /// VMs whose directory must say what the store says now, whatever was written before the commit.
    fn to_settle(&self, answers: &[Result<Committed, Rejected>]) -> BTreeSet<VmId> {
        let mut ids = BTreeSet::new();
        for ((stored, removed), answer) in self.touched.iter().zip(answers) {
            match answer {
                Ok(_) => ids.extend(removed.clone()),
                Err(_) => ids.extend(stored.clone()),
            }
            ids.extend(stored.clone().filter(|id| self.created.contains(id)));
        }
        ids
    }
}

impl Mirror {
    /// Descriptions below the directory `vms`, which holds one directory per VM.
    pub const fn new(vms: PathBuf) -> Self {
        Self {
            vms,
            stale: Mutex::new(BTreeSet::new()),
        }
    }

    /// Descriptions in the directory `vms` beside a store.
    pub fn beside(store: &Store) -> Self {
        Self::new(store.path().with_file_name("vms"))
    }

    /// Commits `changes` as [`Store::commit`] does, and keeps the directories in step.
    pub fn commit(&self, store: &Store, changes: Vec<Change>) -> Mirrored {
        let plan = Plan::of(&changes);
        let mut trouble = Vec::new();
        for (id, record) in &plan.latest {
            if !plan.created.contains(id) {
                self.put(record, &mut trouble);
            }
        }
        let result = store.commit(changes);
        if let Ok(answers) = &result {
            let mut behind = plan.to_settle(answers);
            behind.extend(self.lock_stale().iter().cloned());
            for id in behind {
                self.settle(store, &id, &mut trouble);
            }
        }
        Mirrored { result, trouble }
    }

    /// Makes every directory say what the store says; for a supervisor that begins. Returns what could not be written.
    pub fn refresh(&self, records: &[VmRecord]) -> Vec<(VmId, io::Error)> {
        let mut trouble = Vec::new();
        for record in records {
            if !matches!(self.read(&record.id), Ok(Some(found)) if found == *record) {
                self.put(record, &mut trouble);
            }
        }
        trouble
    }

    /// What is described below the directory `vms`; nothing when there is no such directory.
    ///
    /// # Errors
    /// When the directory cannot be listed. What one VM's directory holds never fails the others.
    pub fn read_all(vms: &Path) -> io::Result<Directories> {
        let mut found = Directories::default();
        let entries = match fs::read_dir(vms) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        let mirror = Self::new(vms.to_owned());
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        ids.sort();
        for id in ids {
            let reason = match mirror.read(&id) {
                Ok(Some(record)) => {
                    found.records.push(record);
                    continue;
                }
                Ok(None) => format!("it holds no {FILE}"),
                Err(error) => error.to_string(),
            };
            let path = vms.join(id.as_str());
            found.unreadable.push(Unreadable { path, reason });
        }
        Ok(found)
    }

    /// Makes one directory say what the store says.
    fn settle(&self, store: &Store, id: &VmId, trouble: &mut Vec<(VmId, io::Error)>) {
        match store.vm(id) {
            Ok(Some(record)) => self.put(&record, trouble),
            Ok(None) => self.take(id, trouble),
            // Whoever reads the store next is told; the directory stays behind until then.
            Err(_) => {
                self.lock_stale().insert(id.clone());
            }
        }
    }

    fn put(&self, record: &VmRecord, trouble: &mut Vec<(VmId, io::Error)>) {
        self.note(&record.id, self.write(record), trouble);
    }

    fn take(&self, id: &VmId, trouble: &mut Vec<(VmId, io::Error)>) {
        self.note(id, self.remove(id), trouble);
    }

    fn note(&self, id: &VmId, result: io::Result<()>, trouble: &mut Vec<(VmId, io::Error)>) {
        match result {
            Ok(()) => {
                self.lock_stale().remove(id);
            }
            Err(error) => {
                self.lock_stale().insert(id.clone());
                trouble.push((id.clone(), error));
            }
        }
    }

    fn lock_stale(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, record: &VmRecord) -> io::Result<()> {
        let directory = self.vms.join(record.id.as_str());
        let description = Description { v: VERSION, record };
        let bytes = serde_json::to_vec(&description)?;
        let fresh = directory.join(FRESH);
        let written = match write_file(&fresh, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                maqet_process::directory::open_private(&directory).map_err(io::Error::other)?;
                write_file(&fresh, &bytes)
            }
            written => written,
        };
        let placed = written.and_then(|()| fs::rename(&fresh, directory.join(FILE)));
        if placed.is_err() {
            // On a full disk an empty file may be what is left; nobody reads it.
            drop(fs::remove_file(&fresh));
        }
        placed
    }

    /// The directory goes too once nothing else is in it.
    fn remove(&self, id: &VmId) -> io::Result<()> {
        let directory = self.vms.join(id.as_str());
        match fs::remove_file(directory.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        }
    }

    /// One VM's description; `None` when there is none.
    fn read(&self, id: &VmId) -> io::Result<Option<VmRecord>> {
        let path = self.vms.join(id.as_str()).join(FILE);
        let file = match private::open(&path, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        check_ours(&file)?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        decode(&bytes, id).map(Some)
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    private::open(path, Access::Rewrite)?.write_all(bytes)
}

/// What others could have written is not what maqet wrote.
fn check_ours(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let trouble = format!("others may write it (mode {:03o})", metadata.mode() & 0o777);
    Err(io::Error::new(io::ErrorKind::InvalidData, trouble))
}

fn decode(bytes: &[u8], id: &VmId) -> io::Result<VmRecord> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let description: Description<serde_json::Value> = serde_json::from_slice(bytes)?;
    if description.v != VERSION {
        return Err(invalid(format!(
            "it has version {}, this maqet knows {VERSION}",
            description.v
        )));
    }
    let record: VmRecord = serde_json::from_value(description.record)?;
    if record.id != *id {
        return Err(invalid(format!("it describes the VM {}", record.id)));
    }
    let launch = record.state.launch().map(|launch| launch.generation);
    if launch.is_some_and(|generation| generation != record.generation) {
        return Err(invalid("its launch is not its last one".to_owned()));
    }
    Ok(record)
}
