//! The library: images that disks stand on.
//!
//! Each image is a directory of its own, `NAME/image.qcow2` and `NAME/image.json`, which describes itself: no table knows
//! of it; `NAME/overlays` lists what was made on it. It is assembled under a temporary name, which nobody sees, and gets its own by one rename. What bears a temporary
//! name and is locked by nobody is left of a making, or of a removal, that was cut off.
//!
//! **Invariant:** what is in the library was written by our own qemu-img, refers to no other file, and is not written again.

mod assembly;
mod examine;
mod import;
mod overlays;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use maqet_process::directory;
use maqet_process::identity::{FileId, FileMark};
use maqet_process::point::{Point, pass};
use maqet_spec::ImageName;
use maqet_spec::vm::DiskFormat;
use rustix::fs::fsync;
use serde::{Deserialize, Serialize};

use crate::error::StorageError;
use crate::image::{self, Algorithm, Checksum};
use crate::meter::Meter;
use assembly::{Assembly, is_temporary};
pub use import::Import;

/// Name of an image's file in its directory.
const FILE: &str = "image.qcow2";
/// Name of what describes it.
const RECORD: &str = "image.json";
/// Mode of both: nobody writes them again.
const MODE: u32 = 0o400;

/// Where the library is.
#[derive(Clone, Debug)]
pub struct Library {
    root: PathBuf,
}

/// One image of the library, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryImage {
    /// Name.
    pub name: ImageName,
    /// Format; the library keeps qcow2.
    pub format: DiskFormat,
    /// Size that a guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Checksum of the file.
    pub blake3: Checksum,
    /// The file.
    pub file: FileMark,
    /// What it was imported from.
    pub source: PathBuf,
    /// Format of that.
    pub source_format: DiskFormat,
    /// Checksum that was asked for, and that the source had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_checksum: Option<Checksum>,
    /// When it was imported, milliseconds since 1970.
    pub imported_ms: u64,
}

/// What was found by a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is wrong; empty for an image that is as it was imported.
    pub problems: Vec<String>,
}

impl Library {
    /// The library in this directory, which need not be there yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where an image's file is, or would be.
    pub fn path_of(&self, name: &ImageName) -> PathBuf {
        self.root.join(name.as_str()).join(FILE)
    }

    /// The image that this file is of, by its path alone.
    pub fn name_of(&self, path: &Path) -> Option<ImageName> {
        let mut below = path.strip_prefix(&self.root).ok()?.components();
        below.next()?.as_os_str().to_str()?.parse().ok()
    }

    /// What an image says of itself.
    ///
    /// # Errors
    /// [`StorageError::NoImage`]; [`StorageError::BadImage`] when its record or its file is gone or cannot be read.
    pub fn find(&self, name: &ImageName) -> Result<LibraryImage, StorageError> {
        let bad = |reason: String| StorageError::BadImage {
            name: name.to_string(),
            reason,
        };
        let directory = self.root.join(name.as_str());
        if !directory.is_dir() {
            return Err(StorageError::NoImage {
                name: name.to_string(),
            });
        }
        let bytes = fs::read(directory.join(RECORD)).map_err(|error| bad(format!("its record: {error}")))?;
        let image: LibraryImage =
            serde_json::from_slice(&bytes).map_err(|error| bad(format!("its record: {error}")))?;
        if image.name != *name {
            return Err(bad(format!("its record is that of `{}`", image.name)));
        }
        match fs::symlink_metadata(directory.join(FILE)) {
            Ok(about) if about.is_file() && about.len() == image.file_bytes => Ok(image),
            Ok(_) => Err(bad("its file is another".to_owned())),
            Err(error) => Err(bad(format!("its file: {error}"))),
        }
    }

