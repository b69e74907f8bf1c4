//! One supervisor per data directory, and one per runtime directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use maqet_process::ProcessHandle;
use maqet_process::identity::FileId;
use maqet_process::private::{self, Access};
use maqet_state::clock::{self, Timestamp};
use serde::{Deserialize, Serialize};

/// Name of the lock file.
const LOCK: &str = "supervisor.lock";
/// Time that a child of a supervisor that is gone has to let go of its lock.
const OUTLASTED: Duration = Duration::from_secs(2);

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

impl Holder {
    /// What cannot be told is there.
    fn is_gone(&self) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else {
            return false;
        };
        let found = ProcessHandle::open(pid);
        found.is_ok_and(|found| found.is_none_or(|process| process.has_exited()))
    }
}

/// A supervisor that was killed while it started a child leaves the lock to that child until it is exec'd, which is a matter
/// of moments. Waits for that; whether it has come.
fn outlast(file: &File) -> std::io::Result<bool> {
    let lock = file.try_clone()?;
    let (told, taken) = mpsc::channel();
    // Were it to wait for longer than anybody wants, it would end with this process, which gives up.
    std::thread::Builder::new().spawn(move || told.send(lock.lock()))?;
    match taken.recv_timeout(OUTLASTED) {
        Ok(locked) => locked.map(|()| true),
        Err(_elapsed) => Ok(false),
    }
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
                let holder: Option<Holder> = read.and_then(|_| serde_json::from_str(&text).ok());
                if !holder.as_ref().is_some_and(Holder::is_gone) || !outlast(&file).map_err(io)? {
                    return Err(InstanceError::Held { what, holder });
                }
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
    use std::process::{Command, Stdio};

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

    /// A child between fork and exec still has what its parent had open.
    #[test]
    fn a_child_of_one_that_is_gone_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let Instance { mut file } = Instance::of_data(dir.path()).unwrap();
        let name = |file: &mut File, pid: u32| {
            let since = clock::now();
            let text = serde_json::to_string(&Holder { pid, since }).unwrap();
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .spawn()
            .unwrap();
        name(&mut file, child.id());
        // Of one that lives nobody waits for anything.
        assert!(matches!(
            Instance::of_data(dir.path()),
            Err(InstanceError::Held { .. })
        ));
        name(&mut file, gone.id());
        drop(file);
        let (directory, (told, taken)) = (dir.path().to_owned(), mpsc::channel());
        std::thread::spawn(move || told.send(Instance::of_data(&directory).map(drop)));
        assert!(taken.recv_timeout(Duration::from_millis(20)).is_err());
        drop(child.stdin.take());
        taken.recv().unwrap().unwrap();
        child.wait().unwrap();
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
