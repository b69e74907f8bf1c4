//! Internal snapshots of a qcow2 image that no QEMU has open.
//!
//! An image is opened once, by descriptor; every step works on that file, whatever becomes of its name. What it stands on
//! is not opened: a snapshot is a matter of its own tables. qemu-img keeps QEMU's lock meanwhile, so that a QEMU which has
//! the image after all makes the step fail instead of the image.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::FileMark;
use maqet_spec::vm::DiskFormat;
use rustix::fs::fstatvfs;
use serde::Deserialize;

use super::check::{Checked, check};
use super::header::Header;
use super::room::counted;
use super::unnamed::blocking;
use super::{Image, QEMU_IMG, open};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Time qemu-img has for one step: on a large image it rewrites the counters of every cluster.
const STEP_LIMIT: Duration = Duration::from_mins(10);
/// Number of the image in qemu-img.
const FILE_NUMBER: i32 = 3;
/// Room a new snapshot needs beside its tables, bytes: the guest is to be able to go on.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Bytes of the first-level table for each byte of the image, as a shift: one entry of 8 bytes for 512 MiB.
const TABLE_SHIFT: u32 = 26;
/// Longest name of a snapshot, bytes.
const NAME_BYTES_MAX: usize = 63;

/// Whether a snapshot may have this name: letters, digits, `.`, `_` and `-`, at most 63, the first a letter or a digit;
/// and not digits alone, which QEMU could take for a number it gave itself.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= NAME_BYTES_MAX
        && name.bytes().all(fits)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && !name.bytes().all(|byte| byte.is_ascii_digit())
}

/// One snapshot in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// QEMU's own number of it; unique in the image.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of the machine's memory that are kept with it; 0 without.
    pub vm_state_bytes: u64,
    /// When it was made, milliseconds since 1970.
    pub at_ms: u64,
    /// The guest's clock then, milliseconds since QEMU was started.
    pub vm_clock_ms: u64,
}

/// An image whose snapshots are worked on.
#[derive(Debug)]
pub struct SnapshotFile {
    image: Image,
    virtual_bytes: u64,
}

/// The part of qemu-img's answer that is used.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    snapshots: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    id: String,
    name: String,
    vm_state_size: u64,
    date_sec: u64,
    date_nsec: u64,
    vm_clock_sec: u64,
    vm_clock_nsec: u64,
}

impl From<Told> for Snapshot {
    fn from(told: Told) -> Self {
        let ms = |seconds: u64, nanos: u64| seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
        Self {
            id: told.id,
            name: told.name,
            vm_state_bytes: told.vm_state_size,
            at_ms: ms(told.date_sec, told.date_nsec),
            vm_clock_ms: ms(told.vm_clock_sec, told.vm_clock_nsec),
        }
    }
}