    /// Names of all images, in order. What is no directory was put there by somebody else.
    ///
    /// # Errors
    /// [`StorageError::File`] when the library cannot be read.
    pub fn names(&self) -> Result<Vec<ImageName>, StorageError> {
        let mut names: Vec<ImageName> = self
            .entries()?
            .iter()
            .filter(|name| self.root.join(name).is_dir())
            .filter_map(|name| name.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The file of every image.
    pub fn files(&self) -> Vec<(FileId, ImageName)> {
        let names = self.names().unwrap_or_default().into_iter();
        let files = names.map(|name| Some((FileId::of_path(&self.path_of(&name)).ok()?, name)));
        files.flatten().collect()
    }

    /// Looks whether an image is what was imported: there, readable only, and of the same content.
    ///
    /// # Errors
    /// [`StorageError::NoImage`]; [`StorageError::File`] when it cannot be read.
    pub async fn verify(&self, name: &ImageName, meter: &Meter) -> Result<Verified, StorageError> {
        let found = match self.find(name) {
            Err(StorageError::BadImage { reason, .. }) => {
                return Ok(Verified {
                    problems: vec![reason],
                });
            }
            found => found?,
        };
        let path = self.path_of(name);
        let opened = image::open(&path, true)?;
        let file = File::from(opened.fd);
        let mut problems = Vec::new();
        let about = file.metadata().map_err(StorageError::file("look at", &path))?;
        if about.mode() & 0o222 != 0 {
            problems.push(format!(
                "its file may be written to (mode {:o})",
                about.mode() & 0o7777
            ));
        }
        let mark = FileMark::of_fd(&file).map_err(StorageError::Library)?;
        // In another boot of the host its device may have another number.
        if !found.file.is_file(&mark, false) {
            problems.push(format!(
                "its file is another: {mark}, and {} was imported",
                found.file
            ));
        }
        let sum = image::digest(file, &path, Algorithm::Blake3, meter).await?;
        if sum != found.blake3 {
            problems.push(format!(
                "its content has changed: {sum}, and {} was imported",
                found.blake3
            ));
        }
        Ok(Verified { problems })
    }

    /// Deletes an image, and tells what it was, where that can be read. At any moment it is there whole or not at all.
    ///
    /// # Errors
    /// [`StorageError::NoImage`]; [`StorageError::File`] when it cannot be deleted.
    pub fn remove(&self, name: &ImageName) -> Result<(), StorageError> {
        pass(Point::DiscardBegun);
        let root = self.open()?;
        // With the assembly the image goes.
        let assembly = Assembly::of(name, &root, &self.root)?;
        fsync(&root).map_err(StorageError::file("write out", &self.root))?;
        pass(Point::DiscardAside);
        drop(assembly);
        pass(Point::DiscardDone);
        Ok(())
    }

    /// What is left of makings and removals that were cut off.
    ///
    /// # Errors
    /// [`StorageError::File`] when the library cannot be read.
    pub fn unfinished(&self) -> Result<Vec<PathBuf>, StorageError> {
        let names = self.entries()?.into_iter();
        let left = names.filter(|name| is_temporary(name) && assembly::is_forsaken(&self.root.join(name)));
        Ok(left.map(|name| self.root.join(name)).collect())
    }

    /// Takes away what [`unfinished`](Self::unfinished) finds; tells how much.
    ///
    /// # Errors
    /// [`StorageError::File`] when something cannot be taken away.
    pub fn sweep(&self) -> Result<usize, StorageError> {
        let left = self.unfinished()?;
        for path in &left {
            fs::remove_dir_all(path).map_err(StorageError::file("remove", path))?;
        }
        Ok(left.len())
    }

    fn open(&self) -> Result<OwnedFd, StorageError> {
        directory::open_private(&self.root).map_err(StorageError::Library)
    }

    fn entries(&self) -> Result<Vec<String>, StorageError> {
        let fail = |error| StorageError::file("read", &self.root)(error);
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fail)?,
        };
        entries
            .map(|entry| Ok(entry.map_err(fail)?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}
