//! One supervisor per data directory, and one per runtime directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use maqet_process::identity::FileId;
use maqet_process::private::{self, Access};
use maqet_state::clock::{self, Timestamp};
use serde::{Deserialize, Serialize};

/// Name of the lock file.
const LOCK: &str = "supervisor.lock";

/// Who holds a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Process id, for people to look at.
    pub(crate) pid: u32,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// Why a directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    /// Another supervisor has it.
    #[error("another supervisor{} serves this {what} directory", named(.holder.as_ref()))]
    Held {
        /// `data` or `runtime`.
        what: &'static str,
        /// Who.
        holder: Option<Holder>,
    },
    /// The lock file cannot be used.
    #[error("lock `{path}`")]
    Io {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
}

fn named(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| {
        format!(" (pid {}, since {})", holder.pid, holder.since)
    })
}

/// The lock; the kernel gives it back when this process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Instance {
    file: File,
}

impl Instance {
    /// Takes the data directory, or says who has it.
    pub(crate) fn of_data(directory: &Path) -> Result<Self, InstanceError> {
        Self::take("data", directory)
    }

    /// Takes the runtime directory: the control socket of another data directory's supervisor may be in it, and
    /// binding ours would take it away.
    pub(crate) fn of_runtime(directory: &Path) -> Result<Self, InstanceError> {
        Self::take("runtime", directory)
    }

    /// The runtime directory was deleted, perhaps, and made again: takes the new one, or keeps what it has.
    pub(crate) fn renew_runtime(self, directory: &Path) -> Result<Self, InstanceError> {
        let path = directory.join(LOCK);
        let held = FileId::of_fd(&self.file).ok();
        if held.is_some() && FileId::of_path(&path).ok() == held {
            return Ok(self);
        }
        Self::of_runtime(directory)
    }

    fn take(what: &'static str, directory: &Path) -> Result<Self, InstanceError> {
        let path = directory.join(LOCK);
        let io = |source| InstanceError::Io {
            path: path.clone(),
            source,
        };
        let mut file = private::open(&path, Access::Keep).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text).ok();
                let holder = read.and_then(|_| serde_json::from_str(&text).ok());
                return Err(InstanceError::Held { what, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let me = Holder {
            pid: std::process::id(),
            since: clock::now(),
        };
        let text = serde_json::to_string(&me).map_err(|error| io(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(io)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::of_data(dir.path()).unwrap();
        let second = Instance::of_data(dir.path()).unwrap_err().to_string();
        assert!(
            second.contains(&format!("pid {}", std::process::id())),
            "{second}"
        );
        drop(first);
        Instance::of_data(dir.path()).unwrap();
    }

    #[test]
    fn the_runtime_directory_is_taken_too() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::of_runtime(dir.path()).unwrap();
        let second = Instance::of_runtime(dir.path()).unwrap_err().to_string();
        assert!(second.ends_with("serves this runtime directory"), "{second}");
        drop(first);
    }
}
