//! Verdicts kept for the processes to come, until the next boot.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use maqet_process::identity::boot_id;
use serde::{Deserialize, Serialize};

use super::{KvmTrouble, Verdict};
use crate::binary::{Binary, FileVersion};

/// A file with verdicts. It only saves time: what cannot be read or written is tested again.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    verdicts: Vec<KeptVerdict>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptVerdict {
    path: PathBuf,
    version: FileVersion,
    trouble: Option<KvmTrouble>,
}

impl Memory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What an earlier process of this boot found out about this very file.
    pub(super) fn recall(&self, binary: &Binary) -> Option<Verdict> {
        let kept = self.load()?;
        let about = |kept: &KeptVerdict| kept.path == binary.path && kept.version == binary.version;
        kept.verdicts
            .into_iter()
            .find(about)
            .map(|kept| kept.trouble.map_or(Ok(()), Err))
    }

    /// Keeps a verdict, and those on other programs.
    pub(super) fn keep(&self, binary: &Binary, verdict: &Verdict) {
        let Ok(boot_id) = boot_id() else {
            return;
        };
        let mut verdicts = self.load().unwrap_or_default().verdicts;
        verdicts.retain(|kept| kept.path != binary.path);
        verdicts.push(KeptVerdict {
            path: binary.path.clone(),
            version: binary.version,
            trouble: verdict.clone().err(),
        });
        if let Err(error) = self.store(&Kept { boot_id, verdicts }) {
            tracing::warn!(path = %self.path.display(), %error, "the kvm verdict is not kept");
        }
    }

    /// What the file holds, if that is of this boot.
    fn load(&self) -> Option<Kept> {
        let text = fs::read(&self.path).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        boot_id().is_ok_and(|boot| boot == kept.boot_id).then_some(kept)
    }

    /// A new file under the old name: readers see one or the other.
    fn store(&self, kept: &Kept) -> std::io::Result<()> {
        let text = serde_json::to_vec(kept)?;
        let new = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text)?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(modified_ns: i128) -> Binary {
        Binary {
            path: "/usr/bin/qemu".into(),
            version: FileVersion {
                dev: 1,
                inode: 2,
                modified_ns,
            },
        }
    }

    #[test]
    fn a_verdict_is_recalled_for_the_same_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm.json");
        let memory = Memory::new(path.clone());
        assert_eq!(memory.recall(&binary(1)), None);
        for verdict in [Err(KvmTrouble::Hangs), Ok(())] {
            memory.keep(&binary(1), &verdict);
            assert_eq!(Memory::new(path.clone()).recall(&binary(1)), Some(verdict));
            assert_eq!(memory.recall(&binary(2)), None);
        }
        let fails = Err(KvmTrouble::Fails {
            status: maqet_process::ExitStatus::Signal(6),
            words: "no".to_owned(),
        });
        memory.keep(&binary(i128::from(i64::MAX)), &fails);
        assert_eq!(memory.recall(&binary(i128::from(i64::MAX))), Some(fails));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_boot_or_a_damaged_file_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm.json");
        let memory = Memory::new(path.clone());
        memory.keep(&binary(1), &Ok(()));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot_id().unwrap(), "another")).unwrap();
        assert_eq!(memory.recall(&binary(1)), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(memory.recall(&binary(1)), None);
        // A directory that is not there costs a test next time, nothing else.
        Memory::new(directory.path().join("missing/kvm.json")).keep(&binary(1), &Ok(()));
    }
}
