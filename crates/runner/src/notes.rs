//! What a runner leaves in the VM's runtime directory for those who come after it: how QEMU was started, how it ended.
//!
//! Both are small JSON files that appear whole or not at all. They are not synced to disk: no process that can be killed
//! takes them along, and after a crash of the host they say nothing that the boot id does not.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use maqet_process::private::{self, Access};
use maqet_protocol::control::{PortStatus, SandboxStatus, ShareLoss};
use maqet_protocol::runner::ExitNote;
use rustix::fs::{AtFlags, renameat, unlinkat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::oom::Baseline;

/// Name of the note about the start.
const LAUNCH_NOTE: &str = "launch.json";

/// Longest note that is read, bytes.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// What cannot be asked of a running QEMU: a later runner reads it here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchNote {
    /// The launch it is about.
    pub(crate) launch_id: String,
    /// Accelerator in use.
    pub(crate) accel: String,
    /// Host ports in use.
    pub(crate) ports: Vec<PortStatus>,
    /// Confinement achieved.
    pub(crate) sandbox: SandboxStatus,
    /// Length of QEMU's log when it was started, bytes.
    pub(crate) words_from: u64,
    /// What the OOM killer had done when QEMU was started.
    #[serde(default)]
    pub(crate) kills: Baseline,
    /// A person has the guest halted.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Shares whose virtiofsd is gone, as it was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) losses: BTreeMap<String, ShareLoss>,
}

/// Puts the note about the end down before anybody is told.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn leave(directory: &OwnedFd, note: &ExitNote) -> io::Result<()> {
    write(directory, ExitNote::FILE, note)
}

impl LaunchNote {
    /// Puts the note down.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn write(&self, directory: &OwnedFd) -> io::Result<()> {
        write(directory, LAUNCH_NOTE, self)
    }

    /// The note about a launch, if there is one.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub(crate) fn read(directory: &OwnedFd, launch_id: &str) -> io::Result<Option<Self>> {
        let note: Option<Self> = read(directory, LAUNCH_NOTE)?;
        Ok(note.filter(|note| note.launch_id == launch_id))
    }

    /// Takes the note away: there is nothing left to adopt.
    pub(crate) fn remove(directory: &OwnedFd) {
        remove(directory, LAUNCH_NOTE);
    }
}

/// Removes a file of ours; one that is not there is fine.
pub(crate) fn remove(directory: &OwnedFd, name: &str) {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => tracing::warn!(%error, name, "remove a file"),
    }
}

fn write<T: Serialize>(directory: &OwnedFd, name: &str, note: &T) -> io::Result<()> {
    let fresh = format!("{name}.new");
    let mut file = private::open_at(directory, fresh.as_ref(), Access::Rewrite)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    renameat(directory, &fresh, directory, name)?;
    Ok(())
}

fn read<T: DeserializeOwned>(directory: &OwnedFd, name: &str) -> io::Result<Option<T>> {
    let file = match private::open_at(directory, name.as_ref(), Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use maqet_state::clock::Timestamp;
    use maqet_state::lifecycle::{Cause, LastExit};

    use super::*;

    #[test]
    fn notes_are_whole_and_replace_each_other() {
        let place = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(place.path()).unwrap());
        assert_eq!(LaunchNote::read(&directory, "a").unwrap(), None);
        let mut note = LaunchNote {
            launch_id: "a".to_owned(),
            accel: "tcg".to_owned(),
            ports: Vec::new(),
            sandbox: SandboxStatus::default(),
            words_from: 5,
            kills: Baseline::take(),
            paused: true,
            losses: BTreeMap::new(),
        };
        note.write(&directory).unwrap();
        note.words_from = 6;
        note.write(&directory).unwrap();
        assert_eq!(LaunchNote::read(&directory, "a").unwrap(), Some(note));
        assert_eq!(LaunchNote::read(&directory, "b").unwrap(), None);
        LaunchNote::remove(&directory);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_note_about_the_end_is_where_the_supervisor_looks() {
        let place = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(place.path()).unwrap());
        let exit = LastExit {
            cause: Cause::Stop,
            at: Timestamp(0),
            exit_code: Some(0),
            signal: None,
            detail: None,
        };
        let note = ExitNote {
            launch_id: "a".to_owned(),
            exit,
        };
        leave(&directory, &note).unwrap();
        let text = std::fs::read(place.path().join("exit.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ExitNote>(&text).unwrap(), note);
    }
}
