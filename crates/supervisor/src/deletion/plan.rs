//! What was decided about a VM's images, carried out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use maqet_process::point::{Point, pass};
use maqet_protocol::control::KeptFile;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Deletion};

use super::{ANOTHER, Fate};
use crate::link::chain;

/// What is to become of the images, decided and not done.
#[derive(Debug)]
pub(crate) struct Plan {
    fates: Vec<(PathBuf, Fate)>,
    /// A removal before this one was to delete these, and they are gone.
    gone: Vec<PathBuf>,
    policy: PathPolicy,
}

/// What became of the images.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Gone.
    pub(crate) deleted: Vec<PathBuf>,
    /// Still there.
    pub(crate) kept: Vec<PathBuf>,
    /// Why, where images were to be deleted.
    pub(crate) reasons: Vec<KeptFile>,
}

/// Those that are not at their paths any more. Where the directory is not there either, somebody may have unmounted it, unless it
/// is below `own`. Blocks.
pub(crate) fn missing(paths: &[PathBuf], own: &Path) -> Vec<PathBuf> {
    let missing = paths.iter().filter(|path| is_missing(path, own));
    missing.cloned().collect()
}

pub(super) fn is_missing(path: &Path, own: &Path) -> bool {
    let found = path.symlink_metadata();
    let has_place = path.parent().is_some_and(Path::is_dir) || path.starts_with(own);
    has_place && found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

impl Plan {
    pub(super) const fn new(fates: Vec<(PathBuf, Fate)>, gone: Vec<PathBuf>, policy: PathPolicy) -> Self {
        Self { fates, gone, policy }
    }

    /// Images that are to go.
    pub(crate) fn doomed(&self) -> Vec<PathBuf> {
        let fates = self.fates.iter();
        let doomed = fates.filter(|(_, fate)| matches!(fate, Fate::Delete(_)));
        doomed.map(|(path, _)| path.clone()).collect()
    }

    /// Images that went before.
    pub(crate) fn gone(&self) -> &[PathBuf] {
        &self.gone
    }

    /// Deletes what is maqet's own and nobody else's. Blocks.
    ///
    /// # Errors
    /// `internal` for an image that cannot be deleted; those before it are gone.
    pub(crate) fn carry_out(self) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome {
            deleted: self.gone,
            ..Outcome::default()
        };
        for (path, fate) in self.fates {
            outcome.settle(path, fate, &self.policy)?;
        }
        Ok(outcome)
    }
}

impl Outcome {
    fn settle(&mut self, path: PathBuf, fate: Fate, policy: &PathPolicy) -> Result<(), Refusal> {
        let why = match fate {
            Fate::Leave => {
                self.kept.push(path);
                return Ok(());
            }
            Fate::Keep(why) => why,
            // Looked at a moment ago, in this boot.
            Fate::Delete(file) => match image::delete(&path, &file, true, policy) {
                Ok(Deletion::Deleted) => {
                    self.deleted.push(path);
                    pass(Point::RemoveImage);
                    return Ok(());
                }
                Ok(Deletion::Missing) => return Ok(()),
                Ok(Deletion::AnotherFile(_)) => ANOTHER.to_owned(),
                Ok(Deletion::NoFile(kind)) => format!("it is {kind} now"),
                Err(StorageError::Denied(denied)) => format!("maqet may not write there: {denied}"),
                Err(error) => {
                    let message = format!("cannot delete `{}`", path.display());
                    return Err(Refusal::new(RefusalCode::Internal, message).cause(chain(&error)));
                }
            },
        };
        self.kept.push(path.clone());
        self.reasons.push(KeptFile { path, why });
        Ok(())
    }
}
