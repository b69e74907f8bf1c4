//! The images of a VM as a removal finds them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use maqet_process::identity::{FileId, FileMark};
use maqet_spec::vm::DiskFormat;
use maqet_state::disk::DiskRecord;
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Look};

use super::plan::is_missing;
use super::{Order, UNSEEN};
use crate::link::chain;

/// One image of the VM as it was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    /// Where it is, as the spec or the record says.
    pub(super) path: PathBuf,
    pub(super) whose: Whose,
    /// It and all it stands on, it first.
    pub(super) stands_on: Vec<FileId>,
    /// Snapshots that it holds or keeps.
    pub(super) snapshots: u32,
    /// A disk of the VM.
    pub(super) is_disk: bool,
    /// What it stands on could not be followed to the end.
    pub(super) is_blind: bool,
}

/// Whose an image is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Whose {
    /// maqet made it for this VM, and it is still this file.
    Ours(FileMark),
    /// maqet made one at this path, and this is another.
    Another,
    /// maqet made it before files were recorded, and nobody has opened it since.
    Unrecorded,
    /// maqet made one at this path, and what is there cannot be told, for this reason.
    Unseen(String),
    /// People made it.
    #[default]
    Theirs,
}

impl Candidate {
    /// The file, where maqet made it and it is still that.
    pub(crate) fn own(&self) -> Option<(&Path, FileMark)> {
        match self.whose {
            Whose::Ours(file) => Some((&self.path, file)),
            Whose::Another | Whose::Unrecorded | Whose::Unseen(_) | Whose::Theirs => None,
        }
    }
}

/// Everything that is there: the VM's disks, and what maqet made for it that no disk of it is any more. Blocks.
pub(crate) fn candidates(order: &Order) -> Vec<Candidate> {
    let disks = order
        .disks
        .iter()
        .map(|disk| (disk.path.clone(), Some(disk.format)));
    let made = order.files.iter().filter(|record| record.made);
    let made = made.map(|record| (record.path.clone(), None));
    let mut seen = BTreeSet::new();
    let paths = disks.chain(made).filter(|(path, _)| seen.insert(path.clone()));
    paths
        .filter_map(|(path, format)| candidate(path, format, order))
        .collect()
}

fn candidate(path: PathBuf, format: Option<DiskFormat>, order: &Order) -> Option<Candidate> {
    let look = look(&path, format, &order.policy);
    let Some(top) = look.chain.first() else {
        let whose = unseen(&path, look.broken.as_ref(), order)?;
        return Some(Candidate {
            path,
            whose,
            is_disk: format.is_some(),
            is_blind: true,
            ..Candidate::default()
        });
    };
    let whose = match order.files.get(&path).filter(|record| record.made) {
        None => Whose::Theirs,
        Some(DiskRecord { file: None, .. }) => Whose::Unrecorded,
        Some(record) if record.admits(&top.file, &order.boot_id) => Whose::Ours(top.file),
        Some(_) => Whose::Another,
    };
    Some(Candidate {
        whose,
        snapshots: top.snapshots + u32::from(order.bases.contains(&path)),
        path,
        stands_on: files_of(&look),
        is_disk: format.is_some(),
        is_blind: look.broken.is_some(),
    })
}

/// Whose an image is that cannot be looked at; `None` where none is.
fn unseen(path: &Path, why: Option<&StorageError>, order: &Order) -> Option<Whose> {
    let is_made = order.files.get(path).is_some_and(|record| record.made);
    match path.symlink_metadata() {
        // There, and of no use: not ours to judge.
        Ok(_) if !is_made => Some(Whose::Theirs),
        Ok(_) => {
            let why = why.map(|error| format!(": {}", chain(error))).unwrap_or_default();
            Some(Whose::Unseen(format!("it cannot be looked at{why}")))
        }
        Err(_) if is_made && !is_missing(path, &order.own) => Some(Whose::Unseen(UNSEEN.to_owned())),
        Err(_) => None,
    }
}

/// A file that no disk of the spec names any more is looked at as what it is.
fn look(path: &Path, format: Option<DiskFormat>, policy: &PathPolicy) -> Look {
    let look = image::look(path, format.unwrap_or(DiskFormat::Qcow2), policy);
    match (&look.broken, format) {
        (Some(StorageError::NotQcow2 { .. }), _) => image::look(path, DiskFormat::Raw, policy),
        _ => look,
    }
}

fn files_of(look: &Look) -> Vec<FileId> {
    look.chain.iter().map(|found| found.file.id).collect()
}