impl SnapshotFile {
    /// Opens a qcow2 image, for writing; it must be where the policy allows it.
    ///
    /// # Errors
    /// As for [`open()`]; [`StorageError::Denied`]; [`StorageError::NotQcow2`]; [`StorageError::DataFile`].
    pub fn open(path: &Path, policy: &PathPolicy) -> Result<Self, StorageError> {
        let image = open(path, false)?;
        policy.check(&image.path)?;
        let fail = StorageError::file("read", &image.path);
        let file = File::from(image.fd.try_clone().map_err(fail)?);
        let header = match Header::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(StorageError::NotQcow2 { path: image.path });
            }
            read => read.map_err(StorageError::file("read", &image.path))?,
        };
        if header.data_file {
            return Err(StorageError::DataFile { path: image.path });
        }
        Ok(Self {
            image,
            virtual_bytes: header.virtual_bytes,
        })
    }

    /// Which file it is; compare with what is on record.
    ///
    /// # Errors
    /// [`StorageError::File`] when the kernel does not tell.
    pub fn mark(&self) -> Result<FileMark, StorageError> {
        let fail = |error| StorageError::file("look at", &self.image.path)(std::io::Error::other(error));
        FileMark::of_fd(&self.image.fd).map_err(fail)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.image.path
    }

    /// Its snapshots, in the order of its table.
    ///
    /// # Errors
    /// [`StorageError::Tool`] for an image that is damaged, and the rest of a program that fails.
    pub async fn list(&self, binaries: &Binaries) -> Result<Vec<Snapshot>, StorageError> {
        let words = ["info", "--force-share", "--output=json"];
        let answer = self.tool(&words, Access::Read, binaries).await?;
        let info: Info = serde_json::from_str(&answer).map_err(|error| StorageError::Answer {
            program: QEMU_IMG.into(),
            reason: error.to_string(),
        })?;
        Ok(info.snapshots.into_iter().map(Snapshot::from).collect())
    }

    /// Makes a snapshot. QEMU allows a second one of a name; the caller looks first.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] before anything is done, and when the disk fills up meanwhile; else as for [`Self::list`].
    pub async fn create(&self, name: &str, binaries: &Binaries) -> Result<(), StorageError> {
        self.room_for_snapshot(0).await?;
        self.step(&["snapshot", "-q", "-c", name], binaries).await
    }

    /// Makes the image be what it was when the snapshot was made. What it is now is lost.
    ///
    /// # Errors
    /// As for [`Self::create`]; [`StorageError::Tool`] when there is no such snapshot.
    pub async fn apply(&self, name: &str, binaries: &Binaries) -> Result<(), StorageError> {
        self.step(&["snapshot", "-q", "-a", name], binaries).await
    }

    /// Deletes a snapshot; of several with one name the oldest.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub async fn delete(&self, name: &str, binaries: &Binaries) -> Result<(), StorageError> {
        self.step(&["snapshot", "-q", "-d", name], binaries).await
    }

    /// Frees clusters that a step which was cut off left counted and unused, and puts flags right that it left wrong. What
    /// the image holds does not change. One that has more wrong with it is left as it is, and what was found is returned.
    ///
    /// # Errors
    /// [`StorageError::Tool`] when it cannot be checked, or a QEMU has it; the rest of a program that fails.
    pub async fn mend(&self, binaries: &Binaries) -> Result<Option<Checked>, StorageError> {
        let found = self.check(false, binaries).await?;
        if !found.is_harmless() {
            return Ok(Some(found));
        }
        if found.flags == 0 && found.leaks == 0 {
            return Ok(None);
        }
        let left = self.check(true, binaries).await?;
        Ok(Some(left).filter(|left| !left.is_harmless()))
    }

    async fn check(&self, repair: bool, binaries: &Binaries) -> Result<Checked, StorageError> {
        let copy = self.image.fd.try_clone();
        let image = Image {
            fd: copy.map_err(StorageError::file("open", &self.image.path))?,
            path: self.image.path.clone(),
            file_id: self.image.file_id,
            file_bytes: self.image.file_bytes,
        };
        check(image, DiskFormat::Qcow2, repair, binaries).await
    }

    /// Refuses unless there is room for a snapshot where the image is, and for so many bytes beside it.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`].
    pub async fn room_for_snapshot(&self, beside: u64) -> Result<(), StorageError> {
        let needed = self.needed_bytes().saturating_add(beside);
        let free = self.free_bytes().await?;
        if free >= needed {
            return Ok(());
        }
        Err(self.full(needed, free))
    }

    /// Bytes a snapshot takes at once: its copy of the first-level table, and clusters for its other tables.
    fn needed_bytes(&self) -> u64 {
        HEADROOM_BYTES + (4 << 16) + (self.virtual_bytes >> TABLE_SHIFT)
    }

    async fn free_bytes(&self) -> Result<u64, StorageError> {
        let path = &self.image.path;
        let copy = self.image.fd.try_clone();
        let copy = copy.map_err(StorageError::file("open", path))?;
        let asked = blocking(path, move || fstatvfs(&copy)).await?;
        let vfs = asked.map_err(StorageError::file("ask for free space beside", path))?;
        Ok(vfs.f_bavail.saturating_mul(vfs.f_frsize))
    }

    fn full(&self, needed: u64, free: u64) -> StorageError {
        let directory = self.image.path.parent().map_or_else(PathBuf::new, Path::to_owned);
        StorageError::NoSpace {
            directory,
            needed,
            free,
        }
    }

    async fn step(&self, words: &[&str], binaries: &Binaries) -> Result<(), StorageError> {
        let done = self.tool(words, Access::Write, binaries).await.map(drop);
        done.map_err(|error| counted(error, self.needed_bytes(), &self.image.path))
    }

    /// Runs qemu-img on the open file; what that stands on is left out.
    async fn tool(
        &self,
        words: &[&str],
        access: Access,
        binaries: &Binaries,
    ) -> Result<String, StorageError> {
        let program = binaries.lookup(QEMU_IMG)?;
        let copy: OwnedFd = self
            .image
            .fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(StorageError::file("open", &self.image.path))?;
        let inside = format!(
            r#"json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"/proc/self/fd/{FILE_NUMBER}"}}}}"#
        );
        let words = words.iter().copied().chain(std::iter::once(inside.as_str()));
        let tool = Tool {
            program: &program.path,
            args: words.map(OsString::from).collect(),
            fds: vec![(copy, FILE_NUMBER)],
            limit: STEP_LIMIT,
            cpu_seconds: Some(STEP_LIMIT.as_secs()),
            access: Some(access),
        };
        tool.output().await
    }
}

#[cfg(test)]
mod tests;
