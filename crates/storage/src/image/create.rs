//! Making an image.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::{FileId, FileMark};
use maqet_spec::size::Size;
use maqet_spec::vm::DiskFormat;
use rustix::fs::ftruncate;

use super::look::told;
use super::unnamed::{Unnamed, blocking};
use super::{QEMU_IMG, format_name};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::place::Place;
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Time qemu-img has to write the few clusters of an empty image.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// Room that must be left beside the metadata of a new image, bytes, so that the guest can at least begin.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Sizes are rounded up to whole sectors, bytes, as qemu-img does.
const SECTOR_BYTES: u64 = 512;
/// Number of the unnamed file in qemu-img.
const FILE_NUMBER: i32 = 3;

/// A new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Where it is, symbolic links on the way resolved.
    pub path: PathBuf,
    /// Device and inode.
    pub file_id: FileId,
    /// Size the guest sees, bytes: the size asked for, rounded up to 512.
    pub virtual_bytes: u64,
    /// Bytes that were free in its file system. Images grow as guests write: less than `virtual_bytes` means
    /// that this one may run out.
    pub free_bytes: u64,
}

/// A new image that is complete and has no name yet. Dropped, it was never there.
#[derive(Debug)]
pub struct Draft {
    place: Place,
    file: Unnamed,
    virtual_bytes: u64,
    free_bytes: u64,
    /// Bytes it takes at once.
    needed: u64,
}

impl Draft {
    /// Which file it is, and will be: what may be put on record before anybody can find it.
    ///
    /// # Errors
    /// [`StorageError::File`] when the kernel does not tell.
    pub fn mark(&self) -> Result<FileMark, StorageError> {
        FileMark::of_fd(&self.file.file).map_err(told(&self.place.path))
    }

    /// Makes it durable and gives it its name, which must not be taken.
    ///
    /// # Errors
    /// [`StorageError::Exists`] when the name is taken, by whatever; [`StorageError::NoSpace`]; [`StorageError::File`].
    pub async fn named(self) -> Result<Created, StorageError> {
        let named = self.file.named(&self.place).await;
        let file_id = named.map_err(|error| self.place.counted(error, self.needed))?;
        Ok(Created {
            path: self.place.path,
            file_id,
            virtual_bytes: self.virtual_bytes,
            free_bytes: self.free_bytes,
        })
    }
}

/// Makes an empty image for an absolute path, mode 0600, without its name.
///
/// The parent directory must exist. The image is sparse: what is needed at once is its metadata and 1 MiB.
/// Dropping the future leaves nothing behind.
///
/// # Errors
/// [`StorageError::Exists`] when the name is taken, by whatever; [`StorageError::Denied`];
/// [`StorageError::NoSpace`]; [`StorageError::Tool`] and [`StorageError::Deadline`] when qemu-img fails.
pub async fn draft(
    path: &Path,
    format: DiskFormat,
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Draft, StorageError> {
    let draft = Draft::begin(path, format, size, policy).await?;
    if format == DiskFormat::Qcow2 {
        draft.write_with_qemu_img(&[], binaries).await?;
    }
    Ok(draft)
}

/// Makes an image that shows another, `base`, and takes what is written, for an absolute path, mode 0600, without its name.
/// The base is written into it by its absolute path and format, and is not opened; dropping the future leaves nothing behind.
///
/// # Errors
/// As for [`draft`].
pub async fn draft_overlay(
    path: &Path,
    base: (&Path, DiskFormat),
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Draft, StorageError> {
    let draft = Draft::begin(path, DiskFormat::Qcow2, size, policy).await?;
    let (below, format) = base;
    let words = [
        OsString::from("-u"),
        "-b".into(),
        below.into(),
        "-F".into(),
        format_name(format).into(),
    ];
    draft.write_with_qemu_img(&words, binaries).await?;
    Ok(draft)
}

/// Makes an empty image at an absolute path, as [`draft`] does, and names it.
///
/// # Errors
/// As for [`draft`] and [`Draft::named`].
pub async fn create(
    path: &Path,
    format: DiskFormat,
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Created, StorageError> {
    draft(path, format, size, policy, binaries).await?.named().await
}

/// Makes an image that shows another, as [`draft_overlay`] does, and names it.
///
/// # Errors
/// As for [`draft`] and [`Draft::named`].
pub async fn overlay(
    path: &Path,
    base: (&Path, DiskFormat),
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Created, StorageError> {
    draft_overlay(path, base, size, policy, binaries)
        .await?
        .named()
        .await
}

impl Draft {
    /// The place is right and has room; the file is empty, or all that a raw image needs.
    async fn begin(
        path: &Path,
        format: DiskFormat,
        size: Size,
        policy: &PathPolicy,
    ) -> Result<Self, StorageError> {
        let (to, policy) = (path.to_owned(), policy.clone());
        let making = move || {
            let draft = Self::make(&to, format, size, &policy)?;
            if format == DiskFormat::Raw {
                let sized = ftruncate(&draft.file.file, draft.virtual_bytes);
                let sized = sized.map_err(StorageError::file("size image", &draft.place.path));
                sized.map_err(|error| draft.place.counted(error, draft.needed))?;
            }
            Ok(draft)
        };
        blocking(path, making).await?
    }

    fn make(
        path: &Path,
        format: DiskFormat,
        Size(bytes): Size,
        policy: &PathPolicy,
    ) -> Result<Self, StorageError> {
        let place = Place::pin(path, policy)?;
        place.refuse_existing()?;
        let needed = needed_bytes(format, bytes);
        let free_bytes = place.check_space(needed)?;
        let file = Unnamed::make(&place).map_err(|error| place.counted(error, needed))?;
        Ok(Self {
            file,
            place,
            virtual_bytes: bytes.div_ceil(SECTOR_BYTES).saturating_mul(SECTOR_BYTES),
            free_bytes,
            needed,
        })
    }

    async fn write_with_qemu_img(&self, words: &[OsString], binaries: &Binaries) -> Result<(), StorageError> {
        let program = binaries.lookup(QEMU_IMG)?;
        let copy = self.file.file.try_clone();
        let copy = copy.map_err(StorageError::file("open", &self.place.path))?;
        let inside = format!("/proc/self/fd/{FILE_NUMBER}");
        let mut args = ["create", "-q", "-f", format_name(DiskFormat::Qcow2)]
            .map(OsString::from)
            .to_vec();
        args.extend_from_slice(words);
        args.extend([inside.into(), self.virtual_bytes.to_string().into()]);
        let tool = Tool {
            program: &program.path,
            args,
            fds: vec![(copy.into(), FILE_NUMBER)],
            limit: CREATE_LIMIT,
            cpu_seconds: Some(CREATE_LIMIT.as_secs()),
            access: Some(Access::Write),
        };
        let written = tool.output().await.map(drop);
        written.map_err(|error| self.place.counted(error, self.needed))
    }
}

/// Bytes an empty image takes at once: for qcow2 header, refcounts and one L1 entry (8 bytes) per 512 MiB.
fn needed_bytes(format: DiskFormat, bytes: u64) -> u64 {
    match format {
        DiskFormat::Raw => HEADROOM_BYTES,
        DiskFormat::Qcow2 => HEADROOM_BYTES + (4 << 16) + (bytes >> 29) * 8,
    }
}
